//! What the processor must be able to do. (Long mode was checked on the way here, SKINIT is tried.)

use core::arch::x86_64::__cpuid;

use loader::refusal::Lack;
use x86_64::registers::model_specific::Msr;

/// AMD APM vol. 3, E.4.2: CPUID 8000_0001.
const FEATURES: u32 = 0x8000_0001;
const ECX_SVM: u32 = 1 << 2;
const EDX_PAGE_1GB: u32 = 1 << 26;
/// AMD APM vol. 3, E.4.9: CPUID 8000_000A.
const SVM_FEATURES: u32 = 0x8000_000a;
const EDX_NP: u32 = 1 << 0;
/// AMD APM vol. 2, 15.30.1: VM_CR and its SVMDIS.
const VM_CR: u32 = 0xc001_0114;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// Says what is lacking.
pub fn check() -> Result<(), Lack> {
    let features = __cpuid(FEATURES);
    if features.ecx & ECX_SVM == 0 || __cpuid(0x8000_0000).eax < SVM_FEATURES {
        return Err(Lack::Svm);
    }
    // SAFETY: every processor with SVM has VM_CR; reading it has no effect.
    if unsafe { Msr::new(VM_CR).read() } & VM_CR_SVMDIS != 0 {
        return Err(Lack::SvmLocked);
    }
    if __cpuid(SVM_FEATURES).edx & EDX_NP == 0 {
        return Err(Lack::NestedPaging);
    }
    if features.edx & EDX_PAGE_1GB == 0 {
        return Err(Lack::HugePages);
    }
    Ok(())
}
