//! Finding PALs whose owner is gone (`kill -9`, a crash): their frames come back when somebody asks, or when the pool is full.
//!
//! Nobody tells the hypervisor that a process died, and its page tables may be anything by then. So the owner page is looked up by
//! the tables as they are now: a PAL is wiped only if two looks, [`CONFIRM_MS`] apart, both found the entry empty or
//! a present page without the handle, and no call came between. A page that Linux swapped out or migrates has a non-zero,
//! non-present entry and counts as alive.

use super::{Hardware, MAX_PALS, Outcome, Pal, Pals, State, Stop};
use crate::addr::Hpa;
use crate::guest_memory::{GuestMemory, Peek};
use abi::Status;
use core::mem::take;
use core::sync::atomic::Ordering;

/// Two looks that condemn a PAL are this far apart.
pub const CONFIRM_MS: u64 = 10_000;
/// A PAL called more recently than this is not looked at, and the result of a wipe continued more recently is kept.
const RECENT_MS: u64 = 1_000;
/// Slots looked at in one stay.
const SLOTS: usize = 64;

/// A pass over all slots: nobody's in particular, whoever calls next goes on with it, until it has waited for too long.
#[derive(Default)]
pub(super) struct Pass {
    next_slot: usize,
    freed: u64,
    stale_ms: u64,
}

/// What a look at one slot came to.
enum Look {
    /// Nothing to do there.
    Kept,
    /// A slice was wiped, more is left.
    Wiping,
    /// The PAL is gone.
    Freed,
}

impl Pals {
    /// `COLLECT`: the next part of a pass.
    pub fn collect(&self, hardware: &mut impl Hardware) -> Outcome {
        let Some(mut pass) = self.pass.try_lock() else { return Err(Status::Busy.into()) };
        let now = hardware.now_ms();
        if now >= pass.stale_ms {
            *pass = Pass::default();
        }
        pass.stale_ms = now + RECENT_MS;
        for _ in 0..SLOTS {
            if pass.next_slot >= MAX_PALS {
                return Ok(take(&mut *pass).freed);
            }
            match self.look_at(pass.next_slot, now) {
                Look::Kept => pass.next_slot += 1,
                Look::Wiping => break,
                Look::Freed => {
                    pass.freed += 1;
                    break;
                }
            }
        }
        Err(Stop::Restart)
    }

    /// The pool or the table is full: wipes one slice of what is condemned; `full` if there is nothing.
    pub(super) fn make_room(&self, hardware: &mut impl Hardware, full: Status) -> Outcome {
        let now = hardware.now_ms();
        let progress = (0..MAX_PALS).any(|index| !matches!(self.look_at(index, now), Look::Kept));
        Err(if progress { Stop::Restart } else { full.into() })
    }

    fn look_at(&self, index: usize, now: u64) -> Look {
        let Ok(mut pal) = self.lock(index) else { return Look::Kept };
        match pal.state {
            State::Free => return Look::Kept,
            State::Wiping(_) => {
                // The caller may still come for the result.
                let awaited = now.saturating_sub(pal.last_used_ms) < RECENT_MS;
                if awaited && pal.frames.vmcb == Hpa(0) {
                    return Look::Kept;
                }
                if self.wipe_slice(&mut pal) && !awaited {
                    self.free_slot(&mut pal);
                }
            }
            _ => {
                if !self.condemned(&mut pal, now) {
                    return Look::Kept;
                }
                let _ = self.start_wipe(&mut pal, Err(Status::Lost.into()));
            }
        }
        if matches!(pal.state, State::Free) { Look::Freed } else { Look::Wiping }
    }

    /// Whether this look is the second that found the owner gone.
    fn condemned(&self, pal: &mut Pal, now: u64) -> bool {
        if now.saturating_sub(pal.last_used_ms) < RECENT_MS {
            return false;
        }
        if self.owner_lives(pal) {
            pal.suspect_since_ms = None;
            return false;
        }
        let since = *pal.suspect_since_ms.get_or_insert(now);
        now.saturating_sub(since) >= CONFIRM_MS
    }

    /// A registration that does not go on has no living owner: it has no handle yet to be found. Else: follows the tables that were the owner's when it registered down to its owner page.
    fn owner_lives(&self, pal: &Pal) -> bool {
        if matches!(pal.state, State::Registering(_)) {
            return false;
        }
        let mut found = [0; 16];
        match GuestMemory::new(self.mem, self.ram, pal.space).peek(pal.owner_page, &mut found) {
            Peek::Away => true,
            Peek::Nothing => false,
            Peek::Read => {
                let handle = &self.slots[pal.index].handle;
                let expected = handle.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes());
                found.into_iter().eq(expected)
            }
        }
    }
}
