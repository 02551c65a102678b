//! SVM's instructions, and the switch into a guest and back (AMD APM vol. 2, chapter 15).
//!
//! VMRUN loads and stores what the VMCB holds; the general registers but RAX and RSP are [`Gprs`]. FS, GS, TR, LDTR and the
//! system-call MSRs are switched by VMLOAD and VMSAVE, and only when a PAL runs: the host uses none of them. Neither does it
//! use the FPU.

use hypervisor::addr::Hpa;
use hypervisor::gprs::Gprs;
use hypervisor::vmcb::Vmcb;

core::arch::global_asm!(
    r#"
    // fn trustvisor_enter(rdi: physical address of the VMCB, rsi: *mut Gprs, ..)
    .global trustvisor_enter
trustvisor_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    mov rax, rdi
    mov rbx, [rsi]
    mov rcx, [rsi + 8]
    mov rdx, [rsi + 16]
    mov rdi, [rsi + 32]
    mov rbp, [rsi + 40]
    mov r8, [rsi + 48]
    mov r9, [rsi + 56]
    mov r10, [rsi + 64]
    mov r11, [rsi + 72]
    mov r12, [rsi + 80]
    mov r13, [rsi + 88]
    mov r14, [rsi + 96]
    mov r15, [rsi + 104]
    mov rsi, [rsi + 24]
    vmrun rax
    xchg rsi, [rsp]
    mov [rsi], rbx
    mov [rsi + 8], rcx
    mov [rsi + 16], rdx
    mov [rsi + 32], rdi
    mov [rsi + 40], rbp
    mov [rsi + 48], r8
    mov [rsi + 56], r9
    mov [rsi + 64], r10
    mov [rsi + 72], r11
    mov [rsi + 80], r12
    mov [rsi + 88], r13
    mov [rsi + 96], r14
    mov [rsi + 104], r15
    pop qword ptr [rsi + 24]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
"#
);

// SAFETY: the routine of the assembly above takes its arguments so.
unsafe extern "C" {
    /// The third argument is not used: it tells the compiler that the VMCB changes.
    fn trustvisor_enter(vmcb: u64, regs: *mut Gprs, changed: *mut Vmcb);
}

/// Runs a guest until its next exit; `changed` is the VMCB at `vmcb`.
///
/// # Safety
/// `vmcb` is the physical address of a VMCB whose nested tables and permission maps keep the guest away from everything that is
/// not its own; EFER.SVME is set, VM_HSAVE_PA names this processor's host save area, and GIF is 0.
pub unsafe fn enter(vmcb: Hpa, changed: &mut Vmcb, regs: &mut Gprs) {
    // SAFETY: the routine saves what the calling convention asks for; the rest is the caller's contract.
    unsafe { trustvisor_enter(vmcb.0, regs, changed) }
}

/// As [`enter`], for a guest whose VMCB masks interrupts (V_INTR_MASKING): physical interrupts end its run.
///
/// # Safety
/// As [`enter`].
pub unsafe fn enter_interruptible(vmcb: Hpa, changed: &mut Vmcb, regs: &mut Gprs) {
    // SAFETY: GIF is 0, so no interrupt is taken while the flag is set here; VMRUN keeps it for the time of the guest and the
    // exit restores it.
    unsafe {
        core::arch::asm!("sti", options(nomem, nostack));
        trustvisor_enter(vmcb.0, regs, changed);
        core::arch::asm!("cli", options(nomem, nostack));
    }
}

/// Loads FS, GS, TR, LDTR and the system-call MSRs from a VMCB.
///
/// # Safety
/// `vmcb` is the physical address of a VMCB; the host uses none of these registers.
pub unsafe fn vmload(vmcb: Hpa) {
    // SAFETY: the caller's contract.
    unsafe { core::arch::asm!("vmload rax", in("rax") vmcb.0, options(nostack)) }
}

/// Stores the same into a VMCB.
///
/// # Safety
/// `vmcb` is the physical address of a VMCB that no other processor uses.
pub unsafe fn vmsave(vmcb: Hpa) {
    // SAFETY: the caller's contract.
    unsafe { core::arch::asm!("vmsave rax", in("rax") vmcb.0, options(nostack)) }
}

/// Clears the global interrupt flag: from here on only VMRUN sets it.
///
/// # Safety
/// EFER.SVME is set.
pub unsafe fn clgi() {
    // SAFETY: the caller's contract.
    unsafe { core::arch::asm!("clgi", options(nomem, nostack)) }
}
