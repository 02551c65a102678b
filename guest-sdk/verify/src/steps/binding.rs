//! The last step: the micro-quote answers this challenge. What is demanded, a quote or a call of certain entries, comes from the
//! policy and the challenge, never from the evidence.

use crate::call::ABI;
use crate::challenge::Challenge;
use crate::evidence::{CallClaim, Evidence};
use crate::hash::{Family, Hash, hex, sha256};
use crate::policy::{Entry, Pal};
use crate::steps::micro::Micro;
use crate::verify::{Call, Proof};

/// Tags of extraData, which only TrustVisor sets.
const TAG_QUOTE: u8 = 1;
const TAG_CALL: u8 = 2;

/// Why the micro-quote does not answer the challenge.
///
/// ```
/// let error = trustvisor_verify::BindingError::QuoteForCall;
/// assert!(error.to_string().contains("an attested call is demanded"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// A quote, which the PAL asked for itself, where a call is demanded.
    #[error("it is a quote, an attested call is demanded")]
    QuoteForCall,
    /// A call where a quote is demanded.
    #[error("it is an attested call, a quote is demanded: the policy lists no entries of this PAL")]
    CallForQuote,
    /// The quote is over something else than the nonce.
    #[error("the quote carries {found}, not {expected} (this nonce)")]
    Nonce {
        /// In hexadecimal.
        found: String,
        /// In hexadecimal.
        expected: String,
    },
    /// The call's numbers are not those that the quote is over.
    #[error("the quote carries {found}, not {expected} (the call given)")]
    Digest {
        /// In hexadecimal.
        found: String,
        /// In hexadecimal.
        expected: String,
    },
    /// Something in the call is not as policy or challenge demand.
    #[error("the call's {part} is {found}, not {expected}")]
    Part {
        /// What it is.
        part: &'static str,
        /// In the evidence.
        found: String,
        /// By policy or challenge.
        expected: String,
    },
    /// An entry that the policy does not list.
    #[error("the policy does not list entry {0} of this PAL")]
    Entry(u16),
    /// What the challenge or the evidence gives is not what was hashed.
    #[error("the {what} {whose} has the hash {found}, the call's is {expected}")]
    Data {
        /// Input or output.
        what: &'static str,
        /// Of the challenge, or in the evidence.
        whose: &'static str,
        /// In hexadecimal.
        found: String,
        /// In hexadecimal.
        expected: String,
    },
}

pub(crate) fn binding(
    pal: &Pal,
    evidence: &Evidence,
    micro: &Micro,
    challenge: &Challenge,
) -> Result<Proof, BindingError> {
    let call_demanded = !pal.entry.is_empty() || demands_a_call(challenge);
    match (&evidence.call, call_demanded) {
        (None, true) => Err(BindingError::QuoteForCall),
        (Some(_), false) => Err(BindingError::CallForQuote),
        (None, false) => is_for_the_nonce(evidence, micro, challenge).map(|()| Proof::Quote),
        (Some(claim), true) => {
            is_of_the_call(claim, evidence, micro)?;
            let entry = demanded_entry(claim, pal, challenge)?;
            demanded_state(claim, challenge)?;
            Ok(Proof::Call(Box::new(call(claim, entry, challenge)?)))
        }
    }
}

fn demands_a_call(challenge: &Challenge) -> bool {
    let Challenge { entry, number, chain, input, output, .. } = challenge;
    entry.is_some() || number.is_some() || chain.is_some() || input.is_some() || output.is_some()
}

fn is_for_the_nonce(evidence: &Evidence, micro: &Micro, challenge: &Challenge) -> Result<(), BindingError> {
    let (found, expected) = (micro.quoted.extra_data(), tagged(evidence, TAG_QUOTE, &challenge.nonce));
    if found == expected {
        return Ok(());
    }
    Err(BindingError::Nonce { found: hex(found), expected: hex(expected) })
}

fn is_of_the_call(claim: &CallClaim, evidence: &Evidence, micro: &Micro) -> Result<(), BindingError> {
    let (found, expected) = (micro.quoted.extra_data(), tagged(evidence, TAG_CALL, &claim.digest()));
    if found == expected {
        return Ok(());
    }
    Err(BindingError::Digest { found: hex(found), expected: hex(expected) })
}

/// The 1.2 form has room for a hash alone.
fn tagged(evidence: &Evidence, tag: u8, data: &[u8]) -> Vec<u8> {
    match evidence.quote.form {
        Family::V12 => Hash::Sha1.of(&[&[tag], data]),
        Family::V20 => [&[tag], data].concat(),
    }
}

fn demanded_entry<'a>(
    claim: &CallClaim,
    pal: &'a Pal,
    challenge: &Challenge,
) -> Result<&'a Entry, BindingError> {
    same("interface version", claim.abi, ABI)?;
    let entry = pal.entry.iter().find(|entry| entry.number == claim.entry);
    let entry = entry.ok_or(BindingError::Entry(claim.entry))?;
    same("entry", claim.entry, challenge.entry.unwrap_or(claim.entry))?;
    same("signature", hex(claim.signature), hex(entry.signature.bytes()))?;
    Ok(entry)
}

fn demanded_state(claim: &CallClaim, challenge: &Challenge) -> Result<(), BindingError> {
    same("nonce", hex(claim.nonce), hex(&challenge.nonce))?;
    same("number", claim.number, challenge.number.unwrap_or(claim.number))?;
    same("chain", hex(claim.chain), hex(challenge.chain.unwrap_or(claim.chain)))
}

fn same<T: PartialEq + ToString>(part: &'static str, found: T, expected: T) -> Result<(), BindingError> {
    if found == expected {
        return Ok(());
    }
    Err(BindingError::Part { part, found: found.to_string(), expected: expected.to_string() })
}

fn call(claim: &CallClaim, entry: &Entry, challenge: &Challenge) -> Result<Call, BindingError> {
    let input = data("input", &challenge.input, &claim.input, &claim.input_hash)?;
    let output = data("output", &challenge.output, &claim.output, &claim.output_hash)?;
    Ok(Call {
        entry: entry.name.clone(),
        number: claim.number,
        input_hash: claim.input_hash,
        output_hash: claim.output_hash,
        input,
        output,
        chain: claim.chain,
        next_chain: claim.next_chain(),
    })
}

/// Whoever gives it, it has to be what was hashed.
fn data(
    what: &'static str,
    ours: &Option<Vec<u8>>,
    theirs: &Option<Vec<u8>>,
    hash: &[u8; 32],
) -> Result<Option<Vec<u8>>, BindingError> {
    for (whose, bytes) in [("of the challenge", ours), ("in the evidence", theirs)] {
        let found = bytes.as_ref().map_or(*hash, |bytes| sha256(&[bytes]));
        if found != *hash {
            return Err(BindingError::Data { what, whose, found: hex(found), expected: hex(hash) });
        }
    }
    Ok(ours.as_ref().or(theirs.as_ref()).cloned())
}
