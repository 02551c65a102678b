//! Who of the ledger's PALs may be taken, and who was.

use super::super::*;
use super::play::LOST;
use super::world::{Ledger, Life, Page, Phase, World};

/// Owners are dead for good when two looks this far apart say so.
pub const CONFIRM_MS: u64 = collect::CONFIRM_MS;
/// A PAL called more recently is not looked at.
const RECENT_MS: u64 = 1_000;

impl World {
    /// Whether a PAL's owner could still come and call.
    fn owner_lives(&self, ledger: &Ledger, life: &Life) -> bool {
        match ledger.owner_pages[life.app] {
            _ if life.phase == Phase::Registering => false,
            Page::Swapped => true,
            Page::Empty => false,
            Page::Present | Page::Clean => self.owner_holds(life.app) == life.handle,
        }
    }

    pub fn look_after_owners(&self) {
        let mut ledger = self.ledger.borrow_mut();
        let alive: Vec<_> = ledger.lives.iter().map(|life| self.owner_lives(&ledger, life)).collect();
        let now = ledger.now;
        for (life, alive) in ledger.lives.iter_mut().zip(alive) {
            if !alive {
                life.dead_since.get_or_insert(now);
            }
        }
    }

    /// A pass over all PALs has seen who is alive.
    pub fn looked(&self) {
        let mut ledger = self.ledger.borrow_mut();
        let alive: Vec<_> = ledger.lives.iter().map(|life| self.owner_lives(&ledger, life)).collect();
        let now = ledger.now;
        for (life, alive) in ledger.lives.iter_mut().zip(alive) {
            if alive
                && now - life.last_used >= RECENT_MS
                && self.pals.slots[life.slot].pal.try_lock().is_some()
            {
                life.dead_since = None;
            }
        }
    }

    /// Strikes out who is gone. Only `expected` may be, who must, and those whose owners are dead long enough.
    pub fn bury(&self, expected: Option<u64>) {
        let mut wrong = None;
        let mut ledger = self.ledger.borrow_mut();
        let now = ledger.now;
        let mut last_dead = None;
        let alive: Vec<_> = ledger.lives.iter().map(|life| self.owner_lives(&ledger, life)).collect();
        let mut alive = alive.into_iter();
        ledger.lives.retain_mut(|life| {
            let fate = self.fate(life);
            let alive = alive.next().unwrap_or(true);
            let may = expected == Some(life.serial)
                || life.phase == Phase::Registering && now - life.last_used >= CONFIRM_MS
                || matches!(life.phase, Phase::Wiping(_)) && now - life.last_used >= RECENT_MS
                || !alive
                    && life.dead_since.is_some_and(|since| now - since >= CONFIRM_MS)
                    && now - life.last_used >= RECENT_MS;
            match fate {
                Fate::Lives if expected == Some(life.serial) => {
                    wrong = Some("a PAL that should be gone is there")
                }
                Fate::Gone | Fate::Wiping if !may => wrong = Some("a PAL with a living owner was taken"),
                _ => {}
            }
            if fate == Fate::Wiping {
                // Whoever had a token for the wipe has it no more.
                (life.phase, life.token) = (Phase::Wiping(LOST), 0);
                life.frames.clear();
            }
            if fate == Fate::Gone {
                last_dead = Some((life.app, life.handle));
            }
            fate != Fate::Gone
        });
        if last_dead.is_some() {
            ledger.last_dead = last_dead;
        }
        drop(ledger);
        if let Some(wrong) = wrong {
            self.wrong(|| wrong.into());
        }
    }

    /// What has become of a PAL of the ledger.
    fn fate(&self, life: &Life) -> Fate {
        let slot = &self.pals.slots[life.slot];
        let Some(pal) = slot.pal.try_lock() else { return Fate::Lives };
        let same = match pal.state {
            State::Free => false,
            State::Wiping(_) if pal.token() != life.token => return Fate::Wiping,
            State::Wiping(_) => true,
            State::Registering(_) => life.token == 0 || pal.token() == life.token,
            State::Idle | State::InCall(_) => {
                slot.handle[0].load(Ordering::Relaxed) == life.handle.low || life.phase == Phase::Registering
            }
        };
        if same { Fate::Lives } else { Fate::Gone }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    /// It is being wiped, and nobody but a collect goes on with that.
    Wiping,
    Gone,
}
