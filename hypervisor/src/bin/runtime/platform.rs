//! What the machine must be like before the runtime relies on it. SKINIT keeps most registers as whoever ran before left them, and
//! PCR 17 does not tell of them: each that could undercut the nested tables is looked at here, or set.

use crate::entry::try_rdmsr;
use crate::processor::cpuid;
use hypervisor::addr::Hpa;
use hypervisor::asid;
use hypervisor::cpu::Features;
use hypervisor::npt;
use hypervisor::paging::Reserve;
use x86_64::registers::model_specific::Msr;

const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLED: u64 = 1 << 11;
/// SYSCFG.MemEncryptionModEn and SecureNestedPagingEn (APM vol. 2, 15.34, 15.36).
const SYSCFG: u32 = 0xc001_0010;
const SYSCFG_ENCRYPTION: u64 = 1 << 23 | 1 << 24;
/// IORRMask registers and their valid bit (APM vol. 2, 7.9.2).
const IORR_MASKS: [u32; 2] = [0xc001_0017, 0xc001_0019];
const IORR_VALID: u64 = 1 << 11;
/// MMIO configuration base (BKDG; bit 0 enables, bits 5:2 say how many buses as a power of two, 1 MiB each).
const MMIO_CFG_BASE: u32 = 0xc001_0058;
/// VM_CR (APM vol. 2, 15.30.1).
const VM_CR: u32 = 0xc001_0114;
const VM_CR_R_INIT: u64 = 1 << 1;
const VM_CR_DIS_A20M: u64 = 1 << 2;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// 0 for a register that the processor does not have: it cannot be in the way.
fn read(msr: u32) -> u64 {
    try_rdmsr(msr).unwrap_or(0)
}

/// Says what is wrong with the machine, and sets what SKINIT would have set.
pub fn check(reserve: Reserve, features: &Features) -> Result<(), &'static str> {
    let ensure = |ok: bool, what| if ok { Ok(()) } else { Err(what) };
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
    ensure(!overlaps(read(MMIO_CFG_BASE), reserve), "configuration space lies over the reserve")?;

    let vm_cr = read(VM_CR);
    ensure(vm_cr & VM_CR_SVMDIS == 0, "the firmware has disabled SVM")?;
    // SAFETY: INIT becomes #SX and A20 is ignored: SKINIT has set both, and without it the hypervisor wants both as well.
    unsafe { Msr::new(VM_CR).write(vm_cr | VM_CR_R_INIT | VM_CR_DIS_A20M) };
    Ok(())
}

fn overlaps(mmio_cfg_base: u64, reserve: Reserve) -> bool {
    let base = mmio_cfg_base & 0x0000_ffff_fff0_0000;
    let size = (1u64 << 20) << (mmio_cfg_base >> 2 & 0xf);
    mmio_cfg_base & 1 != 0 && Hpa(base) < reserve.end && reserve.base < Hpa(base + size)
}
