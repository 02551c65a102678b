//! RSA: private keys by `trustvisor-rsa`, public ones by the `rsa` crate, in the attributes of PKCS#11.

use crate::ck::{attribute, rv};
use crate::hash::Hash;
use crate::object::Object;
use crate::platform::{Platform, Rng};
use crate::protocol::Error;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use rsa::pkcs1v15::{Pkcs1v15Encrypt, Pkcs1v15Sign};
use rsa::traits::{PaddingScheme, PublicKeyParts, SignatureScheme};
use rsa::{BoxedUint, Oaep, Pss, PublicKey};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use trustvisor_rsa::{Components, Kernel, Key, oaep, pkcs1, pss};
use zeroize::Zeroizing;

/// What a signature or an encryption is padded by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Padding {
    /// `CKM_RSA_X_509`: none.
    Raw,
    /// `CKM_RSA_PKCS` and those with a hash, whose digest it takes.
    Pkcs1(Option<Hash>),
    /// `CKM_RSA_PKCS_PSS`.
    Pss {
        /// Of the message, and of the mask.
        hash: Hash,
        /// Bytes.
        salt: usize,
    },
    /// `CKM_RSA_PKCS_OAEP`.
    Oaep {
        /// Of the label.
        hash: Hash,
        /// Of the mask.
        mgf: Hash,
        /// Mostly empty.
        label: Vec<u8>,
    },
}

impl From<trustvisor_rsa::Error> for Error {
    fn from(error: trustvisor_rsa::Error) -> Self {
        use trustvisor_rsa::Error as E;
        Self::Rv(match error {
            E::Size => rv::KEY_SIZE_RANGE,
            E::Exponent | E::Primes | E::Inconsistent => rv::ATTRIBUTE_VALUE_INVALID,
            E::Input => rv::DATA_INVALID,
            E::TooLong | E::Digest => rv::DATA_LEN_RANGE,
            E::Decryption => rv::ENCRYPTED_DATA_INVALID,
            E::Fault => rv::FUNCTION_FAILED,
        })
    }
}

fn hash_of(hash: Hash) -> trustvisor_rsa::Hash {
    match hash {
        Hash::Sha1 => trustvisor_rsa::Hash::Sha1,
        Hash::Sha224 => trustvisor_rsa::Hash::Sha224,
        Hash::Sha256 => trustvisor_rsa::Hash::Sha256,
        Hash::Sha384 => trustvisor_rsa::Hash::Sha384,
        Hash::Sha512 => trustvisor_rsa::Hash::Sha512,
    }
}

/// Which multiplication the processor has.
pub fn kernel(adx: bool) -> Kernel {
    if adx { Kernel::Adx } else { Kernel::Portable }
}

fn big(object: &Object, kind: u64) -> Result<&[u8], Error> {
    let bytes = object.get(kind).ok_or(Error::Rv(rv::TEMPLATE_INCOMPLETE))?;
    Ok(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..])
}

fn exponent(object: &Object) -> Result<u64, Error> {
    let bytes = big(object, attribute::PUBLIC_EXPONENT)?;
    if bytes.len() > 8 {
        return Err(Error::Rv(rv::ATTRIBUTE_VALUE_INVALID));
    }
    Ok(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn components(object: &Object) -> Result<Components, Error> {
    let secret = |kind| big(object, kind).map(|bytes| Zeroizing::new(bytes.to_vec()));
    Ok(Components {
        n: big(object, attribute::MODULUS)?.to_vec(),
        e: exponent(object)?,
        d: secret(attribute::PRIVATE_EXPONENT)?,
        p: secret(attribute::PRIME_1)?,
        q: secret(attribute::PRIME_2)?,
    })
}

/// The key of an object that this token has checked before.
pub fn own(object: &Object, adx: bool) -> Result<Key, Error> {
    Ok(Key::from_own_components(kernel(adx), &components(object)?)?)
}

/// Checks the private key that an object is made of, and sets all that belongs to it.
pub fn check_private(object: &mut Object, adx: bool, rng: &mut Rng<'_, impl Platform>) -> Result<(), Error> {
    let key = Key::from_components(kernel(adx), rng, &components(object)?)?;
    set_private(object, &key);
    Ok(())
}

/// Sets what a private key is made of.
pub fn set_private(object: &mut Object, key: &Key) {
    let Components { n, d, p, q, .. } = key.components();
    object.set(attribute::MODULUS, n);
    object.set(attribute::PUBLIC_EXPONENT, short(key.exponent()));
    let [dp, dq, qinv] = key.crt_components();
    let parts = [
        (attribute::PRIVATE_EXPONENT, d),
        (attribute::PRIME_1, p),
        (attribute::PRIME_2, q),
        (attribute::EXPONENT_1, dp),
        (attribute::EXPONENT_2, dq),
        (attribute::COEFFICIENT, qinv),
    ];
    for (kind, value) in parts {
        object.set(kind, value.to_vec());
    }
}

/// Sets what its public key is made of.
pub fn set_public(object: &mut Object, key: &Key) {
    object.set(attribute::MODULUS, key.modulus());
    object.set(attribute::PUBLIC_EXPONENT, short(key.exponent()));
    object.set_number(attribute::MODULUS_BITS, key.bits() as u64);
}

/// A number, big-endian, without zeroes before it.
fn short(number: u64) -> Vec<u8> {
    number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

/// Checks the public key that an object is made of. It may be larger than those that are computed with here: an object is to be kept.
pub fn check_public(object: &mut Object) -> Result<(), Error> {
    const SIZES: RangeInclusive<usize> = 64..=2048;
    let modulus = big(object, attribute::MODULUS)?;
    if !SIZES.contains(&modulus.len()) {
        return Err(Error::Rv(rv::KEY_SIZE_RANGE));
    }
    let odd = modulus.last().is_some_and(|byte| byte & 1 == 1);
    let exponent = big(object, attribute::PUBLIC_EXPONENT)?;
    if !odd || exponent.last().is_none_or(|byte| byte & 1 == 0) || exponent == [1] {
        return Err(Error::Rv(rv::ATTRIBUTE_VALUE_INVALID));
    }
    let bits = modulus.len() as u64 * 8 - modulus.first().map_or(0, |byte| u64::from(byte.leading_zeros()));
    object.set_number(attribute::MODULUS_BITS, bits);
    Ok(())
}

fn public(object: &Object) -> Result<PublicKey, Error> {
    let bad = Error::Rv(rv::ATTRIBUTE_VALUE_INVALID);
    let modulus = big(object, attribute::MODULUS)?;
    if modulus.len() > 512 || modulus.len() < 128 {
        return Err(Error::Rv(rv::KEY_SIZE_RANGE));
    }
    let exponent = exponent(object)?;
    PublicKey::new(BoxedUint::from_be_slice_vartime(modulus), BoxedUint::from(exponent)).map_err(|_| bad)
}

/// Bytes of the modulus.
pub fn size(object: &Object) -> Result<usize, Error> {
    Ok(big(object, attribute::MODULUS)?.len())
}

/// Signs.
pub fn sign(
    key: &mut Key,
    padding: &Padding,
    data: &[u8],
    rng: &mut Rng<'_, impl Platform>,
) -> Result<Vec<u8>, Error> {
    Ok(match padding {
        Padding::Raw => key.private(rng, &filled(data, key.size())?)?.to_vec(),
        Padding::Pkcs1(None) => pkcs1::sign_raw(key, rng, data)?,
        Padding::Pkcs1(Some(hash)) => pkcs1::sign(key, rng, hash_of(*hash), data)?,
        Padding::Pss { hash, salt } => pss::sign(key, rng, hash_of(*hash), hash_of(*hash), *salt, data)?,
        Padding::Oaep { .. } => return Err(Error::Rv(rv::MECHANISM_INVALID)),
    })
}

/// As long as the modulus, with zeroes before it.
fn filled(data: &[u8], size: usize) -> Result<Vec<u8>, Error> {
    let zeroes = size.checked_sub(data.len()).ok_or(Error::Rv(rv::DATA_LEN_RANGE))?;
    Ok([&alloc::vec![0; zeroes], data].concat())
}

/// Decrypts.
pub fn decrypt(
    key: &mut Key,
    padding: &Padding,
    data: &[u8],
    rng: &mut Rng<'_, impl Platform>,
) -> Result<Vec<u8>, Error> {
    if data.len() != key.size() {
        return Err(Error::Rv(rv::ENCRYPTED_DATA_LEN_RANGE));
    }
    let plain = match padding {
        Padding::Raw => key.private(rng, data),
        Padding::Pkcs1(None) => pkcs1::decrypt(key, rng, data),
        Padding::Oaep { hash, mgf, label } => {
            oaep::decrypt(key, rng, hash_of(*hash), hash_of(*mgf), label, data)
        }
        Padding::Pkcs1(Some(_)) | Padding::Pss { .. } => return Err(Error::Rv(rv::MECHANISM_INVALID)),
    };
    match plain {
        Ok(plain) => Ok(plain.to_vec()),
        Err(trustvisor_rsa::Error::Input) => Err(Error::Rv(rv::ENCRYPTED_DATA_INVALID)),
        Err(error) => Err(error.into()),
    }
}

/// Whether the signature is good.
pub fn verify(object: &Object, padding: &Padding, data: &[u8], signature: &[u8]) -> Result<bool, Error> {
    let key = public(object)?;
    let verified = match padding {
        Padding::Raw => {
            let opened = raw(&key, signature)?;
            return Ok(opened == filled(data, key.size())?);
        }
        Padding::Pkcs1(None) => Pkcs1v15Sign::new_unprefixed().verify(&key, data, signature),
        Padding::Pkcs1(Some(hash)) => {
            let info = hash_of(*hash).digest_info();
            let scheme = Pkcs1v15Sign { hash_len: Some(hash.length()), prefix: info.into() };
            scheme.verify(&key, data, signature)
        }
        Padding::Pss { hash, salt } => match hash {
            Hash::Sha1 => Pss::<Sha1>::new_with_salt(*salt).verify(&key, data, signature),
            Hash::Sha224 => Pss::<Sha224>::new_with_salt(*salt).verify(&key, data, signature),
            Hash::Sha256 => Pss::<Sha256>::new_with_salt(*salt).verify(&key, data, signature),
            Hash::Sha384 => Pss::<Sha384>::new_with_salt(*salt).verify(&key, data, signature),
            Hash::Sha512 => Pss::<Sha512>::new_with_salt(*salt).verify(&key, data, signature),
        },
        Padding::Oaep { .. } => return Err(Error::Rv(rv::MECHANISM_INVALID)),
    };
    Ok(verified.is_ok())
}

fn raw(key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, Error> {
    let bad = Error::Rv(rv::DATA_INVALID);
    if input.len() != key.size() {
        return Err(Error::Rv(rv::DATA_LEN_RANGE));
    }
    let input = BoxedUint::from_be_slice(input, key.n_bits_precision()).map_err(|_| bad)?;
    if input >= *key.n().as_ref() {
        return Err(bad);
    }
    let output = rsa::hazmat::rsa_encrypt(key, &input).map_err(|_| bad)?;
    let bytes = output.to_be_bytes();
    Ok(bytes[bytes.len() - key.size()..].to_vec())
}

/// Encrypts.
pub fn encrypt(
    object: &Object,
    padding: &Padding,
    data: &[u8],
    rng: &mut Rng<'_, impl Platform>,
) -> Result<Vec<u8>, Error> {
    let key = public(object)?;
    let encrypted = match padding {
        Padding::Raw => return raw(&key, &filled(data, key.size())?),
        Padding::Pkcs1(None) => Pkcs1v15Encrypt.encrypt(rng, &key, data),
        Padding::Oaep { hash, mgf, label } => {
            let label: Box<[u8]> = label.as_slice().into();
            macro_rules! with {
                ($hash:ty) => {
                    match mgf {
                        Hash::Sha1 => oaep_with::<$hash, Sha1>(label, rng, &key, data),
                        Hash::Sha224 => oaep_with::<$hash, Sha224>(label, rng, &key, data),
                        Hash::Sha256 => oaep_with::<$hash, Sha256>(label, rng, &key, data),
                        Hash::Sha384 => oaep_with::<$hash, Sha384>(label, rng, &key, data),
                        Hash::Sha512 => oaep_with::<$hash, Sha512>(label, rng, &key, data),
                    }
                };
            }
            match hash {
                Hash::Sha1 => with!(Sha1),
                Hash::Sha224 => with!(Sha224),
                Hash::Sha256 => with!(Sha256),
                Hash::Sha384 => with!(Sha384),
                Hash::Sha512 => with!(Sha512),
            }
        }
        Padding::Pkcs1(Some(_)) | Padding::Pss { .. } => return Err(Error::Rv(rv::MECHANISM_INVALID)),
    };
    encrypted.map_err(|_| Error::Rv(rv::DATA_LEN_RANGE))
}

fn oaep_with<H, M>(
    label: Box<[u8]>,
    rng: &mut Rng<'_, impl Platform>,
    key: &PublicKey,
    data: &[u8],
) -> rsa::Result<Vec<u8>>
where
    H: sha2::Digest + sha2::digest::FixedOutputReset,
    M: sha2::Digest + sha2::digest::FixedOutputReset,
{
    Oaep::<H, M>::new_with_mgf_hash_and_label(label).encrypt(rng, key, data)
}
