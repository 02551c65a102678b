//! What the machine must be like before the runtime relies on it. SKINIT keeps most registers as whoever ran before left them, and
//! PCR 17 does not tell of them: each that could undercut the nested tables is looked at here, or set.

use crate::processor::{RealPorts, cpuid};
use hypervisor::addr::Hpa;
use hypervisor::asid;
use hypervisor::cpu::Features;
use hypervisor::exceptions::{try_rdmsr, try_wrmsr};
use hypervisor::launch::ensure;
use hypervisor::memory::{RamMap, Run};
use hypervisor::npt;
use hypervisor::paging::Reserve;
use hypervisor::pci::ConfigSpace;
use hypervisor::profiling;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLED: u64 = 1 << 11;
/// SYSCFG.MemEncryptionModEn and SecureNestedPagingEn (APM vol. 2, 15.34, 15.36).
const SYSCFG: u32 = 0xc001_0010;
const SYSCFG_ENCRYPTION: u64 = 1 << 23 | 1 << 24;
/// IORRMask registers and their valid bit (APM vol. 2, 7.9.2).
const IORR_MASKS: [u32; 2] = [0xc001_0017, 0xc001_0019];
const IORR_VALID: u64 = 1 << 11;
/// Where PCI configuration space is in memory (see [`ConfigSpace`]).
const MMIO_CFG_BASE: u32 = 0xc001_0058;
/// VM_CR (APM vol. 2, 15.30.1).
const VM_CR: u32 = 0xc001_0114;
const VM_CR_R_INIT: u64 = 1 << 1;
const VM_CR_DIS_A20M: u64 = 1 << 2;
const VM_CR_SVMDIS: u64 = 1 << 4;
/// Border between RAM and I/O below 4 GiB (APM vol. 2, 7.9.4).
const TOP_MEM: u32 = 0xc001_001a;
/// Where SMM's memory is, and whether (APM vol. 2, 10.2.5: TValid).
const SMM_ADDR: u32 = 0xc001_0112;
const SMM_MASK: u32 = 0xc001_0113;
const SMM_MASK_TVALID: u64 = 1 << 1;
const SMM_BITS: u64 = 0x0000_ffff_fffe_0000;
/// Page attribute table, and its value after reset, for which the tables are made (APM vol. 2, 7.8.2).
const PAT: u32 = 0x277;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// IRPerfEn: a counter of retired instructions that anybody may read (BKDG, PPR: HWCR bit 30).
const HWCR: u32 = 0xc001_0015;
const HWCR_IR_PERF_EN: u64 = 1 << 30;
/// LFENCE waits for what comes before it (AMD, "Software techniques for managing speculation").
const DE_CFG: u32 = 0xc001_1029;
const DE_CFG_LFENCE_SERIALIZE: u64 = 1 << 1;

/// What AMD's guidance has the OS set on some processors, and the guest may not (`msr.rs` drops it).
struct Fix {
    family: u32,
    models: core::ops::RangeInclusive<u32>,
    msr: u32,
    bits: u64,
}

const FIXES: [Fix; 5] = [
    // Zen 2: registers of others in vector registers (AMD-SB-7008), and predictions at instructions that are no branches.
    Fix { family: 0x17, models: 0x30..=0xff, msr: DE_CFG, bits: 1 << 9 },
    Fix { family: 0x17, models: 0x30..=0xff, msr: 0xc001_10e3, bits: 1 << 1 },
    // Zen 4: erratum 1485, a spurious #UD with two threads.
    Fix { family: 0x19, models: 0x10..=0x1f, msr: 0xc001_102e, bits: 1 << 5 },
    Fix { family: 0x19, models: 0x60..=0x7f, msr: 0xc001_102e, bits: 1 << 5 },
    Fix { family: 0x19, models: 0xa0..=0xaf, msr: 0xc001_102e, bits: 1 << 5 },
];

/// Ports of the keyboard controller.
const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;

/// 0 for a register that the processor does not have: it cannot be in the way.
fn read(msr: u32) -> u64 {
    try_rdmsr(msr).unwrap_or(0)
}

/// The end of RAM below 4 GiB.
pub fn top_of_memory() -> u64 {
    read(TOP_MEM)
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
    let apic = features.apic_base;
    ensure(apic & 0x000f_ffff_ffff_f000 == npt::LAPIC.0, "the local APIC is not at FEE0_0000")?;
    let mapped = apic & (APIC_BASE_ENABLED | APIC_BASE_X2APIC) == APIC_BASE_ENABLED;
    ensure(mapped, "the local APIC is off or in x2APIC mode (turn that off in the firmware)")?;
    ensure(
        read(SYSCFG) & SYSCFG_ENCRYPTION == 0,
        "memory encryption is on (turn SME, SEV off in the firmware)",
    )?;
    let redirected = IORR_MASKS.iter().any(|mask| read(*mask) & IORR_VALID != 0);
    ensure(!redirected, "an I/O range register is in use")?;
    let found = config.find(&RealPorts, read(MMIO_CFG_BASE));
    ensure(found.is_ok(), "PCI configuration space is at an unusual address")?;
    // The OS's RAM is where hypercalls write for it.
    let space = Run { start: Hpa(config.range.start), end: Hpa(config.range.end) };
    let over_ram = space.overlaps(&Run { start: reserve.base, end: reserve.end }) || ram.overlaps(&space);
    ensure(!over_ram, "PCI configuration space lies over RAM")?;
    ensure(!in_smm_memory(reserve), "SMM's memory lies over the reserve")?;

    let vm_cr = read(VM_CR);
    ensure(vm_cr & VM_CR_SVMDIS == 0, "the firmware has disabled SVM")?;
    // SAFETY: INIT becomes #SX and A20 is ignored: SKINIT has set both, and without it the hypervisor wants both as well.
    unsafe { Msr::new(VM_CR).write(vm_cr | VM_CR_R_INIT | VM_CR_DIS_A20M) };
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
    let (family, model) = family_and_model();
    for fix in FIXES.iter().filter(|fix| fix.family == family && fix.models.contains(&model)) {
        change(fix.msr, |value| value | fix.bits);
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

/// CPUID 1 EAX (APM vol. 3, appendix E).
fn family_and_model() -> (u32, u32) {
    let eax = cpuid(1, 0).eax;
    ((eax >> 8 & 0xf) + (eax >> 20 & 0xff), (eax >> 4 & 0xf) | (eax >> 12 & 0xf0))
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
    const WRITE_OUTPUT_PORT: u8 = 0xd1;
    const A20_ON: u8 = 0xdf;
    const INPUT_FULL: u8 = 1 << 1;
    const PATIENCE: u32 = 100_000;
    for (port, value) in [(KEYBOARD_COMMAND, WRITE_OUTPUT_PORT), (KEYBOARD_DATA, A20_ON)] {
        // SAFETY: the controller's ports; A20 is on afterwards, and no reset is asked for.
        unsafe {
            let mut status = Port::<u8>::new(KEYBOARD_COMMAND);
            for _ in 0..PATIENCE {
                if status.read() & INPUT_FULL == 0 {
                    break;
                }
            }
            Port::<u8>::new(port).write(value);
        }
    }
}
