//! The identity keys: what they are made of, and their signatures.

use crate::tpm::{self, Random, sized};
use abi::Digests;
use abi::quote::{KEY_BLOB, key};
use abi::seal::OVERHEAD;
use alloc::vec::Vec;
use crypto_primes::{Flavor, is_prime};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use rand_core::TryRng;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BoxedUint, Pkcs1v15Sign, PrivateKey};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use utpm::quote::{p256_public as p256_structure, rsa_public};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

const BITS: usize = 2048;
const EXPONENT: u32 = 65537;
/// Bytes of a prime.
const PRIME: usize = BITS / 16;
/// TPM_ALG_RSASSA, TPM_ALG_ECDSA, TPM_ALG_SHA1, TPM_ALG_SHA256 (TPM 2.0 part 2, 6.3).
const RSASSA: [u8; 2] = [0, 0x14];
const ECDSA: [u8; 2] = [0, 0x18];
const SHA1: [u8; 2] = [0, 4];
const SHA256: [u8; 2] = [0, 0x0b];

/// The RSA key. Sealed it is the digests of its TPMT_PUBLIC, for the runtime, and its primes.
pub struct Rsa(PrivateKey);

impl Rsa {
    pub fn generate() -> Option<Self> {
        // Of 65537 primes one is no good.
        (0..4).find_map(|_| PrivateKey::from_p_q(prime()?, prime()?, EXPONENT.into()).ok()).map(Self)
    }

    pub fn seal(&self, blob: &mut [u8]) -> Option<usize> {
        let mut data = Zeroizing::new([0; KEY_BLOB - OVERHEAD]);
        let (digests, primes) = data.split_at_mut(size_of::<Digests>());
        digests.copy_from_slice(utpm::digest(&self.public()).as_bytes());
        for (place, prime) in primes.chunks_mut(PRIME).zip(self.0.primes()) {
            place.copy_from_slice(&Zeroizing::new(prime.to_be_bytes())[..]);
        }
        tpm::seal(&*data, blob)
    }

    pub fn unseal(blob: &[u8]) -> Option<Self> {
        let mut data = Zeroizing::new([0; KEY_BLOB - OVERHEAD]);
        let length = tpm::unseal(blob, &mut *data)?;
        let (p, q) = data.get(size_of::<Digests>()..length)?.split_at_checked(PRIME)?;
        let prime = |bytes| BoxedUint::from_be_slice(bytes, 8 * PRIME as u32).ok();
        PrivateKey::from_p_q(prime(p)?, prime(q)?, EXPONENT.into()).ok().map(Self)
    }

    pub fn public(&self) -> [u8; 280] {
        let mut modulus = [0; BITS / 8];
        modulus.copy_from_slice(&self.0.n_bytes());
        rsa_public(&modulus)
    }

    /// Blinded. The crate checks a signature before it gives it away.
    pub fn sign(&self, kind: u8, message: &[u8]) -> Option<Vec<u8>> {
        let (hash, scheme, digest) = match kind {
            key::RSA_SHA1 => (SHA1, Pkcs1v15Sign::new::<Sha1>(), Sha1::digest(message).to_vec()),
            _ => (SHA256, Pkcs1v15Sign::new::<Sha256>(), Sha256::digest(message).to_vec()),
        };
        let signature = self.0.sign_with_rng(&mut Random, scheme, &digest).ok()?;
        Some([&RSASSA[..], &hash, &sized(&signature)].concat())
    }
}

/// A random prime. Every candidate is drawn anew: how long it took to reject the others tells nothing about this one, as a search
/// from one number upwards would.
fn prime() -> Option<BoxedUint> {
    loop {
        let mut bytes = Zeroizing::new([0; PRIME]);
        let Ok(()) = Random.try_fill_bytes(&mut *bytes);
        // The product of two has all its bits.
        bytes[0] |= 0xc0;
        bytes[PRIME - 1] |= 1;
        let candidate = BoxedUint::from_be_slice(&*bytes, 8 * PRIME as u32).ok()?;
        if !has_small_factor(&bytes) && is_prime(Flavor::Any, &candidate) {
            return Some(candidate);
        }
    }
}

/// Leaves one in four for the long test.
fn has_small_factor(number: &[u8; PRIME]) -> bool {
    const PRIMES: [u32; 24] =
        [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97];
    let remainder = |p: u32| number.iter().fold(0, |rest, byte| (rest << 8 | u32::from(*byte)) % p);
    PRIMES.iter().any(|p| remainder(*p) == 0)
}

fn p256_key(keys: &[u8; 64]) -> Option<SigningKey> {
    SigningKey::from_slice(&keys[32..]).ok()
}

pub fn p256_public(keys: &[u8; 64]) -> Option<[u8; 88]> {
    let point = p256_key(keys)?.verifying_key().to_sec1_point(false);
    let (x, y) = point.as_bytes().get(1..)?.split_first_chunk()?;
    Some(p256_structure(x, y.first_chunk()?))
}

pub fn sign_p256(keys: &[u8; 64], message: &[u8]) -> Option<Vec<u8>> {
    let signature: Signature = p256_key(keys)?.try_sign(message).ok()?;
    let (r, s) = signature.split_bytes();
    Some([&ECDSA[..], &SHA256, &sized(&r), &sized(&s)].concat())
}
