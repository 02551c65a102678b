//! SVM's instructions, and the switch into a guest and back (AMD APM vol. 2, chapter 15).
//!
//! VMRUN loads and stores what the VMCB holds; the general registers but RAX and RSP are [`Gprs`]. FS, GS, TR, LDTR and the
//! system-call MSRs are switched by VMLOAD and VMSAVE, and only when a PAL runs: the host uses none of them. Neither does it
//! use the FPU.

use core::arch::asm;
use hypervisor::addr::Hpa;
use hypervisor::gprs::Gprs;
use hypervisor::vmcb::Vmcb;

/// Runs a guest until its next exit; `changed` is the VMCB at `vmcb`.
///
/// # Safety
/// `vmcb` is the physical address of a VMCB whose tables (nested ones, or a PAL's own) and permission maps keep the guest away from everything that is
/// not its own; EFER.SVME is set, VM_HSAVE_PA names this processor's host save area, and GIF is 0.
#[inline(always)]
pub unsafe fn enter(vmcb: Hpa, changed: &mut Vmcb, regs: &mut Gprs) {
    // An operand tells the compiler that the VMCB changes.
    let changed: *mut Vmcb = changed;
    // SAFETY: the routine gives back RBX and RBP, and names or (by the ABI) clobbers all other registers; what it writes is `regs` and, by the
    // processor, the VMCB. The rest is the caller's contract.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rsi",
            ".set at, 0",
            ".irp register, rbx, rcx, rdx, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15",
            "mov \\register, [rsi + at]",
            ".set at, at + 8",
            ".endr",
            "mov rsi, [rsi + at]",
            "vmrun rax",
            "xchg rsi, [rsp]",
            ".set at, 0",
            ".irp register, rbx, rcx, rdx, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15",
            "mov [rsi + at], \\register",
            ".set at, at + 8",
            ".endr",
            "pop qword ptr [rsi + at]",
            "pop rbp",
            "pop rbx",
            inout("rax") vmcb.0 => _,
            inout("rsi") &raw mut *regs => _,
            inout("rdi") changed => _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            clobber_abi("sysv64"),
        );
    }
}

/// As [`enter`], for a guest whose VMCB masks interrupts (V_INTR_MASKING): physical interrupts end its run.
///
/// # Safety
/// As [`enter`].
#[inline(always)]
pub unsafe fn enter_interruptible(vmcb: Hpa, changed: &mut Vmcb, regs: &mut Gprs) {
    // SAFETY: GIF is 0, so no interrupt is taken while the flag is set here; VMRUN keeps it for the time of the guest and the
    // exit restores it.
    unsafe {
        asm!("sti", options(nomem, nostack));
        enter(vmcb, changed, regs);
        asm!("cli", options(nomem, nostack));
    }
}

/// Loads FS, GS, TR, LDTR and the system-call MSRs from a VMCB.
///
/// # Safety
/// `vmcb` is the physical address of a VMCB; the host uses none of these registers.
pub unsafe fn vmload(vmcb: Hpa) {
    // SAFETY: the caller's contract.
    unsafe { asm!("vmload rax", in("rax") vmcb.0, options(nostack)) }
}

/// Stores the same into a VMCB.
///
/// # Safety
/// `vmcb` is the physical address of a VMCB that no other processor uses.
pub unsafe fn vmsave(vmcb: Hpa) {
    // SAFETY: the caller's contract.
    unsafe { asm!("vmsave rax", in("rax") vmcb.0, options(nostack)) }
}

/// Clears the global interrupt flag: from here on only VMRUN sets it.
///
/// # Safety
/// EFER.SVME is set.
pub unsafe fn clgi() {
    // SAFETY: the caller's contract.
    unsafe { asm!("clgi", options(nomem, nostack)) }
}
