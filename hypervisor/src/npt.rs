//! The OS's nested tables: the machine as it is, but for what is hidden. Built before the OS starts, never changed after.
//!
//! Everything is mapped by identity, up to the last physical address that four levels reach. Hidden pages are all mapped to one
//! constant page, read-only; a write there is the only nested page fault that the OS can cause, apart from
//! registers of the APICs and of bridges.

use crate::addr::{HUGE_PAGE, Hpa, LARGE_PAGE, PAGE_SIZE};
use crate::chipset::Chipset;
use crate::launch::MAX_IOMMUS;
use crate::pci::{self, ConfigSpace};
use crate::tables::{ACCESSED, DIRTY, LARGE, NO_EXECUTE, PRESENT, ROOT_ENTRY, TableArea, USER, WRITABLE};
use core::ops::Range;

/// The local APIC's registers: readable, writes are decoded (see [`crate::lapic`]).
pub const LAPIC: Hpa = Hpa(0xfee0_0000);
/// The rest of the range in which stores are interrupt messages (APM vol. 2, 16.4; PCI 3.0, 6.8): on a processor's own stores some
/// machines send what is stored, INIT among it. No OS stores there.
const MESSAGES: Range<u64> = LAPIC.0 + PAGE_SIZE..0xfef0_0000;
/// The I/O APIC's registers: readable, writes are decoded (see [`crate::ioapic`]).
pub const IO_APIC: Hpa = Hpa(0xfec0_0000);
/// The TPM's registers (TCG PC Client TIS 1.3, 5.2): locality 0 is the OS's.
pub const TPM: Hpa = Hpa(0xfed4_0000);
/// Pages of localities 1 to 4.
const TPM_HIDDEN: Range<u64> = TPM.0 + PAGE_SIZE..TPM.0 + 5 * PAGE_SIZE;

/// What is hidden at an address that differs from machine to machine.
#[derive(Clone, Copy)]
pub struct Hidden<'a> {
    /// The reserve: first byte, and first byte after it.
    pub reserve: (Hpa, Hpa),
    /// Registers of IOMMUs.
    pub iommus: &'a [Range<u64>],
    /// Its registers are readable, its watchdog is not.
    pub chipset: &'a Chipset,
    /// Readable, writes are decoded.
    pub config: &'a ConfigSpace,
}

/// Nested entries are user entries (APM vol. 2, 15.25.5); accessed and dirty are set, so that the processor never writes here.
const ALL: u64 = PRESENT | USER | ACCESSED | DIRTY | WRITABLE;
const CONSTANT: u64 = PRESENT | USER | ACCESSED | DIRTY | NO_EXECUTE;

/// Physical address bits that four levels of nested tables reach.
pub const MAX_PHYS_BITS: u32 = 48;

/// Builds the tables; returns their root.
pub fn build(area: &mut TableArea, hide: Hidden<'_>, phys_bits: u32) -> Hpa {
    let root = area.take(1);
    let ones = area.hold(&[0xff; PAGE_SIZE as usize]);
    let reserve = area.hold([(ones.0 | CONSTANT).to_le_bytes(); 512].as_flattened());
    let end = 1u64 << phys_bits.min(MAX_PHYS_BITS);
    let apics = [page_at(LAPIC), page_at(IO_APIC)];
    let hidden = [MESSAGES, TPM_HIDDEN, hide.chipset.watchdog.clone()];
    area.fill(root, (0, ROOT_ENTRY), &|_| ALL, &|start, size| {
        let touches = |range: &Range<u64>| start < range.end && range.start < start + size;
        let mut watched = apics.iter().chain(&hide.chipset.registers);
        let is_watched = watched.any(touches) || hide.config.guards(start, size);
        let is_hidden = hidden.iter().chain(hide.iommus).any(touches);
        let is_reserve = touches(&(hide.reserve.0.0..hide.reserve.1.0));
        match size {
            _ if start >= end => Some(0),
            PAGE_SIZE if is_hidden => Some(ones.0 | CONSTANT),
            PAGE_SIZE if is_watched => Some(start | CONSTANT),
            PAGE_SIZE => Some(start | ALL),
            LARGE_PAGE if is_reserve => Some(reserve.0 | ALL),
            LARGE_PAGE | HUGE_PAGE if !is_watched && !is_hidden && !is_reserve => Some(start | ALL | LARGE),
            _ => None,
        }
    });
    root
}

fn page_at(page: Hpa) -> Range<u64> {
    page.0..page.0 + PAGE_SIZE
}

/// Tables that [`build`] takes at most, for sizing the area.
pub fn tables(phys_bits: u32) -> u64 {
    // Root, constant page, hidden table; a PDPT for each 512 GiB; PDs for the watchdog, the reserve (it may
    // cross a GiB) and the devices; PTs for the watchdog and the devices; both for the SPI controller and each IOMMU.
    let own = 3 + 4 + 5 + 2 * MAX_IOMMUS as u64;
    own + (1u64 << (phys_bits.min(MAX_PHYS_BITS).saturating_sub(39))) + pci::TABLES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chipset;
    use crate::memory::TestMemory;

    fn look_up(memory: &TestMemory, root: Hpa, gpa: u64) -> Option<(u64, bool)> {
        let (mut table, mut writable) = (root, true);
        for shift in [39, 30, 21, 12] {
            let entry = memory.map().read_u64(table + (gpa >> shift & 0x1ff) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            assert_ne!(entry & USER, 0);
            writable &= entry & WRITABLE != 0;
            let span = (1u64 << shift) - 1;
            if shift == 12 || entry & LARGE != 0 {
                return Some((entry & 0x000f_ffff_ffff_f000 & !span | gpa & span, writable));
            }
            table = Hpa(entry & 0x000f_ffff_ffff_f000);
        }
        None
    }

    #[test]
    fn hides_what_is_to_be_hidden_and_nothing_else() {
        for base in [0x3000_0000u64, 0x3fe0_0000, 0xbfe0_0000] {
            let memory = TestMemory::new(64);
            let mut area = TableArea::new(memory.map(), Hpa(0), Hpa(64 * PAGE_SIZE));
            let reserve = (Hpa(base), Hpa(base + (4 << 20)));
            let mut config = ConfigSpace::none();
            config.find(&pci::tests::machine(), 0xe000_0000 | 8 << 2 | 1).unwrap();
            let iommus = [0xfeb8_0000..0xfeb8_4000, 0xf800_0000..0xf808_0000];
            let chipset = chipset::tests::FCH;
            let hide = Hidden { reserve, iommus: &iommus, chipset: &chipset, config: &config };
            let root = build(&mut area, hide, 40);
            let is_reserve = |gpa: u64| (reserve.0.0..reserve.1.0).contains(&gpa);
            let check = |gpa: u64| {
                let (hpa, writable) = look_up(&memory, root, gpa).unwrap();
                assert!(!is_reserve(hpa), "{gpa:#x} reaches the reserve");
                let hidden = is_reserve(gpa)
                    || (0xfed4_1000..0xfed4_5000).contains(&gpa)
                    || (0xfee0_1000..0xfef0_0000).contains(&gpa)
                    || (0xfeb0_0000..0xfeb0_1000).contains(&gpa)
                    || iommus.iter().any(|registers| registers.contains(&gpa));
                if hidden {
                    let mut bytes = [0; 8];
                    memory.map().copy_from(Hpa(hpa & !7), &mut bytes);
                    assert_eq!((bytes, writable), ([0xff; 8], false), "{gpa:#x}");
                } else {
                    let bridge =
                        [0xe000_0000, 0xe00a_3000, 0xe00c_0000, 0xe00c_7000].contains(&(gpa & !0xfff));
                    let registers = [0xfee0_0000, 0xfec0_0000, 0xfed8_0000, 0xfec1_0000];
                    let watched = bridge || registers.contains(&(gpa & !0xfff));
                    assert_eq!((hpa, writable), (gpa, !watched), "{gpa:#x}");
                }
            };
            for gpa in (reserve.0.0 - (8 << 20)..reserve.1.0 + (8 << 20)).step_by(PAGE_SIZE as usize) {
                check(gpa);
                check(gpa + 4095);
            }
            for gpa in (0..0x40_0000).step_by(PAGE_SIZE as usize) {
                check(gpa);
            }
            for gpa in (0xf7f0_0000..0xf820_0000).step_by(PAGE_SIZE as usize) {
                check(gpa);
            }
            for gpa in (0xfea0_0000..0xff20_0000).step_by(PAGE_SIZE as usize) {
                check(gpa);
            }
            for gpa in (0xe000_0000..0xe010_0000).step_by(PAGE_SIZE as usize) {
                check(gpa);
            }
            for gpa in (0..1u64 << 40).step_by(HUGE_PAGE as usize) {
                check(gpa);
            }
            assert_eq!(look_up(&memory, root, 1 << 40), None);
        }
    }

    #[test]
    fn the_area_is_large_enough_and_no_larger_than_said() {
        for (bits, base) in [(36, 0x1000_0000u64), (40, 0x3fe0_0000), (48, 0x3fe0_0000)] {
            let memory = TestMemory::new(1024);
            let mut area = TableArea::new(memory.map(), Hpa(0), Hpa(tables(bits) * PAGE_SIZE));
            let mut config = ConfigSpace::none();
            config.find(&pci::tests::full_machine(), 0xe000_0000 | 8 << 2 | 1).unwrap();
            let reserve = (Hpa(base), Hpa(base + (4 << 20)));
            let chipset = chipset::tests::FCH;
            let iommus: Vec<_> =
                (0..MAX_IOMMUS as u64).map(|n| (n << 29 | 0x4000)..(n << 29 | 0x8000)).collect();
            let hide = Hidden { reserve, iommus: &iommus, chipset: &chipset, config: &config };
            build(&mut area, hide, bits);
        }
    }
}
