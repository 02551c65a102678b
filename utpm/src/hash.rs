//! Hashing in both banks at once, in pieces of any size: long inputs are hashed in slices between which the OS takes its
//! interrupts.

use abi::{Digests, image::MEASUREMENT_PREFIX};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// SHA-1 and SHA-256 over the same bytes.
#[derive(Clone, Default)]
pub struct Hasher {
    sha1: Sha1,
    sha256: Sha256,
}

impl Hasher {
    /// For the measurement of a PAL: [`MEASUREMENT_PREFIX`] is hashed, and the image is to follow.
    pub fn measurement() -> Self {
        let mut hasher = Self::default();
        hasher.update(MEASUREMENT_PREFIX);
        hasher
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha1.update(bytes);
        self.sha256.update(bytes);
    }

    /// The digests of all bytes added.
    pub fn finish(self) -> Digests {
        Digests { sha1: self.sha1.finalize().into(), sha256: self.sha256.finalize().into() }
    }
}

/// HMAC with SHA-256 over these parts.
pub fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mac = Hmac::new_from_slice(key).expect("HMAC takes any key");
    parts.iter().fold(mac, |mac, part| mac.chain_update(part))
}

/// The digests of `bytes`.
pub fn digest(bytes: &[u8]) -> Digests {
    Digests { sha1: Sha1::digest(bytes).into(), sha256: Sha256::digest(bytes).into() }
}

/// What extending makes of a PCR.
pub fn extended(old: &Digests, new: &Digests) -> Digests {
    let sha1 = Sha1::digest([old.sha1, new.sha1].as_flattened()).into();
    let sha256 = Sha256::digest([old.sha256, new.sha256].as_flattened()).into();
    Digests { sha1, sha256 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::hex;

    /// FIPS 180-2, appendices A.1, A.2, B.1, B.2, and NIST's example values for the empty and the million-byte message.
    #[test]
    fn fips_180_examples() {
        let long = vec![b'a'; 1_000_000];
        let examples: [(&[u8], &str, &str); 4] = [
            (
                b"abc",
                "a9993e364706816aba3e25717850c26c9cd0d89d",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                b"",
                "da39a3ee5e6b4b0d3255bfef95601890afd80709",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                &long,
                "34aa973cd4c4daa4f61eeb2bdbad27316534016f",
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
            ),
        ];
        for (message, sha1, sha256) in examples {
            let digests = digest(message);
            assert_eq!(hex(&digests.sha1), sha1);
            assert_eq!(hex(&digests.sha256), sha256);
        }
    }

    #[test]
    fn a_measurement_is_not_a_plain_hash() {
        let mut measurement = Hasher::measurement();
        measurement.update(b"image");
        assert_eq!(measurement.finish(), digest(b"TrustVisor PAL 1image"));
    }

    proptest! {
        #[test]
        fn slices_do_not_matter(bytes: Vec<u8>, cuts: Vec<u8>) {
            let mut measurement = Hasher::measurement();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (slice, tail) = rest.split_at(usize::from(cut).min(rest.len()));
                measurement.update(slice);
                rest = tail;
            }
            measurement.update(rest);
            prop_assert_eq!(measurement.finish(), digest(&[&MEASUREMENT_PREFIX[..], &bytes].concat()));
        }
    }
}
