//! Arithmetic modulo an odd number n, after Montgomery: with R = 2^(64 * limbs), a number x is kept as xR mod n.
//!
//! Between operations a number is less than R, not less than n ("almost Montgomery"): the product loses n only when it does not fit, which
//! needs no comparison. [`Modulus::reduced`] makes the one number below n, and knows how to because one factor of the last product was below n.

mod adx;
mod portable;

use alloc::vec;

use zeroize::Zeroizing;

use crate::limbs::{self, Limbs};

/// How many bits of an exponent are worked off at a time, and how many powers of the base are kept for it.
const WINDOW: usize = 5;
const POWERS: usize = 1 << WINDOW;
/// Numbers have a multiple of so many limbs.
pub(crate) const BLOCK: usize = 8;

/// Which multiplication is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `MULX`, `ADCX`, `ADOX`: for processors with BMI2 and ADX (AMD from Zen on, Intel from Broadwell on). On others the first use is an invalid opcode.
    Adx,
    /// What the compiler makes of it, for all processors: about five times as many instructions.
    Portable,
}

/// Whether numbers may have so many limbs.
fn is_blocks(len: usize) -> bool {
    len > 0 && len.is_multiple_of(BLOCK)
}

impl Kernel {
    /// `t = a * b`. `a` and `b` have one length, a multiple of [`BLOCK`], `t` has twice that.
    pub(crate) fn multiply(self, t: &mut [u64], a: &[u64], b: &[u64]) {
        assert!(a.len() == b.len() && t.len() == 2 * a.len() && is_blocks(a.len()));
        match self {
            // SAFETY: the lengths are what it asks for.
            Self::Adx => unsafe { adx::multiply(t, a, b) },
            Self::Portable => portable::multiply(t, a, b),
        }
    }

    /// `t = a * a`, otherwise as [`Self::multiply`].
    pub(crate) fn square(self, t: &mut [u64], a: &[u64]) {
        assert!(t.len() == 2 * a.len() && is_blocks(a.len()));
        match self {
            // SAFETY: the lengths are what it asks for.
            Self::Adx => unsafe { adx::square(t, a) },
            Self::Portable => portable::multiply(t, a, a),
        }
    }

    /// `out = t / R` modulo `n`, and less than R. `n0` is -1/n modulo 2^64. `t` is consumed.
    fn reduce(self, out: &mut [u64], t: &mut [u64], n: &[u64], n0: u64) {
        assert!(out.len() == n.len() && t.len() == 2 * n.len() && is_blocks(n.len()));
        match self {
            // SAFETY: the lengths are what it asks for.
            Self::Adx => unsafe { adx::reduce(out, t, n, n0) },
            Self::Portable => portable::reduce(out, t, n, n0),
        }
    }

    /// Copies the power of this index out of a table, and reads all of the table for it.
    fn select(self, out: &mut [u64], table: &[[[u64; BLOCK]; POWERS]], index: u64) {
        for (out, powers) in out.as_chunks_mut().0.iter_mut().zip(table) {
            match self {
                Self::Adx => adx::select(out, powers, index),
                Self::Portable => portable::select(out, powers, index),
            }
        }
    }
}

/// An odd modulus, and what belongs to it.
pub(crate) struct Modulus {
    pub(crate) kernel: Kernel,
    pub(crate) n: Limbs,
    pub(crate) n0: u64,
    /// R² and R³ modulo n.
    pub(crate) rr: Limbs,
    pub(crate) rrr: Limbs,
}

impl Modulus {
    /// `n` is odd and has exactly `bits` bits, 2 or more; its length is a multiple of [`BLOCK`].
    pub(crate) fn new(kernel: Kernel, n: &[u64], bits: usize) -> Self {
        let k = n.len();
        let n0 = limbs::inverse_word(n[0]).wrapping_neg();
        let mut modulus =
            Self { kernel, n: limbs::resized(n, k), n0, rr: limbs::zero(k), rrr: limbs::zero(k) };
        // R * 2^k by doubling, then squared as a Montgomery number: R * 2^2k, R * 2^4k, ... R * 2^64k.
        let mut rr = limbs::zero(k);
        rr[(bits - 1) / 64] = 1 << ((bits - 1) % 64);
        for _ in bits - 1..65 * k {
            limbs::double_mod(&mut rr, 0, n);
        }
        let mut t = modulus.scratch();
        for _ in 0..6 {
            modulus.square(&mut rr, &mut t);
            modulus.reduced(&mut rr);
        }
        let mut rrr = rr.clone();
        modulus.square(&mut rrr, &mut t);
        modulus.reduced(&mut rrr);
        (modulus.rr, modulus.rrr) = (rr, rrr);
        modulus
    }

    /// How many limbs numbers have.
    pub(crate) fn len(&self) -> usize {
        self.n.len()
    }

    /// What products are made in.
    pub(crate) fn scratch(&self) -> Limbs {
        limbs::zero(2 * self.len())
    }

    /// `a = a * b / R`. Less than 2n if one of the two was less than n.
    pub(crate) fn multiply(&self, a: &mut [u64], b: &[u64], t: &mut [u64]) {
        self.kernel.multiply(t, a, b);
        self.kernel.reduce(a, t, &self.n, self.n0);
    }

    /// `a = a * a / R`.
    pub(crate) fn square(&self, a: &mut [u64], t: &mut [u64]) {
        self.kernel.square(t, a);
        self.kernel.reduce(a, t, &self.n, self.n0);
    }

    /// Takes n off a number of less than 2n, if it is n or more.
    pub(crate) fn reduced(&self, a: &mut [u64]) {
        let below = limbs::less(a, &self.n);
        limbs::sub(a, &self.n, !below);
    }

    /// The Montgomery number of any `x` of up to twice the modulus's limbs.
    pub(crate) fn enter(&self, x: &[u64], t: &mut [u64]) -> Limbs {
        t.fill(0);
        t[..x.len()].copy_from_slice(x);
        let mut out = limbs::zero(self.len());
        self.kernel.reduce(&mut out, t, &self.n, self.n0);
        self.multiply(&mut out, &self.rrr, t);
        out
    }

    /// What a Montgomery number stands for, below n.
    pub(crate) fn leave(&self, a: &mut [u64], t: &mut [u64]) {
        t.fill(0);
        t[..a.len()].copy_from_slice(a);
        self.kernel.reduce(a, t, &self.n, self.n0);
        self.reduced(a);
    }

    /// The same Montgomery number, below n.
    pub(crate) fn below(&self, a: &mut [u64]) {
        let mut t = self.scratch();
        self.leave(a, &mut t);
        let back = self.enter(a, &mut t);
        a.copy_from_slice(&back);
        self.reduced(a);
    }

    /// `base ^ exponent`, of the exponent's lowest `bits` bits. Takes the same time for all exponents of so many bits.
    pub(crate) fn power(&self, base: &[u64], exponent: &[u64], bits: usize) -> Limbs {
        let (k, mut t) = (self.len(), self.scratch());
        let mut table = Zeroizing::new(vec![[[0; BLOCK]; POWERS]; k / BLOCK]);
        let mut power = self.enter(&[1], &mut t);
        for i in 0..POWERS {
            for (powers, chunk) in table.iter_mut().zip(power.as_chunks().0) {
                powers[i] = *chunk;
            }
            self.multiply(&mut power, base, &mut t);
        }
        let window = |i: usize| {
            let (limb, shift) = (i * WINDOW / 64, i * WINDOW % 64);
            let above = exponent.get(limb + 1).copied().unwrap_or(0);
            let both = u128::from(above) << 64 | u128::from(exponent[limb]);
            (both >> shift) as u64 % POWERS as u64
        };
        let windows = bits.div_ceil(WINDOW);
        let mut out = limbs::zero(k);
        self.kernel.select(&mut out, &table, window(windows - 1));
        for i in (0..windows - 1).rev() {
            for _ in 0..WINDOW {
                self.square(&mut out, &mut t);
            }
            self.kernel.select(&mut power, &table, window(i));
            self.multiply(&mut out, &power, &mut t);
        }
        out
    }

    /// `base ^ exponent` for a public, odd exponent of 3 or more; tells it by the time taken. A last factor that is not a Montgomery
    /// number makes the result none either.
    pub(crate) fn power_public(&self, base: &[u64], exponent: u64, last: &[u64]) -> Limbs {
        let mut t = self.scratch();
        let mut out = limbs::resized(base, self.len());
        for bit in (1..exponent.ilog2()).rev() {
            self.square(&mut out, &mut t);
            if exponent >> bit & 1 == 1 {
                self.multiply(&mut out, base, &mut t);
            }
        }
        self.square(&mut out, &mut t);
        self.multiply(&mut out, last, &mut t);
        out
    }
}
