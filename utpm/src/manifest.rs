//! What is said of a newer release, signed by whoever signs releases: that it may have the root.
//!
//! Bytes: [`MAGIC`], the security version (4, big-endian), PCR 17 after its launch in both banks ([`Digests`]); then, over all
//! of that, an ECDSA signature in DER, with P-256 and SHA-256 (`openssl dgst -sha256 -sign` makes one).

use abi::Digests;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use zerocopy::FromBytes;

/// First bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"TVNEXT\0\x01";
/// Bytes that are signed.
pub const SIGNED: usize = MAGIC.len() + 4 + size_of::<Digests>();

/// Security version and PCR 17 of the release, if the key (an uncompressed point, SEC 1, 2.3.3) has signed it.
pub fn verify(manifest: &[u8], key: &[u8; 65]) -> Option<(u32, Digests)> {
    let (signed, signature) = manifest.split_at_checked(SIGNED)?;
    let key = VerifyingKey::from_sec1_bytes(key).ok()?;
    key.verify(signed, &Signature::from_der(signature).ok()?).ok()?;
    let (version, pcr17) = signed.strip_prefix(&MAGIC)?.split_first_chunk()?;
    Some((u32::from_be_bytes(*version), Digests::read_from_bytes(pcr17).ok()?))
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer;

    use super::*;
    use crate::digest;

    fn key(seed: u8) -> (SigningKey, [u8; 65]) {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        let public = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
        (key, public)
    }

    fn signed(key: &SigningKey, body: &[u8]) -> Vec<u8> {
        let signature: Signature = key.sign(body);
        [body, signature.to_der().as_bytes()].concat()
    }

    #[test]
    fn what_the_key_signed_and_nothing_else() {
        let ((private, public), (_, other)) = (key(1), key(2));
        let pcr17 = digest(b"PCR 17");
        let body = [&MAGIC[..], &7u32.to_be_bytes(), &pcr17.sha1, &pcr17.sha256].concat();
        let manifest = signed(&private, &body);
        assert_eq!(verify(&manifest, &public), Some((7, pcr17)));
        assert_eq!(verify(&manifest, &other), None);
        assert_eq!(verify(&manifest, &[0; 65]), None);
        for byte in 0..manifest.len() {
            let mut bad = manifest.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert_eq!(verify(&bad, &public), None, "byte {byte}");
            assert_eq!(verify(&manifest[..byte], &public), None, "{byte} bytes");
        }
        assert_eq!(verify(&[&manifest[..], &[0]].concat(), &public), None);
        let mut magic = body;
        magic[0] ^= 1;
        assert_eq!(verify(&signed(&private, &magic), &public), None, "signed for something else");
    }
}
