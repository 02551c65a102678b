//! What AMD documents against speculation across the border between the OS and S, on every entry to S and exit from it: what one side
//! has trained, or left in the processor's buffers, must not steer the other side or tell about it.
//!
//! Sources: AMD's "Software techniques for managing speculation" and "Indirect branch control extension", and the security bulletins
//! on the divider (AMD-SB-7007) and on transient scheduler attacks (AMD-SB-7036). Where CPUID offers nothing, nothing is done. The
//! hypervisor's own indirect branches are retpolines (the target's features); its returns are not guarded against what the OS trained.

use crate::processor::cpuid;
use core::arch::asm;
use hypervisor::vmcb::Vmcb;
use x86_64::registers::model_specific::Msr;

/// SPEC_CTRL and its STIBP (the sibling thread's branches do not steer this one); PRED_CMD and its IBPB.
const SPEC_CTRL: u32 = 0x48;
const STIBP: u64 = 1 << 1;
const PRED_CMD: u32 = 0x49;
const IBPB: u64 = 1 << 0;

/// What this processor offers.
pub struct Speculation {
    ibpb: bool,
    /// IBPB leaves the return predictor as it is.
    fill_returns: bool,
    /// SPEC_CTRL for S, in addition to the OS's; where the processor does not switch it by the VMCB.
    for_s: u64,
    /// The same where it does.
    for_vmcb: u64,
    /// The OS's SPEC_CTRL while S runs.
    os: u64,
}

impl Speculation {
    /// By CPUID 8000_0008 EBX and 8000_000A EDX.
    pub fn new() -> Self {
        let features = cpuid(0x8000_0008, 0).ebx;
        let has = |bit: u32| features & 1 << bit != 0;
        let stibp = if has(15) { STIBP } else { 0 };
        let virtualised = cpuid(0x8000_000a, 0).edx & 1 << 20 != 0;
        let (for_s, for_vmcb) = if virtualised { (0, stibp) } else { (stibp, 0) };
        Self { ibpb: has(12), fill_returns: has(12) && !has(30), for_s, for_vmcb, os: 0 }
    }

    /// Whether the processor offers anything.
    pub fn does_anything(&self) -> bool {
        self.ibpb || self.for_s | self.for_vmcb != 0
    }

    /// S is about to run.
    pub fn enter(&mut self, pal: &mut Vmcb) {
        self.barrier();
        pal.save.spec_ctrl = self.for_vmcb;
        if self.for_s != 0 {
            let mut register = Msr::new(SPEC_CTRL);
            // SAFETY: a processor with STIBP has this register; only the speed of what runs depends on it.
            unsafe {
                self.os = register.read();
                register.write(self.os | self.for_s);
            }
        }
    }

    /// S has stopped running.
    pub fn leave(&self) {
        if self.for_s != 0 {
            // SAFETY: the value that `enter` found there.
            unsafe { Msr::new(SPEC_CTRL).write(self.os) };
        }
        self.barrier();
    }

    fn barrier(&self) {
        if self.ibpb {
            if self.fill_returns {
                fill_returns();
            }
            // SAFETY: CPUID says that the register is there; it only forgets predictions.
            unsafe { Msr::new(PRED_CMD).write(IBPB) };
        }
    }
}

/// Clears what S and the hypervisor have left in the divider, and in the buffers that VERW clears where the processor does that:
/// the last thing before the OS runs.
#[inline(always)]
pub fn clear_buffers() {
    // SAFETY: a division without a remainder, and VERW of the data segment: no effect but on the processor's buffers.
    unsafe {
        asm!(
            "div {one:e}",
            "verw word ptr [{selector}]",
            one = in(reg) 1u32,
            selector = in(reg) &DATA_SEGMENT,
            inout("eax") 0u32 => _,
            inout("edx") 0u32 => _,
            options(nostack, readonly),
        );
    }
}

/// The data segment of [`crate::entry`]'s table.
static DATA_SEGMENT: u16 = 0x10;

/// Puts harmless entries into the whole of the return predictor, which holds 32 at most.
fn fill_returns() {
    // SAFETY: 32 calls to the next instruction but one, and the stack as it was.
    unsafe {
        asm!(".rept 32", "call 2f", "int3", "2:", ".endr", "add rsp, 32 * 8",);
    }
}
