//! The launch: what the quoted PCRs say was started, and which keys are its identity.

use crate::event_log::{EventLog, EventLogError, Launch};
use crate::evidence::Evidence;
use crate::hash::{Hash, hex};
use crate::key::{ECDSA, Key, Public, RSASSA, attribute};
use crate::policy::{Policy, Release};
use crate::quoted::Quoted;
use crate::wire::Malformed;

/// Why a release of TrustVisor is not believed.
///
/// ```
/// let error = trustvisor_verify::ReleaseError::TooOld { found: 1, least: 2 };
/// assert_eq!(error.to_string(), "its security version is 1, the policy demands at least 2");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// What was launched has been revoked.
    #[error("{0} is revoked")]
    Revoked(String),
    /// What was launched is in no release of the policy.
    #[error("SLB {slb} and runtime {runtime} are no release that the policy lists")]
    Unknown {
        /// In hexadecimal.
        slb: String,
        /// In hexadecimal.
        runtime: String,
    },
    /// A release from before something was mended.
    #[error("its security version is {found}, the policy demands at least {least}")]
    TooOld {
        /// That of the release.
        found: u32,
        /// That of the policy.
        least: u32,
    },
    /// Options that the policy does not list.
    #[error("its options {0} are not accepted")]
    Options(String),
}

/// Why the identity keys are not those of this TrustVisor.
///
/// ```
/// let error = trustvisor_verify::IdentityError::NotMeasured(1);
/// assert_eq!(error.to_string(), "key 1 is not the one in PCR 19");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Other keys than PCR 19 has.
    #[error("{found} keys are given, {expected} are in PCR 19")]
    Count {
        /// In the evidence.
        found: usize,
        /// In PCR 19.
        expected: usize,
    },
    /// Another key than PCR 19 has there.
    #[error("key {0} is not the one in PCR 19")]
    NotMeasured(usize),
    /// It could not be read.
    #[error("key {index}: {error}")]
    Malformed {
        /// Counted from 0.
        index: usize,
        /// What is wrong with it.
        error: Malformed,
    },
    /// It is no identity key of TrustVisor.
    #[error("key {index} is no identity key: {part}")]
    Kind {
        /// Counted from 0.
        index: usize,
        /// The part of it that is not as it must be.
        part: &'static str,
    },
}

pub(crate) fn log(evidence: &Evidence) -> Result<EventLog<'_>, EventLogError> {
    EventLog::parse(&evidence.event_log, evidence.tpm)
}

pub(crate) fn replay<'a>(log: &EventLog<'a>, quoted: &Quoted) -> Result<Launch<'a>, EventLogError> {
    let launch = log.launch()?;
    log.replays(quoted)?;
    Ok(launch)
}

pub(crate) fn release<'a>(policy: &'a Policy, launch: &Launch<'_>) -> Result<&'a Release, ReleaseError> {
    let hash = policy.tpm.hash();
    for (what, digest) in [("SLB", launch.slb), ("runtime", launch.runtime)] {
        if policy.revoked.iter().any(|revoked| revoked == digest) {
            return Err(ReleaseError::Revoked(format!("{what} {}", hex(digest))));
        }
    }
    let is =
        |release: &&Release| release.slb.is(hash, launch.slb) && release.runtime.is(hash, launch.runtime);
    let release = policy
        .release
        .iter()
        .find(is)
        .ok_or_else(|| ReleaseError::Unknown { slb: hex(launch.slb), runtime: hex(launch.runtime) })?;
    // Who revokes a file by one of its digests means the file.
    for (what, digests) in [("SLB", &release.slb), ("runtime", &release.runtime)] {
        if let Some(revoked) = digests.among(&policy.revoked) {
            return Err(ReleaseError::Revoked(format!("{what} {}", hex(revoked))));
        }
    }
    let (found, least) = (release.security_version, policy.minimum_security_version);
    if found < least {
        return Err(ReleaseError::TooOld { found, least });
    }
    if !policy.options.iter().any(|options| options.as_bytes() == launch.options) {
        return Err(ReleaseError::Options(launch.options.escape_ascii().to_string()));
    }
    Ok(release)
}

/// The identity keys: an RSA one if there is one, then that on P-256.
pub(crate) fn identity(evidence: &Evidence, launch: &Launch<'_>) -> Result<Vec<Public>, IdentityError> {
    let (found, expected) = (evidence.identity.len(), launch.keys.len());
    if found != expected {
        return Err(IdentityError::Count { found, expected });
    }
    let hash = evidence.tpm.hash();
    let mut keys = Vec::new();
    for (index, (bytes, digest)) in evidence.identity.iter().zip(&launch.keys).enumerate() {
        if hash.of(&[bytes]) != *digest {
            return Err(IdentityError::NotMeasured(index));
        }
        let public = Public::parse("an identity key", bytes)
            .map_err(|error| IdentityError::Malformed { index, error })?;
        let last = index + 1 == found;
        kind(&public, last).map_err(|part| IdentityError::Kind { index, part })?;
        keys.push(public);
    }
    Ok(keys)
}

fn kind(public: &Public, last: bool) -> Result<(), &'static str> {
    if public.attributes != attribute::IDENTITY {
        return Err("its attributes");
    }
    if !public.auth_policy.is_empty() {
        return Err("it has an authPolicy");
    }
    if public.symmetric.is_some() {
        return Err("it has a symmetric algorithm");
    }
    match (&public.key, public.scheme, last) {
        (Key::Rsa { modulus, .. }, Some((RSASSA, Hash::Sha256)), false) if modulus.len() == 256 => {
            if public.exponent == 0 { Ok(()) } else { Err("its exponent is not written as 0") }
        }
        (Key::P256 { .. }, Some((ECDSA, Hash::Sha256)), true) => Ok(()),
        _ => Err("kind, size, scheme or place"),
    }
}
