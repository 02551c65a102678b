//! What the relying party knows of one question that it asked: the nonce above all.

use crate::evidence::Evidence;
use crate::hash::Family;

/// A nonce with fewer bytes could have been asked for before.
const LEAST: usize = 16;
const MOST: usize = 64;

/// One question to a machine: the nonce sent, and whatever else its answer has to agree with.
///
/// ```
/// use trustvisor_verify::Challenge;
///
/// let mut challenge = Challenge::new([7; 32])?;
/// challenge.entry = Some(0);
/// challenge.output = Some(trustvisor_verify::output(6, &[]));
/// assert!(Challenge::new([7; 8]).is_err());
/// # Ok::<(), trustvisor_verify::NonceError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Challenge {
    pub(crate) nonce: Vec<u8>,
    /// The attested call must be of this entry (else: any that the policy lists).
    pub entry: Option<u16>,
    /// It must be this call of the PAL, counted from 1.
    pub number: Option<u64>,
    /// The attested calls before it must be those that gave this chain.
    pub chain: Option<[u8; 32]>,
    /// What was given to S: see [`input`](crate::input()).
    pub input: Option<Vec<u8>>,
    /// What S is said to have answered: see [`output`](crate::output()).
    pub output: Option<Vec<u8>>,
    /// Now, in seconds since 1970, by a clock that the relying party trusts. Needed for certificates and for `earlier`.
    pub time: Option<u64>,
    /// An older hardware quote will do, if the policy has a `max_age`.
    pub earlier: Option<Earlier>,
}

/// A question asked earlier. The hardware quote that answered it is bound to that nonce, so it is younger than the nonce: the
/// relying party's own clock says how old it can be at most, and nothing in the evidence has to be believed about time.
///
/// ```
/// use trustvisor_verify::{Challenge, Earlier, Evidence};
///
/// let first = Evidence::parse(include_bytes!("../tests/data/quote.json"))?;
/// let mut challenge = Challenge::new([8; 32])?;
/// challenge.earlier = Some(Earlier::new([7; 32], &first, 1_700_000_000));
/// challenge.time = Some(1_700_000_060);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Earlier {
    nonce: Vec<u8>,
    /// What the TPM signed the hash of, beside the nonce.
    micro_quote: Vec<u8>,
    /// Seconds since 1970.
    pub(crate) issued: u64,
}

/// A nonce that is too short to be fresh, or too long for a quote.
///
/// ```
/// assert!(trustvisor_verify::Challenge::new([0; 65]).unwrap_err().to_string().contains("65"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a nonce has {LEAST} to {MOST} bytes, 32 for an attested call, not {0}")]
pub struct NonceError(usize);

impl Challenge {
    /// A question with this nonce, which must be new and random: 32 bytes for an attested call.
    pub fn new(nonce: impl Into<Vec<u8>>) -> Result<Self, NonceError> {
        let nonce = nonce.into();
        if !(LEAST..=MOST).contains(&nonce.len()) {
            return Err(NonceError(nonce.len()));
        }
        Ok(Self {
            nonce,
            entry: None,
            number: None,
            chain: None,
            input: None,
            output: None,
            time: None,
            earlier: None,
        })
    }
}

impl Earlier {
    /// The nonce, the evidence that answered it, and when the nonce was made, in seconds since 1970.
    pub fn new(nonce: impl Into<Vec<u8>>, evidence: &Evidence, issued: u64) -> Self {
        Self { nonce: nonce.into(), micro_quote: evidence.quote.quoted.clone(), issued }
    }

    /// What the hardware quote of then carries.
    pub(crate) fn extra_data(&self, family: Family) -> Vec<u8> {
        extra_data(family, &self.nonce, &self.micro_quote)
    }
}

/// What a hardware quote carries that was made for this nonce and this micro-quote.
pub(crate) fn extra_data(family: Family, nonce: &[u8], micro_quote: &[u8]) -> Vec<u8> {
    let hash = family.hash();
    hash.of(&[b"TV-HW-1", nonce, &hash.of(&[micro_quote])])
}
