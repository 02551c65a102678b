//! RSASSA-PSS: RFC 8017, 8.1 and 9.1.

use alloc::{vec, vec::Vec};

use rand_core::CryptoRng;

use crate::{Error, Hash, Key};

/// Signs a digest of `hash`, with a random salt of so many bytes, 0 included: CKM_RSA_PKCS_PSS.
pub fn sign(
    key: &mut Key,
    rng: &mut impl CryptoRng,
    hash: Hash,
    mgf: Hash,
    salt_len: usize,
    digest: &[u8],
) -> Result<Vec<u8>, Error> {
    if digest.len() != hash.size() {
        return Err(Error::Digest);
    }
    // One bit less than the modulus, which is a whole number of bytes: zeros, 1, salt, H, 0xbc.
    let size = key.size();
    let db_len = size - hash.size() - 1;
    let salt_start = db_len.checked_sub(salt_len).filter(|start| *start > 0).ok_or(Error::TooLong)?;
    let mut encoded = vec![0; size];
    let (db, rest) = encoded.split_at_mut(db_len);
    db[salt_start - 1] = 1;
    rng.fill_bytes(&mut db[salt_start..]);
    let h = hash.digest(&[&[0; 8], digest, &db[salt_start..]]);
    mgf.mask(db, &h);
    db[0] &= 0x7f;
    rest[..h.len()].copy_from_slice(&h);
    rest[h.len()] = 0xbc;
    Ok(key.private(rng, &encoded)?.to_vec())
}
