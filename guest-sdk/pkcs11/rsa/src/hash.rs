//! The hashes that the paddings are used with: which one is a value here, not a type, as it comes from a mechanism's parameters.

use alloc::vec::Vec;

use hmac::digest::{Digest, Update};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

/// A hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: for OAEP, and for who still has to sign with it.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Bytes in a digest.
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of these, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<D: Digest + Update>(parts: &[&[u8]]) -> Vec<u8> {
            parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
        }
        match self {
            Self::Sha1 => of::<Sha1>(parts),
            Self::Sha224 => of::<Sha224>(parts),
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha384 => of::<Sha384>(parts),
            Self::Sha512 => of::<Sha512>(parts),
        }
    }

    /// What stands before the digest in a DigestInfo: RFC 8017, 9.2, note 1.
    pub fn digest_info(self) -> &'static [u8] {
        match self {
            Self::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
            Self::Sha224 => b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c",
            Self::Sha256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
            Self::Sha384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
            Self::Sha512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
        }
    }

    /// XORs `out` with the mask that MGF1 makes of `seed`: RFC 8017, B.2.1.
    pub(crate) fn mask(self, out: &mut [u8], seed: &[u8]) {
        for (i, chunk) in (0u32..).zip(out.chunks_mut(self.size())) {
            let mask = zeroize::Zeroizing::new(self.digest(&[seed, &i.to_be_bytes()]));
            chunk.iter_mut().zip(mask.iter()).for_each(|(out, mask)| *out ^= mask);
        }
    }
}
