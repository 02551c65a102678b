//! Physical memory: the one way to touch it ([`DirectMap`]), and which of it is the OS's ([`RamMap`]).
//!
//! Guest memory can change between any two instructions (another processor, a device), so no Rust reference ever points
//! into it: bytes are copied in or out, and a word is read by exactly one load. Both types guarantee that an address outside
//! their range is never touched; which address is *allowed* in a given place is the caller's question, and for memory
//! named by the guest the answer is [`RamMap::contains`].

use crate::addr::Hpa;
use crate::launch::ensure;

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

    /// Hands on the bytes of a range, copied a block at a time.
    pub fn each_block(&self, from: Hpa, len: u64, mut f: impl FnMut(&[u8])) {
        let mut block = [0; 512];
        for done in (0..len).step_by(block.len()) {
            let part = &mut block[..(len - done).min(512) as usize];
            self.copy_from(from + done, part);
            f(part);
        }
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
pub unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: u64) {
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
const NEVER_RAM: [Run; 2] = [
    Run { start: Hpa(0xa_0000), end: Hpa(0x10_0000) },
    Run { start: Hpa(0xfec0_0000), end: Hpa(0x1_0000_0000) },
];

/// Bytes `start..end` of physical memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Run {
    /// First byte.
    pub start: Hpa,
    /// First byte after it.
    pub end: Hpa,
}

impl Run {
    /// Whether this can be RAM: whole pages, where a PC may have some.
    pub fn check(&self) -> Result<(), &'static str> {
        let whole_pages = self.start.page_offset() == 0 && self.end.page_offset() == 0;
        ensure(whole_pages && self.start < self.end, "the memory map has RAM that is no whole pages")?;
        ensure(self.end.0 <= MAX_PHYSICAL, "the memory map has RAM beyond the address space")?;
        ensure(
            !NEVER_RAM.iter().any(|never| self.overlaps(never)),
            "the memory map has RAM where devices are",
        )
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(&self, other: &Run) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// The page frames that are the OS's ordinary memory. Fixed at launch.
#[derive(Clone, Copy)]
pub struct RamMap<'a>(&'a [Run]);

impl<'a> RamMap<'a> {
    /// From what is said to be the OS's: ascending and disjoint.
    pub fn new(runs: &'a [Run]) -> Result<Self, &'static str> {
        runs.iter().try_for_each(Run::check)?;
        let ascending = runs.windows(2).all(|pair| pair[0].end <= pair[1].start);
        ensure(ascending, "the memory map is not in order")?;
        Ok(Self(runs))
    }

    /// Whether any of it lies there.
    pub fn overlaps(&self, other: &Run) -> bool {
        self.0.iter().any(|run| run.overlaps(other))
    }

    /// The OS's RAM, ascending.
    pub fn runs(&self) -> &'a [Run] {
        self.0
    }

    /// Whether this address lies in a page frame of the OS's RAM.
    pub fn contains(&self, at: Hpa) -> bool {
        let after = self.0.partition_point(|run| run.start <= at);
        after > 0 && at < self.0[after - 1].end
    }

    /// Where the last run ends: what a direct map must reach.
    pub fn end(&self) -> Hpa {
        self.0.last().map_or(Hpa(0), |run| run.end)
    }
}

#[cfg(test)]
pub use tests::TestMemory;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;
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

    fn run(start: u64, end: u64) -> Run {
        Run { start: Hpa(start), end: Hpa(end) }
    }

    #[test]
    fn a_usual_map() {
        let runs = [
            run(0, 0x9_e000),
            run(0x10_0000, 0x3000_0000),
            run(0x3400_0000, 0x3ffd_f000),
            run(0x1_0000_0000, 0x1_4000_0000),
        ];
        let map = RamMap::new(&runs).unwrap();
        assert_eq!((map.runs(), map.end()), (&runs[..], Hpa(0x1_4000_0000)));
        let inside = [0, 0x9_dfff, 0x10_0000, 0x2fff_ffff, 0x3400_0000, 0x3ffd_efff, 0x1_3fff_ffff];
        let outside =
            [0x9_e000, 0xf_ffff, 0x3000_0000, 0x33ff_ffff, 0x3ffd_f000, 0xfee0_0000, 0x1_4000_0000, u64::MAX];
        assert!(inside.iter().all(|at| map.contains(Hpa(*at))));
        assert!(outside.iter().all(|at| !map.contains(Hpa(*at))));
        assert!(map.overlaps(&run(0x2fff_f000, 0x3400_0000)) && map.overlaps(&run(0x3300_0000, 0x3400_1000)));
        assert!(!map.overlaps(&run(0x3000_0000, 0x3400_0000)));
    }

    #[test]
    fn bad_maps_are_refused() {
        let refused = |runs: &[Run]| RamMap::new(runs).err();
        let good = run(0x20_0000, 0x120_0000);
        assert_eq!(refused(&[]), None);
        assert_eq!(refused(&[good, run(0x120_0000, 0x130_0000)]), None);
        let cases = [
            ("no whole pages", run(0x200_0800, 0x300_0000)),
            ("no whole pages", run(0x200_0000, 0x200_0800)),
            ("no whole pages", run(0x200_0000, 0x200_0000)),
            ("no whole pages", run(0x200_0000, 0x1f0_0000)),
            ("no whole pages", run(u64::MAX - 4095, 4096)),
            ("beyond the address space", run(1 << 51, (1 << 52) + 4096)),
            ("not in order", run(0x11f_f000, 0x130_0000)),
            ("not in order", run(0x10_0000, 0x11_0000)),
            ("not in order", good),
            ("where devices are", run(0xfee0_0000, 0xfee0_1000)),
            ("where devices are", run(0x120_0000, 0xfec0_1000)),
            ("where devices are", run(0x9_f000, 0xa_1000)),
            ("where devices are", run(0xf_f000, 0x10_0000)),
        ];
        for (reason, bad) in cases {
            assert!(refused(&[good, bad]).is_some_and(|told| told.contains(reason)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn contains_agrees_with_the_runs(picks in proptest::collection::vec((0u64..40, 1u64..8), 1..12)) {
            let page = |n: u64| 0x100_0000 + n * PAGE_SIZE;
            let runs: Vec<_> = picks.iter().map(|&(at, len)| run(page(at), page(at + len))).collect();
            let disjoint = (0..runs.len()).all(|n| runs[..n].iter().all(|other| other.end <= runs[n].start));
            let map = RamMap::new(&runs);
            prop_assert_eq!(map.is_ok(), disjoint);
            if let Ok(map) = map {
                for at in (0..100).map(|n| 0x100_0000 + n * PAGE_SIZE / 2) {
                    let expected = runs.iter().any(|run| run.start.0 <= at && at < run.end.0);
                    prop_assert_eq!(map.contains(Hpa(at)), expected);
                }
            }
        }
    }
}
