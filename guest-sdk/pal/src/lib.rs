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
//! S starts with the data section of its image and keeps data between calls. It has no heap and no system calls, and the FPU
//! only if its image says so (`trustvisor image --fpu`); a panic is an invalid opcode, after which TrustVisor wipes S.

#![cfg_attr(not(any(test, feature = "build")), no_std)]
#![warn(missing_docs)]

pub mod args;
#[cfg(feature = "build")]
pub mod build;
pub mod counter;
pub mod entry;
mod hypercall;
pub mod pcr;
pub mod quote;
pub mod random;
pub mod seal;
mod status;

pub use abi::{Digests, Status};
pub use args::Out;
pub use status::status;

#[cfg(target_os = "none")]
#[panic_handler]
fn die(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: UD2 raises #UD and nothing else; TrustVisor wipes S and never resumes it.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
