//! One processor: the OS's VMCB and registers, its ASIDs, and how long it holds interrupts off.

use crate::addr::{Gva, Hpa};
use crate::exit::{End, Next};
use crate::gprs::Gprs;
use crate::guest_memory::{GuestMemory, Space};
use crate::ioports::Guard;
use crate::memory::{DirectMap, RamMap};
use crate::tables::ADDRESS;
use crate::vmcb::{
    ATTR_LONG, CR0_PG, EFER_LMA, EVENT_EXCEPTION, EVENT_SOFTWARE, EVENT_TYPE, EVENT_VALID, Vector, Vmcb, tlb,
};
use core::cell::Cell;

/// What the processor offers, by CPUID.
#[derive(Clone, Copy, Default, Debug)]
pub struct Features {
    /// The exit tells where the next instruction is.
    pub nrip: bool,
    pub flush_by_asid: bool,
    pub asids: u32,
    pub phys_bits: u32,
    /// Protection keys for user pages.
    pub pku: bool,
    /// PALs can have an FPU: XSAVE is there, and the state of everything that it saves fits into a page.
    pub fpu: bool,
    /// The bits of EFER that a guest may set.
    pub writable_efer: u64,
    /// APIC_BASE, which the guest does not change.
    pub apic_base: u64,
}

/// A processor that runs the OS.
#[derive(Default)]
pub struct Cpu {
    pub os: Vmcb,
    pub regs: Gprs,
    pub features: Features,
    /// Where the OS's VMCB lies.
    pub os_hpa: Hpa,
    /// The MSR permission map for when the OS has begun to profile.
    pub profiling_msrpm: Hpa,
    /// Longest stretch with interrupts held off.
    pub held_max: u64,
    pub tsc_per_ms: u64,
    /// A machine check came while S ran: the OS gets it.
    pub machine_check: Cell<bool>,
    /// Judges what the guest writes to ports.
    pub ports: Guard,
    /// Where the last fault was that a hypercall raised, and how often, one after another: a guest that does not mend it is told so.
    fault: Spot,
    repeated: u8,
}

/// Faults for the same byte by the same instruction: CR3, RIP, the address.
type Spot = (u64, u64, Gva);

/// As many #PF for one spot are raised before the call gives up.
const MAX_REPEATED: u8 = 3;

impl Cpu {
    /// Before its VMCB is initialised.
    pub fn new(features: Features, tsc_per_ms: u64) -> Self {
        Self { features, tsc_per_ms, ..Self::default() }
    }

    /// Whether the OS runs 64-bit code now: in long mode, where it has tables that can be followed.
    pub fn runs_64_bit_code(&self) -> bool {
        let save = &self.os.save;
        save.cr0 & CR0_PG != 0 && save.efer & EFER_LMA != 0 && save.cs.attributes & ATTR_LONG != 0
    }

    /// CR3 bits 51:12: what identifies the address space that the OS runs in now.
    pub fn root(&self) -> Hpa {
        Hpa(self.os.save.cr3 & ADDRESS)
    }

    /// That address space's memory, in long mode.
    pub fn memory<'a>(&self, mem: DirectMap, ram: RamMap<'a>, pkru: u32) -> GuestMemory<'a> {
        let save = &self.os.save;
        let space = Space::new(save.cr0, save.cr3, save.cr4, save.efer, pkru, self.features.phys_bits);
        GuestMemory::new(mem, ram, space)
    }

    /// Skips an instruction of the OS.
    pub fn skip(&mut self, length: u64) {
        self.os.skip(length, self.features.nrip);
    }

    /// Raises #GP(0), or what the processor makes of it while another exception is being delivered (APM vol. 2, 8.2.9). An error:
    /// there is nothing left to raise, the OS shuts down.
    pub fn raise_gp(&mut self) -> Next {
        use Vector::*;
        let pending = self.os.control.exit_int_info;
        let exception = pending & EVENT_VALID != 0 && pending & EVENT_TYPE == EVENT_EXCEPTION;
        let vector = match Vector::try_from(pending as u8).ok().filter(|_| exception) {
            Some(Double) => {
                return Err(End::Reset("the guest shut down (fault while a double fault was delivered)"));
            }
            Some(Division | InvalidTss | SegmentNotPresent | Stack | GeneralProtection | Page) => Double,
            _ => GeneralProtection,
        };
        self.os.inject(vector, Some(0));
        Ok(())
    }

    /// An event whose delivery the exit interrupted is delivered again, unless a new one took its place. A software interrupt
    /// (INT n, INT3, INTO) comes again by itself: its instruction is executed anew.
    pub fn redeliver(&mut self) {
        let control = &mut self.os.control;
        let pending = control.exit_int_info;
        let software = matches!(
            (pending & EVENT_TYPE, Vector::try_from(pending as u8)),
            (EVENT_SOFTWARE, _) | (EVENT_EXCEPTION, Ok(Vector::Breakpoint | Vector::Overflow))
        );
        if pending & EVENT_VALID != 0 && !software && control.event_inject & EVENT_VALID == 0 {
            control.event_inject = pending;
        }
    }

    /// The OS's translations are flushed before it goes on.
    pub fn flush_os(&mut self) {
        let all = !self.features.flush_by_asid;
        self.os.control.tlb_control = if all { tlb::FLUSH_ALL } else { tlb::FLUSH_ASID };
    }

    /// Raises #PF for user memory named by a hypercall. False: it was raised for this spot too often.
    #[must_use]
    pub fn raise_pf(&mut self, gva: Gva, error_code: u32, limited: bool) -> bool {
        let spot = (self.os.save.cr3, self.os.save.rip, gva);
        if !limited || spot != self.fault {
            self.progress();
        }
        if self.repeated >= MAX_REPEATED {
            self.progress();
            return false;
        }
        self.repeated += 1;
        self.fault = spot;
        self.os.save.cr2 = gva.0;
        self.os.inject(Vector::Page, Some(error_code));
        true
    }

    /// A hypercall was answered.
    pub fn progress(&mut self) {
        self.repeated = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pal::tests::FEATURES;
    use crate::vmcb::exception;

    fn cpu() -> Box<Cpu> {
        Box::new(Cpu::new(FEATURES, 1000))
    }

    #[test]
    fn only_long_mode_has_tables() {
        let mut cpu = cpu();
        cpu.os.save.cs.attributes = ATTR_LONG;
        for (cr0, efer, long) in [(CR0_PG, 1 << 11, false), (0, EFER_LMA, false), (CR0_PG, EFER_LMA, true)] {
            (cpu.os.save.cr0, cpu.os.save.efer) = (cr0, efer);
            assert_eq!(cpu.runs_64_bit_code(), long);
        }
    }

    #[test]
    fn a_fault_that_is_not_mended_ends() {
        let mut cpu = cpu();
        for _ in 0..3 {
            assert!(cpu.raise_pf(Gva(0x1000), 6, true));
        }
        assert!(!cpu.raise_pf(Gva(0x1000), 6, true));
        assert!(cpu.raise_pf(Gva(0x1000), 6, true), "counted anew");
        assert!(cpu.raise_pf(Gva(0x2000), 6, true));
        assert_eq!(cpu.os.save.cr2, 0x2000);
        assert_eq!(cpu.os.control.event_inject, 0x6_8000_0b0e);
    }

    #[test]
    fn gp_during_delivery_is_a_double_fault_and_then_a_shutdown() {
        let mut cpu = cpu();
        assert_eq!(cpu.raise_gp(), Ok(()));
        assert_eq!(cpu.os.control.event_inject, 0x8000_0b0d);
        cpu.os.control.exit_int_info = exception(Vector::Page, Some(2));
        assert_eq!(cpu.raise_gp(), Ok(()));
        assert_eq!(cpu.os.control.event_inject, 0x8000_0b08);
        cpu.os.control.exit_int_info = exception(Vector::Double, Some(0));
        assert!(cpu.raise_gp().is_err());
        cpu.os.control.exit_int_info = EVENT_VALID | 0x0e;
        assert_eq!(cpu.raise_gp(), Ok(()), "an interrupt is no exception");
        assert_eq!(cpu.os.control.event_inject, 0x8000_0b0d);
    }

    #[test]
    fn an_interrupted_event_gives_way_to_a_new_one() {
        let mut cpu = cpu();
        cpu.os.control.exit_int_info = EVENT_VALID | 0x20;
        cpu.os.inject(Vector::GeneralProtection, Some(0));
        cpu.redeliver();
        assert_eq!(cpu.os.control.event_inject, 0x8000_0b0d);
        cpu.os.control.event_inject = 0;
        cpu.redeliver();
        assert_eq!(cpu.os.control.event_inject, EVENT_VALID | 0x20);
    }
}
