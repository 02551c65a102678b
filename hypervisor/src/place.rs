//! A static place for one value that is made at run time and then has one exclusive owner for ever.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

/// The place.
pub struct Place<T> {
    taken: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is reached through `put` alone, which succeeds once.
unsafe impl<T: Send> Sync for Place<T> {}

impl<T> Place<T> {
    /// An empty place.
    pub const fn new() -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Puts the value there. Panics the second time.
    #[expect(clippy::mut_from_ref, reason = "the flag makes the reference exclusive")]
    pub fn put(&'static self, value: T) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::AcqRel), "the place is taken");
        // SAFETY: the flag was clear, so this is the only reference there ever is.
        unsafe { (*self.value.get()).write(value) }
    }
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self::new()
    }
}
