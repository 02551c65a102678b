//! Public keys and signatures: TPMT_PUBLIC and TPMT_SIGNATURE (TCG TPM 2.0 Library part 2, 12.2.4 and 11.3.4), of the kinds that are
//! accepted here: RSA with PKCS#1 1.5 and ECDSA on P-256.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::elliptic_curve::sec1::{FromSec1Point, Sec1Point};
use rsa::BoxedUint;
use sha1::Sha1;
use sha2::Sha256;

use crate::hash::{Hash, sha256};
use crate::wire::{Malformed, Reader};

const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const NULL: u16 = 0x0010;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
pub(crate) const RSASSA: u16 = 0x0014;
pub(crate) const ECDSA: u16 = 0x0018;
const P256: u16 = 0x0003;
const SHA256: u16 = 0x000b;
const F4: u32 = 65537;

/// Bits of TPMA_OBJECT.
pub(crate) mod attribute {
    pub(crate) const FIXED_TPM: u32 = 1 << 1;
    pub(crate) const FIXED_PARENT: u32 = 1 << 4;
    pub(crate) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub(crate) const RESTRICTED: u32 = 1 << 16;
    pub(crate) const DECRYPT: u32 = 1 << 17;
    pub(crate) const SIGN: u32 = 1 << 18;
    /// Those of an identity key, userWithAuth among them.
    pub(crate) const IDENTITY: u32 = 0x0005_0072;
}

/// What a TPMT_PUBLIC says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Public {
    pub(crate) name: Vec<u8>,
    pub(crate) attributes: u32,
    pub(crate) auth_policy: Vec<u8>,
    /// Bits of the AES key that protects what a storage key wraps.
    pub(crate) symmetric: Option<u16>,
    /// Scheme and hash of a key that signs.
    pub(crate) scheme: Option<(u16, Hash)>,
    /// The RSA exponent as it stands there.
    pub(crate) exponent: u32,
    pub(crate) key: Key,
}

/// The key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Rsa { modulus: Vec<u8>, exponent: u32 },
    P256 { x: [u8; 32], y: [u8; 32] },
}

impl Public {
    pub(crate) fn parse(field: &'static str, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(field, bytes);
        let kind = reader.u16("type")?;
        reader.fixed("nameAlg", SHA256, "SHA-256")?;
        let attributes = reader.u32("objectAttributes")?;
        let auth_policy = reader.sized(64, "authPolicy")?.to_vec();
        let symmetric = symmetric(&mut reader)?;
        let scheme = scheme(&mut reader)?;
        let (exponent, key) = match kind {
            RSA => rsa_key(&mut reader)?,
            ECC => (0, p256_key(&mut reader)?),
            _ => return Err(reader.value("type", kind.into(), "RSA or ECC")),
        };
        reader.end()?;
        let name = [&SHA256.to_be_bytes()[..], &sha256(&[bytes])].concat();
        Ok(Self { name, attributes, auth_policy, symmetric, scheme, exponent, key })
    }

    pub(crate) fn has(&self, attributes: u32) -> bool {
        self.attributes & attributes == attributes
    }
}

fn symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, Malformed> {
    match reader.u16("symmetric")? {
        NULL => Ok(None),
        AES => {
            let bits = reader.u16("symmetric")?;
            reader.fixed("mode of symmetric", CFB, "CFB")?;
            Ok(Some(bits))
        }
        found => Err(reader.value("symmetric", found.into(), "null or AES")),
    }
}

fn scheme(reader: &mut Reader<'_>) -> Result<Option<(u16, Hash)>, Malformed> {
    match reader.u16("scheme")? {
        NULL => Ok(None),
        scheme @ (RSASSA | ECDSA) => Ok(Some((scheme, hash(reader, "hash of the scheme")?))),
        found => Err(reader.value("scheme", found.into(), "null, RSASSA or ECDSA")),
    }
}

fn hash(reader: &mut Reader<'_>, part: &'static str) -> Result<Hash, Malformed> {
    let number = reader.u16(part)?;
    Hash::from_number(number).ok_or_else(|| reader.value(part, number.into(), "SHA-1 or SHA-256"))
}

fn rsa_key(reader: &mut Reader<'_>) -> Result<(u32, Key), Malformed> {
    let bits = reader.u16("keyBits")?;
    if ![2048, 3072, 4096].contains(&bits) {
        return Err(reader.value("keyBits", bits.into(), "2048, 3072 or 4096"));
    }
    let field = reader.u32("exponent")?;
    if field != 0 && field != F4 {
        return Err(reader.value("exponent", field.into(), "0 or 65537"));
    }
    let modulus = reader.sized(512, "modulus")?.to_vec();
    if modulus.len() * 8 != bits.into() {
        return Err(reader.value("size of the modulus", modulus.len() as u64, "that of the key"));
    }
    for (part, byte, bit) in [("first byte", modulus[0], 0x80), ("last byte", modulus[modulus.len() - 1], 1)]
    {
        if byte & bit == 0 {
            return Err(reader.value(part, byte.into(), "that of a modulus: as long as the key, and odd"));
        }
    }
    Ok((field, Key::Rsa { modulus, exponent: F4 }))
}

fn p256_key(reader: &mut Reader<'_>) -> Result<Key, Malformed> {
    reader.fixed("curve", P256, "P-256")?;
    reader.fixed("kdf", NULL, "null")?;
    let mut coordinate = |part| -> Result<[u8; 32], Malformed> {
        let bytes = reader.sized(32, part)?;
        bytes.try_into().map_err(|_| reader.value(part, bytes.len() as u64, "32 bytes long"))
    };
    let (x, y) = (coordinate("x")?, coordinate("y")?);
    let key = Key::P256 { x, y };
    match key.point() {
        Some(_) => Ok(key),
        None => Err(reader.value("first byte of x", x[0].into(), "that of a point on the curve")),
    }
}

impl Key {
    /// The point, if it is on the curve.
    pub(crate) fn point(&self) -> Option<p256::PublicKey> {
        let Self::P256 { x, y } = self else { return None };
        let point = Sec1Point::<p256::NistP256>::from_affine_coordinates(&(*x).into(), &(*y).into(), false);
        p256::PublicKey::from_sec1_point(&point).into_option()
    }

    pub(crate) fn rsa(&self) -> Option<rsa::PublicKey> {
        let Self::Rsa { modulus, exponent } = self else { return None };
        let modulus = BoxedUint::from_be_slice(modulus, modulus.len() as u32 * 8).ok()?;
        rsa::PublicKey::new(modulus, (*exponent).into()).ok()
    }

    /// Whether this key signed this message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        match (self, &signature.value) {
            (Self::Rsa { .. }, Value::Rsa(bytes)) => self.verifies_rsa(message, signature.hash, bytes),
            (Self::P256 { .. }, Value::Ecdsa { r, s }) => self.verifies_ecdsa(message, signature.hash, r, s),
            _ => false,
        }
    }

    fn verifies_rsa(&self, message: &[u8], hash: Hash, signature: &[u8]) -> bool {
        use rsa::pkcs1v15::{Signature, VerifyingKey};
        let (Some(key), Ok(signature)) = (self.rsa(), Signature::try_from(signature)) else { return false };
        let digest = hash.of(&[message]);
        match hash {
            Hash::Sha1 => VerifyingKey::<Sha1>::new(key).verify_prehash(&digest, &signature).is_ok(),
            Hash::Sha256 => VerifyingKey::<Sha256>::new(key).verify_prehash(&digest, &signature).is_ok(),
        }
    }

    fn verifies_ecdsa(&self, message: &[u8], hash: Hash, r: &[u8; 32], s: &[u8; 32]) -> bool {
        use p256::ecdsa::{Signature, VerifyingKey};
        let (Some(point), Ok(signature)) = (self.point(), Signature::from_scalars(*r, *s)) else {
            return false;
        };
        VerifyingKey::from(&point).verify_prehash(&hash.of(&[message]), &signature).is_ok()
    }
}

/// What a TPMT_SIGNATURE says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) hash: Hash,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Rsa(Vec<u8>),
    Ecdsa { r: [u8; 32], s: [u8; 32] },
}

impl Signature {
    pub(crate) fn parse(field: &'static str, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(field, bytes);
        let scheme = reader.u16("algorithm")?;
        let hash = hash(&mut reader, "hash")?;
        let value = match scheme {
            RSASSA => Value::Rsa(reader.sized(512, "signature")?.to_vec()),
            ECDSA => Value::Ecdsa { r: scalar(&mut reader, "r")?, s: scalar(&mut reader, "s")? },
            _ => return Err(reader.value("algorithm", scheme.into(), "RSASSA or ECDSA")),
        };
        reader.end()?;
        Ok(Self { hash, value })
    }
}

/// Some TPMs leave out zeroes at its beginning.
fn scalar(reader: &mut Reader<'_>, part: &'static str) -> Result<[u8; 32], Malformed> {
    let bytes = reader.sized(32, part)?;
    let mut scalar = [0; 32];
    scalar[32 - bytes.len()..].copy_from_slice(bytes);
    Ok(scalar)
}

/// Why a signature is not one.
///
/// ```
/// let error = trustvisor_verify::SignatureError::Wrong;
/// assert_eq!(error.to_string(), "the signature is not this key's over these bytes");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// It could not be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It uses another hash function than it must.
    #[error("the signature's hash function has the number {found:#06x}, not {expected:#06x}")]
    Hash {
        /// TPM_ALG_ID.
        found: u16,
        /// TPM_ALG_ID.
        expected: u16,
    },
    /// It is somebody else's, or over something else.
    #[error("the signature is not this key's over these bytes")]
    Wrong,
}

/// The signature's bytes are this key's, with this hash function, over the message.
pub(crate) fn check(
    field: &'static str,
    key: &Key,
    hash: Hash,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let signature = Signature::parse(field, signature)?;
    if signature.hash != hash {
        return Err(SignatureError::Hash { found: signature.hash.number(), expected: hash.number() });
    }
    if key.verifies(message, &signature) { Ok(()) } else { Err(SignatureError::Wrong) }
}
