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
/// `vmcb` is the physical address of a VMCB whose nested tables and permission maps keep the guest away from everything that is
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
            "mov rbx, [rsi]",
            "mov rcx, [rsi + 8]",
            "mov rdx, [rsi + 16]",
            "mov rdi, [rsi + 32]",
            "mov rbp, [rsi + 40]",
            "mov r8, [rsi + 48]",
            "mov r9, [rsi + 56]",
            "mov r10, [rsi + 64]",
            "mov r11, [rsi + 72]",
            "mov r12, [rsi + 80]",
            "mov r13, [rsi + 88]",
            "mov r14, [rsi + 96]",
            "mov r15, [rsi + 104]",
            "mov rsi, [rsi + 24]",
            "vmrun rax",
            "xchg rsi, [rsp]",
            "mov [rsi], rbx",
            "mov [rsi + 8], rcx",
            "mov [rsi + 16], rdx",
            "mov [rsi + 32], rdi",
            "mov [rsi + 40], rbp",
            "mov [rsi + 48], r8",
            "mov [rsi + 56], r9",
            "mov [rsi + 64], r10",
            "mov [rsi + 72], r11",
            "mov [rsi + 80], r12",
            "mov [rsi + 88], r13",
            "mov [rsi + 96], r14",
            "mov [rsi + 104], r15",
            "pop qword ptr [rsi + 24]",
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
