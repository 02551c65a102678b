//! How S ends itself, so that the application can tell why.
//!
//! TrustVisor says of an S that died which exception it raised. Rust code raises none of these two by itself: divisions are checked,
//! and nobody steps through S.

/// What `Status::Faulted` says of a panic: the vector of a debug exception (#DB).
pub const PANIC: u64 = 1;
/// What it says when the heap has no room for an allocation that has to succeed: that of a division error (#DE).
pub const OUT_OF_MEMORY: u64 = 0;

#[cfg(target_os = "none")]
mod bare {
    use core::arch::asm;

    #[panic_handler]
    fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
        // SAFETY: after the instruction that follows POPFQ the trap flag raises #DB, whereupon TrustVisor wipes S and never resumes it.
        unsafe { asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "ud2", options(noreturn)) }
    }

    #[cfg(feature = "heap")]
    #[alloc_error_handler]
    fn out_of_memory(_: core::alloc::Layout) -> ! {
        // SAFETY: a division by zero raises #DE, whereupon TrustVisor wipes S and never resumes it.
        unsafe { asm!("xor ecx, ecx", "div ecx", "ud2", options(noreturn)) }
    }
}
