//! Certificates of hardware keys: RFC 5280, as far as one certificate directly below an authority of the policy needs it. There is no
//! search for a path: whoever trusts an intermediate authority lists that one.
//!
//! A certificate vouches for a key, not for the attributes that a TPMT_PUBLIC claims of it. So it has to be for an
//! attestation key by its extended key usage: such an authority has made sure that the key is a TPM's and restricted.

use const_oid::ObjectIdentifier;
use serde::{Deserialize, Deserializer};
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, BitStringRef};
use x509_cert::der::{Decode, DecodePem, Encode};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::spki::SubjectPublicKeyInfo;

use crate::hash::Hash;
use crate::key::{Key, Signature, Value};

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.1");
const RSA_SHA256: ObjectIdentifier = oid("1.2.840.113549.1.1.11");
const EC: ObjectIdentifier = oid("1.2.840.10045.2.1");
const P256: ObjectIdentifier = oid("1.2.840.10045.3.1.7");
const ECDSA_SHA256: ObjectIdentifier = oid("1.2.840.10045.4.3.2");
const KEY_USAGE: ObjectIdentifier = oid("2.5.29.15");
/// Who the certificate is for: nothing here depends on that.
const SUBJECT_ALT_NAME: ObjectIdentifier = oid("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = oid("2.5.29.19");
const EXTENDED_KEY_USAGE: ObjectIdentifier = oid("2.5.29.37");
/// tcg-kp-AIKCertificate (TCG Credential Profiles).
const ATTESTATION_KEY: ObjectIdentifier = oid("2.23.133.8.3");

/// Who may certify hardware keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Authority {
    pub(crate) name: String,
    #[serde(deserialize_with = "pem")]
    certificate: Certificate,
}

fn pem<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Certificate, D::Error> {
    let text = String::deserialize(deserializer)?;
    let certificate = Certificate::from_pem(text.trim()).map_err(serde::de::Error::custom)?;
    match public_key(&certificate) {
        Some(_) => Ok(certificate),
        None => Err(serde::de::Error::custom("an authority's key is RSA of 2048 bits or more, or P-256")),
    }
}

/// Why a certificate does not make a hardware key believed.
///
/// ```
/// let error = trustvisor_verify::CertificateError::NoTime;
/// assert!(error.to_string().contains("what time it is"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No X.509 certificate in DER.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// None of the policy's authorities has the issuer's name.
    #[error("its issuer {0:?} is none of the policy's authorities")]
    Issuer(String),
    /// Neither RSA nor ECDSA on P-256 with SHA-256.
    #[error("it is signed by the algorithm {0}, which is not supported")]
    Algorithm(String),
    /// The authority did not sign it.
    #[error("the authority's signature is wrong")]
    Signature,
    /// The challenge does not say what time it is.
    #[error("nobody said what time it is")]
    NoTime,
    /// Too early or too late.
    #[error("it is valid from {from} to {to} (seconds since 1970), not at {now}")]
    Validity {
        /// The first second.
        from: u64,
        /// The last second.
        to: u64,
        /// The challenge's time.
        now: u64,
    },
    /// A critical extension that is unknown here, or one that is there twice or is malformed.
    #[error("its extension {0} is critical and unknown, there twice, or malformed")]
    Extension(String),
    /// It is for something else than an attestation key.
    #[error("it is not for an attestation key: {0}")]
    Purpose(&'static str),
    /// It is for another key.
    #[error("it is for another key")]
    Key,
}

impl Authority {
    /// Whether the certificate is for this key, by which of the authorities.
    pub(crate) fn of<'a>(
        der: &[u8],
        key: &Key,
        authorities: &'a [Authority],
        time: Option<u64>,
    ) -> Result<&'a Authority, CertificateError> {
        let malformed = |error: x509_cert::der::Error| CertificateError::Malformed(error.to_string());
        let certificate = Certificate::from_der(der).map_err(malformed)?;
        if certificate.to_der().map_err(malformed)? != der {
            return Err(CertificateError::Malformed("not canonical DER".into()));
        }
        let tbs = certificate.tbs_certificate();
        let issuer = tbs.issuer();
        let named = |authority: &&Authority| authority.certificate.tbs_certificate().subject() == issuer;
        let mut candidates = authorities.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(CertificateError::Issuer(issuer.to_string()));
        }
        let (signature, message) = (signature(&certificate)?, tbs.to_der().map_err(malformed)?);
        let signed = |authority: &&Authority| {
            public_key(&authority.certificate).is_some_and(|key| key.verifies(&message, &signature))
        };
        let authority = candidates.find(signed).ok_or(CertificateError::Signature)?;
        is_valid(&certificate, time)?;
        is_for_an_attestation_key(&certificate)?;
        if public_key(&certificate).as_ref() != Some(key) {
            return Err(CertificateError::Key);
        }
        Ok(authority)
    }
}

fn signature(certificate: &Certificate) -> Result<Signature, CertificateError> {
    let algorithm = certificate.signature_algorithm();
    let unsupported = || CertificateError::Algorithm(algorithm.oid.to_string());
    if algorithm != certificate.tbs_certificate().signature() {
        return Err(CertificateError::Malformed("two signature algorithms".into()));
    }
    let bytes = certificate.signature().as_bytes().ok_or(CertificateError::Signature)?;
    let value = match algorithm.oid {
        RSA_SHA256 => Value::Rsa(bytes.to_vec()),
        ECDSA_SHA256 => {
            let signature =
                p256::ecdsa::Signature::from_der(bytes).map_err(|_| CertificateError::Signature)?;
            let (r, s) = signature.split_bytes();
            Value::Ecdsa { r: r.into(), s: s.into() }
        }
        _ => return Err(unsupported()),
    };
    Ok(Signature { hash: Hash::Sha256, value })
}

fn is_valid(certificate: &Certificate, time: Option<u64>) -> Result<(), CertificateError> {
    let now = time.ok_or(CertificateError::NoTime)?;
    let validity = certificate.tbs_certificate().validity();
    let from = validity.not_before.to_unix_duration().as_secs();
    let to = validity.not_after.to_unix_duration().as_secs();
    if (from..=to).contains(&now) { Ok(()) } else { Err(CertificateError::Validity { from, to, now }) }
}

fn is_for_an_attestation_key(certificate: &Certificate) -> Result<(), CertificateError> {
    let extensions = certificate.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
    let mut purpose = false;
    for (index, extension) in extensions.iter().enumerate() {
        let wrong = || CertificateError::Extension(extension.extn_id.to_string());
        let value = extension.extn_value.as_bytes();
        if extensions[..index].iter().any(|earlier| earlier.extn_id == extension.extn_id) {
            return Err(wrong());
        }
        match extension.extn_id {
            KEY_USAGE => {
                if !KeyUsage::from_der(value).map_err(|_| wrong())?.digital_signature() {
                    return Err(CertificateError::Purpose("its key usage has no digital signatures"));
                }
            }
            BASIC_CONSTRAINTS => {
                if BasicConstraints::from_der(value).map_err(|_| wrong())?.ca {
                    return Err(CertificateError::Purpose("it is an authority's"));
                }
            }
            EXTENDED_KEY_USAGE => {
                let usage = ExtendedKeyUsage::from_der(value).map_err(|_| wrong())?;
                purpose = usage.0.contains(&ATTESTATION_KEY);
            }
            SUBJECT_ALT_NAME => {}
            _ if extension.critical => return Err(wrong()),
            _ => {}
        }
    }
    let missing = "its extended key usage lacks tcg-kp-AIKCertificate (2.23.133.8.3)";
    if purpose { Ok(()) } else { Err(CertificateError::Purpose(missing)) }
}

/// The certified key, if it is of a kind that is accepted.
fn public_key(certificate: &Certificate) -> Option<Key> {
    let info = certificate.tbs_certificate().subject_public_key_info().to_der().ok()?;
    let info = SubjectPublicKeyInfo::<AnyRef<'_>, BitStringRef<'_>>::from_der(&info).ok()?;
    let bytes = info.subject_public_key.as_bytes()?;
    match info.algorithm.oid {
        RSA => {
            let key = rsa::pkcs1::RsaPublicKeyRef::from_der(bytes).ok()?;
            let modulus = key.modulus.as_bytes().to_vec();
            let exponent = key.public_exponent.as_bytes();
            let long = modulus.len() >= 256 && modulus[0] & 0x80 != 0 && modulus.len() <= 512;
            (long && exponent == [1, 0, 1]).then_some(Key::Rsa { modulus, exponent: 65537 })
        }
        EC => {
            let curve: ObjectIdentifier = info.algorithm.parameters?.decode_as().ok()?;
            let point = bytes.strip_prefix(&[4]).filter(|point| point.len() == 64 && curve == P256)?;
            let (x, y) = point.split_first_chunk::<32>()?;
            let key = Key::P256 { x: *x, y: y.try_into().ok()? };
            key.point().map(|_| key)
        }
        _ => None,
    }
}
