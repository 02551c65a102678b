//! Keys that leave and come in under other keys: AES key wrap (RFC 3394; with padding RFC 5649), RSA, AES-CBC with padding. Private keys
//! travel as PKCS#8.

use crate::ck::{attribute, class, key, mechanism as m, rv};
use crate::ec::Curve;
use crate::object::Object;
use crate::protocol::Error;
use aes::cipher::KeyInit;
use aes_kw::{AesKw, AesKwp, IV_LEN};
use alloc::vec::Vec;
use zeroize::Zeroizing;

const _: () = assert!(IV_LEN == 8);

/// AES key wrap.
pub fn aes_wrap(mechanism: u64, wrapping: &[u8], data: &[u8]) -> Option<Result<Vec<u8>, Error>> {
    let mut out = alloc::vec![0; data.len().next_multiple_of(8) + 8];
    let padded = match mechanism {
        m::AES_KEY_WRAP => false,
        m::AES_KEY_WRAP_KWP | m::AES_KEY_WRAP_PAD => true,
        _ => return None,
    };
    macro_rules! wrap {
        ($aes:ty) => {
            if padded {
                AesKwp::<$aes>::new_from_slice(wrapping)
                    .ok()
                    .and_then(|kw| kw.wrap_key(data, &mut out).ok().map(<[u8]>::len))
            } else {
                AesKw::<$aes>::new_from_slice(wrapping)
                    .ok()
                    .and_then(|kw| kw.wrap_key(data, &mut out).ok().map(<[u8]>::len))
            }
        };
    }
    let length = match wrapping.len() {
        16 => wrap!(aes::Aes128),
        24 => wrap!(aes::Aes192),
        _ => wrap!(aes::Aes256),
    };
    let length = length.ok_or(Error::Rv(rv::KEY_SIZE_RANGE));
    Some(length.map(|length| {
        out.truncate(length);
        out
    }))
}

/// And back.
pub fn aes_unwrap(mechanism: u64, wrapping: &[u8], data: &[u8]) -> Option<Result<Zeroizing<Vec<u8>>, Error>> {
    let mut out = Zeroizing::new(alloc::vec![0; data.len()]);
    let padded = match mechanism {
        m::AES_KEY_WRAP => false,
        m::AES_KEY_WRAP_KWP | m::AES_KEY_WRAP_PAD => true,
        _ => return None,
    };
    if data.len() < 16 || !data.len().is_multiple_of(8) {
        return Some(Err(Error::Rv(rv::WRAPPED_KEY_LEN_RANGE)));
    }
    macro_rules! unwrap {
        ($aes:ty) => {
            if padded {
                AesKwp::<$aes>::new_from_slice(wrapping)
                    .ok()
                    .and_then(|kw| kw.unwrap_key(data, &mut out).ok().map(<[u8]>::len))
            } else {
                AesKw::<$aes>::new_from_slice(wrapping)
                    .ok()
                    .and_then(|kw| kw.unwrap_key(data, &mut out).ok().map(<[u8]>::len))
            }
        };
    }
    let length = match wrapping.len() {
        16 => unwrap!(aes::Aes128),
        24 => unwrap!(aes::Aes192),
        _ => unwrap!(aes::Aes256),
    };
    let length = length.ok_or(Error::Rv(rv::WRAPPED_KEY_INVALID));
    Some(length.map(|length| {
        out.truncate(length);
        out
    }))
}

/// What of a key is wrapped.
pub fn contents(object: &Object) -> Result<Zeroizing<Vec<u8>>, Error> {
    match object.class() {
        class::SECRET_KEY => {
            let value = object.secret().ok_or(Error::Rv(rv::KEY_NOT_WRAPPABLE))?;
            Ok(Zeroizing::new(value.to_vec()))
        }
        class::PRIVATE_KEY => pkcs8(object).ok_or(Error::Rv(rv::KEY_NOT_WRAPPABLE)),
        _ => Err(Error::Rv(rv::KEY_NOT_WRAPPABLE)),
    }
}

/// Gives an object what came in wrapped.
pub fn set_contents(object: &mut Object, bytes: &[u8]) -> Result<(), Error> {
    match object.class() {
        class::SECRET_KEY => crate::keys::set_secret(object, bytes),
        class::PRIVATE_KEY => set_pkcs8(object, bytes).ok_or(Error::Rv(rv::WRAPPED_KEY_INVALID)),
        _ => Err(Error::Rv(rv::TEMPLATE_INCONSISTENT)),
    }
}

/// 1.2.840.113549.1.1.1, and NULL.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// 1.2.840.10045.2.1
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut out = alloc::vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(contents);
    out
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    let sign: &[u8] = if bytes.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    der(INTEGER, &[sign, bytes].concat())
}

/// RFC 5208, with RFC 8017's, RFC 5915's or RFC 8410's key in it.
fn pkcs8(object: &Object) -> Option<Zeroizing<Vec<u8>>> {
    use attribute as a;
    let (algorithm, key) = match object.key_type()? {
        key::RSA => {
            let parts = [
                a::MODULUS,
                a::PUBLIC_EXPONENT,
                a::PRIVATE_EXPONENT,
                a::PRIME_1,
                a::PRIME_2,
                a::EXPONENT_1,
                a::EXPONENT_2,
                a::COEFFICIENT,
            ];
            let mut numbers = Zeroizing::new(integer(&[0]));
            for part in parts {
                numbers.extend(Zeroizing::new(integer(object.get(part)?)).iter());
            }
            (RSA.to_vec(), Zeroizing::new(der(SEQUENCE, &numbers)))
        }
        key::EC => {
            let scalar = Zeroizing::new(der(OCTETS, object.get(a::VALUE)?));
            let numbers = Zeroizing::new([&integer(&[1]), scalar.as_slice()].concat());
            let algorithm = [EC, object.get(a::EC_PARAMS)?].concat();
            (algorithm, Zeroizing::new(der(SEQUENCE, &numbers)))
        }
        key::EC_EDWARDS => {
            let algorithm = object.get(a::EC_PARAMS).filter(|params| params.first() == Some(&0x06))?;
            (algorithm.to_vec(), Zeroizing::new(der(OCTETS, object.get(a::VALUE)?)))
        }
        _ => return None,
    };
    let key = Zeroizing::new(der(OCTETS, &key));
    let all = Zeroizing::new([&integer(&[0]), &der(SEQUENCE, &algorithm), key.as_slice()].concat());
    Some(Zeroizing::new(der(SEQUENCE, &all)))
}

/// The next element of a DER encoding: tag and contents; the rest stays.
fn next<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (head, rest) = input.split_first_chunk::<2>()?;
    let [found, first] = *head;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    *input = rest;
    (found == tag).then_some(contents)
}

fn set_pkcs8(object: &mut Object, mut bytes: &[u8]) -> Option<()> {
    use attribute as a;
    let mut info = next(&mut bytes, SEQUENCE)?;
    next(&mut info, INTEGER)?;
    let algorithm = next(&mut info, SEQUENCE)?;
    let mut key = next(&mut info, OCTETS)?;
    match object.key_type()? {
        key::RSA => {
            algorithm.starts_with(&RSA[..11]).then_some(())?;
            let mut numbers = next(&mut key, SEQUENCE)?;
            next(&mut numbers, INTEGER)?;
            let parts = [a::MODULUS, a::PUBLIC_EXPONENT, a::PRIVATE_EXPONENT, a::PRIME_1, a::PRIME_2];
            for part in parts {
                object.set(part, next(&mut numbers, INTEGER)?);
            }
        }
        key::EC => {
            let params = algorithm.strip_prefix(EC)?;
            Curve::of_params(params).ok()?;
            let mut numbers = next(&mut key, SEQUENCE)?;
            next(&mut numbers, INTEGER)?;
            object.set(a::VALUE, next(&mut numbers, OCTETS)?);
            object.set(a::EC_PARAMS, params);
        }
        key::EC_EDWARDS => {
            Curve::of_params(algorithm).ok().filter(|curve| *curve == Curve::Ed25519)?;
            object.set(a::VALUE, next(&mut key, OCTETS)?);
            object.set(a::EC_PARAMS, algorithm);
        }
        _ => return None,
    }
    Some(())
}
