//! PCR banks: which hash algorithms a TPM keeps its PCRs in, and what goes into each of them.

use abi::Digests;
use arrayvec::ArrayVec;

use super::Error;

/// A hash algorithm, by its TCG number (TCG Algorithm Registry, TPM_ALG_ID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm(u16);

impl Algorithm {
    /// SHA-1.
    pub const SHA1: Self = Self(0x0004);
    /// SHA-256.
    pub const SHA256: Self = Self(0x000b);

    /// What banks are extended with that TrustVisor has no hash function for. Anybody can tell such a PCR (and nobody can
    /// undo it); it says nothing about what was launched.
    pub const CAP: [u8; 64] = [abi::CAP; 64];

    /// The algorithm of this number, if the size of its digests is known.
    pub fn from_number(number: u16) -> Result<Self, Error> {
        match Self(number).size() {
            0 => Err(Error::Bank(number)),
            _ => Ok(Self(number)),
        }
    }

    /// Its TCG number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Bytes of its digests.
    pub fn size(self) -> usize {
        match self.0 {
            0x0004 => 20,
            // SHA-256, SM3-256, SHA3-256
            0x000b | 0x0012 | 0x0027 => 32,
            // SHA-384, SHA3-384
            0x000c | 0x0028 => 48,
            // SHA-512, SHA3-512
            0x000d | 0x0029 => 64,
            _ => 0,
        }
    }

    /// What the bank of this algorithm is extended with.
    pub fn digest(self, digests: &Digests) -> &[u8] {
        match self {
            Self::SHA1 => &digests.sha1,
            Self::SHA256 => &digests.sha256,
            _ => &Self::CAP[..self.size()],
        }
    }
}

/// The allocated banks of a TPM: one for every algorithm of known size at most; a TPM that names more names one twice.
pub type Banks = ArrayVec<Algorithm, 8>;
