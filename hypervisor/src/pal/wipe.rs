//! Emptying a slot: every frame of the PAL is zeroed and given back, in slices, then the slot is free.
//!
//! Whoever holds the wipe's token continues it and gets the result that caused it. Whoever needs the frames may wipe them as well
//! ([`super::collect`]), but the slot stays for a while, so that the caller still gets the result.

use super::space::PalFrames;
use super::{Caller, Hardware, Outcome, Pal, Pals, State, Stop};
use crate::frames::Owner;
use abi::Status;
use core::sync::atomic::Ordering;

/// How far a wipe has come, and what its caller will be told.
#[derive(Clone, Copy)]
pub struct Wipe {
    /// The next of all frames of the pool.
    next_frame: u32,
    result: Outcome,
}

impl Pals {
    /// Makes the PAL unreachable and begins to wipe it.
    #[cold]
    pub(super) fn start_wipe(&self, pal: &mut Pal, result: Outcome) -> Outcome {
        let slot = &self.slots[pal.index];
        for word in &slot.handle {
            word.store(0, Ordering::Release);
        }
        slot.owner_cr3.store(0, Ordering::Release);
        slot.incarnation.store(0, Ordering::Release);
        // Somebody may have found the handle before, and get the lock after.
        pal.call.incarnation = 0;
        pal.state = State::Wiping(Wipe { next_frame: 0, result });
        self.continue_wipe(pal)
    }

    /// As [`Self::start_wipe`], for a caller who will come back for the result.
    #[cold]
    pub(super) fn wipe_for(&self, caller: &Caller<impl Hardware>, pal: &mut Pal, result: Stop) -> Stop {
        pal.last_used_ms = caller.hardware.now_ms();
        self.start_wipe(pal, Err(result)).err().unwrap_or(result)
    }

    /// The caller's part: one slice, and in the end the result.
    pub(super) fn continue_wipe(&self, pal: &mut Pal) -> Outcome {
        let State::Wiping(wipe) = pal.state else { return Err(Status::Lost.into()) };
        if !self.wipe_slice(pal) {
            return Err(Stop::Again(pal.next_token()));
        }
        self.free_slot(pal);
        wipe.result
    }

    /// Wipes a slice of whatever frames the pool says are the PAL's. Whether nothing is left.
    pub(super) fn wipe_slice(&self, pal: &mut Pal) -> bool {
        let State::Wiping(wipe) = &mut pal.state else { return false };
        let done = self.pool.lock().wipe(pal.index as Owner, &mut wipe.next_frame);
        if done {
            pal.frames = PalFrames::default();
        }
        done
    }

    /// The PAL's frames are gone, and its slot is free.
    pub(super) fn free_slot(&self, pal: &mut Pal) {
        log::debug!("PAL {}: wiped", pal.index);
        let tokens = pal.tokens + 1;
        *pal = Pal { tokens, ..Pal::default() };
        self.registered.fetch_sub(1, Ordering::Relaxed);
    }
}
