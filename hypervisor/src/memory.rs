//! Physical memory: the one way to touch it ([`DirectMap`]), and which of it is the OS's ([`RamMap`]).
//!
//! Guest memory can change between any two instructions (another processor, a device), so no Rust reference ever points
//! into it: bytes are copied in or out, and a word is read by exactly one load. Both types guarantee that an address outside
//! their range is never touched; which address is *allowed* in a given place is the caller's question, and for memory
//! named by the guest the answer is [`RamMap::contains`].

use crate::addr::{Hpa, PAGE_SIZE};
use crate::launch::{MAX_REGIONS, MemoryRegion, region};

/// Access to physical memory `0..limit` through a mapping of it at a fixed distance.
#[derive(Clone, Copy)]
pub struct DirectMap {
    base: u64,
    limit: u64,
}

impl DirectMap {
    /// # Safety
    /// As long as a copy of the result is in use:
    /// - every address of `base..base + limit` is mapped read-write to the physical address of the same offset, or its access
    ///   faults (and the processor stops there);
    /// - no Rust object lives in what is mapped there: the runtime's image, `.bss` and stacks must not be reachable
    ///   through it (VMCBs of PALs are: see `pal::call::vmcb`). This is what makes the methods safe to call.
    pub const unsafe fn new(base: u64, limit: u64) -> Self {
        Self { base, limit }
    }

    /// Where `len` bytes at `at` are mapped. An address beyond the mapping is a bug of the hypervisor: addresses named by the
    /// guest pass [`RamMap::contains`] first.
    #[inline(always)]
    pub fn pointer(&self, at: Hpa, len: u64) -> *mut u8 {
        let last = self.limit.checked_sub(len);
        assert!(last.is_some_and(|last| at.0 <= last), "physical address beyond the direct map");
        (self.base + at.0) as *mut u8
    }

    #[inline(always)]
    fn aligned<T>(&self, at: Hpa) -> *mut T {
        let pointer = self.pointer(at, size_of::<T>() as u64).cast::<T>();
        assert!(pointer.is_aligned(), "unaligned word of physical memory");
        pointer
    }

    /// Reads a word by one load. `at` is a multiple of 8.
    #[inline(always)]
    pub fn read_u64(&self, at: Hpa) -> u64 {
        #[cfg(test)]
        tests::READS.with_borrow_mut(|reads| reads.push(at));
        // SAFETY: mapped and free of Rust objects by the contract of `new`; bounds and alignment checked.
        unsafe { self.aligned::<u64>(at).read_volatile() }
    }

    /// Writes a word by one store. `at` is a multiple of 8.
    #[inline(always)]
    pub fn write_u64(&self, at: Hpa, value: u64) {
        // SAFETY: as in `read_u64`.
        unsafe { self.aligned::<u64>(at).write_volatile(value) }
    }

    /// Reads a word by one load. `at` is a multiple of 4.
    pub fn read_u32(&self, at: Hpa) -> u32 {
        // SAFETY: as in `read_u64`.
        unsafe { self.aligned::<u32>(at).read_volatile() }
    }

    /// Writes a word by one store. `at` is a multiple of 4.
    pub fn write_u32(&self, at: Hpa, value: u32) {
        // SAFETY: as in `read_u64`.
        unsafe { self.aligned::<u32>(at).write_volatile(value) }
    }

    /// Copies from physical memory.
    pub fn copy_from(&self, from: Hpa, to: &mut [u8]) {
        let source = self.pointer(from, to.len() as u64);
        // SAFETY: the source is mapped (contract of `new`, bounds checked), the destination is an exclusive slice.
        unsafe { copy_bytes(source, to.as_mut_ptr(), to.len() as u64) }
    }

    /// Copies to physical memory.
    pub fn copy_to(&self, to: Hpa, from: &[u8]) {
        let target = self.pointer(to, from.len() as u64);
        // SAFETY: the target is mapped and holds no Rust object (contract of `new`, bounds checked).
        unsafe { copy_bytes(from.as_ptr(), target, from.len() as u64) }
    }

    /// Copies within physical memory. Where the ranges overlap, the bytes copied are unspecified.
    pub fn copy(&self, from: Hpa, to: Hpa, len: u64) {
        let (source, target) = (self.pointer(from, len), self.pointer(to, len));
        // SAFETY: both are mapped and hold no Rust object (contract of `new`, bounds checked).
        unsafe { copy_bytes(source, target, len) }
    }

    /// Zeroes physical memory; never optimised away.
    pub fn zero(&self, at: Hpa, len: u64) {
        let target = self.pointer(at, len);
        // SAFETY: the target is mapped and holds no Rust object (contract of `new`, bounds checked). The direction flag is
        // clear by the ABI.
        unsafe {
            core::arch::asm!(
                "rep stosq",
                "mov rcx, {rest}",
                "rep stosb",
                rest = in(reg) len % 8,
                inout("rcx") len / 8 => _,
                inout("rdi") target => _,
                in("rax") 0u64,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// A copy the compiler knows nothing about: neither merged with another access nor repeated.
///
/// # Safety
/// `len` bytes are readable at `from` and writable at `to`, and no Rust object but the caller's own lives there.
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: u64) {
    // SAFETY: by the caller; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Highest physical address an x86-64 processor can have (APM vol. 2, 5.1: 52 bits), exclusive.
const MAX_PHYSICAL: u64 = 1 << 52;

/// Where a PC has never RAM: the VGA window and the ROMs below 1 MiB, and the last 20 MiB below 4 GiB (I/O APICs, HPET, TPM,
/// local APIC, flash). A memory map that calls any of it RAM is a lie; writes there must not go around the traps.
const NEVER_RAM: [(u64, u64); 2] = [(0xa_0000, 0x10_0000), (0xfec0_0000, 0x1_0000_0000)];

/// Why a memory map was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMap {
    /// More regions than [`MAX_REGIONS`].
    TooMany,
    /// A region that ends beyond what can be addressed.
    Wraps,
    /// RAM that another region claims as well.
    Overlaps,
    /// RAM where a PC has none.
    Misplaced,
    /// The reserve is not page aligned, or empty, or not all RAM.
    Reserve,
}

impl BadMap {
    /// The reason, for the line that says so.
    pub const fn reason(self) -> &'static str {
        match self {
            BadMap::TooMany => "the memory map has too many regions",
            BadMap::Wraps => "the memory map has a region beyond the address space",
            BadMap::Overlaps => "the memory map has RAM that overlaps another region",
            BadMap::Misplaced => "the memory map has RAM where devices are",
            BadMap::Reserve => "the reserve is not RAM",
        }
    }
}

/// How often a map may be cut.
const MAX_CUTS: usize = 2;

/// Bytes `start..end` of RAM, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Run {
    /// First byte.
    pub start: Hpa,
    /// First byte after it.
    pub end: Hpa,
}

/// The page frames that are the OS's ordinary memory: RAM of the launch-time memory map without the reserve. Fixed at launch.
#[derive(Clone)]
pub struct RamMap {
    /// Ascending, disjoint. A cut can add one.
    runs: [Run; MAX_REGIONS + MAX_CUTS],
    count: usize,
}

impl RamMap {
    /// From the machine's memory map, in any order, and the reserve `base..base + size` inside it. Pages that are RAM only in
    /// part are left out.
    pub fn new(regions: &[MemoryRegion], reserve: Hpa, reserve_size: u64) -> Result<Self, BadMap> {
        if regions.len() > MAX_REGIONS {
            return Err(BadMap::TooMany);
        }
        let mut map = Self { runs: [Run::default(); MAX_REGIONS + MAX_CUTS], count: 0 };
        for (index, this) in regions.iter().enumerate() {
            let end = end_of(this)?;
            if this.kind != region::RAM || this.size == 0 {
                continue;
            }
            if NEVER_RAM.iter().any(|&(from, to)| this.base < to && from < end) {
                return Err(BadMap::Misplaced);
            }
            for (other_index, other) in regions.iter().enumerate() {
                let other_end = end_of(other)?;
                if other_index != index && other.size != 0 && this.base < other_end && other.base < end {
                    return Err(BadMap::Overlaps);
                }
            }
            let start = Hpa(this.base.next_multiple_of(PAGE_SIZE));
            map.insert(Run { start, end: Hpa(end).page() });
        }
        map.join_neighbours();
        map.cut(reserve, reserve_size)?;
        Ok(map)
    }

    /// Inserts a run in its place. There is room: at most one a region.
    fn insert(&mut self, run: Run) {
        if run.start >= run.end {
            return;
        }
        let at = self.runs().partition_point(|other| other.start < run.start);
        self.runs.copy_within(at..self.count, at + 1);
        self.runs[at] = run;
        self.count += 1;
    }

    /// Makes one run of those that touch, so that the reserve may lie across a border of the memory map.
    fn join_neighbours(&mut self) {
        let mut kept = 0;
        for index in 1..self.count {
            if self.runs[index].start == self.runs[kept].end {
                self.runs[kept].end = self.runs[index].end;
            } else {
                kept += 1;
                self.runs[kept] = self.runs[index];
            }
        }
        self.count = self.count.min(kept + 1);
    }

    /// Takes a range of RAM out of it; `new` has done so once.
    pub fn cut(&mut self, base: Hpa, size: u64) -> Result<(), BadMap> {
        let end = base.0.checked_add(size).map(Hpa).ok_or(BadMap::Reserve)?;
        if size == 0 || base.page_offset() != 0 || end.page_offset() != 0 {
            return Err(BadMap::Reserve);
        }
        let holds = |run: &Run| run.start <= base && end <= run.end;
        let index = self.runs().iter().position(holds).ok_or(BadMap::Reserve)?;
        if self.count == self.runs.len() {
            return Err(BadMap::TooMany);
        }
        let whole = self.runs[index];
        self.runs.copy_within(index + 1..self.count, index);
        self.count -= 1;
        self.insert(Run { start: whole.start, end: base });
        self.insert(Run { start: end, end: whole.end });
        Ok(())
    }

    /// The OS's RAM, ascending, no two runs touching.
    pub fn runs(&self) -> &[Run] {
        &self.runs[..self.count]
    }

    /// Whether this address lies in a page frame of the OS's RAM.
    pub fn contains(&self, at: Hpa) -> bool {
        let after = self.runs().partition_point(|run| run.start <= at);
        after > 0 && at < self.runs[after - 1].end
    }

    /// Where the last run ends: what a direct map must reach.
    pub fn end(&self) -> Hpa {
        self.runs().last().map_or(Hpa(0), |run| run.end)
    }
}

fn end_of(region: &MemoryRegion) -> Result<u64, BadMap> {
    region.base.checked_add(region.size).filter(|end| *end <= MAX_PHYSICAL).ok_or(BadMap::Wraps)
}

#[cfg(test)]
pub use tests::TestMemory;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::cell::RefCell;

    std::thread_local! {
        /// What this thread has read by [`DirectMap::read_u64`].
        pub(super) static READS: RefCell<Vec<Hpa>> = const { RefCell::new(Vec::new()) };
    }

    /// "Physical memory" from address 0, zeroed, for host tests.
    pub struct TestMemory {
        /// Of word alignment only, and a page longer: such memory the host zeroes lazily.
        memory: *mut u8,
        layout: Layout,
        size: u64,
    }

    impl TestMemory {
        pub fn new(pages: u64) -> Self {
            let size = pages * PAGE_SIZE;
            let layout = Layout::from_size_align((size + PAGE_SIZE) as usize, 8).unwrap();
            // SAFETY: the size is not zero.
            let memory = unsafe { alloc_zeroed(layout) };
            assert!(!memory.is_null());
            Self { memory, layout, size }
        }

        pub fn map(&self) -> DirectMap {
            let base = (self.memory as u64).next_multiple_of(PAGE_SIZE);
            // SAFETY: the allocation holds these addresses and is used by the map alone, and tests keep `self` as long as the
            // map.
            unsafe { DirectMap::new(base, self.size) }
        }

        /// The addresses read as words on this thread since the last call.
        pub fn take_reads(&self) -> Vec<Hpa> {
            READS.take()
        }
    }

    impl Drop for TestMemory {
        fn drop(&mut self) {
            // SAFETY: allocated by `new` with this layout.
            unsafe { dealloc(self.memory, self.layout) }
        }
    }

    proptest! {
        #[test]
        fn copies_and_zeroes_exactly_the_range(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0u64..100, to in 200u64..300, zeroed in 0u64..50,
        ) {
            let memory = TestMemory::new(1);
            let map = memory.map();
            map.copy_to(Hpa(0), &[0xee; 4096]);
            map.copy_to(Hpa(at), &bytes);
            map.copy(Hpa(at), Hpa(to), bytes.len() as u64);
            map.zero(Hpa(to + 200), zeroed);
            let mut model = [0xee; 4096];
            model[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
            model[to as usize..to as usize + bytes.len()].copy_from_slice(&bytes);
            model[to as usize + 200..(to + 200 + zeroed) as usize].fill(0);
            let mut all = [0; 4096];
            map.copy_from(Hpa(0), &mut all);
            prop_assert_eq!(&all[..], &model[..]);
        }
    }

    #[test]
    fn words() {
        let memory = TestMemory::new(1);
        memory.map().write_u64(Hpa(4088), 0x1122_3344_5566_7788);
        memory.map().write_u32(Hpa(4088), 0x99aa_bbcc);
        assert_eq!(memory.map().read_u64(Hpa(4088)), 0x1122_3344_99aa_bbcc);
        assert_eq!(memory.map().read_u32(Hpa(4092)), 0x1122_3344);
        assert_eq!(memory.take_reads(), [Hpa(4088)]);
    }

    #[test]
    #[should_panic(expected = "beyond the direct map")]
    fn the_end_is_checked() {
        TestMemory::new(1).map().zero(Hpa(4090), 7);
    }

    #[test]
    #[should_panic(expected = "beyond the direct map")]
    fn the_sum_is_checked() {
        TestMemory::new(1).map().copy_from(Hpa(u64::MAX), &mut [0; 2]);
    }

    fn ram(base: u64, size: u64) -> MemoryRegion {
        MemoryRegion { base, size, kind: region::RAM, reserved: 0 }
    }

    fn reserved(base: u64, size: u64) -> MemoryRegion {
        MemoryRegion { base, size, kind: region::RESERVED, reserved: 0 }
    }

    fn spans(map: &RamMap) -> Vec<(u64, u64)> {
        map.runs().iter().map(|run| (run.start.0, run.end.0)).collect()
    }

    #[test]
    fn a_usual_map() {
        let regions = [
            ram(0x1_0000_0000, 0x4000_0000),
            reserved(0x9_fc00, 0x400),
            reserved(0xf_0000, 0x1_0000),
            ram(0, 0x9_fc00),
            ram(0x10_0000, 0x3fed_f000),
            reserved(0x3ffd_f000, 0x2_1000),
            reserved(0xfeff_c000, 0x4000),
            reserved(0xfee0_0000, 0x10_0000),
        ];
        let map = RamMap::new(&regions, Hpa(0x3000_0000), 0x400_0000).unwrap();
        assert_eq!(
            spans(&map),
            [
                (0, 0x9_f000),
                (0x10_0000, 0x3000_0000),
                (0x3400_0000, 0x3ffd_f000),
                (0x1_0000_0000, 0x1_4000_0000)
            ]
        );
        assert_eq!(map.end(), Hpa(0x1_4000_0000));
        let inside = [0, 0x9_efff, 0x10_0000, 0x2fff_ffff, 0x3400_0000, 0x3ffd_efff, 0x1_3fff_ffff];
        let outside =
            [0x9_f000, 0xf_ffff, 0x3000_0000, 0x33ff_ffff, 0x3ffd_f000, 0xfee0_0000, 0x1_4000_0000, u64::MAX];
        assert!(inside.iter().all(|at| map.contains(Hpa(*at))));
        assert!(outside.iter().all(|at| !map.contains(Hpa(*at))));
    }

    #[test]
    fn bad_maps_are_refused() {
        let refused = |regions: &[MemoryRegion], base, size| RamMap::new(regions, Hpa(base), size).err();
        let good = ram(0x20_0000, 0x100_0000);
        assert_eq!(refused(&[good], 0x20_0000, 0x20_0000), None);
        assert_eq!(refused(&[good; MAX_REGIONS + 1], 0x20_0000, 0x20_0000), Some(BadMap::TooMany));
        assert_eq!(refused(&[good, ram(u64::MAX - 4095, 8192)], 0x20_0000, 0x20_0000), Some(BadMap::Wraps));
        assert_eq!(refused(&[good, reserved(1 << 52, 1)], 0x20_0000, 0x20_0000), Some(BadMap::Wraps));
        assert_eq!(refused(&[good, good], 0x20_0000, 0x20_0000), Some(BadMap::Overlaps));
        assert_eq!(refused(&[good, reserved(0x11f_ffff, 1)], 0x20_0000, 0x20_0000), Some(BadMap::Overlaps));
        assert_eq!(refused(&[good, reserved(0x120_0000, 1)], 0x20_0000, 0x20_0000), None);
        assert_eq!(refused(&[good, reserved(0x30_0000, 0)], 0x20_0000, 0x20_0000), None);
        assert_eq!(refused(&[good, ram(0xfee0_0000, 4096)], 0x20_0000, 0x20_0000), Some(BadMap::Misplaced));
        assert_eq!(refused(&[good, ram(0x9_f000, 0x1001)], 0x20_0000, 0x20_0000), Some(BadMap::Misplaced));
        for (base, size) in
            [(0x20_0800, 4096), (0x20_0000, 0), (0x20_0000, 100), (0x1f_f000, 8192), (0x11f_f000, 8192)]
        {
            assert_eq!(refused(&[good], base, size), Some(BadMap::Reserve), "{base:#x} {size:#x}");
        }
        assert_eq!(refused(&[good], 0xffff_ffff_ffff_f000, 4096), Some(BadMap::Reserve));
        assert_eq!(refused(&[], 0, 4096), Some(BadMap::Reserve));
    }

    #[test]
    fn pages_that_are_ram_in_part_are_left_out() {
        let regions = [ram(0x10_0800, 0x4000), ram(0x20_0000, 0x20_0000)];
        let map = RamMap::new(&regions, Hpa(0x20_0000), 0x10_0000).unwrap();
        assert_eq!(spans(&map), [(0x10_1000, 0x10_4000), (0x30_0000, 0x40_0000)]);
        let tiny = [ram(0x10_0800, 0x1000), ram(0x20_0000, 0x20_0000)];
        assert_eq!(RamMap::new(&tiny, Hpa(0x20_0000), 0x20_0000).unwrap().runs(), []);
    }

    #[test]
    fn a_full_map_has_room_for_the_cut() {
        let regions: Vec<_> = (0..MAX_REGIONS as u64).map(|i| ram(0x100_0000 * (i + 2), 0x80_0000)).collect();
        let map = RamMap::new(&regions, Hpa(0x210_0000), 0x20_0000).unwrap();
        assert_eq!(map.runs().len(), MAX_REGIONS + 1);
    }

    #[test]
    fn the_reserve_may_cross_a_border_between_two_regions_of_ram() {
        let map =
            RamMap::new(&[ram(0x40_0000, 0x20_0000), ram(0x20_0000, 0x20_0000)], Hpa(0x30_0000), 0x20_0000);
        assert_eq!(spans(&map.unwrap()), [(0x20_0000, 0x30_0000), (0x50_0000, 0x60_0000)]);
    }

    proptest! {
        #[test]
        fn contains_agrees_with_the_regions(
            picks in proptest::collection::vec((0u64..60, 1u64..8, any::<bool>()), 1..12), reserve in 0u64..64,
        ) {
            let page = |n: u64| 0x100_0000 + n * PAGE_SIZE / 2;
            let regions: Vec<_> = picks
                .iter()
                .map(|&(at, len, is_ram)| (if is_ram { ram } else { reserved })(page(at), page(len) - page(0)))
                .collect();
            let reserve = page(reserve * 2);
            if let Ok(map) = RamMap::new(&regions, Hpa(reserve), PAGE_SIZE) {
                for at in (0..40).map(|n| 0x100_0000 + n * PAGE_SIZE) {
                    let half = |from: u64| regions.iter().any(|r| {
                        r.kind == region::RAM && r.base <= from && from + PAGE_SIZE / 2 <= r.base + r.size
                    });
                    let expected = half(at) && half(at + PAGE_SIZE / 2) && at != reserve;
                    // A page made of halves of two regions is left out.
                    prop_assert!(!map.contains(Hpa(at)) || expected);
                    let whole = regions.iter().any(|r| {
                        r.kind == region::RAM && r.base <= at && at + PAGE_SIZE <= r.base + r.size
                    });
                    prop_assert!(map.contains(Hpa(at)) || !whole || at == reserve);
                }
            }
        }
    }
}
