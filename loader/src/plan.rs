//! Where everything goes: the reserve, and what the loader prepares for the guest.
//!
//! Guarantees: what is planned lies in ordinary memory between 1 MiB and 4 GiB, overlaps neither itself nor what is taken (the
//! loader, the modules), and the reserve is as high as possible. Relies on a [`MemoryMap`] in order.

use hypervisor::addr::{LARGE_PAGE, PAGE_SIZE};

use crate::map::MemoryMap;
use crate::range::Range;

/// Below lies what belongs to the firmware, and what Linux wants for starting its other processors.
const LOWEST: u64 = 1 << 20;
/// The reserve must be below (SKINIT takes a 32-bit address), the rest is copied by a loader that maps no more.
const HIGHEST: u64 = 1 << 32;

/// What a kernel asks for (Linux, Documentation/arch/x86/boot.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeeds {
    /// Where it runs best, and the lowest address where it stays in place.
    pub preferred: u64,
    /// What its address must be a multiple of.
    pub alignment: u64,
    /// Bytes it needs before it can read the memory map.
    pub size: u64,
    /// It also runs elsewhere.
    pub relocatable: bool,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Bytes of the reserve.
    pub reserve: u64,
    /// The kernel.
    pub kernel: KernelNeeds,
    /// Bytes of the initrd, 0 if there is none.
    pub initrd: u64,
    /// The initrd's last byte lies here at most.
    pub initrd_max: u64,
    /// Bytes of the boot area ([`crate::guest`]).
    pub boot_area: u64,
}

/// Where it is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The reserve, 2 MiB aligned.
    pub reserve: Range,
    /// The kernel and the room it asked for.
    pub kernel: Range,
    /// The initrd, page aligned; empty if there is none.
    pub initrd: Range,
    /// The boot area, page aligned.
    pub boot_area: Range,
}

/// What has found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The reserve.
    Reserve,
    /// The kernel.
    Kernel,
    /// The initrd.
    Initrd,
    /// The boot area.
    BootArea,
}

/// Most ranges that can be taken: the loader and the modules, then what is planned.
const MAX_TAKEN: usize = 16;

/// Finds a place for everything.
pub fn plan(map: &MemoryMap, taken: &[Range], needs: &Needs) -> Result<Plan, NoRoom> {
    let mut space = Space { map, taken: [Range::default(); MAX_TAKEN], count: 0 };
    taken.iter().try_for_each(|range| space.take(*range)).ok_or(NoRoom::Reserve)?;
    let reserve = space.highest(needs.reserve, LARGE_PAGE, HIGHEST).ok_or(NoRoom::Reserve)?;
    let kernel = space.kernel(&needs.kernel).ok_or(NoRoom::Kernel)?;
    let initrd = match needs.initrd {
        0 => Range::default(),
        len => {
            let limit = needs.initrd_max.saturating_add(1).min(HIGHEST);
            space.highest(len, PAGE_SIZE, limit).ok_or(NoRoom::Initrd)?
        }
    };
    let boot_area = space.highest(needs.boot_area, PAGE_SIZE, HIGHEST).ok_or(NoRoom::BootArea)?;
    Ok(Plan { reserve, kernel, initrd, boot_area })
}

struct Space<'a> {
    map: &'a MemoryMap,
    taken: [Range; MAX_TAKEN],
    count: usize,
}

impl Space<'_> {
    fn take(&mut self, range: Range) -> Option<()> {
        *self.taken.get_mut(self.count)? = range;
        self.count += 1;
        Some(())
    }

    fn in_the_way(&self, range: &Range) -> Option<Range> {
        self.taken[..self.count].iter().copied().find(|taken| taken.overlaps(range))
    }

    fn highest(&mut self, size: u64, alignment: u64, limit: u64) -> Option<Range> {
        let find = |ram: Range| {
            let floor = ram.start.max(LOWEST);
            let mut end = ram.end.min(limit);
            loop {
                let start = end.checked_sub(size)? / alignment * alignment;
                let range = Range { start, end: start + size };
                if start < floor {
                    return None;
                }
                match self.in_the_way(&range) {
                    Some(taken) => end = taken.start,
                    None => return Some(range),
                }
            }
        };
        let found = self.map.ram().rev().find_map(find)?;
        self.take(found)?;
        Some(found)
    }

    /// The lowest address a relocatable kernel does not move away from, or the only one of another.
    fn kernel(&mut self, needs: &KernelNeeds) -> Option<Range> {
        let find = |ram: Range| {
            let mut start = ram.start.max(LOWEST).max(needs.preferred);
            loop {
                start = start.checked_next_multiple_of(needs.alignment)?;
                let range = Range::sized(start, needs.size)?;
                if range.end > ram.end.min(HIGHEST) || (!needs.relocatable && start != needs.preferred) {
                    return None;
                }
                match self.in_the_way(&range) {
                    Some(taken) => start = taken.end,
                    None => return Some(range),
                }
            }
        };
        let found = self.map.ram().find_map(find)?;
        self.take(found)?;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use crate::map::region;
    use proptest::prelude::*;

    use super::*;
    use crate::map::RawMap;

    const MIB: u64 = 1 << 20;

    fn map(ram: &[(u64, u64)]) -> MemoryMap {
        let mut raw = RawMap::default();
        for (base, size) in ram {
            raw.push(*base, *size, region::RAM).unwrap();
        }
        MemoryMap::new(&raw).unwrap()
    }

    fn needs() -> Needs {
        let kernel =
            KernelNeeds { preferred: 16 * MIB, alignment: 2 * MIB, size: 40 * MIB, relocatable: true };
        Needs { reserve: 64 * MIB, kernel, initrd: 5 * MIB + 1, initrd_max: 0x7fff_ffff, boot_area: 0xa000 }
    }

    #[test]
    fn an_ordinary_machine() {
        let map = map(&[(0, 0x9fc00), (MIB, 511 * MIB - 0x20000), (4096 * MIB, 1024 * MIB)]);
        let plan = plan(&map, &[Range { start: MIB, end: 2 * MIB }], &needs()).unwrap();
        assert_eq!(plan.reserve, Range { start: 446 * MIB, end: 510 * MIB });
        assert_eq!(plan.kernel, Range { start: 16 * MIB, end: 56 * MIB });
        let end = 512 * MIB - 0x20000;
        assert_eq!(plan.boot_area, Range { start: end - 0xa000, end });
        assert_eq!(plan.initrd.start, 446 * MIB - 5 * MIB - PAGE_SIZE);
    }

    #[test]
    fn what_is_taken_is_avoided() {
        let map = map(&[(MIB, 511 * MIB)]);
        let taken = [
            Range { start: 20 * MIB, end: 30 * MIB + 5 },
            Range { start: 500 * MIB, end: 500 * MIB + 1 },
            Range { start: 400 * MIB, end: 437 * MIB },
        ];
        let found = plan(&map, &taken, &needs()).unwrap();
        assert_eq!(found.kernel.start, 32 * MIB);
        assert_eq!(found.reserve.start, 336 * MIB);
        let mut fixed = needs();
        fixed.kernel.relocatable = false;
        assert_eq!(plan(&map, &taken, &fixed), Err(NoRoom::Kernel));
        assert!(plan(&map, &taken[1..], &fixed).is_ok());
    }

    #[test]
    fn what_finds_no_place_is_named() {
        let reserve = |size| Needs { reserve: size, ..needs() };
        assert_eq!(plan(&map(&[(MIB, 64 * MIB)]), &[], &reserve(64 * MIB)), Err(NoRoom::Reserve));
        assert_eq!(plan(&map(&[(MIB, 127 * MIB)]), &[], &reserve(112 * MIB)), Err(NoRoom::Kernel));
        let low = Needs { initrd_max: 17 * MIB, initrd: 16 * MIB, ..needs() };
        assert_eq!(plan(&map(&[(MIB, 511 * MIB)]), &[], &low), Err(NoRoom::Initrd));
        let tight = [(MIB, 0x9fff), (16 * MIB, 40 * MIB), (100 * MIB, 64 * MIB)];
        assert_eq!(plan(&map(&tight), &[], &Needs { initrd: 0, ..needs() }), Err(NoRoom::BootArea));
        // A hole in the middle: the two halves together would do.
        assert_eq!(
            plan(&map(&[(MIB, 63 * MIB), (65 * MIB, 63 * MIB)]), &[], &reserve(64 * MIB)),
            Err(NoRoom::Reserve)
        );
        let absurd =
            KernelNeeds { preferred: u64::MAX, alignment: 1 << 31, size: u64::MAX, relocatable: true };
        assert_eq!(
            plan(&map(&[(MIB, 511 * MIB)]), &[], &Needs { kernel: absurd, ..needs() }),
            Err(NoRoom::Kernel)
        );
    }

    prop_compose! {
        fn ranges(count: usize)(list in prop::collection::vec((0u64..700, 1u64..200, 0u64..3), 0..count)) -> Vec<Range> {
            list.iter().map(|(start, size, odd)| Range { start: start * MIB + odd, end: (start + size) * MIB }).collect()
        }
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_is_ram(
            ram in ranges(6),
            taken in ranges(4),
            reserve in 8u64..80,
            size in 1u64..100,
            align in 12u32..25,
            preferred in 0u64..64,
            initrd in 0u64..(50 << 20),
            initrd_max in (1u64 << 20)..(600 << 20),
            relocatable: bool,
        ) {
            let ram: Vec<_> = ram.iter().map(|r| (r.start, r.len())).collect();
            let map = map(&ram);
            let alignment = 1 << align;
            let preferred = (preferred * MIB).next_multiple_of(alignment);
            let kernel = KernelNeeds { preferred, alignment, size: size * MIB, relocatable };
            let needs = Needs { reserve: reserve * 2 * MIB, kernel, initrd, initrd_max, boot_area: 0xa000 };
            let Ok(plan) = plan(&map, &taken, &needs) else { return Ok(()) };

            prop_assert_eq!(plan.reserve.len(), needs.reserve);
            prop_assert_eq!(plan.kernel.len(), kernel.size);
            prop_assert_eq!(plan.initrd.len(), initrd);
            prop_assert_eq!(plan.boot_area.len(), needs.boot_area);
            prop_assert!(plan.reserve.start.is_multiple_of(LARGE_PAGE));
            prop_assert!(plan.kernel.start.is_multiple_of(alignment) && plan.kernel.start >= preferred);
            prop_assert!(relocatable || plan.kernel.start == preferred);
            prop_assert!(plan.initrd.start.is_multiple_of(PAGE_SIZE) && plan.initrd.end <= initrd_max + 1);
            prop_assert!(plan.boot_area.start.is_multiple_of(PAGE_SIZE));

            let placed = [plan.reserve, plan.kernel, plan.initrd, plan.boot_area];
            for (n, range) in placed.iter().enumerate().filter(|(_, range)| !range.is_empty()) {
                prop_assert!(range.start >= LOWEST && range.end <= HIGHEST);
                prop_assert!(map.ram().any(|ram| ram.contains(range)), "{range} is not RAM");
                for other in placed[n + 1..].iter().chain(&taken) {
                    prop_assert!(!range.overlaps(other), "{range} overlaps {other}");
                }
            }
        }

        #[test]
        fn the_reserve_is_the_highest_possible(ram in ranges(6), taken in ranges(4), reserve in 8u64..80) {
            let ram: Vec<_> = ram.iter().map(|r| (r.start, r.len())).collect();
            let map = map(&ram);
            let size = reserve * 2 * MIB;
            let fits = |start: u64| {
                let range = Range { start, end: start + size };
                map.ram().any(|r| r.contains(&range)) && !taken.iter().any(|t| t.overlaps(&range))
            };
            let best = (1..500).rev().map(|n| n * LARGE_PAGE).find(|start| fits(*start));
            let mut space = Space { map: &map, taken: [Range::default(); MAX_TAKEN], count: 0 };
            taken.iter().for_each(|t| space.take(*t).unwrap());
            prop_assert_eq!(space.highest(size, LARGE_PAGE, HIGHEST).map(|r| r.start), best);
        }
    }
}
