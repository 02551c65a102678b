//! The hardware TPM's part: a key that the policy believes signed a fresh quote of the PCRs of the dynamic launch.

use crate::certificate::{Authority, CertificateError};
use crate::challenge::{Challenge, extra_data};
use crate::event_log::LAUNCH_PCRS;
use crate::evidence::Evidence;
use crate::hash::{Family, Hash, hex};
use crate::key::{self, ECDSA, Key, Public, RSASSA, SignatureError, attribute};
use crate::policy::Policy;
use crate::quoted::Quoted;
use crate::wire::Malformed;

/// Why the hardware key is not believed.
///
/// ```
/// let error = trustvisor_verify::HardwareKeyError::Attribute("restricted");
/// assert_eq!(error.to_string(), "it is not restricted");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HardwareKeyError {
    /// A TPM of the other family.
    #[error("the evidence is of a TPM {found}, the policy believes {expected}")]
    Family {
        /// In the evidence.
        found: Family,
        /// In the policy.
        expected: Family,
    },
    /// It could not be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Neither pinned nor certified.
    #[error("the policy has no key with the Name {0}, and there is no certificate")]
    Unknown(String),
    /// Not pinned, and not certified as it must be.
    #[error("the policy has no key with the Name {name}; its certificate: {error}")]
    Certificate {
        /// In hexadecimal.
        name: String,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// It lacks an attribute, or has one that it must not have.
    #[error("it is not {0}")]
    Attribute(&'static str),
    /// It does not sign by a scheme that is accepted.
    #[error("its scheme is not RSASSA or ECDSA with the hash function of this TPM")]
    Scheme,
}

/// Why the hardware's quote is not one, or not fresh.
///
/// ```
/// let error = trustvisor_verify::HardwareQuoteError::NoTime;
/// assert!(error.to_string().contains("what time it is"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HardwareQuoteError {
    /// It is no quote.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is about other PCRs.
    #[error("it quotes {0}, not PCR 17, 18 and 19 of the bank that counts")]
    Selection(String),
    /// It was made for another nonce or another micro-quote.
    #[error("it is not fresh: it carries {found}, not {expected} (this nonce and micro-quote)")]
    NotFresh {
        /// In hexadecimal.
        found: String,
        /// In hexadecimal.
        expected: String,
    },
    /// It is the earlier one, which the policy does not allow.
    #[error("it is an earlier one, and the policy has no max_age")]
    Earlier,
    /// It is an earlier one, and the challenge does not say what time it is.
    #[error("it is an earlier one, and nobody said what time it is")]
    NoTime,
    /// It is an earlier one from too long ago, or from the future.
    #[error("it may be {age} seconds old, the policy allows {most}")]
    TooOld {
        /// Seconds; negative if its nonce is to be made yet.
        age: i128,
        /// Seconds.
        most: u64,
    },
}

pub(crate) struct Hardware {
    pub(crate) machine: String,
    pub(crate) name: Vec<u8>,
    key: Key,
}

/// A key whose Name the policy pins, else one that an authority certified; and in any case of the right kind.
pub(crate) fn key(
    policy: &Policy,
    evidence: &Evidence,
    challenge: &Challenge,
) -> Result<Hardware, HardwareKeyError> {
    if evidence.tpm != policy.tpm {
        return Err(HardwareKeyError::Family { found: evidence.tpm, expected: policy.tpm });
    }
    let public = Public::parse("the hardware key", &evidence.hardware.key)?;
    let name = hex(&public.name);
    let pinned = policy.hardware_key.iter().find(|key| key.name == public.name);
    let machine = match (pinned, &evidence.hardware.certificate) {
        (Some(pinned), _) => pinned.machine.clone(),
        (None, None) => return Err(HardwareKeyError::Unknown(name)),
        (None, Some(certificate)) => {
            match Authority::of(certificate, &public.key, &policy.authority, challenge.time) {
                Ok(authority) => format!("certified by {}", authority.name),
                Err(error) => return Err(HardwareKeyError::Certificate { name, error }),
            }
        }
    };
    attests(&public, policy.tpm.hash())?;
    Ok(Hardware { machine, name: public.name, key: public.key })
}

/// Such a key signs nothing but what its TPM has made.
fn attests(public: &Public, hash: Hash) -> Result<(), HardwareKeyError> {
    let needed = [
        (attribute::RESTRICTED, "restricted"),
        (attribute::SIGN, "a signing key"),
        (attribute::FIXED_TPM, "fixedTPM"),
        (attribute::FIXED_PARENT, "fixedParent"),
        (attribute::SENSITIVE_DATA_ORIGIN, "made by the TPM (sensitiveDataOrigin)"),
    ];
    if let Some((_, name)) = needed.iter().find(|(attribute, _)| !public.has(*attribute)) {
        return Err(HardwareKeyError::Attribute(name));
    }
    if public.has(attribute::DECRYPT) || public.symmetric.is_some() {
        return Err(HardwareKeyError::Attribute("for signing alone (decrypt)"));
    }
    match (public.scheme, &public.key) {
        // A key of a TPM 1.2, which has no such structure. A restricted key of a TPM 2.0, which would sign what looks like a quote of a TPM
        // 1.2 (it only keeps back what begins as its own), has a scheme, and its Name with it.
        (None, Key::Rsa { .. }) if hash == Hash::Sha1 => Ok(()),
        (Some((RSASSA, found)), Key::Rsa { .. }) if found == hash && hash != Hash::Sha1 => Ok(()),
        (Some((ECDSA, found)), Key::P256 { .. }) if found == hash && hash != Hash::Sha1 => Ok(()),
        _ => Err(HardwareKeyError::Scheme),
    }
}

pub(crate) fn signature(hardware: &Hardware, evidence: &Evidence) -> Result<(), SignatureError> {
    let Evidence { tpm, hardware: part, .. } = evidence;
    key::check("the hardware quote's signature", &hardware.key, tpm.hash(), &part.quoted, &part.signature)
}

/// The quote, and its age if it is not fresh.
pub(crate) fn quote(
    policy: &Policy,
    evidence: &Evidence,
    challenge: &Challenge,
) -> Result<(Quoted, Option<u64>), HardwareQuoteError> {
    let quoted = Quoted::parse("the hardware quote", evidence.tpm, &evidence.hardware.quoted)?;
    quoted.selects(evidence.tpm.hash(), LAUNCH_PCRS).map_err(HardwareQuoteError::Selection)?;
    let expected = extra_data(evidence.tpm, &challenge.nonce, &evidence.quote.quoted);
    let age = if quoted.extra_data() == expected {
        None
    } else {
        Some(age(policy, evidence, challenge, quoted.extra_data(), &expected)?)
    };
    Ok((quoted, age))
}

fn age(
    policy: &Policy,
    evidence: &Evidence,
    challenge: &Challenge,
    found: &[u8],
    expected: &[u8],
) -> Result<u64, HardwareQuoteError> {
    let earlier = challenge.earlier.as_ref();
    let Some(earlier) = earlier.filter(|earlier| earlier.extra_data(evidence.tpm) == found) else {
        return Err(HardwareQuoteError::NotFresh { found: hex(found), expected: hex(expected) });
    };
    let most = policy.max_age.ok_or(HardwareQuoteError::Earlier)?;
    let now = challenge.time.ok_or(HardwareQuoteError::NoTime)?;
    match now.checked_sub(earlier.issued) {
        Some(age) if age <= most => Ok(age),
        _ => Err(HardwareQuoteError::TooOld { age: i128::from(now) - i128::from(earlier.issued), most }),
    }
}
