//! S's way to TrustVisor; on a host, to its stand-in, if there is one (feature `host`).

use abi::Status;

/// A hypercall on a host.
///
/// # Safety
/// As on the bare machine.
#[cfg(not(target_os = "none"))]
pub(crate) unsafe fn hypercall(number: u16, arguments: [u64; 5]) -> Result<u64, Status> {
    #[cfg(feature = "host")]
    {
        // SAFETY: the stand-in uses the same memory as TrustVisor would.
        unsafe { crate::host::hypercall(number, arguments) }
    }
    #[cfg(not(feature = "host"))]
    {
        let _ = (number, arguments);
        Err(Status::Unsupported)
    }
}

/// A hypercall of S; the arguments go in RDI, RSI, RDX, RCX and R8.
///
/// # Safety
/// The number is one of S's, and the pointers among the arguments are to memory of S that the hypercall may use as it does.
#[cfg(target_os = "none")]
pub(crate) unsafe fn hypercall(number: u16, arguments: [u64; 5]) -> Result<u64, Status> {
    let [rdi, rsi, rdx, rcx, r8] = arguments;
    let (value, status): (u64, u64);
    // SAFETY: VMMCALL from S is a call of TrustVisor, which changes RAX and RDX, and memory as the caller answers for.
    unsafe {
        core::arch::asm!(
            "vmmcall",
            inlateout("rax") u64::from(number) => value,
            inlateout("rdx") rdx => status,
            in("rdi") rdi,
            in("rsi") rsi,
            in("rcx") rcx,
            in("r8") r8,
            options(nostack, preserves_flags),
        );
    }
    match crate::status(status) {
        Some(Status::Ok) => Ok(value),
        Some(status) => Err(status),
        None => Err(Status::Unsupported),
    }
}
