//! Hashes, by the numbers that PKCS#11 has for them.

use crate::ck::{mechanism as m, mgf};
use alloc::vec::Vec;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}
use Hash::{Sha1 as S1, Sha224 as S224, Sha256 as S256, Sha384 as S384, Sha512 as S512};

/// Of each hash: digest, HMAC, RSA PKCS#1 v1.5, PSS, ECDSA, mask generation.
const NUMBERS: [(Hash, [u64; 6]); 5] = [
    (S1, [m::SHA_1, m::SHA_1_HMAC, m::SHA1_RSA_PKCS, m::SHA1_RSA_PKCS_PSS, m::ECDSA_SHA1, mgf::MGF1_SHA1]),
    (
        S224,
        [
            m::SHA224,
            m::SHA224_HMAC,
            m::SHA224_RSA_PKCS,
            m::SHA224_RSA_PKCS_PSS,
            m::ECDSA_SHA224,
            mgf::MGF1_SHA224,
        ],
    ),
    (
        S256,
        [
            m::SHA256,
            m::SHA256_HMAC,
            m::SHA256_RSA_PKCS,
            m::SHA256_RSA_PKCS_PSS,
            m::ECDSA_SHA256,
            mgf::MGF1_SHA256,
        ],
    ),
    (
        S384,
        [
            m::SHA384,
            m::SHA384_HMAC,
            m::SHA384_RSA_PKCS,
            m::SHA384_RSA_PKCS_PSS,
            m::ECDSA_SHA384,
            mgf::MGF1_SHA384,
        ],
    ),
    (
        S512,
        [
            m::SHA512,
            m::SHA512_HMAC,
            m::SHA512_RSA_PKCS,
            m::SHA512_RSA_PKCS_PSS,
            m::ECDSA_SHA512,
            mgf::MGF1_SHA512,
        ],
    ),
];

fn by(column: usize, number: u64) -> Option<Hash> {
    NUMBERS.iter().find(|(_, numbers)| numbers[column] == number).map(|(hash, _)| *hash)
}

impl Hash {
    /// `CKM_SHA…`.
    pub fn of_digest(mechanism: u64) -> Option<Self> {
        by(0, mechanism)
    }

    /// `CKM_SHA…_HMAC`.
    pub fn of_hmac(mechanism: u64) -> Option<Self> {
        by(1, mechanism)
    }

    /// `CKM_SHA…_RSA_PKCS`.
    pub fn of_rsa_pkcs(mechanism: u64) -> Option<Self> {
        by(2, mechanism)
    }

    /// `CKM_SHA…_RSA_PKCS_PSS`.
    pub fn of_rsa_pss(mechanism: u64) -> Option<Self> {
        by(3, mechanism)
    }

    /// `CKM_ECDSA_SHA…`.
    pub fn of_ecdsa(mechanism: u64) -> Option<Self> {
        by(4, mechanism)
    }

    /// `CKG_MGF1_…`.
    pub fn of_mgf(function: u64) -> Option<Self> {
        by(5, function)
    }

    /// Bytes of a digest.
    pub fn length(self) -> usize {
        match self {
            S1 => 20,
            S224 => 28,
            S256 => 32,
            S384 => 48,
            S512 => 64,
        }
    }

    /// Begins.
    pub fn start(self) -> Hasher {
        match self {
            S1 => Hasher::Sha1(Sha1::new()),
            S224 => Hasher::Sha224(Sha224::new()),
            S256 => Hasher::Sha256(Sha256::new()),
            S384 => Hasher::Sha384(Sha384::new()),
            S512 => Hasher::Sha512(Sha512::new()),
        }
    }
}

/// A hash under way.
#[derive(Clone)]
#[allow(missing_docs)]
pub enum Hasher {
    Sha1(Sha1),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    /// Takes in more.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(data),
            Self::Sha224(hash) => hash.update(data),
            Self::Sha256(hash) => hash.update(data),
            Self::Sha384(hash) => hash.update(data),
            Self::Sha512(hash) => hash.update(data),
        }
    }

    /// The digest.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha224(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

/// A message authentication code under way.
#[derive(Clone)]
#[allow(missing_docs)]
pub enum Authenticator {
    Sha1(Hmac<Sha1>),
    Sha224(Hmac<Sha224>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
    Cmac128(cmac::Cmac<aes::Aes128>),
    Cmac192(cmac::Cmac<aes::Aes192>),
    Cmac256(cmac::Cmac<aes::Aes256>),
}

impl Authenticator {
    /// HMAC with a key of any length.
    pub fn hmac(hash: Hash, key: &[u8]) -> Option<Self> {
        Some(match hash {
            S1 => Self::Sha1(KeyInit::new_from_slice(key).ok()?),
            S224 => Self::Sha224(KeyInit::new_from_slice(key).ok()?),
            S256 => Self::Sha256(KeyInit::new_from_slice(key).ok()?),
            S384 => Self::Sha384(KeyInit::new_from_slice(key).ok()?),
            S512 => Self::Sha512(KeyInit::new_from_slice(key).ok()?),
        })
    }

    /// AES-CMAC.
    pub fn cmac(key: &[u8]) -> Option<Self> {
        Some(match key.len() {
            16 => Self::Cmac128(KeyInit::new_from_slice(key).ok()?),
            24 => Self::Cmac192(KeyInit::new_from_slice(key).ok()?),
            _ => Self::Cmac256(KeyInit::new_from_slice(key).ok()?),
        })
    }

    /// Takes in more.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(mac) => mac.update(data),
            Self::Sha224(mac) => mac.update(data),
            Self::Sha256(mac) => mac.update(data),
            Self::Sha384(mac) => mac.update(data),
            Self::Sha512(mac) => mac.update(data),
            Self::Cmac128(mac) => mac.update(data),
            Self::Cmac192(mac) => mac.update(data),
            Self::Cmac256(mac) => mac.update(data),
        }
    }

    /// Bytes of the code.
    pub fn length(&self) -> usize {
        match self {
            Self::Sha1(_) => 20,
            Self::Sha224(_) => 28,
            Self::Sha256(_) => 32,
            Self::Sha384(_) => 48,
            Self::Sha512(_) => 64,
            _ => 16,
        }
    }

    /// The code.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Sha224(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Sha256(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Sha384(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Sha512(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Cmac128(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Cmac192(mac) => mac.finalize().into_bytes().to_vec(),
            Self::Cmac256(mac) => mac.finalize().into_bytes().to_vec(),
        }
    }
}
