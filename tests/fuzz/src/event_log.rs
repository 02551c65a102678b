//! The event log, written for whatever banks a TPM claims to have, and read by a parser made from the specification alone.
//!
//! Demanded: the log holds exactly the events that were accepted, in their order, each with a digest in every bank, and ends
//! with the last; an event that does not fit leaves nothing behind; not a byte is written beyond the buffer.
//!
//! TCG PC Client Platform Firmware Profile 1.05: 10.2.1 (TCG_PCR_EVENT), 10.2.2 (TCG_PCR_EVENT2), 10.4.5.1 (Spec ID event).

use abi::Digests;
use hypervisor::event_log::EventLog;
use hypervisor::tpm::{Algorithm, Banks, Error, Family, Tpm, Transport};

use crate::input::Input;

const CANARY: u8 = 0xcc;
const BEHIND: usize = 64;

/// The banks, the room, then the events.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some((family, banks)) = banks(&mut input) else { return };
    let room = usize::from(input.u16()) % 2049;
    let mut memory = vec![CANARY; room + BEHIND];
    let mut events = Vec::new();
    let used = write(&mut input, &mut memory[..room], family, &banks, &mut events);
    assert!(memory[room..].iter().all(|byte| *byte == CANARY), "written beyond the buffer");
    let Some(used) = used else {
        assert!(room < 128, "no room for the first event");
        return;
    };
    let mut log = Parser(&memory[..used]);
    if family == Family::V20 {
        log.spec_id(&banks);
    }
    for event in &events {
        log.event(event, family, &banks);
    }
    assert!(log.0.is_empty(), "something follows the last event");
}

struct Event {
    pcr: u8,
    kind: u32,
    digests: Digests,
    data: Vec<u8>,
}

fn event(input: &mut Input) -> Event {
    let (pcr, kind) = (input.u8(), input.u32());
    let digests = Digests { sha1: [input.u8(); 20], sha256: [input.u8(); 32] };
    let length = usize::from(input.u8());
    Event { pcr, kind, digests, data: input.take(length).to_vec() }
}

/// Bytes used, unless not even the beginning fits. The second half is written by somebody else.
fn write(
    input: &mut Input,
    room: &mut [u8],
    family: Family,
    banks: &Banks,
    accepted: &mut Vec<Event>,
) -> Option<usize> {
    let mut used = EventLog::start(room, family, banks).ok()?.used();
    for _ in 0..2 {
        let Ok(mut log) = EventLog::resume(room, used, family, banks) else { panic!("what was used fits") };
        for _ in 0..input.u8() % 8 {
            let event = event(input);
            let before = log.used();
            match log.event(event.pcr, event.kind, &event.digests, &event.data) {
                Ok(()) => accepted.push(event),
                Err(_) => assert_eq!(log.used(), before, "half an event"),
            }
        }
        used = log.used();
    }
    assert!(EventLog::resume(room, room.len() + 1, family, banks).is_err());
    Some(used)
}

/// Banks are only had from a TPM: one that answers the question for them.
fn banks(input: &mut Input) -> Option<(Family, Banks)> {
    const KNOWN: [u16; 8] = [0x04, 0x0b, 0x0c, 0x0d, 0x12, 0x27, 0x28, 0x29];
    let chosen = input.u8();
    if chosen == 0 {
        return Some((Family::V12, Banks::sha1_only()));
    }
    let mut numbers: Vec<u16> = (0..8).filter(|n| chosen >> n & 1 == 1).map(|n| KNOWN[n]).collect();
    let turn = usize::from(input.u8()) % numbers.len();
    numbers.rotate_left(turn);
    let tpm = Tpm::open(Allocation(numbers.clone())).ok()?;
    let listed: Vec<u16> = tpm.banks().algorithms().iter().map(|bank| bank.number()).collect();
    assert_eq!(listed, numbers);
    Some((tpm.family(), *tpm.banks()))
}

/// A TPM 2.0 that answers TPM2_GetCapability(TPM_CAP_PCRS) with these banks.
struct Allocation(Vec<u16>);

impl Transport for Allocation {
    fn exchange(&mut self, _: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        let mut message =
            [&[0x80, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0][..], &[self.0.len() as u8]]
                .concat();
        for number in &self.0 {
            message.extend(number.to_be_bytes());
            message.extend([3, 0xff, 0xff, 0xff]);
        }
        let size = message.len();
        message[2..6].copy_from_slice(&(size as u32).to_be_bytes());
        answer[..size].copy_from_slice(&message);
        Ok(size)
    }

    fn pause(&mut self, _: u64) {}

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What is left of the log.
struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let Some((taken, rest)) = self.0.split_at_checked(count) else { panic!("the log ends early") };
        self.0 = rest;
        taken
    }

    /// Little-endian.
    fn number(&mut self, size: usize) -> u64 {
        self.take(size).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn spec_id(&mut self, banks: &Banks) {
        assert_eq!((self.number(4), self.number(4)), (0, 3), "PCR and type");
        assert_eq!(self.take(20), [0; 20]);
        let size = self.number(4) as usize;
        let mut body = Parser(self.take(size));
        assert_eq!(body.take(16), b"Spec ID Event03\0");
        assert_eq!(body.take(8), [0, 0, 0, 0, 0, 2, 0, 2], "class, version, errata, word size");
        assert_eq!(body.number(4) as usize, banks.algorithms().len());
        for bank in banks.algorithms() {
            assert_eq!((body.number(2), body.number(2)), (bank.number().into(), bank.size() as u64));
        }
        assert_eq!((body.number(1), body.0), (0, &[][..]), "vendor information");
    }

    fn event(&mut self, event: &Event, family: Family, banks: &Banks) {
        assert_eq!((self.number(4), self.number(4)), (event.pcr.into(), event.kind.into()));
        if family == Family::V12 {
            assert_eq!(self.take(20), event.digests.sha1);
        } else {
            assert_eq!(self.number(4) as usize, banks.algorithms().len());
            for bank in banks.algorithms() {
                assert_eq!(self.number(2), bank.number().into());
                let digest = self.take(bank.size());
                match bank.number() {
                    4 => assert_eq!(digest, event.digests.sha1),
                    11 => assert_eq!(digest, event.digests.sha256),
                    _ => assert_eq!(digest, &Algorithm::CAP[..bank.size()]),
                }
            }
        }
        assert_eq!(self.number(4) as usize, event.data.len());
        assert_eq!(self.take(event.data.len()), event.data);
    }
}
