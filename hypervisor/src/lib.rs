//! TrustVisor's trusted code but for the micro-TPM: what the secure loader block (SLB) and the runtime are made of.
//! Whatever can be tested on a host is here; the binaries in `bin/` are the bare-metal shells around it.

#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod launch;
