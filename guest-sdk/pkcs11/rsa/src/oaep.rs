//! RSAES-OAEP: RFC 8017, 7.1.2.

use alloc::vec::Vec;
use core::hint::black_box;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::{Error, Hash, Key};

/// Decrypts: CKM_RSA_PKCS_OAEP. Whatever is wrong with what was encrypted is one error, after the same time (Manger's attack needs to tell them apart).
pub fn decrypt(
    key: &mut Key,
    rng: &mut impl CryptoRng,
    hash: Hash,
    mgf: Hash,
    label: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut encoded = key.private(rng, ciphertext)?;
    let (first, rest) = encoded.split_at_mut(1);
    let (seed, db) = rest.split_at_mut(hash.size());
    mgf.mask(seed, db);
    mgf.mask(db, seed);
    let (label_hash, padded) = db.split_at(hash.size());
    let mut bad = first.iter().fold(0, |bad, byte| bad | byte);
    bad = label_hash.iter().zip(hash.digest(&[label])).fold(bad, |bad, (a, b)| bad | (a ^ b));
    // Zeros, then a 1, then the message: everything before the first other byte is skipped.
    let (mut start, mut padding) = (0usize, 0xffu8);
    for byte in padded {
        padding &= is_zero(*byte);
        // Without the check for an overflow that debug builds would make.
        start = start.wrapping_add(usize::from(padding & 1));
    }
    let mut separator = 0;
    for (i, byte) in padded.iter().enumerate() {
        separator |= byte & is_zero((i ^ start) as u8) & is_zero(((i ^ start) >> 8) as u8);
    }
    bad |= separator ^ 1;
    if black_box(bad) != 0 {
        return Err(Error::Decryption);
    }
    Ok(Zeroizing::new(padded[start + 1..].to_vec()))
}

/// All ones for 0.
fn is_zero(byte: u8) -> u8 {
    black_box((u16::from(byte).wrapping_sub(1) >> 8) as u8)
}
