//! What keys are made of: checked when they come from outside, made when they are the token's.

use crate::ck::{attribute, class, key, rv};
use crate::ec::{self, Curve};
use crate::object::Object;
use crate::platform::{Platform, Rng};
use crate::protocol::Error;
use crate::rsa_key;
use alloc::vec::Vec;

const INCOMPLETE: Error = Error::Rv(rv::TEMPLATE_INCOMPLETE);
const BAD_VALUE: Error = Error::Rv(rv::ATTRIBUTE_VALUE_INVALID);
const INCONSISTENT: Error = Error::Rv(rv::TEMPLATE_INCONSISTENT);

/// Longest generic secret.
const LONGEST: usize = 1024;

/// Checks what a key of the caller's is made of, and sets what follows from it.
pub fn check_created(object: &mut Object, adx: bool, rng: &mut Rng<'_, impl Platform>) -> Result<(), Error> {
    let kind = match object.class() {
        class::DATA | class::CERTIFICATE => return Ok(()),
        _ => object.key_type().ok_or(INCOMPLETE)?,
    };
    match (object.class(), kind) {
        (class::PUBLIC_KEY, key::RSA) => rsa_key::check_public(object),
        (class::PRIVATE_KEY, key::RSA) => rsa_key::check_private(object, adx, rng),
        (class::PUBLIC_KEY, key::EC | key::EC_EDWARDS) => {
            let curve = curve(object, kind)?;
            ec::check_public(curve, object.get(attribute::EC_POINT).ok_or(INCOMPLETE)?)
        }
        (class::PRIVATE_KEY, key::EC | key::EC_EDWARDS) => {
            let curve = curve(object, kind)?;
            let secret = full(object.get(attribute::VALUE).ok_or(INCOMPLETE)?, curve.size())?;
            let point = ec::public(curve, &secret)?;
            if object.get(attribute::EC_POINT).is_some_and(|said| said != point) {
                return Err(INCONSISTENT);
            }
            object.set(attribute::VALUE, secret.to_vec());
            object.set(attribute::EC_POINT, point);
            Ok(())
        }
        (class::SECRET_KEY, kind) => {
            let length = object.get(attribute::VALUE).ok_or(INCOMPLETE)?.len();
            check_length(kind, length)?;
            if object.number(attribute::VALUE_LEN).is_some_and(|said| said != length as u64) {
                return Err(INCONSISTENT);
            }
            object.set_number(attribute::VALUE_LEN, length as u64);
            Ok(())
        }
        _ => Err(BAD_VALUE),
    }
}

fn curve(object: &Object, kind: u64) -> Result<Curve, Error> {
    let curve = Curve::of(object)?;
    (curve.key_type() == kind).then_some(curve).ok_or(INCONSISTENT)
}

/// A scalar as long as it can be.
fn full(scalar: &[u8], size: usize) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
    let scalar = &scalar[scalar.iter().take_while(|byte| **byte == 0).count()..];
    let zeroes = size.checked_sub(scalar.len()).ok_or(BAD_VALUE)?;
    Ok(zeroize::Zeroizing::new([&alloc::vec![0; zeroes], scalar].concat()))
}

/// Whether a secret key of this type may be so long.
pub fn check_length(kind: u64, length: usize) -> Result<(), Error> {
    let good = match kind {
        key::AES => matches!(length, 16 | 24 | 32),
        key::GENERIC_SECRET
        | key::SHA_1_HMAC
        | key::SHA224_HMAC
        | key::SHA256_HMAC
        | key::SHA384_HMAC
        | key::SHA512_HMAC => (1..=LONGEST).contains(&length),
        _ => return Err(BAD_VALUE),
    };
    good.then_some(()).ok_or(Error::Rv(rv::KEY_SIZE_RANGE))
}

/// Gives a secret key its value.
pub fn set_secret(object: &mut Object, value: &[u8]) -> Result<(), Error> {
    check_length(object.key_type().ok_or(INCOMPLETE)?, value.len())?;
    if object.number(attribute::VALUE_LEN).is_some_and(|said| said != value.len() as u64) {
        return Err(INCONSISTENT);
    }
    object.set(attribute::VALUE, value);
    object.set_number(attribute::VALUE_LEN, value.len() as u64);
    Ok(())
}
