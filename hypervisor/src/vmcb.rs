//! The virtual machine control block (AMD APM vol. 2, appendix B), its constants, and the two kinds that TrustVisor makes: the
//! OS's, with the fewest intercepts that isolation needs, and a PAL's, with all of them.

use crate::addr::Hpa;
use crate::launch::GuestStart;
use abi::image::SENTINEL;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::{debug::Dr6Flags, rflags::RFlags};
pub use x86_64::structures::idt::ExceptionVector as Vector;
use zerocopy::FromZeros;

/// A segment register in the state save area.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, FromZeros)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Descriptor bits 55:52 and 47:40, packed.
    pub attributes: u16,
    /// Limit.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl Segment {
    const fn flat(selector: u16, attributes: u16) -> Self {
        Self { selector, attributes, limit: 0xffff_ffff, base: 0 }
    }
}

/// The control area (offset 0).
#[repr(C)]
#[derive(FromZeros)]
pub struct Control {
    /// A bit for each [`exit_code`], in their order.
    pub intercepts: [u32; 6],
    reserved_1: [u8; 0x28],
    pub iopm: u64,
    pub msrpm: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u32,
    pub v_intr: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info_1: u64,
    pub exit_info_2: u64,
    pub exit_int_info: u64,
    pub nested: u64,
    reserved_2: [u64; 2],
    pub event_inject: u64,
    pub nested_cr3: u64,
    reserved_3: [u64; 2],
    pub next_rip: u64,
    reserved_4: [u8; 0x330],
}

/// The state save area (offset 400h).
#[repr(C)]
#[derive(FromZeros)]
pub struct Save {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    reserved_1: [u8; 0x2b],
    pub cpl: u8,
    reserved_2: u32,
    pub efer: u64,
    reserved_3: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_4: [u8; 0x58],
    pub rsp: u64,
    reserved_5: [u8; 0x18],
    pub rax: u64,
    /// What VMLOAD and VMSAVE move.
    reserved_6: [u64; 8],
    pub cr2: u64,
    reserved_7: [u8; 0x20],
    pub g_pat: u64,
    reserved_8: [u8; 0x70],
    /// Where the processor virtualises SPEC_CTRL: the guest's.
    pub spec_ctrl: u64,
    reserved_9: [u8; 0x918],
}

/// A VMCB: one page. All zero, it is not runnable yet.
#[repr(C, align(4096))]
#[derive(FromZeros)]
pub struct Vmcb {
    pub control: Control,
    pub save: Save,
}

/// Asserts where fields lie in their structure.
macro_rules! offsets {
    ($structure:ty: $($field:ident $offset:literal),*) => {
        $(assert!(core::mem::offset_of!($structure, $field) == $offset);)*
    };
}
const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    offsets!(Vmcb: save 0x400);
    offsets!(Control: iopm 0x40, asid 0x58, v_intr 0x60, exit_code 0x70, exit_int_info 0x88, nested 0x90);
    offsets!(Control: event_inject 0xa8, nested_cr3 0xb0, next_rip 0xc8);
    offsets!(Save: tr 0x90, cpl 0xcb, efer 0xd0, cr4 0x148, rip 0x178, rsp 0x1d8, rax 0x1f8, cr2 0x240);
    offsets!(Save: g_pat 0x268, spec_ctrl 0x2e0);
};

/// Exit codes (appendix C). Below C0h each has its intercept. `VMEXIT_INVALID` is compared in its low 32 bits: QEMU does not
/// sign-extend it.
pub mod exit_code {
    pub const EXCEPTION_0: u32 = 0x40;
    pub const PAGE_FAULT: u32 = EXCEPTION_0 + 14;
    pub const MACHINE_CHECK: u32 = EXCEPTION_0 + 18;
    pub const EXCEPTION_31: u32 = EXCEPTION_0 + 31;
    pub const INTR: u32 = 0x60;
    pub const NMI: u32 = 0x61;
    pub const INIT: u32 = 0x63;
    pub const CPUID: u32 = 0x72;
    pub const IRET: u32 = 0x74;
    pub const INVD: u32 = 0x76;
    pub const INVLPGA: u32 = 0x7a;
    pub const IOIO: u32 = 0x7b;
    pub const MSR: u32 = 0x7c;
    pub const SHUTDOWN: u32 = 0x7f;
    pub const VMRUN: u32 = 0x80;
    pub const VMMCALL: u32 = 0x81;
    pub const SKINIT: u32 = 0x86;
    pub const WBINVD: u32 = 0x89;
    pub const INVLPGB: u32 = 0xa0;
    pub const INVLPGB_ILLEGAL: u32 = 0xa1;
    pub const TLBSYNC: u32 = 0xa4;
    pub const NPF: u32 = 0x400;
    pub const INVALID: u32 = u32::MAX;
}

/// Everything that S is not to do by itself, in the words of [`Control::intercepts`]:
/// - all reads and writes of control and debug registers, all exceptions;
/// - INTR, NMI, INIT, RDPMC, CPUID, INTn, INVD, HLT, INVLPG, INVLPGA, IN and OUT, RDMSR and WRMSR, task switches, shutdown;
/// - VMRUN to SKINIT, ICEBP, MONITOR, MWAIT (armed or not), XSETBV, RDPRU;
/// - what could reach across address spaces: INVLPGB (legal or not), INVPCID, MCOMMIT, TLBSYNC.
const PAL_INTERCEPTS: [u32; 6] = [u32::MAX, u32::MAX, u32::MAX, 0xbf64_800b, 0x7d7f, 0x1f];

/// TLB_CONTROL (15.16.2).
pub mod tlb {
    pub const KEEP: u32 = 0;
    pub const FLUSH_ALL: u32 = 1;
    pub const FLUSH_ASID: u32 = 3;
}

/// V_INTR_MASKING in `v_intr`: the host's RFLAGS.IF decides about physical interrupts.
pub const V_INTR_MASKING: u64 = 1 << 24;
/// NP_ENABLE in `nested`.
pub const NESTED_PAGING: u64 = 1;
/// "Valid" in `event_inject` and `exit_int_info`.
pub const EVENT_VALID: u64 = 1 << 31;

/// Types of events, bits 10:8: an exception, a software interrupt (INT n).
pub const EVENT_TYPE: u64 = 7 << 8;
pub const EVENT_EXCEPTION: u64 = 3 << 8;
pub const EVENT_SOFTWARE: u64 = 4 << 8;
const EVENT_HAS_ERROR_CODE: u64 = 1 << 11;

/// `event_inject` for an exception.
pub fn exception(vector: Vector, error_code: Option<u32>) -> u64 {
    let code = error_code.map_or(0, |code| EVENT_HAS_ERROR_CODE | u64::from(code) << 32);
    EVENT_VALID | EVENT_EXCEPTION | vector as u64 | code
}

pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;
pub const EFER_SVME: u64 = 1 << 12;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_PG: u64 = 1 << 31;
pub const CR4_LA57: u64 = 1 << 12;
pub const CR4_OSXSAVE: u64 = 1 << 18;
pub const CR4_PKE: u64 = 1 << 22;
pub const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_FIXED: u64 = 1 << 1;
/// Power-on value of the page attribute table (7.8.2), for which all tables are made.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// `CS.L` in [`Segment::attributes`].
pub const ATTR_LONG: u16 = 1 << 9;
const KERNEL_CODE: u16 = 0x29b;
const KERNEL_DATA: u16 = 0xc93;
const USER_CODE: u16 = 0x2fb;
const USER_DATA: u16 = 0xcf3;
const BUSY_TSS: u16 = 0x8b;
const LDT: u16 = 0x82;

/// The ASID of the OS.
pub const OS_ASID: u32 = 1;

/// Physical addresses of the permission maps and nested tables that a VMCB names; a PAL has no nested tables.
#[derive(Clone, Copy)]
pub struct Maps {
    pub nested_cr3: Hpa,
    pub msrpm: Hpa,
    pub iopm: Hpa,
}

impl Default for Vmcb {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Vmcb {
    /// What both kinds have: 64-bit mode, and else what a reset leaves. No intercepts yet.
    fn reset(&mut self, maps: Maps) {
        *self = Self::new_zeroed();
        let control = &mut self.control;
        control.msrpm = maps.msrpm.0;
        control.iopm = maps.iopm.0;
        let save = &mut self.save;
        save.ldtr = Segment { attributes: LDT, ..Segment::default() };
        save.efer = EFER_LME | EFER_LMA | EFER_SVME;
        let cr0 = Cr0Flags::PAGING | Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR;
        save.cr0 = (cr0 | Cr0Flags::EXTENSION_TYPE | Cr0Flags::PROTECTED_MODE_ENABLE).bits();
        save.cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits();
        save.rflags = RFLAGS_FIXED;
        (save.dr6, save.dr7, save.g_pat) = (DR6_RESET, DR7_RESET, PAT_RESET);
    }

    /// The OS's, at its first instruction.
    pub fn init_os(&mut self, maps: Maps, start: &GuestStart) {
        use exit_code::*;
        self.reset(maps);
        let control = &mut self.control;
        control.nested = NESTED_PAGING;
        control.nested_cr3 = maps.nested_cr3.0;
        control.intercept([CPUID, INVD, INVLPGA, IOIO, MSR, SHUTDOWN]);
        control.intercept(VMRUN..=SKINIT);
        control.intercept([INVLPGB, INVLPGB_ILLEGAL, TLBSYNC]);
        control.asid = OS_ASID;
        control.tlb_control = tlb::FLUSH_ALL;
        let save = &mut self.save;
        save.cs = Segment::flat(0x10, KERNEL_CODE);
        let data = Segment::flat(0x18, KERNEL_DATA);
        (save.ss, save.ds, save.es, save.fs, save.gs) = (data, data, data, data, data);
        save.gdtr =
            Segment { base: start.gdt_base, limit: start.gdt_limit as u32 & 0xffff, ..Segment::default() };
        save.tr = Segment { attributes: BUSY_TSS, limit: 0x67, ..Segment::default() };
        (save.cr3, save.rip, save.rsp) = (start.cr3, start.rip, start.rsp);
    }

    /// A PAL's, before its first call: CPL 3, every way out intercepted, page tables that lead to frames.
    pub fn init_pal(&mut self, maps: Maps, root: Hpa, fpu: bool) {
        self.reset(maps);
        let control = &mut self.control;
        control.intercepts = PAL_INTERCEPTS;
        control.v_intr = V_INTR_MASKING;
        let save = &mut self.save;
        save.cs = Segment::flat(0x33, USER_CODE);
        let data = Segment::flat(0x2b, USER_DATA);
        (save.ss, save.ds, save.es) = (data, data, data);
        save.tr = Segment { attributes: BUSY_TSS, ..Segment::default() };
        save.cpl = 3;
        save.cr3 = root.0;
        save.efer |= EFER_NXE;
        // Else a machine check is no exception, which is intercepted, but a shutdown.
        save.cr4 |= Cr4Flags::MACHINE_CHECK_EXCEPTION.bits();
        save.cr0 |= Cr0Flags::MONITOR_COPROCESSOR.bits();
        if fpu {
            save.cr4 |= (Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE | Cr4Flags::OSXSAVE).bits();
        } else {
            // The first FPU instruction is #NM, a fault like any other.
            save.cr0 |= Cr0Flags::TASK_SWITCHED.bits();
        }
    }

    /// Puts a PAL at an entry, with the stack as after a CALL from [`SENTINEL`]'s place. At CPL 3 S changes none of the other
    /// fields but by an exit that it does not survive.
    pub fn start_call(&mut self, entry: u64, rsp: u64) {
        let save = &mut self.save;
        (save.rip, save.rsp, save.rax, save.cr2) = (entry, rsp, 0, 0);
        save.rflags = RFLAGS_FIXED | RFLAGS_IF;
    }

    /// Whether the last exit is the return of S: an instruction fetch of [`SENTINEL`] with the stack as a RET leaves it.
    pub fn is_return(&self, entry_rsp: u64) -> bool {
        /// Not present, user, instruction fetch (8.4.2).
        const USER_FETCH: u64 = 1 << 4 | 1 << 2;
        self.exit_code() == exit_code::PAGE_FAULT
            && self.control.exit_info_1 & 0xffff_ffff == USER_FETCH
            && self.control.exit_info_2 == SENTINEL
            && self.save.rip == SENTINEL
            && self.save.rsp == entry_rsp.wrapping_add(8)
    }

    /// The exit code; see [`exit_code`].
    pub fn exit_code(&self) -> u32 {
        self.control.exit_code as u32
    }

    /// Queues an exception for the next VMRUN.
    pub fn inject(&mut self, vector: Vector, error_code: Option<u32>) {
        self.control.event_inject = exception(vector, error_code);
    }

    /// Moves past an instruction: by what the CPU decoded where it says so (nRIP), else by `length`.
    pub fn skip(&mut self, length: u64, nrip: bool) {
        self.go_on_at(match self.control.next_rip {
            next if nrip && next != 0 => next,
            _ => self.save.rip.wrapping_add(length),
        });
    }

    /// As at the end of an instruction: the next one is at `rip`, shadow and RF are over, and single-stepping traps (APM vol. 2,
    /// 13.1.4).
    pub fn go_on_at(&mut self, rip: u64) {
        self.save.rip = rip;
        self.save.rflags &= !RFlags::RESUME_FLAG.bits();
        self.control.interrupt_shadow = 0;
        if self.save.rflags & RFlags::TRAP_FLAG.bits() != 0 {
            self.save.dr6 |= Dr6Flags::STEP.bits();
            self.inject(Vector::Debug, None);
        }
    }
}

impl Control {
    fn intercept(&mut self, codes: impl IntoIterator<Item = u32>) {
        for code in codes {
            self.intercepts[code as usize / 32] |= 1 << (code % 32);
        }
    }

    /// From now on interrupts are exits, or the returns from them, or neither.
    pub fn watch(&mut self, code: Option<u32>) {
        for code in [exit_code::INTR, exit_code::IRET] {
            self.intercepts[code as usize / 32] &= !(1 << (code % 32));
        }
        self.intercept(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: Maps = Maps { nested_cr3: Hpa(0x1000), msrpm: Hpa(0x2000), iopm: Hpa(0x4000) };

    /// At CPL 3 most of these fault before the intercept counts; none may depend on that.
    #[test]
    fn a_pal_has_no_way_out_that_is_not_intercepted() {
        let mut vmcb = Vmcb::new_zeroed();
        vmcb.init_pal(MAPS, Hpa(0x5000), false);
        let control = &vmcb.control;
        assert_eq!(control.intercepts[..3], [u32::MAX; 3], "control and debug registers, exceptions");
        // INTR, NMI, INIT, RDPMC, CPUID, INTn, INVD, HLT, INVLPG, INVLPGA, I/O, MSRs, task switches, shutdown.
        for bit in [0, 1, 3, 15, 18, 21, 22, 24, 25, 26, 27, 28, 29, 31] {
            assert_ne!(control.intercepts[3] & 1 << bit, 0, "{bit}");
        }
        // VMRUN to SKINIT, ICEBP, MONITOR, MWAIT (two), XSETBV, RDPRU; INVLPGB to TLBSYNC.
        for bit in (0..=6).chain([8, 10, 11, 12, 13, 14]) {
            assert_ne!(control.intercepts[4] & 1 << bit, 0, "{bit}");
        }
        // IRET, which S cannot execute, is none of the way out of a call; what has no instruction stays clear.
        assert_eq!((control.intercepts[3] & 1 << 20, control.intercepts[4] >> 15), (0, 0));
        assert_eq!(control.intercepts[5], 0x1f);
        assert_ne!(vmcb.save.cr4 & Cr4Flags::MACHINE_CHECK_EXCEPTION.bits(), 0);
        assert_ne!(control.v_intr & V_INTR_MASKING, 0);
        assert_eq!((control.nested, vmcb.save.cr3, control.msrpm, control.iopm), (0, 0x5000, 0x2000, 0x4000));
        assert_eq!(
            (vmcb.save.cpl, vmcb.save.idtr.limit, vmcb.save.efer & 1),
            (3, 0, 0),
            "no IDT, no SYSCALL"
        );
    }

    #[test]
    fn without_an_fpu_s_faults_at_its_first_use_of_it() {
        for fpu in [false, true] {
            let mut vmcb = Vmcb::new_zeroed();
            vmcb.init_pal(MAPS, Hpa(0x5000), fpu);
            assert_eq!(
                (vmcb.save.cr0 & Cr0Flags::TASK_SWITCHED.bits() == 0, vmcb.save.cr4 & CR4_OSXSAVE != 0),
                (fpu, fpu)
            );
        }
    }

    #[test]
    fn every_condition_of_a_return_counts() {
        let is_return = |change: &dyn Fn(&mut Vmcb)| {
            let mut vmcb = Vmcb::new_zeroed();
            vmcb.control.exit_code = exit_code::PAGE_FAULT.into();
            (vmcb.control.exit_info_1, vmcb.control.exit_info_2) = (0x14, SENTINEL);
            (vmcb.save.rip, vmcb.save.rsp) = (SENTINEL, 0x1000);
            change(&mut vmcb);
            vmcb.is_return(0xff8)
        };
        assert!(is_return(&|_| ()));
        assert!(!is_return(&|vmcb| vmcb.control.exit_code -= 1));
        for error_code in [0x04, 0x06, 0x10, 0x15] {
            assert!(!is_return(&|vmcb| vmcb.control.exit_info_1 = error_code), "{error_code:#x}");
        }
        assert!(!is_return(&|vmcb| vmcb.control.exit_info_2 += 1));
        assert!(!is_return(&|vmcb| vmcb.save.rip -= 1));
        assert!(!is_return(&|vmcb| vmcb.save.rsp -= 8));
    }

    #[test]
    fn an_instruction_done_for_the_guest_ends_like_any_other() {
        let mut vmcb = Vmcb::new_zeroed();
        vmcb.control.interrupt_shadow = 1;
        (vmcb.save.rip, vmcb.save.rflags) = (u64::MAX, RFlags::RESUME_FLAG.bits() | 2);
        vmcb.skip(3, true);
        assert_eq!((vmcb.save.rip, vmcb.save.rflags, vmcb.control.interrupt_shadow), (2, 2, 0));
        assert_eq!((vmcb.control.event_inject, vmcb.save.dr6), (0, 0));
        vmcb.control.next_rip = 0x1004;
        vmcb.save.rflags |= RFlags::TRAP_FLAG.bits();
        vmcb.skip(3, true);
        assert_eq!((vmcb.save.rip, vmcb.control.event_inject, vmcb.save.dr6), (0x1004, 0x8000_0301, 1 << 14));
    }

    #[test]
    fn the_os_cannot_use_svm() {
        let mut vmcb = Vmcb::new_zeroed();
        vmcb.init_os(MAPS, &GuestStart::default());
        // CPUID, INVD, INVLPGA, I/O, MSRs, shutdown, and nothing else: interrupts, HLT and the like are the OS's.
        let few = [18, 22, 26, 27, 28, 31].iter().fold(0, |bits, bit| bits | 1 << bit);
        assert_eq!(
            vmcb.control.intercepts,
            [0, 0, 0, few, 0x7f, 0x13],
            "VMRUN to SKINIT; INVLPGB and TLBSYNC"
        );
        assert_eq!((vmcb.control.asid, vmcb.control.tlb_control), (OS_ASID, tlb::FLUSH_ALL));
        assert_eq!((vmcb.control.nested, vmcb.control.nested_cr3), (1, 0x1000));
    }
}
