//! Keys: what is refused, what is generated, and that the private operation is that of the `rsa` crate.

mod common;

use std::sync::LazyLock;

use common::*;
use crypto_bigint::{BoxedUint, NonZero};
use proptest::prelude::*;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use trustvisor_rsa::{Components, Error, Key, generate};

/// The `rsa` crate's result, computed without the Chinese remainder theorem.
fn expected(theirs: &rsa::PrivateKey, input: &[u8]) -> Vec<u8> {
    let n = theirs.n();
    let params = crypto_bigint::modular::BoxedMontyParams::new_vartime(
        crypto_bigint::Odd::new(n.clone().get()).unwrap(),
    );
    let input = BoxedUint::from_be_slice(input, n.bits_precision()).unwrap();
    let form = crypto_bigint::modular::BoxedMontyForm::new(input, &params);
    form.pow(theirs.d()).retrieve().to_be_bytes().to_vec()
}

fn check(theirs: &rsa::PrivateKey, keys: &mut [Key], input: &[u8]) {
    let expected = expected(theirs, input);
    for key in keys {
        assert_eq!(key.private(&mut rng(), input).unwrap().to_vec(), expected);
    }
}

#[test]
fn the_private_operation_of_all_sizes_is_a_power() {
    for pem in PEMS {
        let theirs = read(pem);
        let mut keys = keys(&theirs);
        let n = theirs.n().to_be_bytes().to_vec();
        let size = n.len();
        let mut edges =
            vec![vec![0; size], vec![0; size], n.clone(), n.clone(), vec![0xff; size], vec![0; size]];
        edges[1][size - 1] = 1;
        edges[2][size - 1] -= 1;
        edges[3][size - 1] -= 2;
        edges[4][0] = 0x7f;
        edges[5][0] = 0x40;
        // Multiples of a prime have no inverse.
        for prime in theirs.primes() {
            let mut multiple = vec![0; size - size / 2];
            multiple.extend(prime.to_be_bytes());
            edges.push(multiple);
        }
        for input in &edges {
            check(&theirs, &mut keys, input);
        }
        for key in &mut keys {
            let ones = vec![0xff; size];
            for bad in [
                &n[..],
                &ones,
                &n[1..],
                &[&[0], &n[..]].concat(),
                &[],
                &[0],
                &vec![0; size + 1],
                &vec![1; 4 * size],
            ] {
                assert_eq!(key.private(&mut rng(), bad).err(), Some(Error::Input));
            }
        }
    }
}

static KEY: LazyLock<rsa::PrivateKey> = LazyLock::new(|| read(PEMS[0]));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_private_operation_is_a_power(mut input in prop::collection::vec(any::<u8>(), 256)) {
        input[0] &= 0x7f;
        check(&KEY, &mut keys(&KEY), &input);
    }
}

#[test]
fn blinding_is_renewed_and_the_results_stay() {
    let mut keys = keys(&KEY);
    let input = [5; 256];
    let expected = expected(&KEY, &input);
    for key in &mut keys {
        for _ in 0..140 {
            assert_eq!(key.private(&mut rng(), &input).unwrap().to_vec(), expected);
        }
    }
}

#[test]
fn components_are_those_that_were_given() {
    for pem in PEMS {
        let theirs = read(pem);
        for key in keys(&theirs) {
            let again = key.components();
            assert_eq!((key.bits(), key.exponent()), (theirs.n().bit_width() as usize, 65537));
            assert_eq!(again.n, theirs.n().to_be_bytes().to_vec());
            assert_eq!(again.d.to_vec(), theirs.d().to_be_bytes().to_vec());
            let made = rsa::PrivateKey::from_components(
                theirs.n().clone().get(),
                BoxedUint::from(65537u64),
                BoxedUint::from_be_slice_vartime(&again.d),
                [&again.p, &again.q].map(|x| BoxedUint::from_be_slice_vartime(x)).to_vec(),
            )
            .unwrap();
            let [dp, dq, qinv] = key.crt_components();
            let same = |ours: &[u8], theirs: &BoxedUint| {
                let len = 8 * theirs.bits_precision() as usize / 64;
                assert_eq!(ours, &theirs.to_be_bytes()[len - ours.len()..]);
            };
            same(&dp, made.dp().unwrap());
            same(&dq, made.dq().unwrap());
            same(&qinv, &made.crt_coefficient().unwrap());
        }
    }
}

#[test]
fn generated_keys_are_as_fips_186_5_wants_them() {
    for (bits, e) in [(2048, 65537), (2048, 3), (2112, 65537), (2560, 0xffff_ffff_ffff_ffc5)] {
        for kernel in kernels() {
            let key = generate(*kernel, &mut rng(), bits, e).unwrap();
            let Components { n, d, p, q, .. } = key.components();
            let big = |x: &[u8]| BoxedUint::from_be_slice(x, 4096).unwrap();
            let (n, d, p, q) = (big(&n), big(&d), big(&p), big(&q));
            assert_eq!(p.wrapping_mul(&q), n);
            assert_eq!(n.bit_width() as usize, bits);
            for prime in [&p, &q] {
                assert_eq!(prime.shr(bits as u32 / 2 - 2), big(&[3]));
                let less_one = NonZero::new(prime.wrapping_sub(big(&[1]))).unwrap();
                let one = d.mul_mod(&big(&e.to_be_bytes()), &less_one);
                assert_eq!(one, big(&[1]));
            }
            assert!(d.bit_width() as usize > bits / 2);
            let exponent = BoxedUint::from(e);
            if e < 1 << 33 {
                rsa::PrivateKey::from_components(n, exponent, d, vec![p, q]).unwrap().validate().unwrap();
            }
            let again = Key::from_components(*kernel, &mut rng(), &key.components()).unwrap();
            assert_eq!(again.components().d, key.components().d);
        }
    }
    for (bits, e, error) in [
        (1024, 65537, Error::Size),
        (2047, 65537, Error::Size),
        (2080, 65537, Error::Size),
        (4160, 65537, Error::Size),
        (0, 65537, Error::Size),
        (usize::MAX, 65537, Error::Size),
        (2048, 0, Error::Exponent),
        (2048, 1, Error::Exponent),
        (2048, 65536, Error::Exponent),
    ] {
        assert_eq!(generate(kernels()[0], &mut rng(), bits, e).err(), Some(error));
    }
}

#[test]
fn keys_that_do_not_fit_together_are_refused() {
    let kernel = kernels()[0];
    let good = components(&KEY);
    let other = generate(kernel, &mut rng(), 2048, 65537).unwrap().components();
    let refused = |change: &dyn Fn(&mut Components), errors: &[Error]| {
        let mut bad = components(&KEY);
        change(&mut bad);
        let error = Key::from_components(kernel, &mut rng(), &bad).err().expect("a bad key was taken");
        assert!(errors.contains(&error), "{error:?}");
    };
    use Error::*;
    refused(&|key| key.n = other.n.clone(), &[Inconsistent]);
    refused(&|key| key.n[255] ^= 2, &[Inconsistent]);
    refused(&|key| key.n.insert(0, 1), &[Inconsistent]);
    refused(&|key| key.n.clear(), &[Inconsistent]);
    refused(&|key| key.d = other.d.clone(), &[Inconsistent]);
    refused(&|key| key.d[255] ^= 2, &[Inconsistent]);
    refused(&|key| key.d.clear(), &[Inconsistent]);
    refused(&|key| key.d = key.n.clone().into(), &[Inconsistent]);
    refused(&|key| key.p = other.p.clone(), &[Inconsistent]);
    refused(&|key| key.p = key.q.clone(), &[Primes]);
    refused(&|key| key.p[127] ^= 1, &[Primes]);
    refused(&|key| key.p[127] ^= 2, &[Primes, Exponent]);
    refused(&|key| key.q[100] ^= 16, &[Primes, Exponent]);
    refused(&|key| key.q = vec![0xff; 128].into(), &[Primes, Exponent]);
    refused(&|key| (key.p, key.q) = (close(&key.q, 1), key.q.clone()), &[Primes]);
    refused(&|key| key.p.insert(0, 1), &[Size]);
    refused(&|key| key.p.truncate(127), &[Size]);
    refused(&|key| key.p.clear(), &[Size]);
    refused(&|key| key.q.clear(), &[Size]);
    refused(&|key| (key.p, key.q) = (vec![].into(), vec![].into()), &[Size]);
    refused(&|key| key.q[0] &= 0x7f, &[Size]);
    refused(&|key| (key.p[0], key.q[0]) = (0x80, 0x81), &[Size, Exponent]);
    refused(&|key| key.p = vec![0xff; 1 << 16].into(), &[Size]);
    refused(&|key| (key.p, key.q) = (vec![0xff; 1 << 16].into(), vec![0xff; 1 << 16].into()), &[Size]);
    refused(&|key| key.e = 65539, &[Inconsistent]);
    refused(&|key| key.e = 65536, &[Exponent]);
    refused(&|key| key.e = 1, &[Exponent]);
    refused(&|key| key.e = 0, &[Exponent]);
    // Zeros in front do not matter, nor the order of the primes, nor the multiple of lcm(p-1, q-1) that d is taken modulo.
    let zeros = |x: &[u8]| [&[0; 5], x].concat();
    let padded = Components {
        n: zeros(&good.n),
        e: good.e,
        d: zeros(&good.d).into(),
        p: zeros(&good.q).into(),
        q: zeros(&good.p).into(),
    };
    Key::from_components(kernel, &mut rng(), &padded).unwrap();
    let key = Key::from_primes(kernel, &mut rng(), good.e, &good.p, &good.q).unwrap();
    Key::from_own_components(kernel, &key.components()).unwrap();
}

/// The number a little above, odd.
fn close(prime: &[u8], by: u8) -> zeroize::Zeroizing<Vec<u8>> {
    let mut out = prime.to_vec();
    out[60] = out[60].wrapping_add(by) | 1;
    out[127] |= 1;
    out[..60].copy_from_slice(&prime[..60]);
    out.into()
}
