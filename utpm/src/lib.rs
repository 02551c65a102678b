//! The micro-TPM: a small software TPM for each PAL, pure logic without hardware.
//!
//! Guarantees what the PAL's owner and a verifier build on: a PAL's identity is the digest of exactly its image in both
//! banks ([`Measurement`]), stands in micro-PCR 0 and never changes there, and what was extended into the others cannot be
//! taken back ([`Pcrs`]). Relies on the hash crates, and on its caller to keep each PAL's `Pcrs` where only the hypervisor
//! reaches them.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod hash;
mod pcrs;

pub use hash::{Hasher, Measurement, digest};
pub use pcrs::{PcrError, Pcrs};

#[cfg(test)]
mod tests {
    pub fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
