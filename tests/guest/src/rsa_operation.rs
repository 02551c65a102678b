//! What the one RSA operation of a quote costs by itself: the same crate signs here, in a program, with a key that protects nothing.

#[path = "../../../utpm/tests/cavp/rsp.rs"]
mod rsp;

use anyhow::Context;
use rand_core::{TryCryptoRng, TryRng};
use rsa::{BoxedUint, Pkcs1v15Sign, PrivateKey};
use sha2::{Digest, Sha256};
use std::arch::x86_64::_rdtsc;
use std::convert::Infallible;

/// Numbers to blind with; that they are known harms no key that is.
struct Known(u64);

impl TryRng for Known {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            let Ok(value) = self.try_next_u64();
            part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Known {}

/// Instructions of a blinded signature that is checked before it is given away, as the quoting PAL makes it: the least of a few.
pub fn instructions() -> anyhow::Result<u64> {
    let vectors = rsp::vectors(include_str!("../../../utpm/tests/cavp/SigVer15_186-3.rsp"), "Result");
    let known = vectors.first().context("a key")?;
    let prime = |name| BoxedUint::from_be_slice(&known.bytes(name), 1024);
    let key = PrivateKey::from_p_q(prime("p")?, prime("q")?, 65537u32.into())?;
    let digest = Sha256::digest(b"a quote");
    let mut best = u64::MAX;
    for _ in 0..5 {
        // SAFETY: every processor has a TSC, and Linux lets programs read it.
        let start = unsafe { _rdtsc() };
        key.sign_with_rng(&mut Known(1), Pkcs1v15Sign::new::<Sha256>(), &digest)?;
        // SAFETY: the same.
        best = best.min(unsafe { _rdtsc() } - start);
    }
    Ok(best)
}
