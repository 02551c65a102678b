//! The multiplication as the compiler makes it, for processors without `MULX`, `ADCX` and `ADOX`; [`super::adx`] is tested against it.

use core::hint::black_box;

use super::{BLOCK, POWERS};
use crate::limbs;

/// `t += a * b`, and the limb that is carried out of `t`, which is as long as `a`.
fn multiply_add(t: &mut [u64], a: &[u64], b: u64) -> u64 {
    let mut carry = 0;
    for (t, a) in t.iter_mut().zip(a) {
        let sum = u128::from(*a) * u128::from(b) + u128::from(*t) + u128::from(carry);
        (*t, carry) = (sum as u64, (sum >> 64) as u64);
    }
    carry
}

pub(super) fn multiply(t: &mut [u64], a: &[u64], b: &[u64]) {
    t.fill(0);
    for (i, b) in b.iter().enumerate() {
        t[i + a.len()] = multiply_add(&mut t[i..i + a.len()], a, *b);
    }
}

pub(super) fn reduce(out: &mut [u64], t: &mut [u64], n: &[u64], n0: u64) {
    let k = n.len();
    let mut top = 0;
    for i in 0..k {
        let m = t[i].wrapping_mul(n0);
        let carry = multiply_add(&mut t[i..i + k], n, m);
        let sum = u128::from(t[i + k]) + u128::from(carry) + u128::from(top);
        (t[i + k], top) = (sum as u64, (sum >> 64) as u64);
    }
    out.copy_from_slice(&t[k..]);
    limbs::sub(out, n, black_box(top.wrapping_neg()));
}

pub(super) fn select(out: &mut [u64; BLOCK], table: &[[u64; BLOCK]; POWERS], index: u64) {
    *out = [0; BLOCK];
    for (i, power) in (0..).zip(table) {
        let mask = limbs::equal(&[i], &[index]);
        out.iter_mut().zip(power).for_each(|(out, limb)| *out |= limb & mask);
    }
}
