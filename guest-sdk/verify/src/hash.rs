//! The two hash functions and the two families of TPM: which goes with which.

use std::fmt;

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A family of TPM, and the form of a quote that goes with it.
///
/// ```
/// assert_eq!(trustvisor_verify::Family::V20.to_string(), "2.0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Family {
    /// TPM 1.2: SHA-1 throughout.
    #[serde(rename = "1.2")]
    V12,
    /// TPM 2.0: SHA-256.
    #[serde(rename = "2.0")]
    V20,
}

impl Family {
    pub(crate) fn hash(self) -> Hash {
        match self {
            Self::V12 => Hash::Sha1,
            Self::V20 => Hash::Sha256,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::V12, Self::V20].into_iter().find(|family| family.to_string() == name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V12 => "1.2",
            Self::V20 => "2.0",
        })
    }
}

/// A hash function of the TPM, and the bank of PCRs that is kept with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    /// By its number (TCG Algorithm Registry, TPM_ALG_ID).
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        [Self::Sha1, Self::Sha256].into_iter().find(|hash| hash.number() == number)
    }

    pub(crate) fn number(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
        }
    }

    pub(crate) fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The digest of all parts, one after the other.
    pub(crate) fn of(self, parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::Sha1 => digest::<Sha1>(parts),
            Self::Sha256 => digest::<Sha256>(parts),
        }
    }
}

fn digest<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
}

pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

/// Lower case, as everywhere in evidence and policies.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    base16ct::lower::encode_string(bytes.as_ref())
}

/// Lower case, pairs alone.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    base16ct::lower::decode_vec(text).ok()
}
