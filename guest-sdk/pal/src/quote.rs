//! Quotes: what this PAL is and in which state, for a verifier far away.
//!
//! S gets a report; its application has the quoting PAL of TrustVisor sign it (`trustvisor::Quoting`), which turns it into a quote
//! as a TPM makes it. A report is no secret, and worth nothing after the next launch.

use crate::hypercall::hypercall;
use abi::{Status, number};

pub use abi::quote::{MAX_NONCE, MAX_REPORT, key};

/// A selection of PCRs that is the PAL's identity alone.
pub const IDENTITY: u8 = 1;

/// Writes a report on the PCRs whose bits are set in `pcrs` (bit 0, the identity, must be) and a nonce of at most [`MAX_NONCE`] bytes, for
/// the [`key`] that is to sign; returns its length, [`MAX_REPORT`] at most.
///
/// [`Status::Unsupported`] if this TrustVisor has no such key: the RSA key is there when it was saved with the root.
pub fn report(pcrs: u8, key: u8, nonce: &[u8], out: &mut [u8]) -> Result<usize, Status> {
    let what = u64::from(pcrs) | u64::from(key) << 8;
    let (at, room) = (out.as_mut_ptr() as u64, out.len() as u64);
    let arguments = [what, nonce.as_ptr() as u64, nonce.len() as u64, at, room];
    // SAFETY: QUOTE reads the nonce and writes the report, no further than there is room.
    Ok(unsafe { hypercall(number::QUOTE, arguments)? } as usize)
}
