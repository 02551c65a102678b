//! What a PAL (piece of application logic, *S*) links.
//!
//! A PAL is a `no_std` binary for the target of this repository with a list of [`entries!`], ordinary Rust functions that
//! an application calls through the stubs of the `trustvisor` crate:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! fn sum(data: &[u8]) -> u64 {
//!     data.iter().map(|b| u64::from(*b)).sum()
//! }
//!
//! trustvisor_pal::entries! {
//!     fn sum(data: &[u8]) -> u64;
//! }
//! ```
//!
//! Its build script is one line, `trustvisor_pal::build::Layout::new().emit()`, with this crate and the feature `build` among
//! the build dependencies. `cargo bare -p THE-PAL --release` links it, `trustvisor image ELF -o IMAGE` makes the image.
//!
//! S starts with the data section of its image and keeps data between calls: in a [`State`]. It has no system calls, a heap only with
//! feature `heap` and `Layout::heap(bytes)`, and the FPU only if its image says so (`trustvisor image --fpu`). Whatever goes wrong in it
//! ends it, and its application hears why ([`death`]).
//!
//! On a host all of this builds as ordinary functions, so that S's logic can have ordinary unit tests. The micro-TPM answers
//! [`Status::Unsupported`] there, or with feature `host` is a stand-in that protects nothing (`host`):
//!
//! ```toml
//! [dependencies]
//! trustvisor-pal = { path = "...", features = ["heap"] }
//! [dev-dependencies]
//! trustvisor-pal = { path = "...", features = ["host"] }
//! [build-dependencies]
//! trustvisor-pal = { path = "...", features = ["build"] }
//! ```

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(all(target_os = "none", feature = "heap"), feature(alloc_error_handler))]
#![warn(missing_docs)]

pub mod args;
#[cfg(feature = "build")]
pub mod build;
pub mod counter;
pub mod death;
pub mod encoded;
pub mod entry;
#[cfg(all(target_os = "none", feature = "heap"))]
mod heap;
#[cfg(all(not(target_os = "none"), feature = "host"))]
pub mod host;
mod hypercall;
mod list;
pub mod pcr;
pub mod quote;
pub mod random;
pub mod seal;
mod state;
mod status;

pub use abi::{Digests, Status};
pub use args::Out;
pub use state::State;
pub use status::status;
