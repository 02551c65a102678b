//! Physical memory as the loader sees it: the low 4 GiB, mapped by identity (`boot.s`).

use loader::bytes::Memory;
use loader::range::Range;

const MAPPED: u64 = 1 << 32;

// SAFETY: symbols of the linker script; only their addresses are used.
unsafe extern "C" {
    /// First byte of the loader, from the linker script.
    static loader_start: u8;
    /// One past its last.
    static loader_end: u8;
}

/// Where the loader itself lies.
pub fn loader() -> Range {
    Range { start: &raw const loader_start as u64, end: &raw const loader_end as u64 }
}

/// Reads through the identity map.
pub struct Identity;

impl Memory for Identity {
    fn bytes(&self, addr: u64, len: u64) -> Option<&[u8]> {
        if addr == 0 || addr.checked_add(len)? > MAPPED {
            return None;
        }
        // SAFETY: mapped, not null, and any byte is a u8. What is read is the boot loader's information, the modules and
        // the firmware's tables, which nothing writes: the planner keeps what the loader writes apart from the modules,
        // and the rest is read before the loader writes at all.
        Some(unsafe { core::slice::from_raw_parts(addr as *const u8, len as usize) })
    }
}

/// A range to write to.
///
/// # Safety
/// It must be ordinary memory above 0 and below 4 GiB, and nothing else may refer to it while the slice lives.
pub unsafe fn area(range: Range) -> &'static mut [u8] {
    // SAFETY: mapped; the rest is what the caller promises.
    unsafe { core::slice::from_raw_parts_mut(range.start as *mut u8, range.len() as usize) }
}
