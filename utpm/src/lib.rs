//! The micro-TPM: a small software TPM for each PAL, pure logic without hardware.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
