//! New keys: FIPS 186-5, A.1.3, primes that are probably prime.

use rand_core::CryptoRng;

use crate::limbs::{self, Limbs};
use crate::mont::{BLOCK, Kernel};
use crate::{Error, Key, load, prime};

/// Makes a key of this size, 2048 to 4096 bits and a multiple of 64, with this public exponent. 65537 is the usual one; FIPS 186-5 has none below.
///
/// Each candidate for a prime is drawn anew, so the random number generator is asked for 90 KiB, give or take, for a key of 2048 bits.
/// The private exponent is 1/e modulo (p-1)(q-1), which for e < 2^64 is more than the 2^(bits/2) that FIPS 186-5 asks for.
pub fn generate(kernel: Kernel, rng: &mut impl CryptoRng, bits: usize, e: u64) -> Result<Key, Error> {
    load::check(bits, e)?;
    let half = bits / 2;
    loop {
        let [p, q] = [0, 1].map(|_| limbs::to_be(&prime(kernel, rng, half, e), half / 8));
        match Key::assemble(kernel, e, &p, &q) {
            // Too close, which has never been seen.
            Err(Error::Primes) => {}
            other => return other,
        }
    }
}

/// A prime of so many bits, the highest two of them set, so that the product of two has twice as many; e has an inverse modulo it less one.
fn prime(kernel: Kernel, rng: &mut impl CryptoRng, bits: usize, e: u64) -> Limbs {
    loop {
        let mut candidate = prime::random(rng, bits.div_ceil(64 * BLOCK) * BLOCK, bits);
        candidate[(bits - 1) / 64] |= 1 << ((bits - 1) % 64);
        candidate[(bits - 2) / 64] |= 1 << ((bits - 2) % 64);
        candidate[0] |= 1;
        if prime::has_small_factor(&candidate) {
            continue;
        }
        let mut less_one = candidate.clone();
        less_one[0] &= !1;
        if load::private_exponent(&less_one, e).is_some()
            && prime::is_probably_prime(kernel, rng, &candidate, bits, prime::rounds(bits))
        {
            return candidate;
        }
    }
}
