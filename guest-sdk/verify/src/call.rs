//! An attested call: the digest that its quote carries, and the bytes behind H(in) and H(out).

use serde::{Deserialize, Deserializer};

use crate::evidence::CallClaim;
use crate::hash::sha256;

/// The one version of the interface whose call digests are known here.
pub(crate) const ABI: u32 = 1;

/// How an entry of a PAL takes its arguments, one word a register: `none`, `int`, `in`, `out`, `in-out`, and `length` after each buffer.
///
/// ```
/// use trustvisor_verify::Signature;
///
/// let signature = Signature::from_words(&["in", "length", "int"]).unwrap();
/// assert_eq!(signature.bytes(), [2, 5, 1, 0, 0, 0]);
/// assert!(Signature::from_words(&["in", "int"]).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature([u8; 6]);

const WORDS: [&str; 6] = ["none", "int", "in", "out", "in-out", "length"];
const LENGTH: u8 = 5;

/// An argument of a call, as its caller has it.
///
/// ```
/// use trustvisor_verify::{Argument, Signature, input};
///
/// let signature = Signature::from_words(&["in", "length", "out", "length"]).unwrap();
/// let hashed = input(signature, &[Argument::In(b"abc"), Argument::Out(64)]).unwrap();
/// // Six registers, addresses left out, and what was in the buffer.
/// assert_eq!(hashed.len(), 6 * 8 + 3);
/// assert_eq!((hashed[8], hashed[24]), (3, 64));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument<'a> {
    /// An integer.
    Int(u64),
    /// A buffer that S reads.
    In(&'a [u8]),
    /// A buffer of this length that S fills.
    Out(u64),
    /// What was in a buffer that S changes.
    InOut(&'a [u8]),
}

impl Signature {
    /// From at most six words; the other registers are `none`.
    pub fn from_words(words: &[impl AsRef<str>]) -> Option<Self> {
        let mut bytes = [0; 6];
        if words.len() > bytes.len() {
            return None;
        }
        for (byte, word) in bytes.iter_mut().zip(words) {
            *byte = WORDS.iter().position(|known| *known == word.as_ref())? as u8;
        }
        follows_the_rules(&bytes).then_some(Self(bytes))
    }

    /// As the call digest has it.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

/// A buffer is followed by its length, and nothing by something.
fn follows_the_rules(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [0, rest @ ..] => rest.iter().all(|byte| *byte == 0),
        [1, rest @ ..] | [2..=4, LENGTH, rest @ ..] => follows_the_rules(rest),
        _ => false,
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        Self::from_words(&words).ok_or_else(|| {
            let known = WORDS.join(", ");
            serde::de::Error::custom(format!("{words:?}: at most six of {known}; length after each buffer"))
        })
    }
}

/// The bytes whose SHA-256 is H(in): six registers with 0 for addresses, then the contents that S was given. None if these
/// arguments do not fit the signature.
///
/// [`Argument`] has an example.
pub fn input(signature: Signature, arguments: &[Argument<'_>]) -> Option<Vec<u8>> {
    let (mut registers, mut contents) = (Vec::new(), Vec::new());
    let mut kinds = signature.0.into_iter().filter(|kind| !matches!(*kind, 0 | LENGTH));
    for argument in arguments {
        match (kinds.next()?, argument) {
            (1, Argument::Int(value)) => registers.push(*value),
            (2, Argument::In(bytes)) | (4, Argument::InOut(bytes)) => {
                registers.extend([0, bytes.len() as u64]);
                contents.extend_from_slice(bytes);
            }
            (3, Argument::Out(length)) => registers.extend([0, *length]),
            _ => return None,
        }
    }
    if kinds.next().is_some() {
        return None;
    }
    registers.resize(6, 0);
    Some([registers.into_iter().flat_map(u64::to_le_bytes).collect(), contents].concat())
}

/// The bytes whose SHA-256 is H(out): what the entry returned, then its `out` and `in-out` buffers, each in its whole length.
///
/// ```
/// assert_eq!(trustvisor_verify::output(1, &[b"ab", b"c"]), b"\x01\0\0\0\0\0\0\0abc");
/// ```
pub fn output(returned: u64, buffers: &[&[u8]]) -> Vec<u8> {
    [&returned.to_le_bytes()[..], &buffers.concat()].concat()
}

impl CallClaim {
    pub(crate) fn digest(&self) -> [u8; 32] {
        let fields: [&[u8]; 8] = [
            &self.abi.to_be_bytes(),
            &self.entry.to_be_bytes(),
            &self.signature,
            &self.nonce,
            &self.input_hash,
            &self.output_hash,
            &self.number.to_be_bytes(),
            &self.chain,
        ];
        let prefixed = fields.map(|field| [&(field.len() as u16).to_be_bytes()[..], field].concat());
        sha256(&prefixed.each_ref().map(Vec::as_slice))
    }

    /// What the next attested call of this PAL will have as its chain.
    pub(crate) fn next_chain(&self) -> [u8; 32] {
        sha256(&[&self.chain, &self.digest()])
    }
}
