//! The PAL of the example `hello`: adds, sums, and keeps a secret that is made inside and never leaves; what leaves is its
//! digest.

#![no_std]
#![no_main]

use sha2::{Digest, Sha256};
use trustvisor_pal::Out;

mod secret;

fn add(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

fn sum(data: &[u8]) -> u64 {
    data.iter().map(|byte| u64::from(*byte)).sum()
}

/// Expands `seed` into the pattern that S keeps.
fn set_secret(seed: u64) {
    secret::with(|pattern| secret::expand(seed, pattern));
}

/// Writes as much of the secret's SHA-256 as fits and returns the number of bytes.
fn digest(mut out: Out<'_>) -> usize {
    let digest = secret::with(|pattern| Sha256::digest(*pattern));
    let length = out.len().min(digest.len());
    out[..length].copy_from_slice(&digest[..length]);
    length
}

trustvisor_pal::entries! {
    fn add(a: u64, b: u64) -> u64;
    fn sum(data: &[u8]) -> u64;
    fn set_secret(seed: u64);
    fn digest(out: Out<'_>) -> usize;
}
