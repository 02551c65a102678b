//! The TCG event log: what was extended into the hardware TPM's dynamic PCRs and why, for a verifier to replay.
//!
//! Formats: TPM 2.0 the crypto-agile one (TCG PC Client Platform Firmware Profile 1.05, 10.2 and 10.4.5.1), TPM 1.2 the SHA-1 one
//! (10.2.1, TCG_PCR_EVENT). Guarantees: an event is in the log as a whole or not at all, and never beyond the buffer. The
//! log is trusted by nobody: replaying it gives the PCRs, or it is wrong. PCR 17 and 18 start at zero if there is an
//! [`SLB`] event, else (no dynamic launch) at all ones. In banks other than SHA-1 and SHA-256 the log shows
//! [`crate::tpm::Algorithm::CAP`], also for the SLB, of which the CPU extended the true digest there: such a bank's PCR 17
//! is capped, not replayed.

use core::fmt;

use abi::Digests;

use crate::tpm::{Banks, Family};

/// EV_NO_ACTION: says something to the parser, is not extended.
const NO_ACTION: u32 = 3;
/// EV_SEPARATOR: ends a phase; the digest is that of the event's data.
pub const SEPARATOR: u32 = 4;
/// EV_ACTION: the digest is that of the event's data.
pub const ACTION: u32 = 5;
/// EV_IPL: code that was started; the event's data names it.
pub const IPL: u32 = 13;

/// Data of the event of the SLB itself: what the CPU extended into PCR 17.
pub const SLB: &[u8] = b"TrustVisor SLB";
/// Data of the event of the runtime (PCR 17).
pub const RUNTIME: &[u8] = b"TrustVisor runtime";

/// TCG_EfiSpecIDEvent up to the list of algorithms: signature, class (client), version 2.0, errata 0, 64-bit UINTN.
const SPEC_ID: &[u8] = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02";

/// The event does not fit any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event log is full")
    }
}

/// A log being written into a fixed buffer.
pub struct EventLog<'a> {
    buffer: &'a mut [u8],
    used: usize,
    family: Family,
    banks: Banks,
}

impl<'a> EventLog<'a> {
    /// A new log for a TPM with these banks.
    pub fn start(buffer: &'a mut [u8], family: Family, banks: &Banks) -> Result<Self, Full> {
        let mut log = Self { buffer, used: 0, family, banks: *banks };
        if family == Family::V20 {
            log.append(|w| {
                w.u32(0).u32(NO_ACTION).bytes(&[0; 20]);
                let algorithms = banks.algorithms();
                w.u32((SPEC_ID.len() + 4 + 4 * algorithms.len() + 1) as u32).bytes(SPEC_ID);
                w.u32(algorithms.len() as u32);
                for algorithm in algorithms {
                    w.u16(algorithm.number()).u16(algorithm.size() as u16);
                }
                // No vendor information.
                w.bytes(&[0]);
            })?;
        }
        Ok(log)
    }

    /// Goes on with a log of which the first `used` bytes are written.
    pub fn resume(buffer: &'a mut [u8], used: usize, family: Family, banks: &Banks) -> Result<Self, Full> {
        if used > buffer.len() {
            return Err(Full);
        }
        Ok(Self { buffer, used, family, banks: *banks })
    }

    /// Adds what was extended into a PCR (with [`crate::tpm::Tpm::extend`], so in the same banks).
    pub fn event(&mut self, pcr: u8, kind: u32, digests: &Digests, data: &[u8]) -> Result<(), Full> {
        let (family, banks) = (self.family, self.banks);
        self.append(|w| {
            w.u32(pcr.into()).u32(kind);
            match family {
                Family::V12 => {
                    w.bytes(&digests.sha1);
                }
                Family::V20 => {
                    w.u32(banks.algorithms().len() as u32);
                    for algorithm in banks.algorithms() {
                        w.u16(algorithm.number()).bytes(algorithm.digest(digests));
                    }
                }
            }
            w.u32(data.len() as u32).bytes(data);
        })
    }

    /// Bytes written.
    pub fn used(&self) -> usize {
        self.used
    }

    fn append(&mut self, write: impl FnOnce(&mut Writer<'_>)) -> Result<(), Full> {
        let mut writer = Writer { buffer: self.buffer, used: self.used };
        write(&mut writer);
        if writer.used > writer.buffer.len() {
            return Err(Full);
        }
        self.used = writer.used;
        Ok(())
    }
}

/// Little-endian, unlike the TPM's commands. What does not fit is counted, not written.
struct Writer<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl Writer<'_> {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.used.saturating_add(bytes.len());
        if let Some(room) = self.buffer.get_mut(self.used..end) {
            room.copy_from_slice(bytes);
        }
        self.used = end;
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use utpm::digest;

    use super::*;

    /// Written by hand from TCG_PCR_EVENT (the 1.2 format).
    #[test]
    fn a_1_2_event() {
        let mut buffer = [0; 64];
        let mut log = EventLog::start(&mut buffer, Family::V12, &Banks::sha1_only()).unwrap();
        let digests = Digests { sha1: [7; 20], sha256: [8; 32] };
        log.event(18, ACTION, &digests, b"dma").unwrap();
        assert_eq!(log.used(), 35);
        let expected = [&[18, 0, 0, 0, 5, 0, 0, 0][..], &[7; 20], &[3, 0, 0, 0], b"dma"].concat();
        assert_eq!(buffer[..35], expected);
    }

    #[test]
    fn a_2_0_header_is_an_event_of_the_old_format() {
        let mut buffer = [0xee; 128];
        let used = EventLog::start(&mut buffer, Family::V20, &Banks::sha1_only()).unwrap().used();
        let spec = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &[1, 0, 0, 0, 4, 0, 20, 0], &[0]].concat();
        let expected =
            [&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &[spec.len() as u8, 0, 0, 0], &spec].concat();
        assert_eq!(&buffer[..used], expected);
    }

    proptest! {
        #[test]
        fn whole_events_or_none(room in 0..400usize, sizes in prop::collection::vec(0..80usize, 0..8)) {
            let mut buffer = vec![0xee; room];
            let mut expected = vec![];
            let mut used = 0;
            for size in sizes {
                let data = vec![size as u8; size];
                let mut log = EventLog::resume(&mut buffer, used, Family::V12, &Banks::sha1_only()).unwrap();
                if log.event(17, IPL, &digest(&data), &data).is_ok() {
                    expected.extend([17, 0, 0, 0, 13, 0, 0, 0]);
                    expected.extend(digest(&data).sha1);
                    expected.extend([size as u8, 0, 0, 0]);
                    expected.extend(data);
                } else {
                    prop_assert!(expected.len() + 32 + size > room);
                }
                used = log.used();
                prop_assert_eq!(used, expected.len());
            }
            prop_assert_eq!(&buffer[..used], &expected[..]);
        }
    }

    #[test]
    fn a_log_longer_than_its_buffer_is_not_gone_on_with() {
        assert!(EventLog::resume(&mut [0; 8], 9, Family::V12, &Banks::sha1_only()).is_err());
    }
}
