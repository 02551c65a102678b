//! The TCG event log: what was extended into PCR 17, 18 and 19 (crypto-agile, TCG PC Client Platform Firmware Profile 1.05, 10.2 and
//! 10.4.5.1; for TPM 1.2 TCG_PCR_EVENT). It is believed only as far as replaying it gives the PCRs that the hardware TPM quotes.
//!
//! Guarantees: only a log that is TrustVisor's in every event is read to its end: SLB and runtime in PCR 17, options in
//! 18, one or two identity keys and the separator in 19, in that order and nothing else.

use crate::hash::{Family, Hash};
use crate::quoted::Quoted;

const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;
const SEPARATOR_DATA: &[u8] = &[0; 4];
/// TCG_EfiSpecIDEvent up to the list of algorithms: signature, class (client), version 2.0, errata 0, 64-bit UINTN.
const SPEC_ID: &[u8] = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02";
/// One of each algorithm that a TPM has.
const MOST_BANKS: u32 = 8;
const MOST_EVENTS: usize = 16;
const MOST_DATA: u32 = 1 << 10;
/// The PCRs of a dynamic launch, by bits.
pub(crate) const LAUNCH_PCRS: u32 = 1 << 17 | 1 << 18 | 1 << 19;

/// Why an event log is not that of a launch of TrustVisor, or not of this one.
///
/// ```
/// let error = trustvisor_verify::EventLogError::NoSha256;
/// assert!(error.to_string().contains("SHA-1 is not accepted"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// The log ends within something.
    #[error("it ends within {0}")]
    Short(&'static str),
    /// The first event does not say what is in the others.
    #[error("its header is not that of a crypto-agile log: {0}")]
    Header(&'static str),
    /// A TPM 2.0 whose log lacks the one bank that is accepted.
    #[error("it has no SHA-256 digests, and SHA-1 is not accepted from a TPM 2.0")]
    NoSha256,
    /// An event has other digests than the header announces.
    #[error("event {0} has other digests than the header announces")]
    Digests(usize),
    /// An event's data is longer than any of TrustVisor's.
    #[error("event {index} has {found} bytes of data")]
    Data {
        /// Counted from 0, the header left out.
        index: usize,
        /// Bytes of data.
        found: u32,
    },
    /// An event where TrustVisor has none, or of a PCR that is not its turn.
    #[error("event {index} is of PCR {found}: expected {expected}")]
    Unexpected {
        /// Counted from 0, the header left out.
        index: usize,
        /// The PCR.
        found: u32,
        /// What comes at this place.
        expected: &'static str,
    },
    /// An event that was extended nowhere.
    #[error("event {0} is of the type that is not extended")]
    NotExtended(usize),
    /// Too few events, or too many.
    #[error("it has {0} events: expected are SLB, runtime, options, one or two identity keys, separator")]
    Count(usize),
    /// The digest of the options is not that of the options shown.
    #[error("the options shown, {0}, are not those that were measured")]
    Options(String),
    /// The last event is not the separator.
    #[error("its last event is not the separator")]
    Separator,
    /// The PCRs that the log gives are not those that were quoted.
    #[error("replayed, it gives other values of PCR 17, 18 and 19 than the hardware quotes")]
    Replay,
}

/// What can be read in a log.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) pcr: u32,
    pub(crate) kind: u32,
    /// Of the bank that counts.
    pub(crate) digest: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// A log as a list of events; what they say is not yet believed.
///
/// ```
/// use trustvisor_verify::{EventLog, Family};
///
/// assert!(EventLog::parse(b"", Family::V20).is_err());
/// ```
#[derive(Debug)]
pub struct EventLog<'a> {
    pub(crate) events: Vec<Event<'a>>,
    hash: Hash,
}

/// What the log says was launched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Launch<'a> {
    pub(crate) slb: &'a [u8],
    pub(crate) runtime: &'a [u8],
    pub(crate) options: &'a [u8],
    pub(crate) keys: Vec<&'a [u8]>,
}

impl<'a> EventLog<'a> {
    /// Reads a log of this family of TPM to its last byte.
    pub fn parse(bytes: &'a [u8], family: Family) -> Result<Self, EventLogError> {
        let mut reader = Reader(bytes);
        let banks = match family {
            Family::V12 => Vec::new(),
            Family::V20 => header(&mut reader)?,
        };
        let mut events = Vec::new();
        while !reader.0.is_empty() {
            if events.len() == MOST_EVENTS {
                return Err(EventLogError::Count(MOST_EVENTS + 1));
            }
            events.push(event(&mut reader, events.len(), family, &banks)?);
        }
        Ok(Self { events, hash: family.hash() })
    }

    /// The launch, if the log has just the events of one.
    pub(crate) fn launch(&self) -> Result<Launch<'a>, EventLogError> {
        for (index, event) in self.events.iter().enumerate() {
            let (pcr, expected) = match index {
                0 => (17, "the SLB in PCR 17"),
                1 => (17, "the runtime in PCR 17"),
                2 => (18, "the options in PCR 18"),
                _ => (19, "an identity key or the separator in PCR 19, or the end"),
            };
            if event.pcr != pcr {
                return Err(EventLogError::Unexpected { index, found: event.pcr, expected });
            }
            if event.kind == NO_ACTION {
                return Err(EventLogError::NotExtended(index));
            }
        }
        let [slb, runtime, options, keys @ .., separator] = &self.events[..] else {
            return Err(EventLogError::Count(self.events.len()));
        };
        if !(1..=2).contains(&keys.len()) {
            return Err(EventLogError::Count(self.events.len()));
        }
        if options.digest != self.hash.of(&[options.data]) {
            return Err(EventLogError::Options(options.data.escape_ascii().to_string()));
        }
        let is_separator = separator.kind == SEPARATOR
            && separator.data == SEPARATOR_DATA
            && separator.digest == self.hash.of(&[SEPARATOR_DATA]);
        if !is_separator {
            return Err(EventLogError::Separator);
        }
        let keys = keys.iter().map(|event| event.digest).collect();
        Ok(Launch { slb: slb.digest, runtime: runtime.digest, options: options.data, keys })
    }

    /// Whether the PCRs of a dynamic launch, extended with these events, are those quoted.
    pub(crate) fn replays(&self, quoted: &Quoted) -> Result<(), EventLogError> {
        let values = [17, 18, 19].map(|pcr| self.value(pcr));
        match quoted.has_values(LAUNCH_PCRS, values.iter().map(Vec::as_slice)) {
            true => Ok(()),
            false => Err(EventLogError::Replay),
        }
    }

    /// A dynamic launch starts with zero (without one, PCR 17 to 22 are all ones).
    fn value(&self, pcr: u32) -> Vec<u8> {
        let of_pcr = self.events.iter().filter(|event| event.pcr == pcr);
        of_pcr.fold(vec![0; self.hash.size()], |value, event| self.hash.of(&[&value, event.digest]))
    }
}

/// Number and size of the digests that each event has.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, EventLogError> {
    const WITHIN: &str = "the header";
    let start = (reader.u32(WITHIN)?, reader.u32(WITHIN)?, reader.take(20, WITHIN)?);
    if start != (0, NO_ACTION, &[0; 20]) {
        return Err(EventLogError::Header("PCR, type or digest"));
    }
    let size = reader.u32(WITHIN)?;
    let mut body = Reader(reader.take(size as usize, WITHIN)?);
    if body.take(SPEC_ID.len(), WITHIN)? != SPEC_ID {
        return Err(EventLogError::Header("signature, class or version"));
    }
    let count = body.u32(WITHIN)?;
    if count > MOST_BANKS {
        return Err(EventLogError::Header("number of algorithms"));
    }
    let mut banks: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let (number, size) = (body.u16(WITHIN)?, usize::from(body.u16(WITHIN)?));
        let wrong = Hash::from_number(number).is_some_and(|hash| hash.size() != size);
        if wrong || size > 64 || banks.iter().any(|(other, _)| *other == number) {
            return Err(EventLogError::Header("algorithms"));
        }
        banks.push((number, size));
    }
    // No vendor information.
    if body.0 != [0] {
        return Err(EventLogError::Header("vendor information"));
    }
    Ok(banks)
}

fn event<'a>(
    reader: &mut Reader<'a>,
    index: usize,
    family: Family,
    banks: &[(u16, usize)],
) -> Result<Event<'a>, EventLogError> {
    const WITHIN: &str = "an event";
    let (pcr, kind) = (reader.u32(WITHIN)?, reader.u32(WITHIN)?);
    let digest = match family {
        Family::V12 => reader.take(20, WITHIN)?,
        Family::V20 => digests(reader, index, banks)?,
    };
    let size = reader.u32(WITHIN)?;
    if size > MOST_DATA {
        return Err(EventLogError::Data { index, found: size });
    }
    let data = reader.take(size as usize, WITHIN)?;
    Ok(Event { pcr, kind, digest, data })
}

/// Of all banks, in the header's order; the SHA-256 one is returned.
fn digests<'a>(
    reader: &mut Reader<'a>,
    index: usize,
    banks: &[(u16, usize)],
) -> Result<&'a [u8], EventLogError> {
    const WITHIN: &str = "an event's digests";
    if reader.u32(WITHIN)? as usize != banks.len() {
        return Err(EventLogError::Digests(index));
    }
    let mut sha256 = None;
    for (number, size) in banks {
        if reader.u16(WITHIN)? != *number {
            return Err(EventLogError::Digests(index));
        }
        let digest = reader.take(*size, WITHIN)?;
        if *number == Hash::Sha256.number() {
            sha256 = Some(digest);
        }
    }
    sha256.ok_or(EventLogError::NoSha256)
}

/// Little-endian, unlike the TPM's own structures.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, within: &'static str) -> Result<&'a [u8], EventLogError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(EventLogError::Short(within))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, within: &'static str) -> Result<[u8; N], EventLogError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(EventLogError::Short(within))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self, within: &'static str) -> Result<u16, EventLogError> {
        self.array(within).map(u16::from_le_bytes)
    }

    fn u32(&mut self, within: &'static str) -> Result<u32, EventLogError> {
        self.array(within).map(u32::from_le_bytes)
    }
}
