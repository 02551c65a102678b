//! A small machine: physical memory, the OS's part of it with page tables, a reserve in the middle, a device at the end.
//!
//! | pages | what |
//! |---|---|
//! | 0-63 | the OS's: [`ROOT_5`], [`ROOT_4`] and the tables below them, then ordinary pages |
//! | 64-127 | the reserve: the PAL pool |
//! | 128-143 | the OS's |
//! | 144-159 | a device: mapped by the direct map, but nobody's RAM |
//!
//! The tables map all of it for a user, three times: page by page at 0, by a 2 MiB page at 20_0000h, by a 1 GiB page at
//! 4000_0000h. A target changes them as it likes.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;

use hypervisor::addr::Hpa;
use hypervisor::memory::{DirectMap, RamMap, Run};

use crate::input::Input;

pub const PAGE: u64 = 4096;
/// Pages of the machine, of the reserve, of the device.
pub const PAGES: u64 = 160;
pub const RESERVE: core::ops::Range<u64> = 64 * PAGE..128 * PAGE;
const DEVICE: core::ops::Range<u64> = 144 * PAGE..PAGES * PAGE;
/// Roots of the same tables with five and with four levels.
pub const ROOT_5: u64 = PAGE;
pub const ROOT_4: u64 = 2 * PAGE;
/// The tables that a target changes: five levels.
pub const TABLES: core::ops::Range<u64> = 1..6;
/// The page table: entry `n` maps page `n`.
pub const PAGE_TABLE: u64 = 5 * PAGE;
/// Where the tables map everything once more.
pub const LARGE: u64 = 0x20_0000;
pub const HUGE: u64 = 0x4000_0000;
/// Flags of an ordinary page: present, writable, user, accessed, dirty.
pub const ORDINARY: u64 = 0x67;

/// Whether an address is RAM of the OS.
pub fn is_ram(at: u64) -> bool {
    at < DEVICE.start && !RESERVE.contains(&at)
}

/// The same for the hypervisor.
pub fn ram_map() -> RamMap<'static> {
    static RUNS: [Run; 2] = [
        Run { start: Hpa(0), end: Hpa(RESERVE.start) },
        Run { start: Hpa(RESERVE.end), end: Hpa(DEVICE.start) },
    ];
    RamMap::new(&RUNS).expect("the world is right")
}

/// Physical memory from address 0. A fuzzer makes thousands a second, so a thread keeps the last one.
pub struct Memory(*mut u8);

const LAYOUT: Layout = match Layout::from_size_align((PAGES * PAGE) as usize, PAGE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

thread_local! {
    static KEPT: Cell<Option<Memory>> = const { Cell::new(None) };
}

/// Takes the memory that the thread keeps, or makes one, and builds the tables that the module describes.
pub fn with_memory<T>(f: impl FnOnce(&Memory) -> T) -> T {
    let memory = KEPT.take().unwrap_or_else(Memory::allocate);
    memory.begin();
    let result = f(&memory);
    KEPT.set(Some(memory));
    result
}

impl Memory {
    fn allocate() -> Self {
        // SAFETY: the size is not zero.
        let at = unsafe { alloc_zeroed(LAYOUT) };
        if at.is_null() {
            handle_alloc_error(LAYOUT);
        }
        Self(at)
    }

    fn begin(&self) {
        self.map().zero(Hpa(0), PAGES * PAGE);
        self.build_tables();
    }

    /// The tables as the module describes them, and nothing else in their pages.
    pub fn build_tables(&self) {
        let map = self.map();
        map.zero(Hpa(TABLES.start * PAGE), (TABLES.end - TABLES.start) * PAGE);
        for table in TABLES.start..TABLES.end - 1 {
            map.write_u64(Hpa(table * PAGE), ((table + 1) * PAGE) | ORDINARY);
        }
        map.write_u64(Hpa(3 * PAGE + 8), ORDINARY | 1 << 7);
        map.write_u64(Hpa(4 * PAGE + 8), ORDINARY | 1 << 7);
        (0..PAGES).for_each(|page| map.write_u64(Hpa(PAGE_TABLE + page * 8), (page * PAGE) | ORDINARY));
    }

    pub fn map(&self) -> DirectMap {
        // SAFETY: the allocation holds these addresses and no Rust object lives in it; whoever has a map has this as well.
        unsafe { DirectMap::new(self.0 as u64, PAGES * PAGE) }
    }

    /// A copy of all of it.
    pub fn copy(&self, to: &mut Vec<u8>) {
        to.resize((PAGES * PAGE) as usize, 0);
        self.map().copy_from(Hpa(0), to);
    }

    /// A copy of it, the reserve left out (whatever stands there in the copy).
    pub fn copy_outside(&self, to: &mut Vec<u8>) {
        to.resize((PAGES * PAGE) as usize, 0);
        self.map().copy_from(Hpa(0), &mut to[..RESERVE.start as usize]);
        self.map().copy_from(Hpa(RESERVE.end), &mut to[RESERVE.end as usize..]);
    }

    /// The page at this address.
    pub fn page(&self, at: u64) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        self.map().copy_from(Hpa(at), &mut page);
        page
    }

    /// The pages that differ from a copy.
    pub fn changed<'a>(&'a self, copy: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
        let pages = (0..).step_by(PAGE as usize).zip(copy.as_chunks().0);
        pages.filter(|(at, before)| self.page(*at) != **before).map(|(at, _)| at)
    }

    /// Those of them that are not in the reserve.
    pub fn changed_outside<'a>(&'a self, copy: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
        let pages = (0..).step_by(PAGE as usize).zip(copy.as_chunks().0);
        let pages = pages.filter(|(at, _)| !RESERVE.contains(at));
        pages.filter(|(at, before)| self.page(*at) != **before).map(|(at, _)| at)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `allocate` with this layout.
        unsafe { dealloc(self.0, LAYOUT) }
    }
}

/// A page table entry as a fuzzer likes it: near a good one, or anything.
pub fn entry(input: &mut Input) -> u64 {
    /// Good; absent; read-only, clean, a supervisor's, and two of these at once; large.
    const LIKELY: [u64; 8] = [ORDINARY, 0, 0x65, 0x27, 0x63, 0x62, 0x25, 0xe7];
    const HIGH: [u64; 8] = [0, 1 << 63, 1 << 51, 1 << 40, 1 << 59, 3 << 59, 1 << 52, 1 << 39];
    match input.u8() {
        0 => 0,
        1 => input.u64(),
        2 => input.u64() & !1,
        3..128 => input.pick(&LIKELY) | (u64::from(input.u8()) * PAGE),
        _ => {
            let flags = u64::from(input.u16() & 0xfff);
            let page = u64::from(input.u8());
            flags | (page * PAGE) | input.pick(&HIGH)
        }
    }
}

/// Changes an entry of a table. The address of the page that it maps, if it is a page that it maps.
pub fn change_table(memory: &DirectMap, input: &mut Input) -> Option<u64> {
    let table = match input.u8() {
        128.. => PAGE_TABLE / PAGE,
        n => TABLES.start + u64::from(n) % (TABLES.end - TABLES.start),
    };
    let index = match input.u8() {
        255 => u64::from(input.u16()) % 512,
        small => u64::from(small),
    };
    memory.write_u64(Hpa(table * PAGE + index * 8), entry(input));
    (table == PAGE_TABLE / PAGE).then_some(index * PAGE)
}

/// An address as a fuzzer likes it: in the part that the tables map, at its borders, or anything.
pub fn address(input: &mut Input) -> u64 {
    let base = match input.u8() % 8 {
        0..4 => 0,
        4 => LARGE,
        5 => HUGE,
        6 => u64::from(input.u16()) << 39,
        _ => return input.u64(),
    };
    let page = u64::from(input.u8()) * PAGE;
    let offset = match input.u8() {
        0 => 0,
        n @ 1..32 => PAGE - u64::from(n),
        n => u64::from(n) << 4,
    };
    base + page + offset
}
