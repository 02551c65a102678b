use super::*;
use crate::cpu::Features;
use crate::pal::tests::FEATURES;
use proptest::prelude::*;

const ALL: Registers = Registers { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };
const NONE: Registers = Registers { eax: 0, ebx: 0, ecx: 0, edx: 0 };

pub(crate) fn guest() -> Box<Cpu> {
    let features = Features { writable_efer: writable_efer(ALL, NONE, NONE), ..FEATURES };
    with(features, 0x1d01, true)
}

fn with(features: Features, efer: u64, paging: bool) -> Box<Cpu> {
    let mut cpu = Box::new(Cpu::new(features, 1));
    (cpu.os.save.efer, cpu.os.save.cr0) = (efer, if paging { CR0_PG } else { 0 });
    cpu
}

/// Bits of the map by the manual's table: byte 0 for 0 on, 800h for C000_0000h on, 1000h for C001_0000h on.
fn exits(map: &[u8; MAP_SIZE], msr: u32) -> (bool, bool) {
    let start = match msr >> 13 {
        0x0_0000 => 0,
        0x6_0000 => 0x800,
        0x6_0008 => 0x1000,
        _ => return (true, true),
    };
    let bit = 2 * (msr as usize & 0x1fff);
    let at = |bit: usize| map[start + bit / 8] >> (bit % 8) & 1 == 1;
    (at(bit), at(bit + 1))
}

#[test]
fn the_table_is_in_order_and_within_the_map() {
    let ends: Vec<u32> =
        TABLE.iter().flat_map(|(registers, ..)| [*registers.start(), *registers.end()]).collect();
    assert!(ends.chunks(2).all(|range| range[0] <= range[1]));
    assert!(ends[1..].chunks_exact(2).all(|between| between[0] < between[1]));
    assert!(ends.iter().all(|end| position(*end).is_some()));
}

#[test]
fn the_map_says_what_the_table_says() {
    let map = permission_map(false);
    for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000).chain(0xc001_0000..0xc001_2000) {
        let expected = TABLE
            .iter()
            .find(|(registers, ..)| registers.contains(&msr))
            .map_or((false, msr >= 0xc001_0000), |(_, guard, _)| {
                (matches!(guard, Guard::Hidden | Guard::Shadow), *guard != Guard::Own)
            });
        assert_eq!(exits(&map, msr), expected, "{msr:#x}");
    }
    assert!(map[0x1800..].iter().all(|byte| *byte == 0xff));
    // EFER: bits 0 and 1 of byte 820h; VM_HSAVE_PA: bits 6 and 7 of byte 1045h.
    assert_eq!((map[0x820] & 3, map[0x1045] >> 6), (3, 3));
}

/// Written down apart from the table.
#[test]
fn what_isolation_rests_on_is_never_written_without_an_exit() {
    let guarded = [
        TSC,
        0x11,
        APIC_BASE,
        0x3b,
        0x200,
        0x20f,
        0x250,
        0x26f,
        0x2ff,
        0x800,
        0x830,
        0x8ff,
        EFER,
        0xc000_0104,
        0xc001_0010,
        0xc001_0015,
        0xc001_0016,
        0xc001_0019,
        0xc001_001a,
        0xc001_001d,
        0xc001_001f,
        0xc001_0020,
        0xc001_0050,
        0xc001_0056,
        0xc001_0058,
        0xc001_0064,
        0xc001_0111,
        0xc001_0113,
        0xc001_0114,
        0xc001_0116,
        0xc001_0117,
        0xc001_0118,
        0xc001_1004,
        0xc001_1029,
    ];
    for profiles in [false, true] {
        let map = permission_map(profiles);
        for msr in guarded {
            assert!(exits(&map, msr).1, "{msr:#x}");
        }
        for msr in [0x800, 0x8ff, EFER, 0xc001_0114, 0xc001_0117] {
            assert!(exits(&map, msr).0, "{msr:#x} shows");
        }
    }
}

#[test]
fn what_linux_writes_at_boot_is_no_fault() {
    let dropped = [
        0x200,
        0x20f,
        0x250,
        0x2ff,
        0xc001_0010,
        0xc001_0015,
        0xc001_001f,
        0xc001_0020,
        0xc001_0058,
        0xc001_1004,
        0xc001_1029,
        // In no rule.
        0xc001_0140,
        0xc001_1fff,
    ];
    for msr in dropped {
        assert_eq!(write(msr, 0, &guest()), WriteAnswer::Drop, "{msr:#x}");
    }
    assert_eq!(write(APIC_BASE, 0xfee0_0900, &guest()), WriteAnswer::Drop);
    assert_eq!(write(TSC, 5, &guest()), WriteAnswer::Tsc(5));
}

#[test]
fn hidden_and_dangerous_registers() {
    for msr in [
        0x11,
        0x12,
        0x800,
        0x830,
        0x8ff,
        0xc000_0104,
        0xc001_0114,
        0xc001_0117,
        0xc001_0118,
        0xc001_011b,
        0xc001_0131,
    ] {
        assert_eq!(read(msr, &guest()), None, "{msr:#x}");
        assert_eq!(write(msr, 0, &guest()), WriteAnswer::Fault, "{msr:#x}");
    }
    for msr in [
        0xc001_0016,
        0xc001_001a,
        0xc001_001d,
        0xc001_0056,
        0xc001_0111,
        0xc001_0113,
        0xc001_0116,
        0xc001_0064,
    ] {
        assert_eq!(write(msr, 0, &guest()), WriteAnswer::Fault, "{msr:#x}");
    }
    // Outside the map: an outer hypervisor's, SMCA's, and the first beyond each range.
    for msr in [0x4000_0000, 0x4000_00ff, 0x4b56_4d00, 0xc000_2000, 0x2000, 0xc001_2000, u32::MAX] {
        assert_eq!(position(msr), None);
        assert_eq!(read(msr, &guest()), None);
        assert_eq!(write(msr, 0, &guest()), WriteAnswer::Fault);
    }
}

#[test]
fn who_profiles_does_not_exit() {
    let (before, map) = (permission_map(false), permission_map(true));
    let profiling = |msr: u32| {
        [0x1d9, 0xc000_010f, 0xc000_0301, 0xc001_0000, 0xc001_020a, 0xc001_1030, 0xc001_1033].contains(&msr)
    };
    for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000).chain(0xc001_0000..0xc001_2000) {
        let guard = guard_of(msr);
        assert!(!profiling(msr) || guard == Some(Guard::Profile), "{msr:#x}");
        let (read, written) = exits(&before, msr);
        let expected = (read, written && guard != Some(Guard::Profile));
        assert_eq!(exits(&map, msr), expected, "{msr:#x}");
    }
    assert_eq!(write(0xc001_1030, 1 << 48, &guest()), WriteAnswer::Profile);
}

#[test]
fn the_apic_stays_where_and_what_it_is() {
    for other in [0xfee0_0d00, 0xfed0_0900, 0xfee0_0100, 0xfee0_0800, 0x1_fee0_0900] {
        assert_eq!(write(APIC_BASE, other, &guest()), WriteAnswer::Fault, "{other:#x}");
    }
}

#[test]
fn efer() {
    assert_eq!(read(EFER, &guest()), Some(0xd01));
    assert_eq!(write(EFER, 0xd01, &guest()), WriteAnswer::Efer(0x1d01));
    assert_eq!(write(EFER, 0x101, &guest()), WriteAnswer::Efer(0x1501), "LMA is the processor's");
    assert_eq!(write(EFER, 0x1d01, &guest()), WriteAnswer::Fault, "SVME");
    assert_eq!(write(EFER, 0xc01, &guest()), WriteAnswer::Fault, "LME with paging on");
    let unpaged = with(guest().features, 0x1000, false);
    assert_eq!(write(EFER, 0x100, &unpaged), WriteAnswer::Efer(0x1100));
    assert_eq!(write(EFER, 0x500, &unpaged), WriteAnswer::Efer(0x1100), "LMA cannot be set by writing");
    for bit in [1, 9, 13, 16, 17, 18, 20, 21, 63] {
        assert_eq!(write(EFER, 0xd01 | 1 << bit, &guest()), WriteAnswer::Fault, "bit {bit}");
    }
    assert_eq!(writable_efer(NONE, NONE, NONE), 0);
    assert_eq!(writable_efer(ALL, ALL, ALL), 0x36_c901);
    let without_nx = Registers { edx: !(1 << 20), ..NONE };
    assert_eq!(writable_efer(without_nx, NONE, NONE), 0x4101);
}

proptest! {
    #[test]
    fn svm_stays_on_whatever_is_written(value: u64, efer: u64, writable: u64, paging: bool) {
        let writable = writable & writable_efer(ALL, ALL, ALL);
        let guest = with(Features { writable_efer: writable, ..FEATURES }, efer, paging);
        if let WriteAnswer::Efer(new) = write(EFER, value, &guest) {
            prop_assert!(new & 0x1000 != 0);
            prop_assert_eq!(new & !(writable | 0x1400), 0);
            prop_assert_eq!((new ^ efer) & 0x400, 0);
            prop_assert!(!paging || (new ^ efer) & 0x100 == 0);
        }
    }
}
