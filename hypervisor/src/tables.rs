//! Where the runtime's own tables come from: frames of the reserve, handed out while the runtime sets itself up and never
//! changed once it runs. From then on they are mapped read-only.

use crate::addr::{HUGE_PAGE, Hpa, PAGE_SIZE};
use crate::memory::DirectMap;

/// Entry bits that the processor's tables and nested tables share (AMD APM vol. 2, 5.3 and 15.25).
pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;
/// In a PDE or PDPTE: maps a page.
pub const LARGE: u64 = 1 << 7;
pub const NO_EXECUTE: u64 = 1 << 63;
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an entry of a root table is for.
pub const ROOT_ENTRY: u64 = 512 * HUGE_PAGE;

/// The area that tables are taken from. It is zero when it is given.
pub struct TableArea {
    mem: DirectMap,
    next: Hpa,
    end: Hpa,
}

impl TableArea {
    /// Hands out `start..end`, reached through `mem`.
    pub fn new(mem: DirectMap, start: Hpa, end: Hpa) -> Self {
        mem.zero(start, end.0 - start.0);
        Self { mem, next: start, end }
    }

    /// `pages` zero pages in a row. The area is as large as it must be on this machine: not to have them is a bug.
    pub fn take(&mut self, pages: u64) -> Hpa {
        let taken = self.next;
        self.next = taken + pages * PAGE_SIZE;
        assert!(self.next <= self.end, "the table area is too small");
        taken
    }

    /// Pages that hold these bytes.
    pub fn hold(&mut self, bytes: &[u8]) -> Hpa {
        let place = self.take((bytes.len() as u64).div_ceil(PAGE_SIZE));
        self.mem.copy_to(place, bytes);
        place
    }

    /// Fills a zero table whose entries are for `size` bytes each, from address `base` upwards: each entry is what `mapping` says for
    /// its first address and `size` (0: nothing is mapped there), or, where it says None, a table of its own, linked with `flags` (of
    /// `size`) and filled in the same way.
    pub fn fill(
        &mut self,
        table: Hpa,
        (base, size): (u64, u64),
        flags: &impl Fn(u64) -> u64,
        mapping: &impl Fn(u64, u64) -> Option<u64>,
    ) {
        for number in 0..512 {
            let start = base.wrapping_add(number * size);
            let entry = mapping(start, size).unwrap_or_else(|| {
                let next = self.take(1);
                self.fill(next, (start, size / 512), flags, mapping);
                next.0 | flags(size)
            });
            self.mem.write_u64(table + start / size % 512 * 8, entry);
        }
    }
}
