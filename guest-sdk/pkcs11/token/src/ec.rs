//! Elliptic curves: P-256 and P-384 (ECDSA, ECDH) and Ed25519, in the encodings of PKCS#11: `CKA_EC_PARAMS` is an object identifier in
//! DER, `CKA_EC_POINT` a point in a DER octet string.

use crate::ck::{attribute, key, rv};
use crate::object::Object;
use crate::platform::Platform;
use crate::protocol::Error;
use alloc::vec::Vec;
use ed25519_dalek::Signer;
use p256::elliptic_curve::sec1::ToSec1Point;
use zeroize::Zeroizing;

/// A curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// For EdDSA.
    Ed25519,
}

/// 1.2.840.10045.3.1.7
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// 1.3.101.112 (RFC 8410)
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// PKCS#11 v3.0, 2.3.10: a printable string.
const EDWARDS25519: &[u8] = b"\x13\x0cedwards25519";

const BAD_POINT: Error = Error::Rv(rv::ATTRIBUTE_VALUE_INVALID);
const BAD_KEY: Error = Error::Rv(rv::ATTRIBUTE_VALUE_INVALID);

impl Curve {
    /// Of `CKA_EC_PARAMS`.
    pub fn of_params(params: &[u8]) -> Result<Self, Error> {
        match params {
            P256 => Ok(Self::P256),
            P384 => Ok(Self::P384),
            ED25519 | EDWARDS25519 => Ok(Self::Ed25519),
            _ => Err(Error::Rv(rv::CURVE_NOT_SUPPORTED)),
        }
    }

    /// Its object identifier.
    pub fn params(self) -> &'static [u8] {
        match self {
            Self::P256 => P256,
            Self::P384 => P384,
            Self::Ed25519 => ED25519,
        }
    }

    /// Of a key.
    pub fn of(object: &Object) -> Result<Self, Error> {
        Self::of_params(object.get(attribute::EC_PARAMS).ok_or(Error::Rv(rv::TEMPLATE_INCOMPLETE))?)
    }

    /// The key type of keys on it.
    pub fn key_type(self) -> u64 {
        if self == Self::Ed25519 { key::EC_EDWARDS } else { key::EC }
    }

    /// Bytes of a scalar, and of a coordinate.
    pub fn size(self) -> usize {
        if self == Self::P384 { 48 } else { 32 }
    }

    /// Bytes of a signature.
    pub fn signature(self) -> usize {
        2 * self.size()
    }
}

/// A new private key and its public point, as an octet string.
pub fn generate(curve: Curve, platform: &mut impl Platform) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), Error> {
    let mut secret = Zeroizing::new(alloc::vec![0; curve.size()]);
    // The order of a curve is so near a power of two that this ends at once.
    for _ in 0..64 {
        platform.random(&mut secret)?;
        if let Ok(point) = public(curve, &secret) {
            return Ok((secret, point));
        }
    }
    Err(Error::Rv(rv::DEVICE_ERROR))
}

/// The public point of a private key, as an octet string.
pub fn public(curve: Curve, secret: &[u8]) -> Result<Vec<u8>, Error> {
    let point = match curve {
        Curve::P256 => p256_key(secret)?.public_key().to_sec1_point(false).as_bytes().to_vec(),
        Curve::P384 => p384_key(secret)?.public_key().to_sec1_point(false).as_bytes().to_vec(),
        Curve::Ed25519 => ed25519_key(secret)?.verifying_key().to_bytes().to_vec(),
    };
    Ok(octets(&point))
}

/// Whether it is a point of the curve, as an octet string.
pub fn check_public(curve: Curve, point: &[u8]) -> Result<(), Error> {
    let point = point_of(point);
    match curve {
        Curve::P256 => p256::PublicKey::from_sec1_bytes(point).map(drop).map_err(|_| BAD_POINT),
        Curve::P384 => p384::PublicKey::from_sec1_bytes(point).map(drop).map_err(|_| BAD_POINT),
        Curve::Ed25519 => ed25519_public(point).map(drop),
    }
}

fn p256_key(secret: &[u8]) -> Result<p256::SecretKey, Error> {
    p256::SecretKey::from_slice(secret).map_err(|_| BAD_KEY)
}

fn p384_key(secret: &[u8]) -> Result<p384::SecretKey, Error> {
    p384::SecretKey::from_slice(secret).map_err(|_| BAD_KEY)
}

fn ed25519_key(secret: &[u8]) -> Result<ed25519_dalek::SigningKey, Error> {
    let secret = secret.try_into().map_err(|_| BAD_KEY)?;
    Ok(ed25519_dalek::SigningKey::from_bytes(secret))
}

fn ed25519_public(point: &[u8]) -> Result<ed25519_dalek::VerifyingKey, Error> {
    let point = point.try_into().map_err(|_| BAD_POINT)?;
    ed25519_dalek::VerifyingKey::from_bytes(point).map_err(|_| BAD_POINT)
}

/// In DER.
fn octets(bytes: &[u8]) -> Vec<u8> {
    [&[0x04, bytes.len() as u8], bytes].concat()
}

/// What an octet string holds; a bare point is left as it is, for there are programs that give that.
fn point_of(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0x04, length, point @ ..] if usize::from(*length) == point.len() => point,
        _ => bytes,
    }
}

/// A hash as ECDSA takes it: no shorter than a coordinate.
fn scalar_hash(hash: &[u8], size: usize) -> Vec<u8> {
    let mut padded = alloc::vec![0; size.saturating_sub(hash.len())];
    padded.extend_from_slice(hash);
    padded
}

/// Signs: ECDSA of a hash, EdDSA of a message.
pub fn sign(object: &Object, data: &[u8]) -> Result<Vec<u8>, Error> {
    use p256::ecdsa::signature::hazmat::PrehashSigner;
    let curve = Curve::of(object)?;
    let secret = object.get(attribute::VALUE).ok_or(Error::Rv(rv::KEY_TYPE_INCONSISTENT))?;
    let hash = scalar_hash(data, curve.size());
    let failed = |_| Error::Rv(rv::FUNCTION_FAILED);
    Ok(match curve {
        Curve::P256 => {
            let key = p256::ecdsa::SigningKey::from(p256_key(secret)?);
            let signature: p256::ecdsa::Signature = key.sign_prehash(&hash).map_err(failed)?;
            signature.to_bytes().to_vec()
        }
        Curve::P384 => {
            let key = p384::ecdsa::SigningKey::from(p384_key(secret)?);
            let signature: p384::ecdsa::Signature = key.sign_prehash(&hash).map_err(failed)?;
            signature.to_bytes().to_vec()
        }
        Curve::Ed25519 => ed25519_key(secret)?.sign(data).to_bytes().to_vec(),
    })
}

/// Whether the signature is good.
pub fn verify(object: &Object, data: &[u8], signature: &[u8]) -> Result<bool, Error> {
    use p256::ecdsa::signature::hazmat::PrehashVerifier;
    let curve = Curve::of(object)?;
    let point = point_of(object.get(attribute::EC_POINT).ok_or(Error::Rv(rv::KEY_TYPE_INCONSISTENT))?);
    let hash = scalar_hash(data, curve.size());
    Ok(match curve {
        Curve::P256 => {
            let key = p256::PublicKey::from_sec1_bytes(point).map_err(|_| BAD_POINT)?;
            p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|s| p256::ecdsa::VerifyingKey::from(key).verify_prehash(&hash, &s).is_ok())
        }
        Curve::P384 => {
            let key = p384::PublicKey::from_sec1_bytes(point).map_err(|_| BAD_POINT)?;
            p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|s| p384::ecdsa::VerifyingKey::from(key).verify_prehash(&hash, &s).is_ok())
        }
        Curve::Ed25519 => {
            let key = ed25519_public(point)?;
            ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(data, &signature).is_ok())
        }
    })
}

/// The shared secret with the other side's public point.
pub fn agree(object: &Object, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    const WRONG: Error = Error::Rv(rv::MECHANISM_PARAM_INVALID);
    let secret = object.get(attribute::VALUE).ok_or(Error::Rv(rv::KEY_TYPE_INCONSISTENT))?;
    let point = point_of(point);
    Ok(Zeroizing::new(match Curve::of(object)? {
        Curve::P256 => {
            let other = p256::PublicKey::from_sec1_bytes(point).map_err(|_| WRONG)?;
            let key = p256_key(secret)?;
            p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), other.as_affine()).raw_secret_bytes().to_vec()
        }
        Curve::P384 => {
            let other = p384::PublicKey::from_sec1_bytes(point).map_err(|_| WRONG)?;
            let key = p384_key(secret)?;
            p384::ecdh::diffie_hellman(key.to_nonzero_scalar(), other.as_affine()).raw_secret_bytes().to_vec()
        }
        Curve::Ed25519 => return Err(Error::Rv(rv::KEY_TYPE_INCONSISTENT)),
    }))
}
