//! Random numbers of the micro-TPM, which the OS neither knows nor steers.

use crate::hypercall::hypercall;
use abi::{MAX_RANDOM, Status, number};

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) -> Result<(), Status> {
    for part in bytes.chunks_mut(MAX_RANDOM) {
        // SAFETY: RANDOM writes so many bytes there, which are borrowed mutably.
        unsafe { hypercall(number::RANDOM, [part.as_mut_ptr() as u64, part.len() as u64, 0, 0, 0])? };
    }
    Ok(())
}
