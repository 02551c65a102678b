//! One operation of one kind, to be counted: `valgrind --tool=callgrind target/release/examples/cost sign 2048 adx 10`.
//!
//! The difference between two counts is what the operations cost. `rsa` as the kernel is the `rsa` crate, `none` only makes the key.

use std::hint::black_box;

use getrandom::{SysRng, rand_core::UnwrapErr};
use rsa::pkcs8::DecodePrivateKey;
use rsa::traits::PrivateKeyParts;
use trustvisor_rsa::{Components, Hash, Kernel, Key, generate, pkcs1};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [what, bits, kernel, count] = &arguments[..] else {
        panic!("usage: cost sign|decrypt|load|import|generate BITS adx|portable|rsa COUNT");
    };
    let (bits, count): (usize, u32) = (bits.parse().unwrap(), count.parse().unwrap());
    let rng = &mut UnwrapErr(SysRng);
    let pem = match bits {
        2048 => include_str!("../tests/data/rsa2048.pem"),
        3072 => include_str!("../tests/data/rsa3072.pem"),
        _ => include_str!("../tests/data/rsa4096.pem"),
    };
    let theirs = rsa::PrivateKey::from_pkcs8_pem(pem).unwrap();
    let bytes = |x: &rsa::BoxedUint| x.to_be_bytes().to_vec();
    let components = Components {
        n: bytes(rsa::traits::PublicKeyParts::n(&theirs)),
        e: 65537,
        d: bytes(theirs.d()).into(),
        p: bytes(&theirs.primes()[0]).into(),
        q: bytes(&theirs.primes()[1]).into(),
    };
    let ours = match &kernel[..] {
        "rsa" => None,
        "adx" => Some(Kernel::Adx),
        _ => Some(Kernel::Portable),
    };
    let digest = [7; 32];
    let start = std::time::Instant::now();
    match (&what[..], ours) {
        ("sign", Some(kernel)) => {
            let mut key = Key::from_own_components(kernel, &components).unwrap();
            for _ in 0..count {
                black_box(pkcs1::sign(&mut key, rng, Hash::Sha256, &digest).unwrap());
            }
        }
        ("sign", None) => {
            for _ in 0..count {
                let padding = rsa::Pkcs1v15Sign::new::<sha2::Sha256>();
                black_box(theirs.sign_with_rng(rng, padding, &digest).unwrap());
            }
        }
        ("decrypt", Some(kernel)) => {
            let mut key = Key::from_own_components(kernel, &components).unwrap();
            for _ in 0..count {
                black_box(pkcs1::decrypt(&mut key, rng, &vec![7; bits / 8]).unwrap());
            }
        }
        ("load", Some(kernel)) => {
            for _ in 0..count {
                black_box(Key::from_own_components(kernel, &components).unwrap());
            }
        }
        ("import", Some(kernel)) => {
            for _ in 0..count {
                black_box(Key::from_components(kernel, rng, &components).unwrap());
            }
        }
        ("generate", Some(kernel)) => {
            for _ in 0..count {
                black_box(generate(kernel, rng, bits, 65537).unwrap());
            }
        }
        ("generate", None) => {
            for _ in 0..count {
                black_box(rsa::PrivateKey::new(rng, bits).unwrap());
            }
        }
        _ => panic!("no such operation"),
    }
    println!("{:?} each", start.elapsed() / count.max(1));
}
