//! What is to hold of every state, wherever it came from: strangers get nothing, nothing waits for ever, all comes back.

use super::super::*;
use super::deaths::CONFIRM_MS;
use super::failed;
use super::play::{Meanwhile, Op, plain_call};
use super::s::Act;
use super::world::*;

impl World {
    /// Whoever has not all it takes gets nothing, and changes nothing: other handles, other address spaces, tokens that are old,
    /// made up or another's.
    pub fn strangers(&self) {
        let lives = self.ledger.borrow().lives.clone();
        let stays = self.ledger.borrow().stays;
        for life in &lives {
            let space = self.space_of(life.app);
            let foreign = (space + 1) % self.shape.spaces;
            let Handle { low, high } = life.handle;
            let guesses = [Handle { low, high: high ^ 1 }, Handle { low: low ^ 1 << 60, high }];
            let count = 1 << SLOT_BITS;
            let mut tries = vec![(foreign, life.handle)];
            tries.extend(guesses.map(|guess| (space, guess)));
            let nobody = failed(Status::NoSuchPal);
            let lost = failed(Status::Lost);
            for (from, handle) in tries {
                let cpu = self.program(from, handle);
                let caller = &mut Caller { cpu: &cpu, hardware: &mut self.stay(0, life.serial) };
                let refused = self.pals.call(caller, 0) == nobody
                    && self.pals.unregister(caller, false) == nobody
                    && self.pals.unregister(caller, true) == nobody
                    && self.pals.pal_info(caller).err() == Some(Status::NoSuchPal);
                self.ensure(refused, || "a stranger was not refused".into());
                if matches!(life.phase, Phase::InCall(_)) || from == foreign {
                    let outcome = self.pals.resume(caller, life.token);
                    self.ensure(outcome == lost, || format!("a stranger's token came to {outcome:?}"));
                }
            }
            let own = self.application(life.app, life.handle, 0);
            let own = &mut Caller { cpu: &own, hardware: &mut self.stay(0, life.serial) };
            if matches!(life.phase, Phase::InCall(_)) {
                let called = self.pals.call(own, 0);
                let busy = failed(Status::Busy);
                let unregistered = self.pals.unregister(own, false);
                self.ensure((called, unregistered) == (busy, busy), || "a PAL in a call was not busy".into());
            }
            let other = lives.iter().find(|other| other.serial != life.serial);
            let mut tokens = vec![life.old_token, life.token + count, life.token.wrapping_sub(count)];
            tokens.extend((life.phase == Phase::Idle).then_some(life.token));
            for token in tokens.into_iter().filter(|token| token & TOKEN_BIT != 0) {
                let outcome = self.pals.resume(own, token);
                self.ensure(outcome == lost, || format!("a token that is not its own came to {outcome:?}"));
            }
            if let Some(other) = other.filter(|_| matches!(life.phase, Phase::InCall(_))) {
                let cpu = self.program(space, other.handle);
                let mut caller = Caller { cpu: &cpu, hardware: &mut self.stay(0, life.serial) };
                let outcome = self.pals.resume(&mut caller, life.token);
                self.ensure(outcome == lost, || "a call went on with another PAL's handle".into());
            }
        }
        let last_dead = self.ledger.borrow().last_dead;
        if let Some((app, handle)) = last_dead.filter(|(_, handle)| handle.high != 0) {
            let cpu = self.application(app, handle, 0);
            let outcome = self.pals.call(&mut Caller { cpu: &cpu, hardware: &mut self.stay(0, 0) }, 0);
            self.ensure(outcome == failed(Status::NoSuchPal), || "a dead PAL was called".into());
        }
        let ran = self.ledger.borrow().stays - stays;
        self.ensure(ran == 0, || "S ran for a stranger".into());
    }

    /// Pages that never come do not keep anything open: what waits for them is given up.
    pub fn starve(&self) {
        let (act, page, meanwhile) = (Act::Return, Page::Empty, Meanwhile::Nothing);
        let waits = |life: &Life| match &life.phase {
            Phase::Registering => life.faults > 0,
            Phase::InCall(open) => open.returned,
            _ => false,
        };
        let lives = self.ledger.borrow().lives.clone();
        for life in lives.iter().filter(|life| waits(life)) {
            for _ in 0..4 {
                self.play(Op::Continue { slot: life.slot, cpu: 0, act, page, meanwhile });
            }
            let still = self.life(life.slot).is_some_and(|life| waits(&life));
            self.ensure(!still, || "what waits for a page waits for ever".into());
        }
    }

    /// From here everything ends well: what is open is finished, then the owners die, and all memory comes back.
    pub fn come_to_an_end(&self) {
        let (act, page, meanwhile) = (Act::Return, Page::Present, Meanwhile::Nothing);
        for app in 0..self.shape.apps {
            self.play(Op::OwnerPage { app, page });
        }
        let slots: Vec<_> = self.ledger.borrow().lives.iter().map(|life| life.slot).collect();
        for slot in slots {
            for _ in 0..2 {
                self.play(Op::Continue { slot, cpu: 1, act, page, meanwhile });
            }
            let open = self.life(slot).is_some_and(|life| life.phase != Phase::Idle && life.token != 0);
            self.ensure(!open, || "what was open does not end".into());
            self.play(plain_call(slot, 0));
        }
        for app in 0..self.shape.apps {
            self.play(Op::OwnerPage { app, page: Page::Empty });
        }
        for _ in 0..2 {
            self.play(Op::Pass { ms: CONFIRM_MS });
            self.play(Op::Collect);
        }
        let left = self.ledger.borrow().lives.len();
        self.ensure(left == 0, || format!("{left} PALs are never freed"));
    }
}
