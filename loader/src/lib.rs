//! What GRUB starts. The loader checks the machine, cuts the reserve out of its memory, copies the secure loader block
//! and the runtime there, prepares the guest's start in memory of the OS, and executes SKINIT.
//!
//! It is trusted with nothing: SLB and runtime check again whatever security depends on. What it owes the user is one clear
//! line for everything that is wrong, and never to write where somebody else's bytes lie. This library is its logic, which a
//! host can test; `bin/loader` is the bare-metal shell around it.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot_params;
pub mod bytes;
pub mod bzimage;
pub mod guest;
pub mod image;
pub mod ivrs;
pub mod layout;
pub mod line;
pub mod map;
pub mod multiboot;
pub mod options;
pub mod plan;
pub mod range;
pub mod refusal;
