//! Windows of memory that divide a modulus: each of half the modulus' length, at each byte, in both byte orders.
//!
//! A prime factor is odd, has its top bit set, and looks random; what does not is passed over at the speed of reading it. What is left is
//! divided exactly, from the low end (Jebelean 1993): the quotient's limbs come one by one, and the top one must fit the modulus' top.

use anyhow::ensure;

/// Each window of a factor's length has one of these inside, at a multiple of its length. A factor has 1,024 bits at least.
const BLOCK: usize = 64;
/// Different bytes in a block. Of 64 random ones 57 are different, with a standard deviation of 2.4.
const DIFFERENT: u32 = 42;
const MAX_LIMBS: usize = 32;

pub struct Divisors {
    modulus: Vec<u64>,
}

impl Divisors {
    /// Of a modulus, big-endian.
    pub fn of(modulus: &[u8]) -> anyhow::Result<Self> {
        let length = modulus.len();
        ensure!(
            length.is_multiple_of(16) && (2 * 2 * BLOCK..=2 * 8 * MAX_LIMBS).contains(&length),
            "a modulus of {length} bytes"
        );
        let mut bytes = modulus.to_vec();
        bytes.reverse();
        ensure!(bytes[0] & 1 == 1 && bytes[length - 1] >= 0x80, "this is no RSA modulus");
        Ok(Self { modulus: limbs(&bytes).collect() })
    }

    /// A factor's length in bytes.
    pub fn size(&self) -> usize {
        self.modulus.len() * 4
    }

    /// Factors (big-endian), and where they begin.
    pub fn inside(&self, bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut found = Vec::new();
        // Starts before this one are done.
        let mut next = 0;
        for (number, block) in bytes.as_chunks::<BLOCK>().0.iter().enumerate() {
            if !looks_random(block) {
                continue;
            }
            let block = number * BLOCK;
            let first = (block + BLOCK).saturating_sub(self.size()).max(next);
            // The windows that hold all of this block.
            let last = block.min(bytes.len().saturating_sub(self.size()));
            for start in first..=last {
                let Some(window) = bytes.get(start..start + self.size()) else { break };
                if let Some(factor) = self.factor(window) {
                    found.push((start, factor));
                }
            }
            next = next.max(last + 1);
        }
        found
    }

    /// The window as a factor in one order or the other.
    fn factor(&self, window: &[u8]) -> Option<Vec<u8>> {
        let (first, last) = (*window.first()?, *window.last()?);
        let other = || {
            let mut other = window.to_vec();
            other.reverse();
            other
        };
        if last & 1 == 1 && first >= 0x80 && self.divided_by(&other()) {
            return Some(window.to_vec());
        }
        (first & 1 == 1 && last >= 0x80 && self.divided_by(window)).then(other)
    }

    /// By a little-endian number, odd and with its top bit set.
    fn divided_by(&self, divisor: &[u8]) -> bool {
        let count = self.modulus.len() / 2;
        let mut store = [0; MAX_LIMBS];
        let divisor_limbs = &mut store[..count];
        divisor_limbs.iter_mut().zip(limbs(divisor)).for_each(|(to, limb)| *to = limb);
        let divisor = &*divisor_limbs;
        if !may_divide(divisor) {
            return false;
        }
        let inverse = inverse(divisor[0]);
        // The modulus' low half, from which the quotient's limbs times the divisor are taken one after the other.
        let mut rest = [0; MAX_LIMBS];
        rest[..count].copy_from_slice(&self.modulus[..count]);
        let mut quotient = [0; MAX_LIMBS];
        for at in 0..count {
            let limb = rest[at].wrapping_mul(inverse);
            quotient[at] = limb;
            let mut borrow = 0;
            for (rest, divisor) in rest[at..count].iter_mut().zip(divisor) {
                let product = u128::from(*divisor) * u128::from(limb) + borrow;
                let (difference, less) = rest.overflowing_sub(product as u64);
                *rest = difference;
                borrow = (product >> 64) + u128::from(less);
            }
        }
        let quotient = &quotient[..count];
        let (top, divisor_top) = (u128::from(quotient[count - 1]), u128::from(divisor[count - 1]));
        let least = top * divisor_top;
        let most = least.saturating_add(top + divisor_top + 1);
        let modulus_top = u128::from(self.modulus[2 * count - 1]);
        (least >> 64..=most >> 64).contains(&modulus_top) && product(quotient, divisor) == self.modulus
    }
}

fn limbs(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|limb| u64::from_le_bytes(*limb))
}

fn looks_random(block: &[u8; BLOCK]) -> bool {
    let words = block.as_chunks::<8>().0;
    // The most there is of anything is memory of zeroes.
    if words.contains(&[0; 8]) {
        return false;
    }
    let mut seen = [0u64; 4];
    for byte in block {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|bits| bits.count_ones()).sum::<u32>() >= DIFFERENT
}

/// Whether none of the primes 3, 5, 7, 11, 13, 31, 41, 61, 151, 331, 1321 (those of 2^60 - 1) divides it.
fn may_divide(number: &[u64]) -> bool {
    const MODULUS: u64 = (1 << 60) - 1;
    // 2^64 is 2^4 by this modulus.
    let sum: u128 = number.iter().zip((0..15).cycle()).map(|(limb, at)| u128::from(*limb) << (4 * at)).sum();
    let folded = (sum & u128::from(MODULUS)) + (sum >> 60);
    let folded = (folded % u128::from(MODULUS)) as u64;
    [3, 5, 7, 11, 13, 31, 41, 61, 151, 331, 1321].iter().all(|prime| !folded.is_multiple_of(*prime))
}

/// Of an odd number, by 2^64: each step doubles the bits that are right, and a number is its own inverse by 8.
fn inverse(odd: u64) -> u64 {
    (0..5).fold(odd, |inverse, _| inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse))))
}

fn product(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut product = vec![0; a.len() + b.len()];
    for (at, a) in a.iter().enumerate() {
        let mut carry = 0;
        for (to, b) in product[at..].iter_mut().zip(b.iter().chain([&0])) {
            let sum = u128::from(*a) * u128::from(*b) + u128::from(*to) + carry;
            *to = sum as u64;
            carry = sum >> 64;
        }
    }
    product
}
