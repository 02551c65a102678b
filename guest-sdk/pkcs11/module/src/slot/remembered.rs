//! The tokens' files as this process, or the one it was forked from, last read them.
//!
//! Apache reads its token as root and uses it in children that may not read the file: they find it here. It is sealed, so there is nothing
//! to hide. A pointer is exchanged under the lock of its slot only, and a child has it either before or after.

use crate::process::SLOTS;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};

/// A path, and what was read there.
type File = (PathBuf, Vec<u8>);

static FILES: [AtomicPtr<File>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];

/// Keeps a token's file. Only who holds the lock of the token's slot calls this, or keeps what [`recall`] answers.
pub fn remember(token: u32, path: &Path, file: Vec<u8>) {
    let Some(place) = FILES.get(token as usize) else { return };
    let old = place.swap(Box::into_raw(Box::new((path.into(), file))), SeqCst);
    if !old.is_null() {
        // SAFETY: made by `Box::into_raw` above, and in nobody's hands: all users hold the slot's lock.
        drop(unsafe { Box::from_raw(old) });
    }
}

/// What was kept of the file at this path.
pub fn recall<'a>(token: u32, path: &Path) -> Option<&'a Vec<u8>> {
    let file = FILES.get(token as usize)?.load(SeqCst);
    // SAFETY: null, or made by `Box::into_raw` and not freed while the caller holds the slot's lock.
    unsafe { file.as_ref() }.filter(|file| file.0 == path).map(|file| &file.1)
}
