//! PKCS#1 v1.5: RFC 8017, 7.2 and 8.2.

use alloc::{vec, vec::Vec};
use core::hint::black_box;

use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Hash, Key, limbs};

/// 0, 1 or 2, at least eight bytes of padding, 0.
const OVERHEAD: usize = 11;

/// Signs a digest: RSASSA-PKCS1-v1_5, CKM_SHA256_RSA_PKCS and its like.
pub fn sign(key: &mut Key, rng: &mut impl CryptoRng, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Error> {
    if digest.len() != hash.size() {
        return Err(Error::Digest);
    }
    sign_raw(key, rng, &[hash.digest_info(), digest].concat())
}

/// Signs these bytes, which should be a DigestInfo: CKM_RSA_PKCS.
pub fn sign_raw(key: &mut Key, rng: &mut impl CryptoRng, digest_info: &[u8]) -> Result<Vec<u8>, Error> {
    let size = key.size();
    if digest_info.len() > size - OVERHEAD {
        return Err(Error::TooLong);
    }
    let mut encoded = vec![0xff; size];
    encoded[..2].copy_from_slice(&[0, 1]);
    encoded[size - digest_info.len() - 1] = 0;
    encoded[size - digest_info.len()..].copy_from_slice(digest_info);
    Ok(key.private(rng, &encoded)?.to_vec())
}

/// Decrypts with *implicit rejection* (draft-irtf-cfrg-rsa-guidance, as OpenSSL from 3.2 on): of a ciphertext without valid padding comes a message that
/// looks random, always the same for the same ciphertext, and no error: an attacker who learns whether there was one could decrypt with that.
/// The padding takes the same time whether it is valid or not; the length of the message shows, as it must.
pub fn decrypt(
    key: &mut Key,
    rng: &mut impl CryptoRng,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut encoded = key.private(rng, ciphertext)?;
    let size = key.size();
    let d = limbs::to_be(&key.d, size);
    let d = Zeroizing::new(Hash::Sha256.digest(&[&d[..]]));
    let secret = Zeroizing::new(prf_block(&d, &[ciphertext]));
    let mut synthetic = Zeroizing::new(vec![0; size]);
    prf(&secret[..], b"message", &mut synthetic);
    let synthetic_length = synthetic_length(&secret[..], size);

    let mut good = equal(encoded[0].into(), 0) & equal(encoded[1].into(), 2);
    // The first 0 after the padding: where it is, or 0.
    let mut separator = 0usize;
    for (i, byte) in encoded.iter().enumerate().skip(2) {
        separator |= i & equal((*byte).into(), 0) & equal(separator, 0);
    }
    good &= !less(separator, OVERHEAD - 1);
    let start = separator.wrapping_add(1) & good | size.wrapping_sub(synthetic_length) & !good;
    for (byte, synthetic) in encoded.iter_mut().zip(synthetic.iter()) {
        *byte = *byte & good as u8 | synthetic & !good as u8;
    }
    Ok(Zeroizing::new(encoded[start..].to_vec()))
}

/// The last of 128 random numbers that is small enough; of a wrong padding as good as of any other.
fn synthetic_length(secret: &[u8], size: usize) -> usize {
    let mut candidates = Zeroizing::new([0; 256]);
    prf(secret, b"length", &mut candidates[..]);
    let end = size - OVERHEAD + 1;
    let mask = end.next_power_of_two() - 1;
    candidates.as_chunks().0.iter().fold(0, |length, candidate| {
        let candidate = usize::from(u16::from_be_bytes(*candidate)) & mask;
        let fits = less(candidate, end);
        candidate & fits | length & !fits
    })
}

/// Fills `out`: the HMACs of a counter, the label and the length in bits.
fn prf(secret: &[u8], label: &[u8], out: &mut [u8]) {
    let bits = (8 * out.len() as u16).to_be_bytes();
    for (i, chunk) in (0u16..).zip(out.chunks_mut(32)) {
        let block = Zeroizing::new(prf_block(secret, &[&i.to_be_bytes(), label, &bits]));
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
}

fn prf_block(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    parts.iter().fold(mac, |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

/// Masks; both sides are small.
fn less(a: usize, b: usize) -> usize {
    black_box((a.wrapping_sub(b) >> (usize::BITS - 1)).wrapping_neg())
}

fn equal(a: usize, b: usize) -> usize {
    less(a ^ b, 1)
}
