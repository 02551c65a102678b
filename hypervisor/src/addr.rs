//! Two kinds of addresses that do not mix: host-physical and guest-virtual.
//! The OS's nested tables are an identity, so its guest-physical addresses *name* host-physical ones, but only
//! [`crate::memory`] may say which of them are the guest's.

use core::iter::from_fn;
use core::ops::Range;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of a 2 MiB page.
pub const LARGE_PAGE: u64 = 2 << 20;
/// Bytes of a 1 GiB page.
pub const HUGE_PAGE: u64 = 1 << 30;

macro_rules! address {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The start of the page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }
            /// Offset in the page.
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE - 1)) as usize
            }
        }

        impl core::ops::Add<u64> for $name {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }
    };
}

address!(Hpa, "A host-physical address.");
address!(Gva, "A guest-virtual address.");

/// The parts of `length` bytes at `start` that lie in one page each: where, and which of the bytes they are.
pub fn pieces(start: Gva, length: usize) -> impl Iterator<Item = (Gva, Range<usize>)> {
    let mut done = 0;
    from_fn(move || {
        let at = start + done as u64;
        let piece = done..length.min(done + PAGE_SIZE as usize - at.page_offset());
        done = piece.end;
        (!piece.is_empty()).then_some((at, piece))
    })
}
