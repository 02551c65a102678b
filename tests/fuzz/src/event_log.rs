//! The event log, written for whatever TrustVisor may say, and read by a parser made from the specification alone.
//!
//! Demanded: the log holds exactly the events of the list, in their order, each with a digest in every bank whose algorithm is known,
//! and ends with the last; the data of an event that is the digest of its data is that.
//!
//! TCG PC Client Platform Firmware Profile 1.05: 10.2.1 (TCG_PCR_EVENT), 10.2.2 (TCG_PCR_EVENT2), 10.4.5.1 (Spec ID event).

use abi::{Extend, Info, info_flag};
use sha2::{Digest, Sha256};
use trustvisor::event_log;

use crate::input::Input;

/// TCG Algorithm Registry, and the sizes of their digests.
const KNOWN: [(u16, usize); 8] =
    [(0x04, 20), (0x0b, 32), (0x0c, 48), (0x0d, 64), (0x12, 32), (0x27, 32), (0x28, 48), (0x29, 64)];

/// Flags and banks, then the events.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut info = Info { flags: input.u8().into(), ..Info::default() };
    let mut banks = Vec::new();
    for bank in &mut info.extends.banks {
        // A known one in three cases of four.
        let choice = input.u8();
        *bank = if choice >= 0xc0 { input.u16() } else { KNOWN[usize::from(choice % 8)].0 };
        banks.extend(KNOWN.iter().find(|known| known.0 == *bank));
    }
    for _ in 0..input.u8() % 16 {
        let sha1 = [input.u8(); 20];
        let sha256 = if input.bool() { Sha256::digest([0; 4]).into() } else { [input.u8(); 32] };
        info.extends.add(input.u8(), &abi::Digests { sha1, sha256 });
    }
    let bytes = event_log::format(&info);
    let mut log = Parser(&bytes);
    let agile = info.flags & info_flag::TPM_12 == 0;
    if agile {
        log.spec_id(&banks);
    }
    for event in info.extends.list.iter().filter(|extend| extend.pcr != 0) {
        log.event(event, agile.then_some(&banks));
    }
    assert!(log.0.is_empty(), "something follows the last event");
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

    fn spec_id(&mut self, banks: &[(u16, usize)]) {
        assert_eq!((self.number(4), self.number(4)), (0, 3), "PCR and type");
        assert_eq!(self.take(20), [0; 20]);
        let size = self.number(4) as usize;
        let mut body = Parser(self.take(size));
        assert_eq!(body.take(16), b"Spec ID Event03\0");
        assert_eq!(body.take(8), [0, 0, 0, 0, 0, 2, 0, 2], "class, version, errata, word size");
        assert_eq!(body.number(4) as usize, banks.len());
        for (number, size) in banks {
            assert_eq!((body.number(2), body.number(2)), (u64::from(*number), *size as u64));
        }
        assert_eq!((body.number(1), body.0), (0, &[][..]), "vendor information");
    }

    /// Of the old format, where there are no banks.
    fn event(&mut self, event: &Extend, banks: Option<&Vec<(u16, usize)>>) {
        assert_eq!(self.number(4), event.pcr.into());
        let kind = self.number(4);
        if let Some(banks) = banks {
            assert_eq!(self.number(4) as usize, banks.len());
            for (number, size) in banks {
                assert_eq!(self.number(2), u64::from(*number));
                let digest = self.take(*size);
                match number {
                    4 => assert_eq!(digest, event.digests.sha1),
                    11 => assert_eq!(digest, event.digests.sha256),
                    _ => assert!(digest.iter().all(|byte| *byte == abi::CAP)),
                }
            }
        } else {
            assert_eq!(self.take(20), event.digests.sha1);
        }
        let length = self.number(4) as usize;
        let data = self.take(length);
        // EV_SEPARATOR, EV_ACTION.
        assert_eq!([4, 5].contains(&kind), Sha256::digest(data)[..] == event.digests.sha256);
    }
}
