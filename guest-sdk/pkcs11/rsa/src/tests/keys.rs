use alloc::vec::Vec;

use super::{Repeatable, kernels};
use crate::{Error, generate, limbs, pkcs1, prime};

#[test]
fn a_fault_is_an_error_and_the_key_works_afterwards() {
    for kernel in kernels() {
        let rng = &mut Repeatable(1);
        let mut key = generate(*kernel, rng, 2048, 65537).unwrap();
        let good = pkcs1::sign_raw(&mut key, rng, b"digest").unwrap();
        for which in 0..4 {
            let flip = |key: &mut crate::Key| match which {
                0 => key.dp[3] ^= 4,
                1 => key.dq[15] ^= 1 << 60,
                2 => key.qinv[0] ^= 1,
                _ => key.p.n[7] ^= 2,
            };
            flip(&mut key);
            assert_eq!(pkcs1::sign_raw(&mut key, rng, b"digest"), Err(Error::Fault));
            flip(&mut key);
            assert_eq!(pkcs1::sign_raw(&mut key, rng, b"digest").unwrap(), good);
        }
    }
}

#[test]
fn trial_division_finds_all_small_primes_and_nothing_else() {
    // 2^127 - 1 is prime; so is 4099, above the limit.
    let mersenne = [u64::MAX, u64::MAX >> 1, 0, 0, 0, 0, 0, 0];
    assert!(!prime::has_small_factor(&mersenne));
    let times = |factor: u64| {
        let mut out = Vec::from(mersenne);
        let mut carry = 0;
        for limb in &mut out {
            let sum = u128::from(*limb) * u128::from(factor) + carry;
            (*limb, carry) = (sum as u64, sum >> 64);
        }
        out
    };
    assert!(!prime::has_small_factor(&times(4099)));
    for factor in (3..4096).step_by(2) {
        assert!(prime::has_small_factor(&times(factor)), "{factor}");
    }
}

#[test]
fn miller_and_rabin_know_primes_from_others() {
    let rng = &mut Repeatable(2);
    for kernel in kernels() {
        let mut is = |n: &[u64]| {
            let n = limbs::resized(n, 8);
            let bits = 512
                - n.iter()
                    .rev()
                    .fold((0, true), |(zeros, all), limb| {
                        if all { (zeros + limb.leading_zeros() as usize, *limb == 0) } else { (zeros, false) }
                    })
                    .0;
            prime::is_probably_prime(*kernel, rng, &n, bits, 10)
        };
        // 2^127 - 1, 2^89 - 1, 2^255 - 19, and P-224's, minus one divisible by 2^96.
        assert!(is(&[u64::MAX, u64::MAX >> 1]));
        assert!(is(&[u64::MAX, (1 << 25) - 1]));
        assert!(is(&[u64::MAX - 18, u64::MAX, u64::MAX, u64::MAX >> 1]));
        assert!(is(&[1, u64::MAX << 32, u64::MAX, u64::MAX >> 32]));
        // 2^67 - 1, 2^128 + 1, their neighbours, and Carmichael's 1590231231043178376951698401.
        assert!(!is(&[u64::MAX, 7]));
        assert!(!is(&[1, 0, 1]));
        assert!(!is(&[u64::MAX - 16, u64::MAX, u64::MAX, u64::MAX >> 1]));
        assert!(!is(&[
            1590231231043178376951698401u128 as u64,
            (1590231231043178376951698401u128 >> 64) as u64
        ]));
    }
}
