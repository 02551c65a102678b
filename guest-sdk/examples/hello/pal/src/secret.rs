//! The secret: 4 KiB of S's data section.

use core::cell::UnsafeCell;

pub type Pattern = [u8; 4096];

struct Cell(UnsafeCell<Pattern>);

// SAFETY: TrustVisor lets one call run in S at a time, so there is never a second thread.
unsafe impl Sync for Cell {}

static PATTERN: Cell = Cell(UnsafeCell::new([0; 4096]));

/// Lends the pattern. Not to be nested.
pub fn with<T>(f: impl FnOnce(&mut Pattern) -> T) -> T {
    // SAFETY: one call at a time, and no caller nests.
    f(unsafe { &mut *PATTERN.0.get() })
}

/// Fills the pattern from a seed (the xorshift64* generator; a demonstration, not a key derivation).
pub fn expand(seed: u64, pattern: &mut Pattern) {
    let mut state = seed | 1;
    for word in pattern.as_chunks_mut::<8>().0 {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        *word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
    }
}
