//! Exits of the OS: what each one is answered with.
//!
//! Everything an exit reports is the guest's word. Whatever it is, the answer is an instruction done for it, an exception that the
//! same machine without SVM would have raised, or, where nothing is left to raise, the shutdown that the machine would have made.

use crate::addr::{Gva, Hpa, PAGE_SIZE};
use crate::cpu::Cpu;
use crate::cpuid::{self, Registers};
use crate::gprs::Gprs;
use crate::hypercall;
use crate::hypervisor::Hypervisor;
use crate::ioapic;
use crate::ioports::{Access, Ports, Write};
use crate::lapic::{self, Source};
use crate::msr::{self, WriteAnswer};
use crate::npt;
use crate::pal::Hardware;
use crate::profiling;
use crate::vmcb::{Vector, exit_code};
use abi::exit;
use core::sync::atomic::Ordering;

#[cfg(test)]
mod tests;

/// What exits need of the processor besides running PALs.
pub trait Processor: Hardware {
    fn ports(&self) -> &impl Ports;
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers;
    fn tsc(&self) -> u64;
    /// A register of the local APIC or of the I/O APIC.
    fn apic_read(&self, at: Hpa) -> u32;
    fn apic_write(&self, at: Hpa, value: u32);
    fn write_back_caches(&self);
    /// Writes a register; false: #GP.
    fn write_msr(&self, msr: u32, value: u64) -> bool;
    /// From now on [`crate::profiling`] has something to switch.
    fn start_profiling(&mut self);
}

/// How the OS has come to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The machine is reset, for this reason.
    Reset(&'static str),
    /// The same, instead of a sleep that keeps memory.
    Sleep,
    /// It goes off, by writing this value, so many bytes, to this port.
    Off(u16, u8, u32),
}

/// What comes after an exit: the OS goes on, or it has come to its end.
pub type Next = Result<(), End>;

/// Answers an exit of the OS.
pub fn handle(hv: &Hypervisor, cpu: &mut Cpu, processor: &mut impl Processor) -> Next {
    let code = cpu.os.exit_code();
    cpu.os.control.event_inject = 0;
    if code == exit_code::VMMCALL {
        hv.count_exit(exit::VMMCALL);
        hypercall::vmmcall(hv, cpu, processor);
        if cpu.machine_check.take() {
            cpu.os.inject(Vector::MachineCheck, None);
        }
        return Ok(());
    }
    hv.count_exit(kind(cpu, code));
    match code {
        exit_code::CPUID => answer_cpuid(cpu, processor),
        exit_code::MSR => access_msr(cpu, processor)?,
        exit_code::NPF => nested_page_fault(hv, cpu, processor)?,
        // While an increment is under way: each interrupt, which then is delivered, and the return from it.
        exit_code::INTR | exit_code::IRET => {
            let next = if code == exit_code::INTR { exit_code::IRET } else { exit_code::INTR };
            cpu.os.control.watch(hv.pals.commit(processor).then_some(next));
        }
        exit_code::IOIO => access_port(cpu, processor)?,
        // INVD would undo a wipe that is still in the cache; what it is used for, WBINVD does as well. QEMU reports it so.
        exit_code::INVD | exit_code::WBINVD => {
            processor.write_back_caches();
            cpu.skip(2);
        }
        exit_code::VMRUN..=exit_code::SKINIT
        | exit_code::INVLPGA
        | exit_code::INVLPGB
        | exit_code::INVLPGB_ILLEGAL
        | exit_code::TLBSYNC => cpu.os.inject(Vector::InvalidOpcode, None),
        exit_code::SHUTDOWN => return Err(End::Reset("the guest shut down (triple fault)")),
        exit_code::INVALID => return Err(End::Reset("the guest left an impossible processor state")),
        _ => return Err(End::Reset("the guest left for a reason that was not asked for")),
    }
    cpu.redeliver();
    Ok(())
}

fn kind(cpu: &Cpu, code: u32) -> usize {
    match code {
        exit_code::CPUID => exit::CPUID,
        exit_code::MSR => exit::MSR,
        exit_code::NPF if Hpa(cpu.os.control.exit_info_2).page() == npt::LAPIC => exit::LAPIC,
        exit_code::NPF => exit::NPF,
        exit_code::IOIO => exit::IO,
        _ => exit::OTHER,
    }
}

fn answer_cpuid(cpu: &mut Cpu, processor: &impl Processor) {
    let (leaf, subleaf) = (cpu.os.save.rax as u32, cpu.regs.rcx as u32);
    let answer = cpuid::answer(leaf, subleaf, processor.cpuid(leaf, subleaf), cpu.os.save.cr4);
    cpu.os.save.rax = answer.eax.into();
    (cpu.regs.rbx, cpu.regs.rcx, cpu.regs.rdx) = (answer.ebx.into(), answer.ecx.into(), answer.edx.into());
    cpu.skip(2);
}

fn access_msr(cpu: &mut Cpu, processor: &mut impl Processor) -> Next {
    let number = cpu.regs.rcx as u32;
    if cpu.os.control.exit_info_1 & 1 == 0 {
        let Some(value) = msr::read(number, cpu) else { return cpu.raise_gp() };
        cpu.os.save.rax = value & 0xffff_ffff;
        cpu.regs.rdx = value >> 32;
        cpu.skip(2);
        return Ok(());
    }
    let value = cpu.regs.rdx << 32 | cpu.os.save.rax & 0xffff_ffff;
    match msr::write(number, value, cpu) {
        WriteAnswer::Drop => {}
        WriteAnswer::Fault => return cpu.raise_gp(),
        WriteAnswer::Efer(value) => {
            // A change of paging modes by the hypervisor leaves the guest's translations stale (APM vol. 2, 15.16).
            cpu.os.save.efer = value;
            cpu.flush_os();
        }
        WriteAnswer::Profile if !profiling::begins(number, value) => {
            if !processor.write_msr(number, value) {
                return cpu.raise_gp();
            }
        }
        WriteAnswer::Profile => {
            // With the other map the write is executed anew, without an exit.
            processor.start_profiling();
            cpu.os.control.msrpm = cpu.profiling_msrpm.0;
            return Ok(());
        }
        WriteAnswer::Tsc(value) => cpu.os.control.tsc_offset = value.wrapping_sub(processor.tsc()),
    }
    cpu.skip(2);
    Ok(())
}

/// An access to a guarded port.
fn access_port(cpu: &mut Cpu, processor: &impl Processor) -> Next {
    let access = Access::new(cpu.os.control.exit_info_1);
    if access.string {
        return cpu.raise_gp();
    }
    let (port, size, rax) = (access.port, access.size, cpu.os.save.rax);
    let ports = processor.ports();
    if access.input {
        let read = (1 << (8 * size)) - 1;
        // As every 32-bit result, it clears the upper half.
        let kept = if size == 4 { 0 } else { !read };
        cpu.os.save.rax = rax & kept | u64::from(ports.read(port, size)) & read;
    } else {
        match cpu.ports.write(ports, access, rax as u32) {
            Write::Value(value) => ports.write(port, size, value),
            Write::Drop => {}
            Write::Fault => return cpu.raise_gp(),
            Write::Reset => return Err(End::Reset("the guest resets the machine")),
            Write::Sleep => return Err(End::Sleep),
            Write::Off => return Err(End::Off(port, size, rax as u32)),
        }
    }
    // For port accesses the exit names the next instruction (EXITINFO2), whatever the processor.
    cpu.os.go_on_at(cpu.os.control.exit_info_2);
    Ok(())
}

/// The OS wrote to a page that is read-only in its nested tables, or to an address that does not exist.
fn nested_page_fault(hv: &Hypervisor, cpu: &mut Cpu, processor: &impl Processor) -> Next {
    /// In EXITINFO1: a write; and an access to the guest's own page tables (APM vol. 2, 15.25.6).
    const WRITE: u64 = 1 << 1;
    const TABLE_WALK: u64 = 1 << 33;
    let info = cpu.os.control.exit_info_1;
    let gpa = cpu.os.control.exit_info_2;
    let watched = [npt::LAPIC, npt::IO_APIC].contains(&Hpa(gpa).page()) || hv.drops_store(gpa);
    if info & WRITE == 0 || info & TABLE_WALK != 0 || !watched {
        return cpu.raise_gp();
    }
    watched_write(hv, cpu, processor, gpa).map_or_else(|| cpu.raise_gp(), Ok)
}

/// Does a write to an APIC that the filter lets pass; drops one to the configuration of a bridge or to the chipset. None: the instruction is none that
/// Linux or anybody sane uses there.
fn watched_write(hv: &Hypervisor, cpu: &mut Cpu, processor: &impl Processor, gpa: u64) -> Option<()> {
    if !cpu.runs_64_bit_code() {
        return None;
    }
    let memory = cpu.memory(hv.pals.mem, hv.pals.ram, 0);
    let mut bytes = [0; lapic::MAX_INSTRUCTION];
    let fetched = memory.fetch(Gva(cpu.os.save.rip), cpu.os.save.cpl == 3, &mut bytes).ok()?;
    let store = lapic::decode(bytes.get(..fetched)?)?;
    let value = match store.source {
        Source::Register(number) => *register(cpu, number) as u32,
        Source::Immediate(value) => value,
    };
    if hv.drops_store(gpa) {
        cpu.skip(store.len as u64);
        return Some(());
    }
    if store.size != 4 {
        return None;
    }
    let offset = gpa as u32 % PAGE_SIZE as u32;
    let passes = match Hpa(gpa).page() {
        npt::LAPIC => lapic::passes(offset, value),
        _ => ioapic::passes(offset, value, processor.apic_read(npt::IO_APIC)),
    };
    if passes {
        processor.apic_write(Hpa(gpa), value);
    } else {
        log::debug!("refused an interrupt message: {value:#x} at {gpa:#x}");
        hv.ipis_refused.fetch_add(1, Ordering::Relaxed);
    }
    cpu.skip(store.len as u64);
    Some(())
}

/// A general register by its number in instructions.
fn register(cpu: &mut Cpu, number: u8) -> &mut u64 {
    let Gprs { rbx, rcx, rdx, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rsi } = &mut cpu.regs;
    let (rax, rsp) = (&mut cpu.os.save.rax, &mut cpu.os.save.rsp);
    let all = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    all.into_iter().nth(number.into()).expect("four bits")
}
