//! S's heap: feature `heap`, and `Layout::heap` in the build script, which says how large it is.
//!
//! It is part of S's data, so it keeps what it holds between calls, is measured by its size alone, and is never larger than was said.
//! An allocation that has to succeed and does not ends S ([`crate::death::OUT_OF_MEMORY`]); `try_reserve` and the like answer an error.
//! Memory that is given back is not wiped: secrets belong into `Zeroizing`.

use core::alloc::{GlobalAlloc, Layout};
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;
use talc::{DefaultBinning, cell::TalcCell};

// SAFETY: pal.ld defines both around the heap.
unsafe extern "C" {
    static mut __tv_heap_start: u8;
    static mut __tv_heap_end: u8;
}

/// Gives the allocator the heap when it asks for memory first, and nothing more.
#[derive(Debug)]
struct Budget {
    given: bool,
}

// SAFETY: `acquire` does not reach for any allocator but the one that it is given.
unsafe impl Source for Budget {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        if core::mem::replace(&mut talc.source.given, true) {
            return Err(());
        }
        let (start, end) = (&raw mut __tv_heap_start, &raw mut __tv_heap_end);
        // SAFETY: the memory between is nobody else's, zeroed, writable, and lives as long as S.
        unsafe { talc.claim(start, end as usize - start as usize) }.map(drop).ok_or(())
    }
}

struct Heap(TalcCell<Budget, DefaultBinning>);

// SAFETY: TrustVisor lets one call run in S at a time, and nothing interrupts S to run other code of S.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Budget { given: false }));

// SAFETY: the allocator's own.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.realloc(at, layout, size) }
    }
}
