//! What the machine must be like before the runtime relies on it. SKINIT keeps most registers as whoever ran before left them, and
//! PCR 17 does not tell of them: each that could undercut the nested tables is looked at here, or set.

use crate::processor::{PORTS, cpuid};
use core::ops::RangeInclusive;
use hypervisor::addr::Hpa;
use hypervisor::asid;
use hypervisor::cpu::Features;
use hypervisor::exceptions::{try_rdmsr, try_wrmsr};
use hypervisor::ioports::{COMMAND, DATA, Ports, WRITE_OUTPUT_PORT};
use hypervisor::launch::ensure;
use hypervisor::memory::{RamMap, Run};
use hypervisor::npt;
use hypervisor::paging::Reserve;
use hypervisor::pci::{self, ConfigSpace};
use hypervisor::profiling;
use hypervisor::vmcb::PAT_RESET;
use x86_64::registers::model_specific::Msr;

/// VM_CR (APM vol. 2, 15.30.1).
const VM_CR: u32 = 0xc001_0114;
const VM_CR_R_INIT: u64 = 1 << 1;
const VM_CR_DIS_A20M: u64 = 1 << 2;

/// A register, bits of it, the value that these must have, and what is wrong else. A register that the processor does not have
/// counts as 0: it cannot be in the way.
type Rule = (u32, u64, u64, &'static str);

const RULES: [Rule; 4] = [
    // APIC_BASE: the address; enabled, and not in x2APIC mode (APM vol. 2, 16.3.1, 16.9).
    (0x1b, 0x000f_ffff_ffff_f000, npt::LAPIC.0, "the local APIC is not at FEE0_0000"),
    (0x1b, 3 << 10, 1 << 11, "the local APIC is off or in x2APIC mode (turn that off in the firmware)"),
    // SYSCFG.MemEncryptionModEn and SecureNestedPagingEn (APM vol. 2, 15.34, 15.36).
    (0xc001_0010, 1 << 23 | 1 << 24, 0, "memory encryption is on (turn SME, SEV off in the firmware)"),
    // SVMDIS (APM vol. 2, 15.30.1).
    (VM_CR, 1 << 4, 0, "the firmware has disabled SVM"),
];

/// Where SMM's memory is, and whether (APM vol. 2, 10.2.5: TValid).
const SMM_ADDR: u32 = 0xc001_0112;
const SMM_MASK: u32 = 0xc001_0113;
const SMM_MASK_TVALID: u64 = 1 << 1;
const SMM_BITS: u64 = 0x0000_ffff_fffe_0000;
/// Page attribute table (APM vol. 2, 7.8.2).
const PAT: u32 = 0x277;
/// IRPerfEn: a counter of retired instructions that anybody may read (BKDG, PPR: HWCR bit 30).
const HWCR: u32 = 0xc001_0015;
const HWCR_IR_PERF_EN: u64 = 1 << 30;
/// LFENCE waits for what comes before it (AMD, "Software techniques for managing speculation").
const DE_CFG: u32 = 0xc001_1029;
const DE_CFG_LFENCE_SERIALIZE: u64 = 1 << 1;

/// What AMD's guidance has the OS set on some processors, and the guest may not (`msr.rs` drops it): family, models, register, bits.
type Fix = (u32, RangeInclusive<u32>, u32, u64);

const FIXES: [Fix; 5] = [
    // Zen 2: registers of others in vector registers (AMD-SB-7008), and predictions at instructions that are no branches.
    (0x17, 0x30..=0xff, DE_CFG, 1 << 9),
    (0x17, 0x30..=0xff, 0xc001_10e3, 1 << 1),
    // Zen 4: erratum 1485, a spurious #UD with two threads.
    (0x19, 0x10..=0x1f, 0xc001_102e, 1 << 5),
    (0x19, 0x60..=0x7f, 0xc001_102e, 1 << 5),
    (0x19, 0xa0..=0xaf, 0xc001_102e, 1 << 5),
];

/// 0 for a register that the processor does not have: it cannot be in the way.
pub fn read(msr: u32) -> u64 {
    try_rdmsr(msr).unwrap_or(0)
}

/// Says what is wrong with the machine, and sets what SKINIT would have set. Finds PCI configuration space.
pub fn check(
    reserve: Reserve,
    ram: &RamMap,
    features: &Features,
    config: &mut ConfigSpace,
) -> Result<(), &'static str> {
    let svm = cpuid(0x8000_0001, 0).ecx & 1 << 2 != 0 && cpuid(0x8000_000a, 0).edx & 1 != 0;
    ensure(svm, "this processor has no SVM with nested paging")?;
    ensure(features.asids >= asid::MIN_ASIDS, "this processor has too few address space identifiers")?;
    for (msr, bits, value, broken) in RULES {
        ensure(read(msr) & bits == value, broken)?;
    }
    config.find(&PORTS, read(pci::MMIO_CFG_BASE))?;
    // The OS's RAM is where hypercalls write for it.
    let space = Run { start: Hpa(config.range.start), end: Hpa(config.range.end) };
    let over_ram = space.overlaps(&Run { start: reserve.base, end: reserve.end }) || ram.overlaps(&space);
    ensure(!over_ram, "PCI configuration space lies over RAM")?;
    ensure(!in_smm_memory(reserve), "SMM's memory lies over the reserve")?;

    // SAFETY: INIT becomes #SX and A20 is ignored: SKINIT has set both, and without it the hypervisor wants both as well.
    unsafe { Msr::new(VM_CR).write(read(VM_CR) | VM_CR_R_INIT | VM_CR_DIS_A20M) };
    // SAFETY: the types that all mappings made so far have after a reset; nothing is cached under another one after WBINVD, and
    // the tables are changed next.
    unsafe {
        Msr::new(PAT).write(PAT_RESET);
        core::arch::asm!("wbinvd", options(nostack));
    }
    switch_a20_on();
    for (msr, bits) in profiling::at_launch().chain([(HWCR, HWCR_IR_PERF_EN)]) {
        change(msr, |value| value & !bits);
    }
    // CPUID 1 EAX (APM vol. 3, appendix E).
    let eax = cpuid(1, 0).eax;
    let (family, model) = ((eax >> 8 & 0xf) + (eax >> 20 & 0xff), (eax >> 4 & 0xf) | (eax >> 12 & 0xf0));
    for (of, models, msr, bits) in FIXES {
        if of == family && models.contains(&model) {
            change(msr, |value| value | bits);
        }
    }
    change(DE_CFG, |value| value | DE_CFG_LFENCE_SERIALIZE);
    Ok(())
}

/// Writes a register that the processor has, if that changes it.
fn change(msr: u32, new: impl Fn(u64) -> u64) {
    if let Some(old) = try_rdmsr(msr).filter(|old| new(*old) != *old) {
        // SAFETY: switches of profiling, and documented fixes of errata: memory is what it was. A processor that refuses stays as
        // it is.
        unsafe { try_wrmsr(msr, new(old)) };
    }
}

fn in_smm_memory(reserve: Reserve) -> bool {
    let (base, mask) = (read(SMM_ADDR) & SMM_BITS, read(SMM_MASK));
    let bits = mask & SMM_BITS;
    // The mask's lowest bit is the size: the range is a power of two, aligned.
    let end = base + (1 << bits.trailing_zeros().min(47));
    mask & SMM_MASK_TVALID != 0 && base < reserve.end.0 && reserve.base.0 < end
}

/// Writes the keyboard controller's output port, which also ends what whoever ran before may have begun there.
fn switch_a20_on() {
    const A20_ON: u8 = 0xdf;
    const INPUT_FULL: u32 = 1 << 1;
    const PATIENCE: u32 = 100_000;
    for (port, value) in [(COMMAND, WRITE_OUTPUT_PORT), (DATA, A20_ON)] {
        let _ = (0..PATIENCE).find(|_| PORTS.read(COMMAND, 1) & INPUT_FULL == 0);
        PORTS.write(port, 1, value.into());
    }
}
