//! A key from its numbers: what is missing is computed, what is there is checked.

use alloc::vec::Vec;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::limbs::{self, Limbs};
use crate::mont::{BLOCK, Kernel, Modulus};
use crate::{Error, Key, prime};

/// Random bases for a prime that came from somewhere else. A composite made to pass is found with all but 2^-32 probability, another for sure.
const ROUNDS: usize = 16;
/// The primes differ by more than two to the power of (their bits - 100): FIPS 186-5, A.1.3.
const CLOSE: usize = 100;

/// A private key's numbers, big-endian; zeros may stand in front.
pub struct Components {
    /// The modulus.
    pub n: Vec<u8>,
    /// The public exponent.
    pub e: u64,
    /// The private exponent, modulo the least common multiple of p-1 and q-1 or a multiple of that.
    pub d: Zeroizing<Vec<u8>>,
    /// One prime.
    pub p: Zeroizing<Vec<u8>>,
    /// The other.
    pub q: Zeroizing<Vec<u8>>,
}

impl Key {
    /// A key from somewhere else: all numbers are checked against each other, and p and q for being prime.
    pub fn from_components(
        kernel: Kernel,
        rng: &mut impl CryptoRng,
        components: &Components,
    ) -> Result<Self, Error> {
        let Components { n, e, d, p, q } = components;
        let key = Self::from_primes(kernel, rng, *e, p, q)?;
        key.with_exponent(n, d)
    }

    /// As [`Self::from_components`], for a key that this crate made and that nobody could change since: nothing is tried for being prime,
    /// which would take as long as a dozen signatures.
    pub fn from_own_components(kernel: Kernel, components: &Components) -> Result<Self, Error> {
        let Components { n, e, d, p, q } = components;
        Self::assemble(kernel, *e, p, q)?.with_exponent(n, d)
    }

    /// A key from its primes and its public exponent.
    pub fn from_primes(
        kernel: Kernel,
        rng: &mut impl CryptoRng,
        e: u64,
        p: &[u8],
        q: &[u8],
    ) -> Result<Self, Error> {
        let key = Self::assemble(kernel, e, p, q)?;
        let mut is_prime = |n: &[u64]| prime::is_probably_prime(kernel, rng, n, key.bits / 2, ROUNDS);
        if !is_prime(&key.p.n) || !is_prime(&key.q.n) {
            return Err(Error::Primes);
        }
        Ok(key)
    }

    pub(crate) fn assemble(kernel: Kernel, e: u64, p: &[u8], q: &[u8]) -> Result<Self, Error> {
        let significant =
            |bytes: &[u8]| bytes.iter().position(|byte| *byte != 0).map_or(0, |zeros| bytes.len() - zeros);
        let bits = 16 * significant(p);
        check(bits, e)?;
        let half = bits / 2;
        let k = half.div_ceil(64 * BLOCK) * BLOCK;
        let mut p = limbs::from_be(p, k).ok_or(Error::Size)?;
        let mut q = limbs::from_be(q, k).ok_or(Error::Size)?;
        if !limbs::has_bits(&p, half) || !limbs::has_bits(&q, half) {
            return Err(Error::Size);
        }
        let mut difference = p.clone();
        let swap = limbs::sub(&mut difference, &q, u64::MAX);
        for (p, q) in p.iter_mut().zip(q.iter_mut()) {
            let changed = (*p ^ *q) & swap;
            (*p, *q) = (*p ^ changed, *q ^ changed);
        }
        let mut difference = p.clone();
        limbs::sub(&mut difference, &q, u64::MAX);
        let close = limbs::is_zero(&limbs::shifted_right(&difference, half - CLOSE)) != 0;
        if close || p[0] & q[0] & 1 == 0 {
            return Err(Error::Primes);
        }
        let mut n = limbs::zero(2 * k);
        kernel.multiply(&mut n, &p, &q);
        let less_one = |prime: &[u64]| {
            let mut out = limbs::resized(prime, k);
            out[0] &= !1;
            out
        };
        let (p1, q1) = (less_one(&p), less_one(&q));
        let mut phi = limbs::zero(2 * k);
        kernel.multiply(&mut phi, &p1, &q1);
        let [dp, dq, d] = [&p1, &q1, &phi].map(|m| private_exponent(m, e));
        let (dp, dq, d) = (dp.ok_or(Error::Exponent)?, dq.ok_or(Error::Exponent)?, d.ok_or(Error::Exponent)?);
        let n = limbs::resized(&n, bits.div_ceil(64 * BLOCK) * BLOCK);
        if !limbs::has_bits(&n, bits) {
            return Err(Error::Size);
        }
        let d = limbs::resized(&d, n.len());
        let (p, q) = (Modulus::new(kernel, &p, half), Modulus::new(kernel, &q, half));
        // q^(p-2) = 1/q.
        let mut exponent = p.n.clone();
        limbs::sub(&mut exponent, &limbs::resized(&[2], k), u64::MAX);
        let qinv = p.enter(&q.n, &mut p.scratch());
        let mut qinv = p.power(&qinv, &exponent, half);
        p.below(&mut qinv);
        Ok(Self { bits, e, n: Modulus::new(kernel, &n, bits), p, q, d, dp, dq, qinv, blinding: None })
    }

    /// Takes this private exponent, if it and the modulus belong to the key.
    fn with_exponent(mut self, n: &[u8], d: &[u8]) -> Result<Self, Error> {
        let k = self.n.len();
        let n = limbs::from_be(n, k).ok_or(Error::Inconsistent)?;
        let d = limbs::from_be(d, k).ok_or(Error::Inconsistent)?;
        let belongs = |prime: &Modulus, exponent: &Limbs| {
            let mut less_one = prime.n.clone();
            less_one[0] &= !1;
            limbs::equal(&limbs::rem(&d, &less_one), exponent)
        };
        let all = limbs::equal(&n, &self.n.n)
            & limbs::less(&d, &n)
            & belongs(&self.p, &self.dp)
            & belongs(&self.q, &self.dq);
        if all == 0 {
            return Err(Error::Inconsistent);
        }
        self.d = d;
        Ok(self)
    }
}

/// Whether keys of this size and with this public exponent are supported.
pub(crate) fn check(bits: usize, e: u64) -> Result<(), Error> {
    if !(2048..=4096).contains(&bits) || !bits.is_multiple_of(64) {
        return Err(Error::Size);
    }
    if e < 3 || e.is_multiple_of(2) {
        return Err(Error::Exponent);
    }
    Ok(())
}

/// 1/e modulo `m`: (1 + m t) / e, where t = -1/m modulo e makes it come out even. `None` if there is none.
pub(crate) fn private_exponent(m: &[u64], e: u64) -> Option<Limbs> {
    let t = e - inverse(limbs::rem(m, &[e])[0], e)?;
    let mut out = limbs::zero(m.len() + 1);
    let mut carry = 1;
    for (out, m) in out.iter_mut().zip(m.iter().chain(&[0])) {
        let sum = u128::from(*m) * u128::from(t) + carry;
        (*out, carry) = (sum as u64, sum >> 64);
    }
    Some(limbs::resized(&limbs::divide_exactly(&out, e), m.len()))
}

/// 1/x modulo an odd `e`, by a binary Euclidean algorithm of always as many steps. `None` if there is none.
fn inverse(x: u64, e: u64) -> Option<u64> {
    // a = u x, b = v x modulo e; b is odd.
    let (mut a, mut b, mut u, mut v) = (x, e, 1u64, 0u64);
    for _ in 0..128 {
        let odd = core::hint::black_box((a & 1).wrapping_neg());
        let swap = limbs::less(&[a], &[b]) & odd;
        let (ab, uv) = ((a ^ b) & swap, (u ^ v) & swap);
        (a, b, u, v) = (a ^ ab, b ^ ab, u ^ uv, v ^ uv);
        a -= b & odd;
        let below = limbs::less(&[u], &[v & odd]);
        u = u.wrapping_sub(v & odd).wrapping_add(e & below);
        let half = core::hint::black_box((u & 1).wrapping_neg());
        (a, u) = (a >> 1, (u >> 1) + (((e >> 1) + 1) & half));
    }
    (b == 1).then_some(v)
}
