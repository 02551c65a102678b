//! The processor as the hypervisor's logic sees it, and the loop that runs the OS on it.

use crate::fpu::{Area, Fpu};
use crate::speculation::{self, Speculation};
use crate::{svm, tpm};
pub use core::arch::x86_64::__cpuid_count as cpuid;
use hypervisor::addr::{Hpa, PAGE_SIZE};
use hypervisor::asid::{Asids, Incarnation};
use hypervisor::cpu::Cpu;
use hypervisor::cpuid::Registers;
use hypervisor::exceptions::{try_rdmsr, try_wrmsr};
use hypervisor::exit::{self, End, Processor};
use hypervisor::gprs::Gprs;
use hypervisor::hypervisor::Hypervisor;
use hypervisor::ioports::{Ports, RealPorts};
use hypervisor::pal::Hardware;
use hypervisor::pal::space::PalFrames;
use hypervisor::profiling::Profiling;
use hypervisor::tpm::clock::{TscClock, tsc};
use hypervisor::tpm::tis::{self, Tis};
use hypervisor::vmcb::{Vmcb, tlb};
use x86_64::registers::model_specific::Msr;

/// The machine's ports.
// SAFETY: written are the guest's own accesses, judged by `ioports` and `pci`; addresses of PCI functions and of a chipset's registers; what
// switches A20 on; and what switches the machine off, when all is wiped.
pub static PORTS: RealPorts = unsafe { RealPorts::new() };

/// The processor that the OS runs on.
struct ThisProcessor<'a> {
    hv: &'a Hypervisor,
    /// Where the OS's FS, GS, TR, LDTR and system-call MSRs are kept while a PAL runs.
    os_state: Hpa,
    /// In units of 2^-64.
    ms_per_tick: u64,
    held_since: u64,
    held_max: u64,
    asids: Asids,
    clock: TscClock,
    fpu: Fpu,
    os_fpu: &'static mut Area,
    /// Profiling or speculation has something to switch.
    switches_more: bool,
    /// Once the OS has begun to profile.
    profiling: Option<Profiling>,
    speculation: Speculation,
}

/// Reads a register that [`Profiling`] found to be there.
fn read_switch(msr: u32) -> u64 {
    // SAFETY: the register is there.
    unsafe { Msr::new(msr).read() }
}

/// Writes it.
fn write_switch(msr: u32, value: u64) {
    // SAFETY: what the OS had written there, with or without its enabling bit: nothing of memory depends on it.
    unsafe { Msr::new(msr).write(value) }
}

impl ThisProcessor<'_> {
    /// What not every processor and not every PAL has, on the way to S.
    #[inline(never)]
    fn enter_more(&mut self, pal: &mut Vmcb, fpu: Hpa) {
        if fpu != Hpa(0) {
            let area = self.hv.pals.mem.pointer(fpu, PAGE_SIZE);
            // SAFETY: a PAL with an FPU is registered only where there is XSAVE; its area is a frame of its own.
            unsafe { self.fpu.enter(self.os_fpu, area) };
        }
        if let Some(profiling) = &mut self.profiling {
            profiling.stop(read_switch, write_switch);
        }
        self.speculation.enter(pal);
    }

    /// And back.
    #[inline(never)]
    fn leave_more(&mut self, fpu: Hpa) {
        self.speculation.leave();
        if let Some(profiling) = &mut self.profiling {
            profiling.resume(write_switch);
        }
        if fpu != Hpa(0) {
            let area = self.hv.pals.mem.pointer(fpu, PAGE_SIZE);
            // SAFETY: as above, and `enter` came before.
            unsafe { self.fpu.leave(self.os_fpu, area) };
        }
    }

    /// Interrupts are about to be possible again.
    fn let_in(&mut self) {
        self.held_max = self.held_max.max(tsc().wrapping_sub(self.held_since));
    }
}

impl Hardware for ThisProcessor<'_> {
    #[inline(always)]
    fn run_pal(&mut self, frames: &PalFrames, incarnation: Incarnation, regs: &mut Gprs) {
        let PalFrames { vmcb, fpu, .. } = *frames;
        let (asid, flush) = self.asids.assign(incarnation);
        // SAFETY: the VMCB is the PAL's, in a pool frame that stays its own while its slot is locked; nobody else has a
        // reference to it now.
        let pal = unsafe { &mut *self.hv.pals.mem.pointer(vmcb, PAGE_SIZE).cast::<Vmcb>() };
        (pal.control.asid, pal.control.tlb_control) = (asid, flush);
        let more = self.switches_more || fpu != Hpa(0);
        if more {
            self.enter_more(pal, fpu);
        }
        self.let_in();
        // SAFETY: the PAL's VMCB is whole, and `os_state` is nobody else's; the PAL's page tables map its own frames only and
        // its permission maps intercept everything; the host uses nothing that VMLOAD changes. What VMLOAD gives S, S
        // cannot change (but for the RPL of a null selector), so it is not saved.
        unsafe {
            svm::vmsave(self.os_state);
            svm::vmload(vmcb);
            svm::enter_interruptible(vmcb, pal, regs);
            svm::vmload(self.os_state);
        }
        self.held_since = tsc();
        if more {
            self.leave_more(fpu);
        }
        self.hv.count_exit(abi::exit::PAL);
    }

    fn now_ms(&self) -> u64 {
        ((u128::from(self.held_since) * u128::from(self.ms_per_tick)) >> 64) as u64
    }

    fn pkru(&self) -> u32 {
        let value: u32;
        // SAFETY: called only where CR4.PKE is set (the processor has protection keys).
        unsafe {
            core::arch::asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nomem, nostack))
        };
        value
    }

    fn tpm(&mut self) -> Tis<impl tis::Registers, TscClock> {
        Tis::beside_the_os(tpm::registers(self.hv.pals.mem), self.clock, 1)
    }
}

impl Processor for ThisProcessor<'_> {
    fn ports(&self) -> &impl Ports {
        &PORTS
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        cpuid(leaf, subleaf)
    }

    fn tsc(&self) -> u64 {
        tsc()
    }

    fn apic_read(&self, at: Hpa) -> u32 {
        self.hv.pals.mem.read_u32(at)
    }

    fn apic_write(&self, at: Hpa, value: u32) {
        self.hv.pals.mem.write_u32(at, value);
    }

    fn write_back_caches(&self) {
        // SAFETY: WBINVD loses nothing.
        unsafe { core::arch::asm!("wbinvd", options(nostack)) }
    }

    fn write_msr(&self, msr: u32, value: u64) -> bool {
        // SAFETY: a register of `profiling` that makes nothing watch.
        unsafe { try_wrmsr(msr, value) }
    }

    fn start_profiling(&mut self) {
        self.profiling = Some(Profiling::new(|msr| try_rdmsr(msr).is_some()));
        self.switches_more = true;
    }
}

/// Runs the OS until it comes to its end; says how. `os_state` is a page that nothing else uses.
pub fn run(hv: &Hypervisor, cpu: &mut Cpu, os_state: Hpa, os_fpu: &'static mut Area) -> End {
    let speculation = Speculation::new();
    let mut processor = ThisProcessor {
        hv,
        os_state,
        ms_per_tick: u64::MAX / cpu.tsc_per_ms.max(1),
        held_since: 0,
        held_max: 0,
        asids: Asids::new(cpu.features.asids, cpu.features.flush_by_asid),
        clock: TscClock { tsc_per_ms: cpu.tsc_per_ms },
        fpu: Fpu::new(),
        os_fpu,
        switches_more: speculation.does_anything(),
        profiling: None,
        speculation,
    };
    // SAFETY: the OS's VMCB is whole; the host uses none of these registers.
    unsafe { svm::vmload(cpu.os_hpa) };
    loop {
        // SAFETY: the OS's nested tables map everything but the reserve and what is hidden; SVM is enabled, GIF is 0.
        unsafe { svm::enter(cpu.os_hpa, &mut cpu.os, &mut cpu.regs) };
        processor.held_since = tsc();
        cpu.os.control.tlb_control = tlb::KEEP;
        if let Err(end) = exit::handle(hv, cpu, &mut processor) {
            return end;
        }
        processor.let_in();
        cpu.held_max = processor.held_max;
        speculation::clear_buffers();
    }
}
