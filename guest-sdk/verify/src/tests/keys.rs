//! Keys that protect nothing: everybody knows them. Signatures by them are the same every time.

use std::sync::LazyLock;

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::elliptic_curve::sec1::ToSec1Point;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, PrivateKey};

use crate::hash::Hash;
use crate::key::{ECDSA, Key, RSASSA, attribute};

/// Primes of two RSA keys.
const PRIMES: [[&str; 2]; 2] = [
    [
        "e636b8d9a3e5d35528b3ec85999185b236cb03e13b4bf9f611b15790b3783e4f87c54c61fe34af7fed0b2a26b150ec8ea35f7b9eb23488848fb4d6279dadbdb7171f37e25386c8145503113df7ff726b9a2c7fea14c2a7edbd758f236a608dd1cf454d577f98382d98e76be4a6749ca7aee5521148743759808cd1d5a127df53",
        "dffd1334115d8650ef7cc48ee1522459ac7699f0038003256bbac0593e98eae315497fe6f7cbb3f4a479df83dc3a456fefacd91db6c07d507f733be5df4d530624d071902793c8c59effeedb9f7ba716581a48cb5fded0507cec9775f9c263e7311753511d80dcaaa5c7fce874dc86424990a89fa8c8e658d33a88699473eb6f",
    ],
    [
        "be5552b9de9ed179eb784f081022e84e5dd8b8b6f3ebeb06d50f28f7d9ba65a9b9937ea5a5dd69abd93b5b8f9d766f433b7f66caa53014c98d313c970433db9304670082e26e26d245be5fcdaba7597f4924ed8a556a0974b9a202e66cc4da191754c3718e18db06b09e76986cda57cc928e04e7a34ffa8da04c7bede54db08f",
        "ba9119f3313269ae93e5da64914b746e10bea18e94d4f6f02cf44dd949ad299be1274094303cb1418a55dd4d5e8d978d6b1394bf1aced1fc27e311e6f0b3aec240758b8ae22fde955ee4ab44d06773b54740b6cb03bfe636cbd366b5bd61eb904e66bb108d1a921a5dbb10be13d3f875f77f965210562df0882be42cda890c89",
    ],
];

static RSA: LazyLock<[PrivateKey; 2]> = LazyLock::new(|| {
    PRIMES.map(|primes| {
        let primes = primes.map(|prime| {
            let bytes = base16ct::lower::decode_vec(prime).unwrap();
            BoxedUint::from_be_slice(&bytes, 1024).unwrap()
        });
        PrivateKey::from_primes(primes.to_vec(), 65537u32.into()).unwrap()
    })
});

/// A key, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestKey {
    Rsa(usize),
    P256(u8),
}

impl TestKey {
    /// TPMT_PUBLIC of an identity key, and of a hardware key.
    pub(crate) fn public(self) -> Vec<u8> {
        self.public_with(attribute::IDENTITY, Hash::Sha256)
    }

    pub(crate) fn public_with(self, attributes: u32, hash: Hash) -> Vec<u8> {
        let (kind, scheme) = match self {
            Self::Rsa(_) => (1u16, RSASSA),
            Self::P256(_) => (0x23, ECDSA),
        };
        let mut public = [kind.to_be_bytes(), [0, 0x0b]].concat();
        public.extend(attributes.to_be_bytes());
        public.extend([0, 0, 0, 0x10]);
        // A TPM 1.2 has no schemes: SHA-1 stands for it.
        if matches!((self, hash), (Self::Rsa(_), Hash::Sha1)) {
            public.extend([0, 0x10]);
        } else {
            public.extend(scheme.to_be_bytes());
            public.extend(hash.number().to_be_bytes());
        }
        match self.key() {
            Key::Rsa { modulus, .. } => public.extend([&[8, 0, 0, 0, 0, 0, 1, 0][..], &modulus].concat()),
            Key::P256 { x, y } => public.extend([&[0, 3, 0, 0x10, 0, 32][..], &x, &[0, 32], &y].concat()),
        }
        public
    }

    pub(crate) fn key(self) -> Key {
        match self {
            Self::Rsa(number) => {
                Key::Rsa { modulus: RSA[number].n().to_be_bytes().to_vec(), exponent: 65537 }
            }
            Self::P256(number) => {
                let point = scalar(number).verifying_key().as_affine().to_sec1_point(false);
                let bytes = point.as_bytes();
                Key::P256 { x: bytes[1..33].try_into().unwrap(), y: bytes[33..].try_into().unwrap() }
            }
        }
    }

    /// TPMT_SIGNATURE.
    pub(crate) fn sign(self, hash: Hash, message: &[u8]) -> Vec<u8> {
        let scheme = match self {
            Self::Rsa(_) => RSASSA,
            Self::P256(_) => ECDSA,
        };
        let start = [scheme.to_be_bytes(), hash.number().to_be_bytes()].concat();
        let digest = hash.of(&[message]);
        match self {
            Self::Rsa(_) => [&start[..], &[1, 0], &self.sign_raw(hash, &digest)].concat(),
            Self::P256(_) => {
                let bytes = self.sign_raw(hash, &digest);
                [&start[..], &[0, 32], &bytes[..32], &[0, 32], &bytes[32..]].concat()
            }
        }
    }

    /// The bare signature of a digest.
    pub(crate) fn sign_raw(self, hash: Hash, digest: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(number) => {
                let padding = match hash {
                    Hash::Sha1 => rsa::pkcs1v15::Pkcs1v15Sign::new::<sha1::Sha1>(),
                    Hash::Sha256 => rsa::pkcs1v15::Pkcs1v15Sign::new::<sha2::Sha256>(),
                };
                RSA[number].sign(padding, digest).unwrap()
            }
            Self::P256(number) => {
                let signature: p256::ecdsa::Signature = scalar(number).sign_prehash(digest).unwrap();
                signature.to_bytes().to_vec()
            }
        }
    }
}

fn scalar(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).unwrap()
}
