//! Model-specific registers: which of them the guest does not simply have, and what it gets instead.
//!
//! [`TABLE`] lists every register that can change address decoding, memory types or the processor's mode, or that belongs to
//! virtualisation. What is not in it is the guest's own, without an exit, but for two kinds. AMD's own registers (`C001_xxxxh`) can
//! be read; writes are dropped: many of them change how the processor works, and not all are documented. What lies
//! outside the ranges of the permission map always exits and raises #GP: among these are the registers of an outer hypervisor (`4000_0000h`,
//! `4B56_4D00h`), which would write to wherever a guest tells it. (So do SMCA's, `C000_2000h`: [`crate::cpuid`] hides them.)
//!
//! A write that Linux does at boot is dropped rather than refused; refused is what no OS has a reason to write.

use crate::cpu::Cpu;
use crate::cpuid::Registers;
use crate::vmcb::{CR0_PG, EFER_LMA, EFER_LME, EFER_SVME};
use core::ops::RangeInclusive;

/// What the guest has of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// All of it, without an exit.
    Own,
    /// It is read; a write does nothing.
    Drop,
    /// It is read; a write raises #GP.
    ReadOnly,
    /// Nothing: #GP.
    Hidden,
    /// It is read; a write does what [`write`] says.
    Judged,
    /// What [`read`] and [`write`] say.
    Shadow,
    /// All of it; writes exit until something is profiled ([`crate::profiling`]).
    Profile,
}

/// What happens to a range of registers, and why.
pub type Rule = (RangeInclusive<u32>, Guard, &'static str);

/// Time stamp counter.
pub const TSC: u32 = 0x10;
/// Local APIC's base address and mode.
pub const APIC_BASE: u32 = 0x1b;
/// Extended features.
pub const EFER: u32 = 0xc000_0080;

/// Every register with a rule, ascending (APM vol. 2, appendix A; BKDGs and PPRs for what is not architectural).
pub static TABLE: [Rule; 52] = {
    use Guard::*;
    [
        (TSC..=TSC, Judged, "the hypervisor's own clock: a write goes to the TSC offset"),
        (0x11..=0x12, Hidden, "an outer KVM would write its clock where the guest says"),
        (APIC_BASE..=APIC_BASE, Judged, "address decoding; the mode the ICR trap relies on"),
        (0x3b..=0x3b, Drop, "TSC adjust would move the hypervisor's clock"),
        (0x1d9..=0x1d9, Profile, "DEBUGCTL: branch records"),
        (0x200..=0x20f, Drop, "variable MTRRs: memory types of the reserve"),
        (0x250..=0x250, Drop, "fixed MTRR: decoding of low memory (RdMem, WrMem)"),
        (0x258..=0x259, Drop, "fixed MTRRs"),
        (0x268..=0x26f, Drop, "fixed MTRRs"),
        (0x277..=0x277, Own, "PAT: under nested paging the guest has its own (VMCB G_PAT)"),
        (0x2ff..=0x2ff, Drop, "default memory type"),
        (0x800..=0x8ff, Hidden, "x2APIC: hidden, the launch refuses this mode"),
        (EFER..=EFER, Shadow, "SVME must stay set and does not show"),
        (0xc000_0104..=0xc000_0104, Hidden, "TSC ratio: part of SVM"),
        (0xc000_010e..=0xc000_010f, Profile, "branch records, version 2"),
        (0xc000_0300..=0xc000_0303, Profile, "performance counters: global control and status"),
        (0xc001_0000..=0xc001_0003, Profile, "PERF_CTL of the first four counters"),
        (0xc001_0004..=0xc001_0007, Own, "PERF_CTR of the first four counters"),
        (0xc001_0010..=0xc001_0010, Drop, "SYSCFG: memory encryption, IORRs, TOP_MEM2, fixed MTRR mode"),
        (0xc001_0015..=0xc001_0015, Drop, "HWCR: SMM lock, INVD, MCi_STATUS writable"),
        (0xc001_0016..=0xc001_0019, ReadOnly, "IORRs: decoding of RAM as I/O"),
        (0xc001_001a..=0xc001_001a, ReadOnly, "TOP_MEM: border between RAM and I/O"),
        (0xc001_001d..=0xc001_001d, ReadOnly, "TOP_MEM2: border between RAM and I/O"),
        (0xc001_001f..=0xc001_001f, Drop, "NB_CFG: extended configuration space by port CF8h"),
        (0xc001_0020..=0xc001_0020, Drop, "microcode: loaded by firmware before the launch, or not at all"),
        (0xc001_0022..=0xc001_0022, ReadOnly, "redirects machine checks to SMIs"),
        (0xc001_0050..=0xc001_0054, ReadOnly, "SMI traps on I/O"),
        (0xc001_0055..=0xc001_0055, Drop, "interrupt pending message: SMIs and I/O cycles when halted"),
        (0xc001_0056..=0xc001_0056, ReadOnly, "SMI trigger: which I/O cycle SMIs become"),
        (0xc001_0058..=0xc001_0058, Drop, "MMIO configuration base: address decoding"),
        (0xc001_0062..=0xc001_0062, Own, "P-state control: a choice among the definitions"),
        (0xc001_0064..=0xc001_006b, ReadOnly, "P-state definitions: at too low a voltage S computes wrongly"),
        (0xc001_0070..=0xc001_0070, ReadOnly, "COFVID control: voltage and frequency"),
        (0xc001_0073..=0xc001_0073, ReadOnly, "C-state base: decoding of I/O ports"),
        (0xc001_0111..=0xc001_0113, ReadOnly, "SMBASE, SMM address and mask: where SMM's memory is"),
        (0xc001_0114..=0xc001_0114, Hidden, "VM_CR: SVM lock, INIT redirection, A20 mask"),
        (0xc001_0115..=0xc001_0115, Hidden, "IGNNE"),
        (0xc001_0116..=0xc001_0116, Hidden, "SMM control: enters SMM's state outside SMM"),
        (0xc001_0117..=0xc001_0117, Hidden, "VM_HSAVE_PA: where #VMEXIT takes the host's state from"),
        (0xc001_0118..=0xc001_0119, Hidden, "keys of the SVM lock and of the SMM lock"),
        (0xc001_011b..=0xc001_011b, Hidden, "AVIC doorbell: part of SVM"),
        (0xc001_011e..=0xc001_011e, Hidden, "VM page flush: part of SEV"),
        (0xc001_0130..=0xc001_013f, Hidden, "GHCB, SEV status, RMP: parts of SEV, which is hidden"),
        (0xc001_0200..=0xc001_020b, Profile, "PERF_CTL and PERF_CTR of all six counters"),
        (0xc001_0230..=0xc001_024f, Own, "counters of L3 and fabric: several processors share them"),
        (0xc001_02b0..=0xc001_02b4, Own, "CPPC: performance requests"),
        (0xc001_0300..=0xc001_031f, Own, "branch records themselves"),
        (0xc001_1002..=0xc001_1005, Drop, "override what CPUID says, for the hypervisor as well"),
        (0xc001_1019..=0xc001_101b, Own, "address masks of debug registers: S uses none"),
        (0xc001_1020..=0xc001_1026, Drop, "load, store, decode, caches: set by firmware, or by platform.rs"),
        (0xc001_1027..=0xc001_1027, Own, "address mask of debug register 0"),
        (0xc001_1030..=0xc001_103d, Profile, "instruction-based sampling"),
    ]
};

/// Bytes of the permission map (APM vol. 2, 15.11).
pub const MAP_SIZE: usize = 0x2000;

/// First registers of the three ranges that the map covers, [`RANGE_REGISTERS`] each, in 2 KiB each.
const RANGES: [u32; 3] = [0, 0xc000_0000, 0xc001_0000];
const RANGE_REGISTERS: u32 = 0x2000;
const RANGE_BYTES: usize = 0x800;

/// Where the map has a register's two bits: byte, and shift of the read bit, above which is the write bit.
fn position(msr: u32) -> Option<(usize, u32)> {
    let range = RANGES.iter().position(|first| msr.wrapping_sub(*first) < RANGE_REGISTERS)?;
    let index = msr - RANGES[range];
    Some((range * RANGE_BYTES + (index / 4) as usize, index % 4 * 2))
}

/// The permission map of a guest that has begun to profile, or has not.
pub fn permission_map(profiles: bool) -> [u8; MAP_SIZE] {
    let mut map = [0; MAP_SIZE];
    let (ranges, unused) = map.split_at_mut(RANGES.len() * RANGE_BYTES);
    unused.fill(0xff);
    ranges[2 * RANGE_BYTES..].fill(WRITES);
    for (registers, guard, _) in &TABLE {
        let read = matches!(guard, Guard::Hidden | Guard::Shadow);
        let written = *guard != Guard::Own && (*guard != Guard::Profile || !profiles);
        let bits = u8::from(read) | u8::from(written) << 1;
        for (byte, shift) in registers.clone().filter_map(position) {
            ranges[byte] = ranges[byte] & !(3 << shift) | bits << shift;
        }
    }
    map
}

/// The write bits of four registers.
const WRITES: u8 = 0b1010_1010;

fn guard_of(msr: u32) -> Option<Guard> {
    TABLE.iter().find(|(registers, ..)| registers.contains(&msr)).map(|(_, guard, _)| *guard)
}

/// The bits of EFER (APM vol. 2, 3.1.7) that a guest may set on this processor, by CPUID leaves 8000_0001, 8000_0008 and 8000_0021
/// (zero, where there is none). LMSLE is not among them: no leaf says that it is there.
pub fn writable_efer(features: Registers, sizes: Registers, more: Registers) -> u64 {
    // The leaf's bit, EFER's bit.
    [
        (features.edx >> 11, 0),  // SCE: SYSCALL
        (features.edx >> 29, 8),  // LME: long mode
        (features.edx >> 20, 11), // NXE: no-execute pages
        (features.edx >> 25, 14), // FFXSR: fast FXSAVE
        (features.ecx >> 17, 15), // TCE: translation cache extension
        (sizes.ebx >> 8, 17),     // MCOMMIT
        (sizes.ebx >> 13, 18),    // INTWB: interruptible WBINVD
        (more.eax >> 7, 20),      // UAIE: upper address ignore
        (more.eax >> 8, 21),      // AIBRSE: automatic IBRS
    ]
    .iter()
    .fold(0, |writable, (there, bit)| writable | u64::from(there & 1) << bit)
}

/// What to do about WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    /// Nothing, but to go on.
    Drop,
    /// #GP.
    Fault,
    /// The VMCB's EFER becomes this.
    Efer(u64),
    /// The guest's time-stamp counter becomes this: by the TSC offset.
    Tsc(u64),
    /// The processor's register becomes this, as far as the processor agrees; the guest may begin to profile.
    Profile,
}

/// Answers an exit for RDMSR: the value, or None for #GP.
pub fn read(msr: u32, cpu: &Cpu) -> Option<u64> {
    (msr == EFER).then_some(cpu.os.save.efer & !EFER_SVME)
}

/// Answers an exit for WRMSR.
pub fn write(msr: u32, value: u64, cpu: &Cpu) -> WriteAnswer {
    match (msr, guard_of(msr)) {
        (_, Some(Guard::Drop)) => WriteAnswer::Drop,
        (_, Some(Guard::Profile)) => WriteAnswer::Profile,
        (TSC, Some(Guard::Judged)) => WriteAnswer::Tsc(value),
        (APIC_BASE, Some(Guard::Judged)) if value == cpu.features.apic_base => WriteAnswer::Drop,
        (EFER, Some(Guard::Shadow)) => write_efer(value, cpu),
        (_, None) if msr.wrapping_sub(RANGES[2]) < RANGE_REGISTERS => WriteAnswer::Drop,
        _ => WriteAnswer::Fault,
    }
}

/// As on a processor without SVM. LMA is the processor's: what is written there is ignored.
fn write_efer(value: u64, cpu: &Cpu) -> WriteAnswer {
    let (value, save) = (value & !EFER_LMA, &cpu.os.save);
    let long_mode_changes = (value ^ save.efer) & EFER_LME != 0;
    if value & !cpu.features.writable_efer != 0 || (save.cr0 & CR0_PG != 0 && long_mode_changes) {
        return WriteAnswer::Fault;
    }
    WriteAnswer::Efer(value | (save.efer & EFER_LMA) | EFER_SVME)
}

#[cfg(test)]
pub(crate) mod tests;
