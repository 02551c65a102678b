use alloc::vec::Vec;

use crypto_bigint::{BoxedUint, ConcatenatingMul, ConcatenatingSquare, NonZero, Odd};
use proptest::prelude::*;

use super::kernels;
use crate::limbs;
use crate::load;
use crate::mont::{BLOCK, Modulus};

/// Numbers of which carries and borrows go wrong first: long runs of ones and zeros, and any.
fn number(len: usize) -> impl Strategy<Value = Vec<u64>> {
    let limb = prop_oneof![
        3 => Just(0),
        3 => Just(u64::MAX),
        1 => Just(1),
        1 => Just(1 << 63),
        4 => any::<u64>(),
    ];
    prop_oneof![
        4 => prop::collection::vec(limb, len),
        4 => prop::collection::vec(any::<u64>(), len),
        1 => Just(alloc::vec![u64::MAX; len]),
        1 => Just(alloc::vec![0; len]),
    ]
}

fn blocks() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(BLOCK),
        Just(2 * BLOCK),
        Just(3 * BLOCK),
        Just(4 * BLOCK),
        Just(6 * BLOCK),
        Just(8 * BLOCK)
    ]
}

fn big(a: &[u64]) -> BoxedUint {
    BoxedUint::from_words(a.iter().copied())
}

/// An odd number with its highest bit anywhere in its highest block.
fn odd(n: &mut [u64], cut: u32) -> usize {
    let len = n.len();
    let bits = 64 * len - cut as usize % 500;
    let short = limbs::shifted_right(n, 64 * len - bits);
    n.copy_from_slice(&short);
    n[0] |= 1;
    n[(bits - 1) / 64] |= 1 << ((bits - 1) % 64);
    bits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn products_are_those_of_crypto_bigint((a, b) in blocks().prop_flat_map(|k| (number(k), number(k)))) {
        let len = 2 * a.len();
        for kernel in kernels() {
            let mut t = alloc::vec![0x55; len];
            kernel.multiply(&mut t, &a, &b);
            prop_assert_eq!(big(&t), big(&a).concatenating_mul(big(&b)));
            t.fill(0x55);
            kernel.square(&mut t, &a);
            prop_assert_eq!(big(&t), big(&a).concatenating_square());
        }
    }

    #[test]
    fn montgomery_products_are_those_of_crypto_bigint(
        (mut n, a, b) in blocks().prop_flat_map(|k| (number(k), number(k), number(k))),
        cut: u32,
    ) {
        let bits = odd(&mut n, cut);
        let modulus = NonZero::new(big(&n)).unwrap();
        let r = {
            let mut r = alloc::vec![0; 2 * n.len()];
            r[n.len()] = 1;
            big(&r).rem_vartime(&modulus)
        };
        let times_r = |x: &[u64]| big(x).rem_vartime(&modulus).mul_mod(&r, &modulus);
        let ab = big(&a).concatenating_mul(big(&b)).rem_vartime(&modulus);
        let aa = big(&a).concatenating_square().rem_vartime(&modulus);
        let mut seen = Vec::new();
        for kernel in kernels() {
            let modulus = Modulus::new(*kernel, &n, bits);
            let mut t = modulus.scratch();
            let mut product = a.clone();
            modulus.multiply(&mut product, &b, &mut t);
            prop_assert_eq!(times_r(&product), ab.clone());
            let mut square = a.clone();
            modulus.square(&mut square, &mut t);
            prop_assert_eq!(times_r(&square), aa.clone());
            let wide = [&a[..], &b[..]].concat();
            let mut entered = modulus.enter(&wide, &mut t);
            let plain = {
                let mut x = entered.clone();
                modulus.leave(&mut x, &mut t);
                x
            };
            prop_assert_eq!(big(&plain), big(&wide).rem_vartime(&NonZero::new(big(&n)).unwrap()));
            modulus.below(&mut entered);
            prop_assert!(limbs::less(&entered, &n) != 0);
            prop_assert_eq!(times_r(&plain), big(&entered));
            seen.push((product, square, plain.to_vec(), entered.to_vec()));
        }
        prop_assert!(seen.windows(2).all(|two| two[0] == two[1]));
    }

    #[test]
    fn small_numbers_and_divisions(
        (a, mut m) in (1usize..20).prop_flat_map(|k| (number(k), number(1 + k / 2))),
        (word, shift) in (any::<u64>(), 0usize..600),
    ) {
        m[0] |= u64::from(m.iter().all(|limb| *limb == 0));
        let modulus = NonZero::new(big(&m)).unwrap();
        prop_assert_eq!(big(&limbs::rem(&a, &m)), big(&a).rem_vartime(&modulus));
        let odd = word | 1;
        prop_assert_eq!(odd.wrapping_mul(limbs::inverse_word(odd)), 1);
        let mut multiple = a.clone();
        multiple.push(0);
        let multiple = big(&multiple).wrapping_mul(big(&[odd]));
        let mut expected = a.clone();
        expected.push(0);
        prop_assert_eq!(&limbs::divide_exactly(multiple.as_words(), odd)[..], &expected[..]);
        let bytes = limbs::to_be(&a, 8 * a.len() + 3);
        prop_assert_eq!(&bytes[..3], &[0; 3]);
        prop_assert_eq!(&limbs::from_be(&bytes, a.len()).unwrap()[..], &a[..]);
        prop_assert_eq!(limbs::from_be(&bytes, a.len() - 1).is_some(), a[a.len() - 1] == 0);
        if shift < 64 * a.len() {
            prop_assert_eq!(big(&limbs::shifted_right(&a, shift)), big(&a).shr(shift as u32));
        }
    }

    #[test]
    fn private_exponents_invert(mut m in number(16), e: u64) {
        let e = e | 1;
        prop_assume!(e >= 3);
        m[0] &= !1;
        prop_assume!(m.iter().any(|limb| *limb != 0));
        match load::private_exponent(&m, e) {
            Some(d) => {
                prop_assert!(limbs::less(&d, &m) != 0);
                let product = big(&d).concatenating_mul(big(&[e]));
                let rest = product.rem_vartime(&NonZero::new(big(&m)).unwrap());
                prop_assert_eq!(rest, big(&[1]));
            }
            None => {
                let rest = big(&m).rem_vartime(&NonZero::new(big(&[e])).unwrap()).as_words()[0];
                let (mut a, mut b) = (e, rest);
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                prop_assert!(a != 1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn powers_are_those_of_crypto_bigint(
        (mut n, a, exponent) in (1usize..=3).prop_flat_map(|k| (number(8 * k), number(8 * k), number(8 * k))),
        cut: u32,
        short in 1usize..500,
        public: u64,
    ) {
        let bits = odd(&mut n, cut);
        let exponent = limbs::shifted_right(&exponent, short % 64);
        let exponent_bits = 64 * n.len() - short % 64;
        let params = crypto_bigint::modular::BoxedMontyParams::new_vartime(Odd::new(big(&n)).unwrap());
        let base = big(&a).rem_vartime(&NonZero::new(big(&n)).unwrap());
        let form = crypto_bigint::modular::BoxedMontyForm::new(base, &params);
        let expected = form.pow(&big(&exponent)).retrieve();
        let public = public >> (short % 62) | 1;
        for kernel in kernels() {
            let modulus = Modulus::new(*kernel, &n, bits);
            let mut t = modulus.scratch();
            let base = modulus.enter(&a, &mut t);
            let mut power = modulus.power(&base, &exponent, exponent_bits);
            modulus.leave(&mut power, &mut t);
            prop_assert_eq!(big(&power), expected.clone());
            if public >= 3 {
                let mut power = modulus.power_public(&base, public, &base);
                modulus.leave(&mut power, &mut t);
                prop_assert_eq!(big(&power), form.pow(&big(&[public])).retrieve());
            }
        }
    }
}
