//! The TCG event log of the launch: what PCRs 17 to 19 of the hardware TPM were extended with, and why, for a verifier to replay.
//!
//! Formats: TPM 2.0 the crypto-agile one (TCG PC Client Platform Firmware Profile 1.05, 10.2 and 10.4.5.1), TPM 1.2 the SHA-1 one
//! (10.2.1, TCG_PCR_EVENT). TrustVisor tells digests alone ([`abi::Extends`]); what they are of is found here. The log is trusted by
//! nobody: replaying it gives the PCRs, or it is wrong. PCR 17 and 18 start at zero if there is an event of the SLB, else (no dynamic
//! launch) at all ones. In banks other than SHA-1 and SHA-256 the log shows [`abi::CAP`], also for the SLB, of which the CPU
//! extended the true digest there: such a bank's PCR 17 is capped, not replayed.

use crate::{Error, info};
use abi::{CAP, Extend, Info, info_flag};
use sha2::{Digest, Sha256};

/// EV_NO_ACTION: says something to the parser, is not extended.
const NO_ACTION: u32 = 3;
/// EV_SEPARATOR: ends a phase; the digest is that of the event's data.
const SEPARATOR: u32 = 4;
/// EV_ACTION: the digest is that of the event's data.
const ACTION: u32 = 5;
/// EV_IPL: code that was started; the event's data names it.
const IPL: u32 = 13;

/// Data of the event of the SLB itself: what the CPU extended into PCR 17.
const SLB: &[u8] = b"TrustVisor SLB";
/// Data of the event of the runtime (PCR 17).
const RUNTIME: &[u8] = b"TrustVisor runtime";

/// Data of the event of an identity key (PCR 19).
const KEY: &[u8] = b"TrustVisor identity key";

/// What is measured as it is: the digest tells which it was.
const DATA: [(u32, &[u8]); 5] = [
    (ACTION, b"dma=protected\ntpm=required\n"),
    (ACTION, b"dma=protected\ntpm=none\n"),
    (ACTION, b"dma=unprotected\ntpm=required\n"),
    (ACTION, b"dma=unprotected\ntpm=none\n"),
    (SEPARATOR, &[0; 4]),
];

/// TCG_EfiSpecIDEvent up to the list of algorithms: signature, class (client), version 2.0, errata 0, 64-bit UINTN.
const SPEC_ID: &[u8] = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02";

const SHA1: u16 = 0x0004;
const SHA256: u16 = 0x000b;

/// The log of this machine's launch.
pub fn event_log() -> Result<Vec<u8>, Error> {
    let info = info()?;
    if info.flags & info_flag::NO_TPM != 0 {
        return Err(Error::NoTpm);
    }
    Ok(format(&info))
}

/// The log of a launch of which TrustVisor says this.
pub fn format(info: &Info) -> Vec<u8> {
    let banks = info.extends.banks.iter().copied().filter(|bank| size(*bank) != 0).collect::<Vec<_>>();
    let agile = info.flags & info_flag::TPM_12 == 0;
    let mut log = Vec::new();
    if agile {
        log.extend(spec_id(&banks));
    }
    for (index, extend) in info.extends.list.iter().filter(|extend| extend.pcr != 0).enumerate() {
        let slb = index == 0 && info.flags & info_flag::DYNAMIC_LAUNCH != 0;
        let (kind, data) = meaning(extend, slb);
        log.extend([extend.pcr, kind].map(u32::to_le_bytes).as_flattened());
        if agile {
            log.extend((banks.len() as u32).to_le_bytes());
            for bank in &banks {
                log.extend(bank.to_le_bytes());
                log.extend(digest(*bank, extend));
            }
        } else {
            log.extend(extend.digests.sha1);
        }
        log.extend((data.len() as u32).to_le_bytes());
        log.extend(data);
    }
    log
}

/// The first event, of the old format, which says that others are of the new one.
fn spec_id(banks: &[u16]) -> Vec<u8> {
    let mut body = SPEC_ID.to_vec();
    body.extend((banks.len() as u32).to_le_bytes());
    for bank in banks {
        body.extend([*bank, size(*bank) as u16].map(u16::to_le_bytes).as_flattened());
    }
    // No vendor information.
    body.push(0);
    let mut event = [0, NO_ACTION].map(u32::to_le_bytes).as_flattened().to_vec();
    event.extend([0; 20]);
    event.extend((body.len() as u32).to_le_bytes());
    event.extend(body);
    event
}

/// Kind and data of an event.
fn meaning(extend: &Extend, slb: bool) -> (u32, &'static [u8]) {
    let known = DATA.iter().find(|(_, data)| Sha256::digest(data)[..] == extend.digests.sha256);
    match known {
        Some(known) => *known,
        None if slb => (IPL, SLB),
        None if extend.pcr == 17 => (IPL, RUNTIME),
        None if extend.pcr == 19 => (IPL, KEY),
        None => (IPL, b""),
    }
}

/// Bytes of an algorithm's digests (TCG Algorithm Registry), 0 if it is not known.
fn size(bank: u16) -> usize {
    match bank {
        SHA1 => 20,
        // SHA-256, SM3-256, SHA3-256
        SHA256 | 0x0012 | 0x0027 => 32,
        // SHA-384, SHA3-384
        0x000c | 0x0028 => 48,
        // SHA-512, SHA3-512
        0x000d | 0x0029 => 64,
        _ => 0,
    }
}

fn digest(bank: u16, extend: &Extend) -> Vec<u8> {
    match bank {
        SHA1 => extend.digests.sha1.to_vec(),
        SHA256 => extend.digests.sha256.to_vec(),
        _ => vec![CAP; size(bank)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Digests;
    use sha1::Sha1;

    fn digests(data: &[u8]) -> Digests {
        Digests { sha1: Sha1::digest(data).into(), sha256: Sha256::digest(data).into() }
    }

    fn launch(flags: u32, banks: &[u16]) -> Info {
        let mut info = Info { flags, ..Info::default() };
        info.extends.banks[..banks.len()].copy_from_slice(banks);
        info
    }

    /// Written by hand from TCG_PCR_EVENT (the 1.2 format).
    #[test]
    fn a_1_2_event() {
        let mut info = launch(info_flag::TPM_12, &[SHA1]);
        let options = b"dma=unprotected\ntpm=required\n";
        let digests = digests(options);
        info.extends.add(18, &digests);
        let expected = [&[18, 0, 0, 0, 5, 0, 0, 0][..], &digests.sha1, &[29, 0, 0, 0], &options[..]].concat();
        assert_eq!(format(&info), expected);
    }

    #[test]
    fn a_2_0_header_is_an_event_of_the_old_format() {
        let log = format(&launch(0, &[SHA1]));
        let spec = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &[1, 0, 0, 0, 4, 0, 20, 0], &[0]].concat();
        let expected =
            [&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &[spec.len() as u8, 0, 0, 0], &spec].concat();
        assert_eq!(log, expected);
    }

    /// All banks of an event, those that TrustVisor cannot hash into capped.
    #[test]
    fn a_2_0_event() {
        let header = format(&launch(0, &[SHA1, 0x0c, SHA256])).len();
        let mut info = launch(0, &[SHA1, 0x0c, SHA256]);
        let digests = digests(&[0; 4]);
        info.extends.add(19, &digests);
        let expected = [
            &[19, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0][..],
            &[4, 0],
            &digests.sha1,
            &[0x0c, 0],
            &[0xca; 48],
            &[0x0b, 0],
            &digests.sha256,
            &[4, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(format(&info)[header..], expected.concat());
    }

    #[test]
    fn every_event_has_its_meaning() {
        for (flags, first) in [(info_flag::DYNAMIC_LAUNCH, SLB), (0, RUNTIME)] {
            let mut info = launch(flags, &[SHA256]);
            let parts: [(u8, &[u8]); 5] =
                [(17, b"a"), (17, b"b"), (18, DATA[1].1), (19, b"key"), (19, &[0; 4])];
            for (pcr, data) in parts {
                info.extends.add(pcr, &digests(data));
            }
            let meanings: Vec<_> = info.extends.list[..6]
                .iter()
                .enumerate()
                .map(|(index, extend)| meaning(extend, index == 0 && flags != 0))
                .collect();
            let expected: [(u32, &[u8]); 6] =
                [(IPL, first), (IPL, RUNTIME), DATA[1], (IPL, KEY), (SEPARATOR, &[0; 4]), (IPL, b"")];
            assert_eq!(meanings, expected);
            let log = format(&info);
            assert!(log.windows(first.len()).any(|part| part == first));
        }
    }

    /// What the list has no room for is left out, whole.
    #[test]
    fn a_full_list_stays_as_it_is() {
        let mut info = launch(info_flag::TPM_12, &[SHA1]);
        for _ in 0..info.extends.list.len() {
            info.extends.add(19, &digests(b"key"));
        }
        let full = format(&info);
        info.extends.add(19, &digests(b"one more"));
        assert_eq!(format(&info), full);
    }
}
