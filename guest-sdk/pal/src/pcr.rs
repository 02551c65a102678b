//! S's own PCRs in the micro-TPM. PCR 0 is the PAL's measurement and only read; 1 to 7 start at zero and are S's to extend.

use crate::hypercall::hypercall;
use abi::{Digests, Status, number};

/// Reads a PCR, both banks.
pub fn read(index: u32) -> Result<Digests, Status> {
    let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
    // SAFETY: PCR_READ writes the digests, which are borrowed mutably.
    unsafe { hypercall(number::PCR_READ, [index.into(), &raw mut digests as u64, 0, 0, 0])? };
    Ok(digests)
}

/// Extends a PCR with a digest in each bank: new = H(old || digest).
pub fn extend(index: u32, digests: &Digests) -> Result<(), Status> {
    // SAFETY: PCR_EXTEND reads the digests.
    unsafe { hypercall(number::PCR_EXTEND, [index.into(), &raw const *digests as u64, 0, 0, 0]) }.map(drop)
}
