//! Whether `C_Initialize` has been called, in this process and not in one that it was forked from.
//!
//! What says so lies in a page that the kernel empties in a child (`MADV_WIPEONFORK`): a child finds itself before `C_Initialize`, with no
//! lock that a thread of its parent's holds and no capability to call its parent's S, however it was made. The parent's tokens stay where
//! they are in its memory, out of reach. They are otherwise never freed, only closed: a thread that calls while another finalises gets
//! `CKR_CRYPTOKI_NOT_INITIALIZED` and not freed memory.

use crate::outcome::Rv;
use crate::slot::Slot;
use cryptoki_sys::*;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::SeqCst};

/// Tokens, each with its file.
pub const SLOTS: usize = 4;

/// The folder of the tokens' files, unless `TRUSTVISOR_TOKENS` names another.
const FOLDER: &str = "/var/lib/trustvisor/tokens";

const NO: u32 = 0;
const YES: u32 = 1;
const CHANGING: u32 = 2;

/// What a child finds zeroed.
struct Page {
    slots: AtomicPtr<[Slot; SLOTS]>,
    initialised: AtomicU32,
}

static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());

/// The page, made at the first call.
fn page() -> Result<&'static Page, Rv> {
    let present = PAGE.load(SeqCst);
    if !present.is_null() {
        // SAFETY: a mapping that is never unmapped; zeros, with which it begins, are a `Page`.
        return Ok(unsafe { &*present });
    }
    let (size, protection) = (size_of::<Page>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let new = unsafe {
        libc::mmap(ptr::null_mut(), size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if new == libc::MAP_FAILED {
        return Err(CKR_HOST_MEMORY);
    }
    // SAFETY: the mapping just made.
    let wiped = unsafe { libc::madvise(new, size, libc::MADV_WIPEONFORK) } == 0;
    let chosen = if wiped {
        PAGE.compare_exchange(ptr::null_mut(), new.cast(), SeqCst, SeqCst).err()
    } else {
        Some(ptr::null_mut())
    };
    let Some(other) = chosen else {
        // SAFETY: as above.
        return Ok(unsafe { &*new.cast::<Page>() });
    };
    // SAFETY: the mapping just made, which nobody else knows.
    unsafe { libc::munmap(new, size) };
    if other.is_null() {
        return Err(CKR_HOST_MEMORY);
    }
    // SAFETY: the page of another thread that was faster, as above.
    Ok(unsafe { &*other })
}

/// `C_Initialize`.
pub fn initialise() -> Result<(), Rv> {
    let page = page()?;
    if page.initialised.compare_exchange(NO, CHANGING, SeqCst, SeqCst).is_err() {
        return Err(CKR_CRYPTOKI_ALREADY_INITIALIZED);
    }
    if page.slots.load(SeqCst).is_null() {
        let slots = Box::new(std::array::from_fn(|number| Slot::new(number as u32)));
        page.slots.store(Box::into_raw(slots), SeqCst);
    }
    let folder = std::env::var_os("TRUSTVISOR_TOKENS").map_or_else(|| FOLDER.into(), PathBuf::from);
    // SAFETY: never freed once it is there.
    for slot in unsafe { &*page.slots.load(SeqCst) } {
        slot.open(&folder);
    }
    page.initialised.store(YES, SeqCst);
    Ok(())
}

/// `C_Finalize`: every S is wiped.
pub fn finalise() -> Result<(), Rv> {
    let page = page()?;
    if page.initialised.compare_exchange(YES, CHANGING, SeqCst, SeqCst).is_err() {
        return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
    }
    // SAFETY: initialised, so they are there, and never freed.
    for slot in unsafe { &*page.slots.load(SeqCst) } {
        slot.close();
    }
    page.initialised.store(NO, SeqCst);
    Ok(())
}

/// The slots, after `C_Initialize`.
pub fn slots() -> Result<&'static [Slot; SLOTS], Rv> {
    let page = page()?;
    if page.initialised.load(SeqCst) != YES {
        return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
    }
    // SAFETY: initialised, so they are there, and never freed.
    Ok(unsafe { &*page.slots.load(SeqCst) })
}

/// The slot of this number.
pub fn slot(id: CK_SLOT_ID) -> Result<&'static Slot, Rv> {
    let slots = slots()?;
    usize::try_from(id).ok().and_then(|id| slots.get(id)).ok_or(CKR_SLOT_ID_INVALID)
}

/// The slot of a session, which the lowest bits of its handle name.
pub fn slot_of(session: CK_SESSION_HANDLE) -> Result<&'static Slot, Rv> {
    slot(session % SLOTS as u64)
}
