#![allow(dead_code)]

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use rsa::pkcs8::DecodePrivateKey;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use trustvisor_rsa::{Components, Kernel, Key};

/// Keys of 2048, 3072 and 4096 bits that OpenSSL made for these tests.
pub const PEMS: [&str; 3] = [
    include_str!("../data/rsa2048.pem"),
    include_str!("../data/rsa3072.pem"),
    include_str!("../data/rsa4096.pem"),
];

pub fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

pub fn kernels() -> &'static [Kernel] {
    if is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("adx") {
        &[Kernel::Adx, Kernel::Portable]
    } else {
        &[Kernel::Portable]
    }
}

pub fn read(pem: &str) -> rsa::PrivateKey {
    rsa::PrivateKey::from_pkcs8_pem(pem).unwrap()
}

pub fn components(theirs: &rsa::PrivateKey) -> Components {
    let bytes = |x: &rsa::BoxedUint| x.to_be_bytes().to_vec();
    Components {
        n: bytes(theirs.n()),
        e: 65537,
        d: bytes(theirs.d()).into(),
        p: bytes(&theirs.primes()[0]).into(),
        q: bytes(&theirs.primes()[1]).into(),
    }
}

/// The key for each kernel.
pub fn keys(theirs: &rsa::PrivateKey) -> Vec<Key> {
    kernels().iter().map(|kernel| Key::from_own_components(*kernel, &components(theirs)).unwrap()).collect()
}
