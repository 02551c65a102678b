//! Monotonic counters, kept by the hardware TPM: whoever puts old files back, or the whole disk, does not put them back.
//!
//! A PAL (an identity) has counters of its own, by number, which all its instances share, whoever registered them; each takes one of the
//! machine's 15 places at its first increment, for ever. An increment waits for the hardware TPM (tens of milliseconds), which wears by
//! it: all programs together have 256 of them since the launch, and one more for each 10 minutes. Count what is rare, as tries of a password.
//!
//! Beside them there are counters of this launch ([`launch`]), which cost nothing and begin at 0 with the next.
//!
//! ```ignore
//! let version = counter::increment(0)?;         // counts, and then
//! seal(&[&version.to_le_bytes(), state].concat(), &Policy::this_pal()?, &mut blob)?;
//!
//! unseal(&blob, &mut state)?;                   // later, perhaps after a reboot:
//! if state[..8] != counter::read(0)?.to_le_bytes() { /* an old blob */ }
//! ```
//! Where power may fail between the increment and the blob, the application keeps the blob before: S seals for `read()? + 1` first, and
//! increments when the application has written that, beside the last one. If the increment comes to something else than was sealed
//! (another instance counted, or one before was [`Status::NotKept`], which may have counted), S seals again.

use crate::hypercall::hypercall;
use abi::{Status, number};

/// What a counter has come to; 0 before its first increment. [`Status::Unsupported`]: there are no counters on this machine, or the
/// owner of its TPM removed them (`trustvisor info` tells); then S cannot know whether what it is given is old.
pub fn read(number: u64) -> Result<u64, Status> {
    // SAFETY: COUNTER_READ takes no address.
    unsafe { hypercall(number::COUNTER_READ, [number, 0, 0, 0, 0]) }
}

/// One more; what the counter has come to. It never goes back from there. [`Status::NotKept`]: the TPM was not to be had for some
/// seconds, or failed, and may have counted or not; [`Status::TooMany`]: all places are taken.
pub fn increment(number: u64) -> Result<u64, Status> {
    // SAFETY: COUNTER_INCREMENT takes no address.
    unsafe { hypercall(number::COUNTER_INCREMENT, [number, 0, 0, 0, 0]) }
}

/// Counters that begin at 0 with each launch. What is counted in one is not taken back before the next launch, whoever kills the
/// application or registers S again. The machine has 16 places for them.
pub mod launch {
    use abi::{LAUNCH_COUNTER, Status};

    /// What a counter has come to; 0 before its first increment. [`Status::Unsupported`] as for the lasting ones.
    pub fn read(number: u64) -> Result<u64, Status> {
        super::read(number | LAUNCH_COUNTER)
    }

    /// One more, at once; what the counter has come to. [`Status::TooMany`]: all places are taken.
    pub fn increment(number: u64) -> Result<u64, Status> {
        super::increment(number | LAUNCH_COUNTER)
    }
}
