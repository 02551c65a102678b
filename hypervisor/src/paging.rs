//! The runtime's own address space, built once: its image W^X, and physical memory as data.
//!
//! | where | what | how |
//! |---|---|---|
//! | [`RESERVE_VA`] + handover | what the SLB tells | read-only |
//! | [`RESERVE_VA`] + runtime | text; constants; data, `.bss` and stacks | RX; R; RW, guard pages unmapped |
//! | [`PHYS_VA`] | all RAM and the low 4 GiB | RW, never executable; not the first 2 MiB of the reserve; the table area read-only |

use crate::addr::{HUGE_PAGE, Hpa, LARGE_PAGE, PAGE_SIZE};
use crate::launch::{RESERVE_VA, RUNTIME_END, SLB_COMMANDS, SLB_SIZE};
use crate::tables::{LARGE, NO_EXECUTE, PRESENT, ROOT_ENTRY, TableArea, WRITABLE};

/// Where physical address 0 is mapped.
pub const PHYS_VA: u64 = 0xffff_8000_0000_0000;

/// What a part of the image may be used for: its entries' flags.
pub const EXECUTE: u64 = PRESENT;
pub const READ: u64 = PRESENT | NO_EXECUTE;
pub const WRITE: u64 = PRESENT | WRITABLE | NO_EXECUTE;

/// A part of the image: virtual addresses, page aligned, and its use.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub start: u64,
    pub end: u64,
    pub usage: u64,
}

/// The reserve's division.
#[derive(Clone, Copy, Debug)]
pub struct Reserve {
    pub base: Hpa,
    pub end: Hpa,
    /// The table area ends and the pool begins here (2 MiB aligned).
    pub pool: Hpa,
}

/// Builds the address space; returns its root. `top` is where the direct map ends.
pub fn build(area: &mut TableArea, reserve: Reserve, top: Hpa, parts: &[Part]) -> Hpa {
    let root = area.take(1);
    let handover = Part { start: RESERVE_VA + SLB_COMMANDS, end: RESERVE_VA + SLB_SIZE, usage: READ };
    // From the lowest canonical address to the highest.
    area.fill(root, (PHYS_VA, ROOT_ENTRY), &|_| PRESENT | WRITABLE, &|start, size| {
        let last = start + (size - 1);
        let part = parts.iter().chain([&handover]).find(|part| start < part.end && part.start <= last);
        match part {
            None => physical(start.wrapping_sub(PHYS_VA), size, reserve, top),
            Some(part) if size == PAGE_SIZE => Some((start - RESERVE_VA + reserve.base.0) | part.usage),
            Some(_) => None,
        }
    });
    root
}

/// The direct map.
fn physical(at: u64, size: u64, reserve: Reserve, top: Hpa) -> Option<u64> {
    let page = at | PRESENT | LARGE | NO_EXECUTE;
    let has_reserve = at < reserve.end.0 && reserve.base.0 < at + size;
    match size {
        _ if at >= top.0 => Some(0),
        HUGE_PAGE if !has_reserve => Some(page | WRITABLE),
        LARGE_PAGE if (reserve.base.0..reserve.base.0 + RUNTIME_END).contains(&at) => Some(0),
        LARGE_PAGE if (reserve.base.0..reserve.pool.0).contains(&at) => Some(page),
        LARGE_PAGE => Some(page | WRITABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::RUNTIME_OFFSET;
    use crate::memory::TestMemory;

    /// What an address is mapped to: physical address and flags, all levels together.
    fn look_up(memory: &TestMemory, root: Hpa, va: u64) -> Option<(u64, bool, bool)> {
        let (mut table, mut writable, mut executable) = (root, true, true);
        for shift in [39, 30, 21, 12] {
            let entry = memory.map().read_u64(table + (va >> shift & 0x1ff) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            writable &= entry & WRITABLE != 0;
            executable &= entry & NO_EXECUTE == 0;
            let span = (1u64 << shift) - 1;
            if shift == 12 || entry & LARGE != 0 {
                return Some((entry & 0x000f_ffff_ffff_f000 & !span | va & span, writable, executable));
            }
            table = Hpa(entry & 0x000f_ffff_ffff_f000);
        }
        None
    }

    #[test]
    fn w_xor_x_and_nothing_twice() {
        let memory = TestMemory::new(64);
        let mut area = TableArea::new(memory.map(), Hpa(0), Hpa(64 * PAGE_SIZE));
        let reserve = Reserve { base: Hpa(0x3000_0000), end: Hpa(0x3400_0000), pool: Hpa(0x3040_0000) };
        let text = RESERVE_VA + RUNTIME_OFFSET;
        let parts = [
            Part { start: text, end: text + 0x3000, usage: EXECUTE },
            Part { start: text + 0x3000, end: text + 0x4000, usage: READ },
            Part { start: text + 0x5000, end: text + 0x7000, usage: WRITE },
        ];
        let root = build(&mut area, reserve, Hpa(5 << 30), &parts);
        let at = |va| look_up(&memory, root, va);
        assert_eq!(at(text + 0x123), Some((0x3002_0123, false, true)));
        assert_eq!(at(text + 0x3000), Some((0x3002_3000, false, false)));
        assert_eq!(at(text + 0x4000), None, "guard page");
        assert_eq!(at(text + 0x6fff), Some((0x3002_6fff, true, false)));
        assert_eq!(at(RESERVE_VA), None, "the SLB's code is done");
        assert_eq!(at(RESERVE_VA + SLB_COMMANDS), Some((0x3000_0000 + SLB_COMMANDS, false, false)));
        assert_eq!(at(PHYS_VA + 0x1234_5678), Some((0x1234_5678, true, false)));
        assert_eq!(at(PHYS_VA + (4 << 30)), Some((4 << 30, true, false)));
        assert_eq!(at(PHYS_VA + (5 << 30)), None);
        assert_eq!(at(PHYS_VA + 0x2fff_ffff), Some((0x2fff_ffff, true, false)));
        assert_eq!(at(PHYS_VA + 0x3000_0000), None, "the runtime's memory has one mapping only");
        assert_eq!(at(PHYS_VA + 0x301f_ffff), None);
        assert_eq!(at(PHYS_VA + 0x3020_0000), Some((0x3020_0000, false, false)));
        assert_eq!(at(PHYS_VA + 0x3040_0000), Some((0x3040_0000, true, false)));
        assert_eq!(at(0), None);
        for va in (PHYS_VA..PHYS_VA + (5 << 30)).step_by(LARGE_PAGE as usize) {
            assert!(at(va).is_none_or(|(_, _, executable)| !executable));
        }
    }
}
