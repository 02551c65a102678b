//! TrustVisor's trusted code but for the micro-TPM: what the secure loader block (SLB) and the runtime are made of.
//! Whatever can be tested on a host is here; the binaries in `bin/` are the bare-metal shells around it.

#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod asid;
pub mod check;
pub mod chipset;
pub mod cpu;
pub mod cpuid;
pub mod dma;
pub mod exceptions;
pub mod exit;
pub mod frames;
pub mod gprs;
pub mod guest_memory;
pub mod hypercall;
pub mod hypervisor;
pub mod ioapic;
pub mod ioports;
pub mod lapic;
pub mod launch;
pub mod memory;
pub mod msr;
pub mod npt;
pub mod options;
pub mod paging;
pub mod pal;
pub mod pci;
pub mod profiling;
pub mod release;
pub mod serial;
pub mod slb;
pub mod tables;
pub mod tpm;
pub mod vmcb;
