//! TrustVisor's trusted code but for the micro-TPM: what the secure loader block (SLB) and the runtime are made of.
//! Whatever can be tested on a host is here; the binaries in `bin/` are the bare-metal shells around it.

#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod asid;
pub mod caller;
pub mod cpu;
pub mod cpuid;
#[cfg(target_os = "none")]
pub mod entry;
pub mod event_log;
pub mod exit;
pub mod frames;
pub mod guest_memory;
pub mod hypercall;
pub mod hypervisor;
pub mod lapic;
pub mod launch;
pub mod memory;
pub mod msr;
pub mod npt;
pub mod options;
pub mod pal;
pub mod paging;
pub mod random;
#[cfg(target_os = "none")]
pub mod runtime;
pub mod serial;
pub mod slb;
#[cfg(target_os = "none")]
pub mod smp;
pub mod svm;
pub mod tables;
pub mod tpm;
pub mod vmcb;
