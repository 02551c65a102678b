//! AMD-Vi's tables: what devices reach. One entry for every device, all alike, and page tables that map by identity what the OS's
//! devices may reach; all built once (AMD I/O Virtualization Technology Specification 3.08, 2.2).

use crate::addr::{HUGE_PAGE, Hpa, LARGE_PAGE, PAGE_SIZE};
use crate::launch::MAX_IOMMUS;
use crate::memory::{DirectMap, RamMap};
use crate::npt::MAX_PHYS_BITS;
use crate::pci;
use crate::tables::{ROOT_ENTRY, TableArea};
use core::ops::Range;

/// Bytes of the whole device table: an entry for each function of PCI.
pub const DEVICE_TABLE: u64 = pci::FUNCTIONS as u64 * ENTRY;
const ENTRY: u64 = 32;

/// A device table entry (2.2.2.1).
type Entry = [u64; 4];
/// V and TV; IR and IW: reads and writes.
const VALID: u64 = 3;
const ALLOWED: u64 = 3 << 61;
/// Mode: levels of page tables, 4.
const LEVELS: u64 = 4 << 9;
/// Domain 0 is left to hardware.
const DOMAIN: u64 = 1;
/// IV: interrupts of devices as follows, SMI and what else is not named never. IntTabLen: 512; IntCtl: by table.
const JUDGED: u64 = 1 << 0;
const BY_TABLE: u64 = 9 << 1 | 2 << 60;
/// EIntPass, NMIPass, Lint0Pass, Lint1Pass: what does no harm. INIT does not pass.
const HARMLESS: u64 = 1 << 57 | 1 << 58 | 3 << 62;

/// Devices reach nothing, and interrupt nobody.
pub const CLOSED: Entry = [VALID, 0, JUDGED, 0];

/// Devices reach what these page tables map, and interrupt by this table.
pub fn open(pages: Hpa, interrupts: Hpa) -> Entry {
    [VALID | LEVELS | pages.0 | ALLOWED, DOMAIN, JUDGED | BY_TABLE | HARMLESS | interrupts.0, 0]
}

/// The interrupt remapping table (2.2.5): every message is for the one processor that the OS has, with its vector. The index is the
/// message's vector and lowest bit of its type: fixed, or arbitrated, which among one is the same. (To forward them as they are
/// would do, but the emulator gets that wrong.)
pub fn interrupts(area: &mut TableArea, apic_id: u32) -> Hpa {
    const ENABLED: u32 = 1 << 0;
    let entry = |index: usize| (ENABLED | apic_id << 8 | (index as u32 & 0xff) << 16).to_le_bytes();
    area.hold(core::array::from_fn::<_, 512, _>(entry).as_flattened())
}

/// Fills a device table with one entry. What an entry lets through is written last.
pub fn fill(mem: DirectMap, table: Hpa, bytes: u64, entry: Entry) {
    for at in (table.0..table.0 + bytes).step_by(ENTRY as usize) {
        for (number, word) in entry.into_iter().enumerate().rev() {
            mem.write_u64(Hpa(at + 8 * number as u64), word);
        }
    }
}

/// What devices may reach: the OS's RAM, and the windows in which other devices are, below and above 4 GiB, but for what is never
/// theirs.
pub struct Reach<'a> {
    ram: RamMap<'a>,
    windows: [Range<u64>; 2],
    pub never: [Range<u64>; 3],
    registers: &'a [Range<u64>],
}

impl<'a> Reach<'a> {
    /// `tops` is where memory ends below 4 GiB, and at all, as the processor decodes it (0: not known).
    pub fn new(
        ram: RamMap<'a>,
        never: [Range<u64>; 3],
        registers: &'a [Range<u64>],
        tops: [u64; 2],
        phys_bits: u32,
    ) -> Self {
        let low = ram.runs().iter().map(|run| run.end.0).rfind(|end| *end <= NEVER_RAM);
        let end = 1u64 << phys_bits.min(MAX_PHYS_BITS);
        let windows = [tops[0].max(low.unwrap_or(0))..NEVER_RAM, tops[1].max(ram.end().0).max(4 << 30)..end];
        Self { ram, windows, never, registers }
    }
}

/// From here to 4 GiB: interrupt controllers, TPM, flash.
const NEVER_RAM: u64 = 0xfec0_0000;
/// Addresses that are no memory: interrupts, I/O ports, configuration (HyperTransport I/O Link Specification 3.10, 10.1).
const HYPERTRANSPORT: Range<u64> = 0xfd_0000_0000..0x100_0000_0000;

/// Present; a page of the entry's own size.
const PAGE: u64 = 1 | ALLOWED;

/// Builds the page tables; returns their root.
pub fn build(area: &mut TableArea, reach: &Reach<'_>) -> Hpa {
    let root = area.take(1);
    // Linked with the level of the next table (2.2.3).
    let flags = |size: u64| PAGE | u64::from((size.trailing_zeros() - 12) / 9) << 9;
    area.fill(root, (0, ROOT_ENTRY), &flags, &|start, size| {
        let touches = |range: &Range<u64>| start < range.end && range.start < start + size;
        let holds = |range: &Range<u64>| range.start <= start && start + size <= range.end;
        let ram = reach.ram.runs().iter().map(|run| run.start.0..run.end.0);
        let allowed = || ram.clone().chain(reach.windows.iter().cloned());
        let never = || reach.never.iter().chain([&HYPERTRANSPORT]).chain(reach.registers);
        match size {
            _ if never().any(holds) || !allowed().any(|range| touches(&range)) => Some(0),
            PAGE_SIZE | LARGE_PAGE | HUGE_PAGE
                if !never().any(touches) && allowed().any(|range| holds(&range)) =>
            {
                Some(start | PAGE)
            }
            PAGE_SIZE => Some(0),
            _ => None,
        }
    });
    root
}

/// Tables that [`build`] takes at most.
pub fn tables(phys_bits: u32, runs: usize) -> u64 {
    // The root; one for each 512 GiB; and two at each end of what is allowed, or is not.
    1 + (1u64 << phys_bits.min(MAX_PHYS_BITS).saturating_sub(39)) + 4 * (runs + 2 + 3 + MAX_IOMMUS) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Run, TestMemory};

    const RESERVE: Range<u64> = 0x3be0_0000..0x3fe0_0000;
    const CONFIG: Range<u64> = 0xb000_0000..0xc000_0000;
    const WATCHDOG: Range<u64> = 0xfeb0_0000..0xfeb0_1000;
    const IOMMUS: [Range<u64>; 2] = [0xfeb8_0000..0xfeb8_4000, 0x9000_0000..0x9008_0000];

    fn runs() -> [Run; 4] {
        let run = |start, end| Run { start: Hpa(start), end: Hpa(end) };
        [
            run(0x1000, 0x9_e000),
            run(0x10_0000, RESERVE.start),
            run(RESERVE.end, 0x3ffd_f000),
            run(1 << 32, (5 << 30) + 0x1000),
        ]
    }

    /// What an address is mapped to.
    fn look_up(memory: &TestMemory, root: Hpa, at: u64) -> Option<u64> {
        let (mut table, mut level) = (root, 4);
        loop {
            let shift = 3 + 9 * level;
            let entry = memory.map().read_u64(table + (at >> shift & 0x1ff) * 8);
            if entry & 1 == 0 {
                assert_eq!(entry, 0);
                return None;
            }
            assert_eq!(entry & ALLOWED, ALLOWED);
            let address = entry & 0x000f_ffff_ffff_f000;
            match entry >> 9 & 7 {
                0 => {
                    assert!(level < 4, "pages of 512 GiB do not work everywhere");
                    assert_eq!(address % (1 << shift), 0);
                    return Some(address + at % (1 << shift));
                }
                next => assert_eq!(next, level - 1, "no level is skipped"),
            }
            (table, level) = (Hpa(address), level - 1);
        }
    }

    #[test]
    fn devices_reach_what_is_theirs_and_nothing_else() {
        let memory = TestMemory::new(256);
        let runs = runs();
        let ram = RamMap::new(&runs).unwrap();
        let reach = Reach::new(ram, [RESERVE, CONFIG, WATCHDOG], &IOMMUS, [0x8000_0000, 0], 41);
        let mut area = TableArea::new(memory.map(), Hpa(0), Hpa(tables(41, 4) * PAGE_SIZE));
        let root = build(&mut area, &reach);
        let theirs = |at: u64| {
            let ram = runs.iter().any(|run| (run.start.0..run.end.0).contains(&at));
            let window = (0x8000_0000..0xfec0_0000).contains(&at)
                || ((5 << 30) + 0x1000..0xfd_0000_0000).contains(&at)
                || (0x100_0000_0000..0x200_0000_0000).contains(&at);
            let never = CONFIG.contains(&at)
                || WATCHDOG.contains(&at)
                || IOMMUS.iter().any(|iommu| iommu.contains(&at));
            (ram || window) && !never
        };
        let borders =
            [0, 0x9_e000, 0x10_0000, RESERVE.start, RESERVE.end, 0x3ffd_f000, 0x4000_0000, 0x8000_0000]
                .into_iter()
                .chain([
                    CONFIG.start,
                    CONFIG.end,
                    0xfeb8_0000,
                    0x9000_0000,
                    0xfec0_0000,
                    0xfed4_0000,
                    0xfee0_0000,
                ])
                .chain([0xffff_f000, 1 << 32, 5 << 30, 0xfd_0000_0000, 0x100_0000_0000, 0x200_0000_0000]);
        let around = borders.flat_map(|border: u64| {
            (border.saturating_sub(8 << 20)..border + (8 << 20)).step_by(PAGE_SIZE as usize)
        });
        for page in
            around.chain((0..1 << 42).step_by(HUGE_PAGE as usize)).chain(RESERVE.step_by(PAGE_SIZE as usize))
        {
            for at in [page, page + 4095] {
                assert_eq!(look_up(&memory, root, at), theirs(at).then_some(at), "{at:#x}");
            }
        }
    }

    /// The bits by their numbers in the specification (2.2.2.1), from 128 on in the third word.
    #[test]
    fn entries() {
        let set =
            |entry: Entry| (0..256).filter(|bit| entry[bit / 64] >> (bit % 64) & 1 == 1).collect::<Vec<_>>();
        // V, TV and IV: no translation, neither IR nor IW, IntCtl 0.
        assert_eq!(set(CLOSED), [0, 1, 128]);
        // Mode 4, addresses, IR, IW, domain 1, IntTabLen 9, EIntPass, NMIPass, IntCtl 2, Lint0Pass, Lint1Pass; not InitPass (184).
        let expected = [0, 1, 11, 12, 61, 62, 64, 128, 129, 132, 141, 185, 186, 189, 190, 191];
        assert_eq!(set(open(Hpa(0x1000), Hpa(0x2000))), expected);
    }

    #[test]
    fn interrupts_are_for_one_processor_with_their_vectors() {
        let memory = TestMemory::new(2);
        let mut area = TableArea::new(memory.map(), Hpa(0), Hpa(2 * PAGE_SIZE));
        let table = interrupts(&mut area, 0x21);
        for index in 0..1024 {
            // RemapEn, fixed, physical; destination; vector. Nothing for types but fixed and arbitrated.
            let expected = if index < 512 { 1 | 0x21 << 8 | (index & 0xff) << 16 } else { 0 };
            assert_eq!(memory.map().read_u32(table + 4 * u64::from(index)), expected);
        }
    }

    #[test]
    fn the_area_is_large_enough() {
        let run = |n: u64| Run { start: Hpa((n << 29) + 0x10_1000), end: Hpa((n << 29) + 0x60_2000) };
        let runs: Vec<_> = (0..7).chain(8..100).map(run).collect();
        let iommus: Vec<_> = (0..MAX_IOMMUS as u64).map(|n| (n << 28 | 0x4000)..(n << 28 | 0x8000)).collect();
        for bits in [36, 40, 48] {
            let memory = TestMemory::new(2048);
            let ram = RamMap::new(&runs).unwrap();
            let reach = Reach::new(ram, [RESERVE, CONFIG, WATCHDOG], &iommus, [0x1_0000, 0], bits);
            let mut area = TableArea::new(memory.map(), Hpa(0), Hpa(tables(bits, runs.len()) * PAGE_SIZE));
            build(&mut area, &reach);
        }
    }
}
