//! Emptying a slot: every frame of the PAL is zeroed and given back, in slices, then the slot is free.
//!
//! Whoever holds the wipe's token continues it and gets the result that caused it; if that caller does not come for a while,
//! [`super::collect`] finishes it.

use super::{Outcome, Pal, Pals, SLICE, State};
use crate::addr::PAGE_SIZE;
use abi::Status;
use core::sync::atomic::Ordering;

/// How far a wipe has come, and what its caller will be told.
#[derive(Clone, Copy)]
pub struct Wipe {
    next_page: u64,
    result: Outcome,
}

impl Pals {
    /// Makes the PAL unreachable and begins to wipe it.
    #[cold]
    pub(super) fn start_wipe(&self, index: usize, pal: &mut Pal, result: Outcome) -> Outcome {
        let slot = &self.slots[index];
        for word in &slot.handle {
            word.store(0, Ordering::Release);
        }
        slot.owner_cr3.store(0, Ordering::Release);
        slot.incarnation.store(0, Ordering::Release);
        pal.state = State::Wiping(Wipe { next_page: 0, result });
        self.continue_wipe(index, pal)
    }

    /// One slice of wiping.
    pub(super) fn continue_wipe(&self, index: usize, pal: &mut Pal) -> Outcome {
        let State::Wiping(mut wipe) = pal.state else { return Outcome::status(Status::Lost) };
        let owner = Self::owner(index);
        let mut pool = self.pool.lock();
        let end = pal.frames.pages().min(wipe.next_page + SLICE / PAGE_SIZE);
        while wipe.next_page < end {
            pal.frames.wipe_page(self.mem, &mut pool, owner, wipe.next_page);
            wipe.next_page += 1;
        }
        if wipe.next_page < pal.frames.pages() {
            pal.state = State::Wiping(wipe);
            return Outcome::Again(pal.next_token(index));
        }
        pal.frames.wipe_control(self.mem, &mut pool, owner);
        drop(pool);
        let tokens = pal.tokens + 1;
        *pal = Pal { tokens, ..Pal::free() };
        self.registered.fetch_sub(1, Ordering::Relaxed);
        log::debug!("PAL {index}: wiped");
        wipe.result
    }
}
