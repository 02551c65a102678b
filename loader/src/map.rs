//! The machine's memory map, brought into order.
//!
//! Guarantees: regions are sorted, not empty, do not overlap, and neighbours of one kind are one region. Where the firmware
//! contradicts itself, memory is RAM only if nothing says otherwise.

use hypervisor::addr::{Hpa, PAGE_SIZE};
use hypervisor::launch::MAX_RUNS;
use hypervisor::memory::Run;

use crate::range::Range;

/// Kinds of [`MemoryRegion`], numbered as in E820.
pub mod region {
    /// Ordinary memory, which the OS may use.
    pub const RAM: u32 = 1;
    /// Everything else that is not listed below.
    pub const RESERVED: u32 = 2;
}

/// A piece of the machine's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MemoryRegion {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// E820 type.
    pub kind: u32,
}

/// Most regions of a memory map: no more of them are RAM than TrustVisor takes.
pub const MAX_REGIONS: usize = MAX_RUNS;

/// Most entries of a firmware's map.
pub const MAX_RAW: usize = 256;

/// The firmware's map as it came; see [`MemoryMap`].
pub struct RawMap {
    regions: [MemoryRegion; MAX_RAW],
    count: usize,
}

/// The map has more entries than fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRegions;

impl Default for RawMap {
    fn default() -> Self {
        Self { regions: [MemoryRegion::default(); MAX_RAW], count: 0 }
    }
}

impl RawMap {
    /// One more entry. Kinds are E820's; 0 is none of them and counts as reserved.
    pub fn push(&mut self, base: u64, size: u64, kind: u32) -> Result<(), TooManyRegions> {
        if size != 0 {
            let kind = if kind == 0 { region::RESERVED } else { kind };
            *self.regions.get_mut(self.count).ok_or(TooManyRegions)? =
                MemoryRegion { base, size: size.min(u64::MAX - base), kind };
            self.count += 1;
        }
        Ok(())
    }

    fn regions(&self) -> &[MemoryRegion] {
        &self.regions[..self.count]
    }

    /// What the bytes between two neighbouring bounds are: the highest kind that claims them, RAM if nothing else does.
    fn kind_at(&self, addr: u64) -> Option<u32> {
        let claims = self.regions().iter().filter(|r| r.base <= addr && addr - r.base < r.size);
        claims.map(|r| r.kind).max()
    }
}

const _: () = assert!(region::RAM == 1, "RAM must lose against every other kind");

/// A memory map in order.
#[derive(Clone)]
pub struct MemoryMap {
    regions: [MemoryRegion; MAX_REGIONS],
    count: usize,
}

impl MemoryMap {
    /// Brings a firmware's map into order.
    pub fn new(raw: &RawMap) -> Result<Self, TooManyRegions> {
        let mut bounds = [0u64; 2 * MAX_RAW];
        for (pair, region) in bounds.chunks_exact_mut(2).zip(raw.regions()) {
            pair.copy_from_slice(&[region.base, region.base + region.size]);
        }
        let bounds = &mut bounds[..2 * raw.count];
        bounds.sort_unstable();

        let mut map = Self { regions: [MemoryRegion::default(); MAX_REGIONS], count: 0 };
        for pair in bounds.windows(2).filter(|pair| pair[0] < pair[1]) {
            if let Some(kind) = raw.kind_at(pair[0]) {
                map.append(pair[0], pair[1] - pair[0], kind)?;
            }
        }
        Ok(map)
    }

    fn append(&mut self, base: u64, size: u64, kind: u32) -> Result<(), TooManyRegions> {
        if let Some(last) = self.regions[..self.count].last_mut()
            && last.kind == kind
            && last.base + last.size == base
        {
            last.size += size;
            return Ok(());
        }
        *self.regions.get_mut(self.count).ok_or(TooManyRegions)? = MemoryRegion { base, size, kind };
        self.count += 1;
        Ok(())
    }

    /// The same map with a range reserved: what the guest is told.
    pub fn with_reserved(&self, range: Range) -> Result<Self, TooManyRegions> {
        let mut raw = RawMap::default();
        for region in self.regions() {
            raw.push(region.base, region.size, region.kind)?;
        }
        raw.push(range.start, range.len(), region::RESERVED)?;
        Self::new(&raw)
    }

    /// Its regions, in ascending order.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions[..self.count]
    }

    /// Its ordinary memory, in ascending order.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = Range> {
        let ram = self.regions().iter().filter(|r| r.kind == region::RAM);
        ram.map(|r| Range { start: r.base, end: r.base + r.size })
    }

    /// The whole pages of its ordinary memory, in ascending order. Pages that are RAM only in part are left out.
    pub fn whole_pages(&self) -> impl Iterator<Item = Run> {
        let start = |ram: &Range| Hpa(ram.start.checked_next_multiple_of(PAGE_SIZE).unwrap_or(ram.end));
        let runs = self.ram().map(move |ram| Run { start: start(&ram), end: Hpa(ram.end).page() });
        runs.filter(|run| run.start < run.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(entries: &[(u64, u64, u32)]) -> RawMap {
        let mut raw = RawMap::default();
        for (base, size, kind) in entries {
            raw.push(*base, *size, *kind).unwrap();
        }
        raw
    }

    fn ordered(entries: &[(u64, u64, u32)]) -> Vec<(u64, u64, u32)> {
        let map = MemoryMap::new(&raw(entries)).unwrap();
        map.regions().iter().map(|r| (r.base, r.size, r.kind)).collect()
    }

    #[test]
    fn neighbours_become_one() {
        assert_eq!(ordered(&[(20, 10, 1), (0, 20, 1), (50, 5, 2)]), [(0, 30, 1), (50, 5, 2)]);
    }

    #[test]
    fn ram_loses() {
        assert_eq!(ordered(&[(0, 30, 1), (10, 10, 3)]), [(0, 10, 1), (10, 10, 3), (20, 10, 1)]);
        assert_eq!(ordered(&[(0, 10, 0)]), [(0, 10, 2)]);
        assert_eq!(ordered(&[(u64::MAX - 5, 100, 1)]), [(u64::MAX - 5, 5, 1)]);
    }

    #[test]
    fn reserving_splits() {
        let map = MemoryMap::new(&raw(&[(0, 30, 1)])).unwrap();
        let map = map.with_reserved(Range { start: 10, end: 20 }).unwrap();
        let kinds: Vec<_> = map.regions().iter().map(|r| (r.base, r.kind)).collect();
        assert_eq!(kinds, [(0, 1), (10, 2), (20, 1)]);
    }

    #[test]
    fn pages_that_are_ram_in_part_are_left_out() {
        let raw = raw(&[(0x800, 0x4000, 1), (0x6000, 0x800, 1), (0x6800, 0x800, 1), (0x9800, 0x1000, 1)]);
        let pages: Vec<_> =
            MemoryMap::new(&raw).unwrap().whole_pages().map(|run| (run.start.0, run.end.0)).collect();
        assert_eq!(pages, [(0x1000, 0x4000), (0x6000, 0x7000)]);
    }

    #[test]
    fn too_many_is_an_error() {
        let entries: Vec<_> = (0..MAX_REGIONS as u64 + 1).map(|n| (n * 10, 5, 1)).collect();
        assert!(MemoryMap::new(&raw(&entries)).is_err());
        let mut full = raw(&vec![(0, 1, 1); MAX_RAW]);
        assert!(full.push(0, 1, 1).is_err());
    }

    proptest! {
        #[test]
        fn in_order_and_true(entries in prop::collection::vec((0u64..100, 0u64..40, 0u32..6), 0..20)) {
            let map = MemoryMap::new(&raw(&entries)).unwrap();
            for pair in map.regions().windows(2) {
                let end = pair[0].base + pair[0].size;
                prop_assert!(end <= pair[1].base);
                prop_assert!(end < pair[1].base || pair[0].kind != pair[1].kind);
            }
            for addr in 0..150 {
                let claims: Vec<_> = entries.iter().filter(|(b, s, _)| (*b..b + s).contains(&addr)).collect();
                let only_ram = !claims.is_empty() && claims.iter().all(|(_, _, kind)| *kind == region::RAM);
                let inside = |r: &&MemoryRegion| (r.base..r.base + r.size).contains(&addr);
                let found = map.regions().iter().find(inside);
                prop_assert_eq!(found.is_some(), !claims.is_empty());
                prop_assert_eq!(found.is_some_and(|r| r.kind == region::RAM), only_ram);
            }
        }
    }
}
