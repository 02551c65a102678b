//! The policy: what the relying party is ready to believe, a TOML file of its own making.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};

use crate::call::Signature;
use crate::certificate::Authority;
use crate::evidence::MICRO_PCRS;
use crate::hash::{Family, Hash, hex, unhex};

/// What the relying party believes; everything that is not listed is refused. The crate's documentation explains each key.
///
/// ```
/// use trustvisor_verify::Policy;
///
/// let text = include_str!("../tests/data/policy.toml");
/// let policy = Policy::parse(text)?;
/// let more = text.replace("minimum_security_version", "minimal_security_version");
/// assert!(Policy::parse(&more).unwrap_err().to_string().contains("unknown field"));
/// # Ok::<(), trustvisor_verify::PolicyError>(())
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub(crate) tpm: Family,
    pub(crate) minimum_security_version: u32,
    pub(crate) max_age: Option<u64>,
    pub(crate) options: Vec<String>,
    #[serde(default, deserialize_with = "digests")]
    pub(crate) revoked: Vec<Vec<u8>>,
    #[serde(default)]
    pub(crate) hardware_key: Vec<HardwareKey>,
    #[serde(default)]
    pub(crate) authority: Vec<Authority>,
    #[serde(default)]
    pub(crate) release: Vec<Release>,
    #[serde(default)]
    pub(crate) pal: Vec<Pal>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HardwareKey {
    pub(crate) machine: String,
    #[serde(deserialize_with = "name")]
    pub(crate) name: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Release {
    pub(crate) version: String,
    pub(crate) firmware: u64,
    pub(crate) security_version: u32,
    pub(crate) slb: Digests,
    pub(crate) runtime: Digests,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pal {
    pub(crate) name: String,
    pub(crate) measurement: Digests,
    #[serde(default)]
    pub(crate) pcrs: BTreeMap<String, Digests>,
    #[serde(default)]
    pub(crate) entry: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) signature: Signature,
}

/// Of the same bytes, by each hash function that the policy's writer cares for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Digests {
    #[serde(default, deserialize_with = "digest::<20, _>")]
    sha1: Option<Vec<u8>>,
    #[serde(default, deserialize_with = "digest::<32, _>")]
    sha256: Option<Vec<u8>>,
}

impl Digests {
    /// A digest that is not given equals none.
    pub(crate) fn is(&self, hash: Hash, digest: &[u8]) -> bool {
        let expected = match hash {
            Hash::Sha1 => &self.sha1,
            Hash::Sha256 => &self.sha256,
        };
        expected.as_deref() == Some(digest)
    }

    /// The first of these that is one of them, by whichever hash function.
    pub(crate) fn among<'a>(&self, digests: &'a [Vec<u8>]) -> Option<&'a [u8]> {
        let ours = |digest: &&Vec<u8>| [&self.sha1, &self.sha256].contains(&&Some(digest.to_vec()));
        digests.iter().find(ours).map(Vec::as_slice)
    }
}

/// Why a policy is none.
///
/// ```
/// use trustvisor_verify::{Policy, PolicyError};
///
/// assert!(matches!(Policy::parse("tpm = 2.0"), Err(PolicyError::Toml(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is no TOML, or has other keys or values than a policy; the text says where.
    #[error("{0}")]
    Toml(String),
    /// With such a policy no evidence would ever be believed.
    #[error("nothing would be believed: it lists no {0}")]
    Nothing(&'static str),
    /// The same twice: which of them is meant?
    #[error("{0} is listed twice")]
    Twice(String),
    /// A key of a TPM 2.0 can be made to sign what looks like a quote of a TPM 1.2, and certificates do not tell the family.
    #[error("keys of a TPM 1.2 have to be pinned, an authority does not do")]
    Authority,
    /// A micro-PCR that there is not, or that holds the measurement.
    #[error("{0} is no micro-PCR that a PAL extends: they are 1 to 7")]
    MicroPcr(String),
}

impl Policy {
    /// Reads a policy. Unknown keys are refused, and so is a policy that could not believe anything.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text).map_err(|error| PolicyError::Toml(error.to_string()))?;
        policy.believes_something()?;
        policy.says_nothing_twice()?;
        if policy.tpm == Family::V12 && !policy.authority.is_empty() {
            return Err(PolicyError::Authority);
        }
        let pcrs = policy.pal.iter().flat_map(|pal| pal.pcrs.keys());
        let own = |name: &&String| !(1..MICRO_PCRS).any(|number| number.to_string() == **name);
        match pcrs.into_iter().find(own) {
            Some(name) => Err(PolicyError::MicroPcr(name.clone())),
            None => Ok(policy),
        }
    }

    fn believes_something(&self) -> Result<(), PolicyError> {
        let lists = [
            ("hardware_key and no authority", self.hardware_key.is_empty() && self.authority.is_empty()),
            ("options", self.options.is_empty()),
            ("release", self.release.is_empty()),
            ("pal", self.pal.is_empty()),
        ];
        lists.iter().find(|(_, empty)| *empty).map_or(Ok(()), |(what, _)| Err(PolicyError::Nothing(what)))
    }

    fn says_nothing_twice(&self) -> Result<(), PolicyError> {
        let mut seen = BTreeSet::new();
        let keys = self.hardware_key.iter().map(|key| format!("machine {}", key.machine));
        let releases = self.release.iter().map(|release| format!("release {}", release.version));
        let pals = self.pal.iter().map(|pal| format!("PAL {}", pal.name));
        let measurements = self.pal.iter().flat_map(|pal| {
            let Digests { sha1, sha256 } = &pal.measurement;
            [sha1, sha256].into_iter().flatten().map(|digest| format!("measurement {}", hex(digest)))
        });
        let entries = self.pal.iter().flat_map(|pal| {
            pal.entry.iter().map(|entry| format!("entry {} of PAL {}", entry.number, pal.name))
        });
        let twice = keys
            .chain(releases)
            .chain(pals)
            .chain(measurements)
            .chain(entries)
            .find(|what| !seen.insert(what.clone()));
        twice.map_or(Ok(()), |what| Err(PolicyError::Twice(what)))
    }
}

/// Lower-case hexadecimal of one of these sizes.
fn bytes<'de, D: Deserializer<'de>>(text: &str, sizes: &[usize]) -> Result<Vec<u8>, D::Error> {
    let bytes = unhex(text).filter(|bytes| sizes.contains(&bytes.len()));
    bytes.ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} is not {sizes:?} bytes in lower-case hexadecimal"))
    })
}

fn digest<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    bytes::<D>(&String::deserialize(deserializer)?, &[N]).map(Some)
}

fn digests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| bytes::<D>(text, &[20, 32])).collect()
}

/// A Name: number of the hash function, and digest.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    bytes::<D>(&String::deserialize(deserializer)?, &[34])
}
