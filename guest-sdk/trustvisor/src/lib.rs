//! What an application links to run a PAL (piece of application logic, *S*) under TrustVisor.
//!
//! ```no_run
//! trustvisor::stubs! {
//!     /// The functions of S.
//!     pub struct Hello {
//!         fn add(a: u64, b: u64) -> u64;
//!         fn digest(out: trustvisor::Out<'_>) -> usize;
//!     }
//! }
//!
//! # fn main() -> Result<(), trustvisor::Error> {
//! # let image: &[u8] = &[];
//! let hello = Hello::register(image)?;
//! assert_eq!(hello.add(2, 3)?, 5);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Pal`] belongs to the process that registered it and is wiped when it is dropped. What S returns is only as
//! trustworthy as the machine it ran on: an application cannot tell a forged answer from S's, a remote verifier can.
//!
//! Without TrustVisor every function returns [`Error::NotPresent`]; nothing here executes VMMCALL before CPUID has said that it is
//! there.

#![warn(missing_docs)]

mod encoded;
mod error;
pub mod event_log;
mod evidence;
mod hypercall;
pub mod image;
mod info;
mod owner_page;
mod pal;
mod quoting;
mod session;
mod stubs;
mod tpm;

pub use abi;
#[doc(hidden)]
pub use encoded::Encoded;
pub use error::Error;
pub use event_log::event_log;
pub use evidence::Attested;
pub use hypercall::{hypercall, presence};
pub use info::{collect, info, saved_root};
pub use pal::Pal;
pub use quoting::{Quoting, saved_key};
pub use session::Session;
pub use tpm::{
    AIK, Family, HardwareQuote, Provision, attestation_key, hardware_quote, make_attestation_key, provision,
    remove_counters,
};
#[doc(hidden)]
pub use trustvisor_pal as __pal;
#[doc(hidden)]
pub use trustvisor_pal::args;
pub use trustvisor_pal::{Out, status};
