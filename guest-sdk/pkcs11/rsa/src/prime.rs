//! Whether a number is prime: by small primes first, then after Miller and Rabin with random bases.

use rand_core::CryptoRng;

use crate::limbs::{self, Limbs};
use crate::mont::{Kernel, Modulus};

/// A product of small primes of less than 2^63, and the range of these in [`PRIMES`].
#[derive(Clone, Copy)]
struct Group {
    product: u64,
    first: usize,
    end: usize,
}

const LIMIT: usize = 4096;
/// The odd primes below [`LIMIT`].
const PRIMES: [u16; 563] = {
    let mut primes = [0; 563];
    let (mut count, mut n) = (0, 3);
    while n < LIMIT {
        let mut divisor = 3;
        while divisor * divisor <= n && n % divisor != 0 {
            divisor += 2;
        }
        if divisor * divisor > n {
            primes[count] = n as u16;
            count += 1;
        }
        n += 2;
    }
    assert!(count == primes.len());
    primes
};
const GROUPS: [Group; 105] = {
    let mut groups = [Group { product: 1, first: 0, end: 0 }; 105];
    let (mut i, mut group) = (0, 0);
    while i < PRIMES.len() {
        match groups[group].product.checked_mul(PRIMES[i] as u64) {
            Some(product) if product < 1 << 63 => {
                groups[group].product = product;
                i += 1;
                groups[group].end = i;
            }
            _ => {
                group += 1;
                groups[group] = Group { product: 1, first: i, end: i };
            }
        }
    }
    groups
};

/// Whether a small prime divides `n`. Tells which, by the time taken; nothing of a number that none divides.
pub(crate) fn has_small_factor(n: &[u64]) -> bool {
    GROUPS.iter().filter(|group| group.product > 1).any(|group| {
        // n / 2^(64 * limbs) modulo the product, after Montgomery: the same primes divide it.
        let inverse = limbs::inverse_word(group.product).wrapping_neg();
        // It stays below the product plus 2.
        let rest = n.iter().fold(0u64, |rest, limb| {
            let sum = u128::from(rest) + u128::from(*limb);
            let m = (sum as u64).wrapping_mul(inverse);
            // The low halves cancel: they carry one unless both are 0.
            let carry = u64::from(sum as u64 != 0) + (sum >> 64) as u64;
            let high = ((u128::from(m) * u128::from(group.product)) >> 64) as u64;
            high + carry
        });
        // A multiple of an odd number is one of few words when divided by it modulo 2^64.
        PRIMES[group.first..group.end].iter().any(|prime| {
            let prime = u64::from(*prime);
            rest.wrapping_mul(limbs::inverse_word(prime)) <= u64::MAX / prime
        })
    })
}

/// How many random bases are tried with a candidate that was drawn at random: FIPS 186-5, table B.1, and as many for primes between its sizes.
pub(crate) fn rounds(bits: usize) -> usize {
    if bits < 1536 { 5 } else { 4 }
}

/// Whether an odd number of exactly `bits` bits, more than 64, passes so many rounds of Miller and Rabin's test: FIPS 186-5, B.3.1.
pub(crate) fn is_probably_prime(
    kernel: Kernel,
    rng: &mut impl CryptoRng,
    n: &[u64],
    bits: usize,
    rounds: usize,
) -> bool {
    let modulus = Modulus::new(kernel, n, bits);
    let mut t = modulus.scratch();
    let mut minus_one = modulus.n.clone();
    minus_one[0] &= !1;
    let twos = minus_one
        .iter()
        .position(|limb| *limb != 0)
        .map_or(0, |i| 64 * i + minus_one[i].trailing_zeros() as usize);
    let odd = limbs::shifted_right(&minus_one, twos);
    let is = |x: &Limbs, n: u64, t: &mut Limbs| {
        let mut x = x.clone();
        modulus.leave(&mut x, t);
        let one = limbs::resized(&[1], x.len());
        limbs::equal(&x, if n == 1 { &one } else { &minus_one }) != 0
    };
    (0..rounds).all(|_| {
        let base = random(rng, n.len(), bits - 1);
        let base = modulus.enter(&base, &mut t);
        let mut x = modulus.power(&base, &odd, bits - twos);
        let mut passed = is(&x, 1, &mut t) || is(&x, 0, &mut t);
        for _ in 1..twos {
            if passed {
                break;
            }
            modulus.square(&mut x, &mut t);
            passed = is(&x, 0, &mut t);
        }
        passed
    })
}

/// A random number below 2^bits, not 0 or 1.
pub(crate) fn random(rng: &mut impl CryptoRng, limbs: usize, bits: usize) -> Limbs {
    let mut out = limbs::zero(limbs);
    loop {
        for (i, limb) in out.iter_mut().enumerate().take(bits.div_ceil(64)) {
            *limb = rng.next_u64() & (u64::MAX >> (64 - (bits - 64 * i).min(64)));
        }
        if limbs::is_zero(&limbs::shifted_right(&out, 1)) == 0 {
            return out;
        }
    }
}
