//! What answers requests: S, or in tests the software token.

#[cfg(not(feature = "software"))]
mod pal;
#[cfg(feature = "software")]
mod software;

#[cfg(not(feature = "software"))]
pub use pal::{MODEL, start};
#[cfg(feature = "software")]
pub use software::{MODEL, start};

use crate::outcome::Rv;

/// A token's other side.
pub trait Backend: Send {
    /// The encoded answer to an encoded request.
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Failure>;
    /// Evidence for a report of its own over this nonce, or why there is none.
    fn evidence(&self, report: &[u8], nonce: &[u8]) -> Result<String, String>;
}

/// No answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// S is no more, and with it every session: there can be a new one.
    Gone,
    /// There is none to be had, or it cannot take this request.
    Refused(Rv),
}
