//! The private key, and the operation that all others come down to.

use alloc::vec::Vec;

use rand_core::CryptoRng;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::limbs::{self, Limbs};
use crate::mont::Modulus;
use crate::{Components, Error, prime};

/// After so many uses, blinding starts from a new random number.
const RENEWED: u32 = 64;

/// An RSA private key. Wiped when dropped, and not printable.
pub struct Key {
    pub(crate) bits: usize,
    pub(crate) e: u64,
    pub(crate) n: Modulus,
    /// The larger prime, and the smaller.
    pub(crate) p: Modulus,
    pub(crate) q: Modulus,
    pub(crate) d: Limbs,
    /// The private exponent modulo p-1 and q-1.
    pub(crate) dp: Limbs,
    pub(crate) dq: Limbs,
    /// 1/q modulo p, as a Montgomery number.
    pub(crate) qinv: Limbs,
    pub(crate) blinding: Option<Blinding>,
}

impl ZeroizeOnDrop for Key {}

/// r^e and 1/r modulo n, as Montgomery numbers, for a secret r.
pub(crate) struct Blinding {
    pub(crate) factor: Limbs,
    pub(crate) inverse: Limbs,
    uses: u32,
}

impl Key {
    /// Bits in the modulus.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Bytes in the modulus, in every input and in every signature.
    pub fn size(&self) -> usize {
        self.bits / 8
    }

    /// The modulus, big-endian, [`Self::size`] bytes.
    pub fn modulus(&self) -> Vec<u8> {
        limbs::to_be(&self.n.n, self.size()).to_vec()
    }

    /// The public exponent.
    pub fn exponent(&self) -> u64 {
        self.e
    }

    /// What the key is made of, to be sealed or wrapped.
    pub fn components(&self) -> Components {
        let secret = |limbs: &[u64], bytes| limbs::to_be(limbs, bytes);
        let half = self.size() / 2;
        Components {
            n: self.modulus(),
            e: self.e,
            d: secret(&self.d, self.size()),
            p: secret(&self.p.n, half),
            q: secret(&self.q.n, half),
        }
    }

    /// What PKCS#1 has besides: d mod (p-1), d mod (q-1), 1/q mod p, big-endian, each as long as the primes.
    pub fn crt_components(&self) -> [Zeroizing<Vec<u8>>; 3] {
        let mut qinv = self.qinv.clone();
        self.p.leave(&mut qinv, &mut self.p.scratch());
        [&self.dp, &self.dq, &qinv].map(|limbs| limbs::to_be(limbs, self.size() / 2))
    }

    /// `input ^ d mod n`: RFC 8017's RSADP and RSASP1, PKCS#11's CKM_RSA_X_509. Input and result are big-endian, of [`Self::size`] bytes.
    pub fn private(&mut self, rng: &mut impl CryptoRng, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let c = limbs::from_be(input, self.n.len()).ok_or(Error::Input)?;
        if input.len() != self.size() || limbs::less(&c, &self.n.n) == 0 {
            return Err(Error::Input);
        }
        let blinding = match self.blinding.take() {
            Some(blinding) if blinding.uses < RENEWED => self.squared(blinding),
            _ => self.new_blinding(rng),
        };
        let mut t = self.n.scratch();
        let mut m = c.clone();
        self.n.multiply(&mut m, &blinding.factor, &mut t);
        let mut m = self.power(&m, &self.dp, &self.dq);
        self.n.multiply(&mut m, &blinding.inverse, &mut t);
        self.n.reduced(&mut m);
        let again = self.n.enter(&m, &mut t);
        let mut again = self.n.power_public(&again, self.e, &m);
        self.n.reduced(&mut again);
        if limbs::equal(&again, &c) == 0 {
            return Err(Error::Fault);
        }
        self.blinding = Some(blinding);
        Ok(limbs::to_be(&m, self.size()))
    }

    /// `x ^ exponent mod n`, by the exponent modulo p-1 and modulo q-1, for any `x` of as many limbs as n.
    fn power(&self, x: &[u64], ep: &[u64], eq: &[u64]) -> Limbs {
        let (p, q) = (&self.p, &self.q);
        let modulo = |prime: &Modulus, exponent: &[u64]| {
            let mut t = prime.scratch();
            let base = prime.enter(x, &mut t);
            let mut out = prime.power(&base, exponent, self.bits / 2);
            prime.leave(&mut out, &mut t);
            out
        };
        let (mut h, mq) = (modulo(p, ep), modulo(q, eq));
        // (mp - mq) / q mod p is how often q has to be added to mq.
        let borrow = limbs::sub(&mut h, &mq, u64::MAX);
        limbs::add(&mut h, &p.n, borrow);
        let mut t = p.scratch();
        p.multiply(&mut h, &self.qinv, &mut t);
        p.reduced(&mut h);
        p.kernel.multiply(&mut t, &h, &q.n);
        let mq = limbs::resized(&mq, t.len());
        limbs::add(&mut t, &mq, u64::MAX);
        limbs::resized(&t, self.n.len())
    }

    fn squared(&self, mut blinding: Blinding) -> Blinding {
        let mut t = self.n.scratch();
        self.n.square(&mut blinding.factor, &mut t);
        self.n.square(&mut blinding.inverse, &mut t);
        blinding.uses += 1;
        blinding
    }

    /// 1/r is r^(p-2) modulo p: for one use in [`RENEWED`] the work is done twice, which is not worth another algorithm.
    fn new_blinding(&self, rng: &mut impl CryptoRng) -> Blinding {
        let mut t = self.n.scratch();
        let r = prime::random(rng, self.n.len(), self.bits - 1);
        let less_two = |prime: &Modulus| {
            let mut exponent = prime.n.clone();
            limbs::sub(&mut exponent, &limbs::resized(&[2], prime.len()), u64::MAX);
            exponent
        };
        let inverse = self.power(&r, &less_two(&self.p), &less_two(&self.q));
        let r = self.n.enter(&r, &mut t);
        let factor = self.n.power_public(&r, self.e, &r);
        Blinding { factor, inverse: self.n.enter(&inverse, &mut t), uses: 0 }
    }
}
