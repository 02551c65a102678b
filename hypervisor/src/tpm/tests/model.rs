//! A model of a TPM of either family, as far as the driver uses one. PCR 17-22 start at all ones, as without a dynamic
//! launch; [`Model::hash`] is what the CPU does at locality 4.

use std::collections::HashMap;

use utpm::digest;

#[derive(Clone)]
pub struct Model {
    v12: bool,
    banks: Vec<u16>,
    pcrs: HashMap<(u16, u32), Vec<u8>>,
    extended: HashMap<(u16, u32), Vec<Vec<u8>>>,
    pub started: bool,
    pub startups: u32,
    /// The code to answer with, and how often.
    pub busy: Option<(u32, u32)>,
    pub needs_self_test: bool,
    pub random_piece: usize,
    /// Extends that succeed without doing anything.
    pub forgets: bool,
    /// The code that extends, and writes of NV memory, are refused with.
    pub refuses: Option<u32>,
    /// The counters' NV index: what it opens to, and its contents.
    pub nv: ([u8; 32], Vec<u8>),
}

/// TPM_RC_HASH, parameter 1: an algorithm that is not there.
const RC_HASH: u32 = 0x1c3;

fn size(bank: u16) -> usize {
    match bank {
        0x04 => 20,
        0x0c => 48,
        0x0d => 64,
        _ => 32,
    }
}

impl Model {
    pub fn v12() -> Self {
        Self { v12: true, ..Self::v20(&[0x04]) }
    }

    pub fn v20(banks: &[u16]) -> Self {
        Self {
            v12: false,
            banks: banks.to_vec(),
            pcrs: HashMap::new(),
            extended: HashMap::new(),
            started: true,
            startups: 0,
            busy: None,
            needs_self_test: false,
            random_piece: 1000,
            forgets: false,
            refuses: None,
            nv: ([0; 32], vec![0; utpm::Counters::SIZE]),
        }
    }

    /// A dynamic launch of these bytes.
    pub fn hash(&mut self, bytes: &[u8]) {
        for bank in self.banks.clone() {
            for pcr in 17..=22 {
                self.pcrs.insert((bank, pcr), vec![0; size(bank)]);
            }
            let digest = match bank {
                0x04 => digest(bytes).sha1.to_vec(),
                0x0b => digest(bytes).sha256.to_vec(),
                _ => vec![0xdd; size(bank)],
            };
            self.extend(bank, 17, &digest);
        }
    }

    /// What a PCR was extended with.
    pub fn extended(&self, bank: u16, pcr: u32) -> &[Vec<u8>] {
        &self.extended[&(bank, pcr)]
    }

    fn pcr(&mut self, bank: u16, pcr: u32) -> &mut Vec<u8> {
        let first = if (17..=22).contains(&pcr) { 0xff } else { 0 };
        self.pcrs.entry((bank, pcr)).or_insert_with(|| vec![first; size(bank)])
    }

    /// Extends one bank alone, as any software can.
    pub fn extend(&mut self, bank: u16, pcr: u32, new: &[u8]) {
        assert_eq!(new.len(), size(bank));
        self.extended.entry((bank, pcr)).or_default().push(new.to_vec());
        let old = self.pcr(bank, pcr);
        let all = digest(&[&old[..], new].concat());
        match bank {
            0x04 => *old = all.sha1.to_vec(),
            0x0b => *old = all.sha256.to_vec(),
            _ => old[0] ^= 1,
        }
    }

    /// Executes a command and returns the answer.
    pub fn execute(&mut self, command: &[u8]) -> Vec<u8> {
        let (tag, size, code) = (be16(command), be32(&command[2..]), be32(&command[6..]));
        assert_eq!(size as usize, command.len());
        let (good_tag, result) = match (self.v12, tag) {
            (true, 0xc1) => (0xc4, self.execute_12(code, &command[10..])),
            (false, 0x8001 | 0x8002) => (tag, self.execute_20(code, &command[10..])),
            _ => (0xc4, Err(0x1e)),
        };
        let bad_tag = if self.v12 || good_tag == 0xc4 { 0xc4 } else { 0x8001 };
        let (tag, code, body) = match result {
            Ok(body) => (good_tag, 0, body),
            Err(code) => (bad_tag, code, vec![]),
        };
        let mut answer = u16::to_be_bytes(tag).to_vec();
        answer.extend((body.len() as u32 + 10).to_be_bytes());
        answer.extend(u32::to_be_bytes(code));
        answer.extend(body);
        answer
    }

    fn may_work(&mut self, starts: bool, not_started: u32) -> Result<(), u32> {
        if starts != self.started {
            if let Some((code, times @ 1..)) = self.busy {
                self.busy = Some((code, times.saturating_sub(u32::from(times != u32::MAX))));
                return Err(code);
            }
            self.started = true;
            return Ok(());
        }
        Err(not_started)
    }

    fn execute_12(&mut self, code: u32, body: &[u8]) -> Result<Vec<u8>, u32> {
        self.may_work(code == 0x99, 0x26)?;
        match code {
            0x99 => self.startups += 1,
            0x53 => self.needs_self_test = false,
            _ if self.needs_self_test => return Err(0x801),
            _ => {}
        }
        match code {
            0x14 => {
                if let Some(code) = self.refuses {
                    return Err(code);
                }
                assert_eq!(body.len(), 24);
                if !self.forgets {
                    self.extend(4, be32(body), &body[4..]);
                }
                Ok(self.pcr(4, be32(body)).clone())
            }
            0x15 => Ok(self.pcr(4, be32(body)).clone()),
            0x46 => {
                let count = (be32(body) as usize).min(self.random_piece);
                Ok([&(count as u32).to_be_bytes()[..], &numbers(count)].concat())
            }
            _ => Ok(vec![]),
        }
    }

    fn execute_20(&mut self, code: u32, body: &[u8]) -> Result<Vec<u8>, u32> {
        self.may_work(code == 0x144, 0x100)?;
        match code {
            0x144 => {
                self.startups += 1;
                Ok(vec![])
            }
            0x17a if body == [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1] => {
                // A bank that is implemented but not allocated comes first, as real chips have them.
                let mut answer = vec![0, 0, 0, 0, 5];
                answer.extend((self.banks.len() as u32 + 1).to_be_bytes());
                answer.extend([0, 0x12, 3, 0, 0, 0]);
                for bank in &self.banks {
                    answer.extend(bank.to_be_bytes());
                    answer.extend([3, 0xff, 0xff, 0xff]);
                }
                Ok(answer)
            }
            0x17e => {
                assert_eq!((be32(body), body[6], body.len()), (1, 3, 10));
                let pcr = u32::from_le_bytes([body[7], body[8], body[9], 0]).trailing_zeros();
                let value = self.pcr(be16(&body[4..]), pcr).clone();
                let mut answer = vec![0, 0, 0, 9];
                answer.extend(body);
                answer.extend([0, 0, 0, 1, 0, value.len() as u8]);
                answer.extend(value);
                Ok(answer)
            }
            0x182 => {
                if let Some(code) = self.refuses {
                    return Err(code);
                }
                assert_eq!(body[4..17], [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
                let mut rest = &body[21..];
                for _ in 0..be32(&body[17..]) {
                    let bank = be16(rest);
                    if !self.banks.contains(&bank) {
                        return Err(RC_HASH);
                    }
                    let (digest, later) = rest[2..].split_at(size(bank));
                    if !self.forgets {
                        self.extend(bank, be32(body), digest);
                    }
                    rest = later;
                }
                assert!(rest.is_empty());
                Ok(vec![0, 0, 0, 0, 0, 0, 1, 0, 0])
            }
            0x137 => {
                if let Some(code) = self.refuses {
                    return Err(code);
                }
                assert_eq!((be32(body), be32(&body[4..])), (0x0180_5456, 0x0180_5456));
                assert_eq!(body[8..21], [0, 0, 0, 41, 0x40, 0, 0, 9, 0, 0, 0, 0, 32]);
                if body[21..53] != self.nv.0 {
                    return Err(0x98e);
                }
                let (size, rest) = (be16(&body[53..]).into(), &body[55..]);
                let at = usize::from(be16(&rest[size..]));
                assert_eq!(rest.len(), size + 2);
                self.nv.1[at..at + size].copy_from_slice(&rest[..size]);
                Ok(vec![0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
            // TPM_RC_COMMAND_CODE.
            _ => Err(0x143),
        }
    }
}

fn numbers(count: usize) -> Vec<u8> {
    (1..=count as u8).collect()
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
