//! Natural numbers as little-endian arrays of 64-bit limbs, of a length that is public: what is needed of them besides
//! multiplication. Nothing here branches on a value or goes to an address that depends on one; truths are masks, all ones or 0.

use alloc::{vec, vec::Vec};
use core::hint::black_box;

use zeroize::Zeroizing;

/// A number that is wiped when dropped.
pub(crate) type Limbs = Zeroizing<Vec<u64>>;

pub(crate) fn zero(limbs: usize) -> Limbs {
    Zeroizing::new(vec![0; limbs])
}

/// `a` with as many limbs as asked for; what is above them is cut off.
pub(crate) fn resized(a: &[u64], limbs: usize) -> Limbs {
    let mut out = zero(limbs);
    let common = limbs.min(a.len());
    out[..common].copy_from_slice(&a[..common]);
    out
}

/// From big-endian bytes; `None` if these are too many, zeros in front not counted.
pub(crate) fn from_be(bytes: &[u8], limbs: usize) -> Option<Limbs> {
    let (above, bytes) = bytes.split_at(bytes.len().saturating_sub(8 * limbs));
    let mut out = zero(limbs);
    for (limb, chunk) in out.iter_mut().zip(bytes.rchunks(8)) {
        *limb = chunk.iter().fold(0, |limb, byte| limb << 8 | u64::from(*byte));
    }
    (above.iter().fold(0, |all, byte| all | byte) == 0).then_some(out)
}

/// The lowest `len` bytes, big-endian.
pub(crate) fn to_be(a: &[u64], len: usize) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(vec![0; len]);
    for (chunk, limb) in out.rchunks_mut(8).zip(a) {
        for (byte, shift) in chunk.iter_mut().rev().zip((0..64).step_by(8)) {
            *byte = (limb >> shift) as u8;
        }
    }
    out
}

/// `a += b & mask`, and the carry, 0 or 1.
pub(crate) fn add(a: &mut [u64], b: &[u64], mask: u64) -> u64 {
    let mut carry = 0;
    for (a, b) in a.iter_mut().zip(b) {
        let sum = u128::from(*a) + u128::from(b & mask) + carry;
        *a = sum as u64;
        carry = sum >> 64;
    }
    carry as u64
}

/// `a -= b & mask`, and the borrow as a mask.
pub(crate) fn sub(a: &mut [u64], b: &[u64], mask: u64) -> u64 {
    let mut borrow = 0;
    for (a, b) in a.iter_mut().zip(b) {
        let difference = u128::from(*a).wrapping_sub(u128::from(b & mask)).wrapping_sub(borrow);
        *a = difference as u64;
        borrow = difference >> 127;
    }
    black_box((borrow as u64).wrapping_neg())
}

/// Whether `a < b`.
pub(crate) fn less(a: &[u64], b: &[u64]) -> u64 {
    let mut borrow = 0;
    for (a, b) in a.iter().zip(b) {
        borrow = u128::from(*a).wrapping_sub(u128::from(*b)).wrapping_sub(borrow) >> 127;
    }
    black_box((borrow as u64).wrapping_neg())
}

/// Whether `a == 0`.
pub(crate) fn is_zero(a: &[u64]) -> u64 {
    let any = a.iter().fold(0, |all, limb| all | limb);
    black_box(((any | any.wrapping_neg()) >> 63).wrapping_sub(1))
}

/// Whether `a == b`, both of one length.
pub(crate) fn equal(a: &[u64], b: &[u64]) -> u64 {
    let any = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    black_box(((any | any.wrapping_neg()) >> 63).wrapping_sub(1))
}

/// `a = 2a + bit`, and the bit that is shifted out as a mask.
pub(crate) fn double(a: &mut [u64], bit: u64) -> u64 {
    let mut carry = bit;
    for limb in a.iter_mut() {
        (*limb, carry) = (*limb << 1 | carry, *limb >> 63);
    }
    black_box(carry.wrapping_neg())
}

/// `a >> bits`; `bits` is public.
pub(crate) fn shifted_right(a: &[u64], bits: usize) -> Limbs {
    let (skipped, bits) = (bits / 64, bits % 64);
    let mut out = zero(a.len());
    for (i, limb) in out.iter_mut().enumerate() {
        let at = |i: usize| a.get(i + skipped).copied().unwrap_or(0);
        *limb = ((u128::from(at(i + 1)) << 64 | u128::from(at(i))) >> bits) as u64;
    }
    out
}

/// `a = (2a + bit) mod m`, for `a < m`.
pub(crate) fn double_mod(a: &mut [u64], bit: u64, m: &[u64]) {
    let carry = double(a, bit);
    let below = !carry & less(a, m);
    sub(a, m, !below);
}

/// `a mod m`, bit by bit: slow, and `m` may be even.
pub(crate) fn rem(a: &[u64], m: &[u64]) -> Limbs {
    let mut out = zero(m.len());
    for limb in a.iter().rev() {
        for bit in (0..64).rev() {
            double_mod(&mut out, limb >> bit & 1, m);
        }
    }
    out
}

/// `a / b`, for a division without remainder and an odd `b`: the lowest limb of the quotient follows from the lowest of `a`.
pub(crate) fn divide_exactly(a: &[u64], b: u64) -> Limbs {
    let inverse = inverse_word(b);
    let mut out = zero(a.len());
    let mut borrow = 0;
    for (out, a) in out.iter_mut().zip(a) {
        let (rest, under) = a.overflowing_sub(borrow);
        *out = rest.wrapping_mul(inverse);
        borrow = ((u128::from(*out) * u128::from(b)) >> 64) as u64 + u64::from(under);
    }
    out
}

/// The inverse of an odd word modulo 2^64, by Newton: each step doubles the bits that are right, the word itself has 3.
pub(crate) fn inverse_word(word: u64) -> u64 {
    let mut inverse = word;
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(word.wrapping_mul(inverse)));
    }
    inverse
}

/// Whether the highest bit of `a` that is set is bit `bits - 1`.
pub(crate) fn has_bits(a: &[u64], bits: usize) -> bool {
    bits > 0 && is_zero(&shifted_right(a, bits)) != 0 && shifted_right(a, bits - 1)[0] == 1
}
