//! The micro-TPM: a small software TPM for each PAL, pure logic without hardware.
//!
//! Guarantees what the PAL's owner and a verifier build on: a PAL's identity is the digest of exactly its image in both
//! banks ([`Hasher::measurement`]), stands in micro-PCR 0 and never changes there, and what was extended into the others cannot be
//! taken back ([`Pcrs`]); what it seals opens for those it was sealed for alone, and tells them who sealed it ([`mod@seal`]); a
//! report says of a PAL what is true of it ([`quote`]), for the keys of [`Identity`] to sign.
//! Relies on the crates for hashing and encryption, and on its caller to keep each PAL's `Pcrs` and the [`Root`] where only the
//! hypervisor reaches them.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod counters;
mod hash;
mod identity;
pub mod manifest;
mod pcrs;
pub mod quote;
pub mod random;
mod root;
pub mod seal;

pub use counters::{Counters, Increment};
pub use hash::{Hasher, digest, extended, mac};
pub use identity::{Identity, QuotingKeys};
pub use pcrs::Pcrs;
pub use root::Root;

#[cfg(test)]
mod tests {
    pub fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.iter().map(byte).collect()
    }
}
