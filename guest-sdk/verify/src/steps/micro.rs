//! The micro-TPM's part: an identity key signed a quote of this PAL.

use crate::evidence::Evidence;
use crate::hash::{Family, hex};
use crate::key::{self, Key, Public, Signature, SignatureError, Value};
use crate::policy::{Pal, Policy, Release};
use crate::quoted::Quoted;
use crate::wire::Malformed;

/// Why the micro-quote is not one of this TrustVisor.
///
/// ```
/// let error = trustvisor_verify::MicroQuoteError::Sha1;
/// assert!(error.to_string().contains("SHA-1"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MicroQuoteError {
    /// The 1.2 form on a machine that can do better.
    #[error("it has the form of TPM 1.2 (SHA-1), which is not accepted beside a TPM 2.0")]
    Sha1,
    /// No identity key can have made such a signature.
    #[error("there is no identity key of the kind that signed it")]
    NoKey,
    /// The signature could not be read or is wrong.
    #[error("signature: {0}")]
    Signature(#[from] SignatureError),
    /// It is no quote.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It names another key than the one that signed it.
    #[error("it names the signer {found}, signed by {expected}")]
    Signer {
        /// In hexadecimal.
        found: String,
        /// In hexadecimal.
        expected: String,
    },
    /// It was made by another release than was launched.
    #[error("its firmware version is {found:#x}, that of the release {expected:#x}")]
    Firmware {
        /// In the quote.
        found: u64,
        /// In the policy.
        expected: u64,
    },
    /// The quoted micro-PCRs are not those given.
    #[error("it quotes {0}, which are not those given")]
    Selection(String),
    /// Their values are not those given.
    #[error("the values given of the micro-PCRs are not those quoted")]
    Values,
}

/// Why a PAL is not one that the policy believes.
///
/// ```
/// let error = trustvisor_verify::PalError::NoMeasurement;
/// assert_eq!(error.to_string(), "its measurement (micro-PCR 0) is not quoted");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PalError {
    /// Without micro-PCR 0 it could be any.
    #[error("its measurement (micro-PCR 0) is not quoted")]
    NoMeasurement,
    /// No PAL of the policy has this measurement.
    #[error("no PAL of the policy has the measurement {0}")]
    Unknown(String),
    /// A micro-PCR that the policy speaks of is not quoted, or has another value.
    #[error("{pal}: its micro-PCR {register} is {found}, not what the policy says")]
    MicroPcr {
        /// As the policy calls it.
        pal: String,
        /// The register.
        register: String,
        /// In hexadecimal, or "not quoted".
        found: String,
    },
}

/// A micro-quote of this TrustVisor.
pub(crate) struct Micro {
    pub(crate) signer: Vec<u8>,
    pub(crate) quoted: Quoted,
}

impl Micro {}

pub(crate) fn quote(
    evidence: &Evidence,
    identity: &[Public],
    release: &Release,
) -> Result<Micro, MicroQuoteError> {
    let part = &evidence.quote;
    if evidence.tpm == Family::V20 && part.form == Family::V12 {
        return Err(MicroQuoteError::Sha1);
    }
    let hash = part.form.hash();
    let field = "the micro-quote's signature";
    let signature = Signature::parse(field, &part.signature).map_err(SignatureError::from)?;
    let same_kind = |public: &&Public| {
        matches!(
            (&signature.value, &public.key),
            (Value::Rsa(_), Key::Rsa { .. }) | (Value::Ecdsa { .. }, Key::P256 { .. })
        )
    };
    let signer = identity.iter().find(same_kind).ok_or(MicroQuoteError::NoKey)?;
    key::check(field, &signer.key, hash, &part.quoted, &part.signature)?;
    let quoted = Quoted::parse("the micro-quote", part.form, &part.quoted)?;
    if let Quoted::V20(attest) = &quoted {
        if attest.signer != signer.name {
            let (found, expected) = (hex(&attest.signer), hex(&signer.name));
            return Err(MicroQuoteError::Signer { found, expected });
        }
        if attest.firmware != release.firmware {
            let (found, expected) = (attest.firmware, release.firmware);
            return Err(MicroQuoteError::Firmware { found, expected });
        }
    }
    let bits = evidence.pcrs.iter().fold(0, |bits, (number, _)| bits | 1 << number);
    quoted.selects(hash, bits).map_err(MicroQuoteError::Selection)?;
    match quoted.has_values(bits, evidence.pcrs.iter().map(|(_, value)| value.as_slice())) {
        true => Ok(Micro { signer: signer.name.clone(), quoted }),
        false => Err(MicroQuoteError::Values),
    }
}

/// The PAL with this measurement, in the state that the policy demands.
pub(crate) fn pal<'a>(policy: &'a Policy, evidence: &Evidence) -> Result<&'a Pal, PalError> {
    let hash = evidence.quote.form.hash();
    let value = |number: &str| {
        let found = evidence.pcrs.iter().find(|(found, _)| found.to_string() == number);
        found.map(|(_, value)| value.as_slice())
    };
    let measurement = value("0").ok_or(PalError::NoMeasurement)?;
    let is = |pal: &&Pal| pal.measurement.is(hash, measurement);
    let pal = policy.pal.iter().find(is).ok_or_else(|| PalError::Unknown(hex(measurement)))?;
    for (register, expected) in &pal.pcrs {
        let found = value(register);
        if !found.is_some_and(|found| expected.is(hash, found)) {
            return Err(PalError::MicroPcr {
                pal: pal.name.clone(),
                register: register.clone(),
                found: found.map_or("not quoted".into(), hex),
            });
        }
    }
    Ok(pal)
}
