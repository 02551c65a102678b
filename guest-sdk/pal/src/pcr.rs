//! S's own PCRs in the micro-TPM. PCR 0 is the PAL's measurement and only read; 1 to 7 start at zero and are S's to extend.

use abi::{Digests, Status, number};

/// Reads a PCR, both banks.
pub fn read(index: u32) -> Result<Digests, Status> {
    let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
    hypercall(number::PCR_READ, index, &raw mut digests)?;
    Ok(digests)
}

/// Extends a PCR with a digest in each bank: new = H(old || digest).
pub fn extend(index: u32, digests: &Digests) -> Result<(), Status> {
    hypercall(number::PCR_EXTEND, index, (&raw const *digests).cast_mut())
}

fn hypercall(number: u16, index: u32, digests: *mut Digests) -> Result<(), Status> {
    let status: u64;
    // SAFETY: VMMCALL from S is a call of TrustVisor, which clobbers RAX and RDX only. PCR_READ writes the digests, which `read`
    // lends mutably; PCR_EXTEND only reads them.
    unsafe {
        core::arch::asm!(
            "vmmcall",
            inlateout("rax") u64::from(number) => _,
            lateout("rdx") status,
            in("rdi") u64::from(index),
            in("rsi") digests,
            options(nostack, preserves_flags),
        );
    }
    match Status::from_raw(status) {
        Some(Status::Ok) => Ok(()),
        Some(status) => Err(status),
        None => Err(Status::Unsupported),
    }
}
