//! S's secret: 4 KiB of its data section.

use crate::pattern::WORDS;
use core::cell::UnsafeCell;

struct Cell(UnsafeCell<[u64; WORDS]>);

// SAFETY: TrustVisor lets one call run in S at a time, so there is never a second thread.
unsafe impl Sync for Cell {}

static WORDS_KEPT: Cell = Cell(UnsafeCell::new([0; WORDS]));

/// Lends the secret. Not to be nested.
pub fn with<T>(f: impl FnOnce(&mut [u64; WORDS]) -> T) -> T {
    // SAFETY: one call at a time, and no caller nests.
    f(unsafe { &mut *WORDS_KEPT.0.get() })
}

/// Reads all words `rounds` times in an order that depends on them.
pub fn stir(words: &[u64; WORDS], rounds: u64) -> u64 {
    let mut at = 0u64;
    for _ in 0..rounds * WORDS as u64 {
        at = words[at as usize % WORDS].rotate_left(7).wrapping_add(at);
    }
    at & 1
}
