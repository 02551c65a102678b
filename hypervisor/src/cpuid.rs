//! What the guest's CPUID says: the processor's answer but for what it does not have under TrustVisor.
//!
//! Guarantees: SVM, memory encryption and an outer hypervisor's leaves do not show; bits that mirror CR4 mirror the guest's. Relies
//! on the caller for the processor's own answer to the same leaf and subleaf, with the guest's XCR0 and XSS in force.

use crate::vmcb::{CR4_OSXSAVE, CR4_PKE};
use abi::VERSION;
use abi::cpuid::{PRESENCE, SIGNATURE};
pub use core::arch::x86_64::CpuidResult as Registers;

/// What CPUID returns where there is nothing.
pub const NOTHING: Registers = Registers { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/// Feature bits (APM vol. 3, appendix E).
mod bit {
    /// 1 ECX.
    pub const X2APIC: u32 = 1 << 21;
    /// 1 ECX.
    pub const OSXSAVE: u32 = 1 << 27;
    /// 7.0 EBX.
    pub const TSC_ADJUST: u32 = 1 << 1;
    /// 7.0 ECX.
    pub const OSPKE: u32 = 1 << 4;
    /// 8000_0001 ECX.
    pub const SVM: u32 = 1 << 2;
    /// 8000_0001 ECX.
    pub const SKINIT: u32 = 1 << 12;
    /// 8000_0007 EBX.
    pub const SCALABLE_MCA: u32 = 1 << 3;
    /// 8000_0008 EBX.
    pub const INVLPGB: u32 = 1 << 3;
    /// 8000_0008 EBX: INVLPGB of nested pages.
    pub const INVLPGB_NESTED: u32 = 1 << 21;
}

/// The guest's answer for this leaf and subleaf, from the processor's and the guest's CR4.
pub fn answer(leaf: u32, subleaf: u32, mut guest: Registers, cr4: u64) -> Registers {
    match (leaf, subleaf) {
        (1, _) => {
            // The trap of ICR writes watches the mapped APIC only.
            guest.ecx &= !bit::X2APIC;
            guest.ecx = mirror(guest.ecx, bit::OSXSAVE, cr4 & CR4_OSXSAVE);
        }
        (7, 0) => {
            guest.ebx &= !bit::TSC_ADJUST;
            guest.ecx = mirror(guest.ecx, bit::OSPKE, cr4 & CR4_PKE);
        }
        (PRESENCE, _) => {
            let [ebx, ecx, edx] = SIGNATURE;
            guest = Registers { eax: VERSION, ebx, ecx, edx };
        }
        (0x4000_0000..=0x4fff_ffff, _) => guest = NOTHING,
        (0x8000_0001, _) => guest.ecx &= !(bit::SVM | bit::SKINIT),
        // SMCA's registers lie outside the MSR permission map; without it an OS uses the architectural ones.
        (0x8000_0007, _) => guest.ebx &= !bit::SCALABLE_MCA,
        // Not enabled in the VMCB: they would be #UD.
        (0x8000_0008, _) => guest.ebx &= !(bit::INVLPGB | bit::INVLPGB_NESTED),
        // SVM's features; memory encryption.
        (0x8000_000a | 0x8000_001f, _) => guest = NOTHING,
        _ => {}
    }
    guest
}

fn mirror(register: u32, bit: u32, control: u64) -> u32 {
    if control != 0 { register | bit } else { register & !bit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONES: Registers = Registers { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

    #[test]
    fn features_that_are_not_there() {
        assert_eq!(answer(1, 0, ONES, 0), Registers { ecx: !(1 << 21 | 1 << 27), ..ONES });
        assert_eq!(answer(0x8000_0001, 0, ONES, 0), Registers { ecx: 0xffff_effb, ..ONES });
        assert_eq!(answer(0x8000_0007, 0, ONES, 0), Registers { ebx: 0xffff_fff7, ..ONES });
        assert_eq!(answer(0x8000_0008, 0, ONES, 0), Registers { ebx: 0xffdf_fff7, ..ONES });
        for leaf in
            [0x8000_000a, 0x8000_001f, 0x4000_0000, 0x4000_0001, 0x4000_00ff, 0x4000_0101, 0x4fff_ffff]
        {
            assert_eq!(answer(leaf, 0, ONES, u64::MAX), NOTHING, "{leaf:#x}");
        }
        for leaf in
            [0, 2, 0xb, 0xd, 0x3fff_ffff, 0x5000_0000, 0x8000_0000, 0x8000_0002, 0x8000_001e, 0x8000_0021]
        {
            assert_eq!(answer(leaf, 0, ONES, 0), ONES, "{leaf:#x}");
        }
    }

    #[test]
    fn presence() {
        let there = answer(PRESENCE, 7, ONES, 0);
        let text: Vec<u8> =
            [there.ebx, there.ecx, there.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(text, b"TrustVisor!!");
        assert_eq!(there.eax, VERSION);
    }

    #[test]
    fn mirrors_of_cr4() {
        for raw in [ONES, NOTHING] {
            assert_eq!(answer(1, 0, raw, 1 << 18).ecx >> 27 & 1, 1);
            assert_eq!(answer(1, 0, raw, !(1 << 18)).ecx >> 27 & 1, 0);
            assert_eq!(answer(7, 0, raw, 1 << 22).ecx >> 4 & 1, 1);
            assert_eq!(answer(7, 0, raw, !(1 << 22)).ecx >> 4 & 1, 0);
        }
        assert_eq!(answer(7, 1, ONES, 0), ONES, "other subleaves mirror nothing");
        assert_eq!(answer(7, 0, ONES, 0), Registers { ebx: !2, ecx: !(1 << 4), ..ONES });
    }

    proptest! {
        #[test]
        fn nothing_is_added_but_mirrors_and_presence(
            leaf: u32, subleaf in 0u32..4, bits: [u32; 4], cr4: u64,
        ) {
            let raw = Registers { eax: bits[0], ebx: bits[1], ecx: bits[2], edx: bits[3] };
            for leaf in [leaf, leaf % 16, 0x8000_0000 + leaf % 64] {
                let guest = answer(leaf, subleaf, raw, cr4);
                let mirrors = match leaf { 1 => 1 << 27, 7 => 1 << 4, _ => 0 };
                let added =
                    [guest.eax & !raw.eax, guest.ebx & !raw.ebx, guest.ecx & !raw.ecx & !mirrors, guest.edx & !raw.edx];
                prop_assert!(leaf == PRESENCE || added == [0; 4]);
            }
        }
    }
}
