//! The hardware TPM, either family: what SLB and runtime extend, read and draw random numbers from.
//!
//! Guarantees: every answer of the TPM (and of whoever sits on the bus) is parsed as hostile input, with lengths, tags and
//! bounds checked; every wait ends; every allocated bank is extended, those that TrustVisor cannot hash into with a
//! constant, so that no bank can be left to somebody else's story. Relies on a [`Transport`] that holds a locality allowed
//! to extend what it is asked to extend.
//!
//! References: TCG TPM Main 1.2 rev. 116 part 3 ("1.2"), TCG TPM 2.0 Library part 2 and 3 ("2.0").

mod bank;
pub mod clock;
pub mod mmio;
pub mod nv;
pub mod root;
mod root12;
mod root20;
mod session;
pub mod tis;
mod v12;
mod v20;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use core::fmt;

use abi::Digests;
pub use utpm::extended;
use zeroize::Zeroizing;

use crate::pal::Random;
pub use bank::{Algorithm, Banks};
use session::{HMAC, Parent, flush_all};
use v20::{SESSIONS, code::GET_RANDOM};
use wire::Command;

/// What a PCR is extended with (its digest) when nothing more is to come: EV_SEPARATOR's data (PC Client Platform Firmware
/// Profile 1.05, 10.4.1).
pub const SEPARATOR: [u8; 4] = [0; 4];

/// A PCR that was extended shows something else.
pub const NOT_EXTENDED: Error = Error::Malformed("a PCR does not hold what was extended into it");

/// What the TPM was to do or tell.
type Done<T = ()> = Result<T, Error>;

/// Why the TPM could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nothing answers at its address.
    Absent,
    /// It has the command-response-buffer interface only, which has no localities for a dynamic launch.
    CommandBuffer,
    /// It did not grant this locality.
    Locality(u8),
    /// It was not ready in time; says for what.
    Timeout(&'static str),
    /// Its answer is not one; says what is wrong.
    Malformed(&'static str),
    /// It answered with this error code.
    Refused(u32),
    /// It has no bank that TrustVisor can hash into, or one whose digest size is not known (its algorithm).
    Bank(u16),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no TPM answers at FED4_0000"),
            Self::CommandBuffer => f.write_str("the TPM has no FIFO interface"),
            Self::Locality(locality) => write!(f, "the TPM does not grant locality {locality}"),
            Self::Timeout(what) => write!(f, "the TPM takes too long ({what})"),
            Self::Malformed(what) => write!(f, "the TPM's answer makes no sense ({what})"),
            Self::Refused(0x01) => f.write_str("the TPM's storage key has a secret of its own"),
            Self::Refused(0x9a2) => {
                f.write_str("the TPM's owner, or what is kept there, has a secret of its own")
            }
            Self::Refused(0x12) => f.write_str("the TPM has no owner"),
            Self::Refused(code) => write!(f, "the TPM answers with error {code:#x}"),
            Self::Bank(0) => f.write_str("the TPM has neither a SHA-1 nor a SHA-256 bank"),
            Self::Bank(id) => write!(f, "the TPM has a PCR bank of unknown algorithm {id:#x}"),
        }
    }
}

/// Family of a TPM, by its number in [`crate::launch::Handover`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 1.2.
    V12 = 1,
    /// 2.0.
    V20 = 2,
}

/// Carries commands to a TPM, at one locality.
pub trait Transport {
    /// Sends a command, waits for the answer and returns its length (10 at least, and what its header says).
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Done<usize>;
    /// Waits.
    fn pause(&mut self, ms: u64);
    /// Gives the locality back.
    fn close(&mut self) -> Done;
}

/// A TPM that has been started and whose family and banks are known.
pub struct Tpm<T> {
    transport: T,
    /// Its family.
    pub family: Family,
    /// Its allocated banks.
    pub banks: Banks,
    parent: Option<Parent>,
}

impl<T: Transport> Tpm<T> {
    /// Finds out what answers, and starts it if the firmware has not.
    ///
    /// A 1.2 TPM answers a 2.0 command with tag 00C4 (error), a 2.0 TPM with tag 8001: no identification register, which
    /// differ between interfaces, has to be believed.
    // In a frame of its own: the SLB has little stack.
    #[inline(never)]
    pub fn open(mut transport: T) -> Done<Self> {
        let (family, banks) = match v20::banks(&mut transport)? {
            Some(banks) => (Family::V20, banks),
            None => {
                v12::start(&mut transport)?;
                (Family::V12, Banks::from_iter([Algorithm::SHA1]))
            }
        };
        if !banks.contains(&Algorithm::SHA1) && !banks.contains(&Algorithm::SHA256) {
            return Err(Error::Bank(0));
        }
        Ok(Self { transport, family, banks, parent: None })
    }

    /// Extends a PCR in every bank: SHA-1 and SHA-256 with `digests`, all others with [`Algorithm::CAP`]. Returns what it holds then, which is
    /// what extending must have given.
    pub fn extend(&mut self, pcr: u8, digests: &Digests) -> Done<Digests> {
        let before = self.read(pcr)?;
        match self.family {
            Family::V12 => v12::extend(&mut self.transport, pcr, &digests.sha1)?,
            Family::V20 => v20::extend(&mut self.transport, pcr, &self.banks, digests)?,
        }
        let after = self.read(pcr)?;
        if self.same(&after, &extended(&before, digests)) { Ok(after) } else { Err(NOT_EXTENDED) }
    }

    /// Equal in every allocated bank that TrustVisor can hash into.
    pub fn same(&self, one: &Digests, other: &Digests) -> bool {
        (!self.banks.contains(&Algorithm::SHA1) || one.sha1 == other.sha1)
            && (!self.banks.contains(&Algorithm::SHA256) || one.sha256 == other.sha256)
    }

    /// What a PCR holds; zero in banks that are not allocated.
    pub fn read(&mut self, pcr: u8) -> Done<Digests> {
        let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
        match self.family {
            Family::V12 => digests.sha1 = v12::read(&mut self.transport, pcr)?,
            Family::V20 => {
                if self.banks.contains(&Algorithm::SHA1) {
                    v20::read(&mut self.transport, pcr, Algorithm::SHA1, &mut digests.sha1)?;
                }
                if self.banks.contains(&Algorithm::SHA256) {
                    v20::read(&mut self.transport, pcr, Algorithm::SHA256, &mut digests.sha256)?;
                }
            }
        }
        Ok(digests)
    }

    /// From the TPM's random number generator. The numbers given keep these from who listens on the bus (2.0).
    pub fn random(&mut self, random: &mut Random) -> Done<Zeroizing<[u8; 32]>> {
        let mut bytes = Zeroizing::new([0; 32]);
        if self.family == Family::V12 {
            v12::random(&mut self.transport, &mut *bytes)?;
        } else {
            let (tpm, parent) = self.parent()?;
            let mut command = Command::new(SESSIONS, GET_RANDOM);
            parent.session(tpm, HMAC, random)?.receive(None, command.u16(32), &mut *bytes)?;
        }
        Ok(bytes)
    }

    /// A TPM 2.0's parent of what is kept, which stays until [`Self::close`].
    fn parent(&mut self) -> Done<(&mut T, &Parent)> {
        if self.parent.is_none() {
            self.parent = Some(Parent::new(&mut self.transport)?);
        }
        self.parent.as_ref().map(|parent| (&mut self.transport, parent)).ok_or(Error::Absent)
    }

    /// Gives the locality back, so that the OS can use the TPM.
    pub fn close(mut self) -> Done {
        if self.parent.is_some() {
            let _ = flush_all(&mut self.transport);
        }
        self.transport.close()
    }
}
