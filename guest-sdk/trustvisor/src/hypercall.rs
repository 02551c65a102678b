//! The instruction, and the question that must come before it: on a machine without TrustVisor VMMCALL is #UD or
//! somebody else's hypercall.

use crate::Error;
use abi::{Handle, cpuid};
use std::arch::x86_64::__cpuid;

/// Asks CPUID for TrustVisor and answers the version of its interface.
pub fn presence() -> Result<u32, Error> {
    let leaf = __cpuid(cpuid::PRESENCE);
    if [leaf.ebx, leaf.ecx, leaf.edx] != cpuid::SIGNATURE {
        return Err(Error::NotPresent);
    }
    if leaf.eax != abi::VERSION {
        return Err(Error::Version(leaf.eax));
    }
    Ok(leaf.eax)
}

/// One hypercall, as it is: `call` is the number and, for [`abi::number::CALL`], the entry in bits 31:16. Answers RAX and RDX.
///
/// The processor may take interrupts and page faults at the instruction while TrustVisor is not finished; the kernel brings
/// it back there with all registers as they were, RAX holding a token, which is what continues the call. A signal
/// handler may make calls of its own meanwhile: the kernel keeps the token in the signal frame.
///
/// # Safety
/// [`presence`] answered a version. Every address among the arguments that this call reads is memory the caller may read,
/// and what it writes is memory the caller may write and has no other reference to.
pub unsafe fn hypercall(call: u64, handle: Handle, arguments: [u64; 6]) -> (u64, u64) {
    // SAFETY: by the contract; no other call looks at the nonce's registers.
    unsafe { hypercall_with_nonce(call, handle, arguments, [0; 4]) }
}

/// The same with a nonce, for [`abi::number::CALL_ATTESTED`].
///
/// # Safety
/// As of [`hypercall`].
#[inline(never)]
pub(crate) unsafe fn hypercall_with_nonce(
    call: u64,
    handle: Handle,
    arguments: [u64; 6],
    nonce: [u64; 4],
) -> (u64, u64) {
    let [rdi, rsi, rdx, rcx, r8, r9] = arguments;
    let (value, status);
    // SAFETY: by the contract; VMMCALL changes RAX, RDX and the memory named by the arguments, nothing else.
    unsafe {
        core::arch::asm!(
            "vmmcall",
            inlateout("rax") call => value,
            in("rdi") rdi,
            in("rsi") rsi,
            inlateout("rdx") rdx => status,
            in("rcx") rcx,
            in("r8") r8,
            in("r9") r9,
            in("r10") handle.low,
            in("r11") handle.high,
            in("r12") nonce[0],
            in("r13") nonce[1],
            in("r14") nonce[2],
            in("r15") nonce[3],
            options(nostack, preserves_flags),
        );
    }
    (value, status)
}

/// Where a call takes no handle.
pub(crate) const NO_HANDLE: Handle = Handle { low: 0, high: 0 };
