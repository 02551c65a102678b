//! What the OS and its applications do, one step at a time, and what each step must come to.

use super::super::*;
use super::failed;
use super::s::{Act, Stay};
use super::world::*;
use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};

/// Stays that one operation of the model takes at most.
const PATIENCE: usize = 64;
pub const LOST: Outcome = Err(Stop::Failed(0, Status::Lost));
const OK: Outcome = Ok(0);

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// An application registers its PAL, and leaves it after this many stays. The image's second page may be away.
    Register {
        app: usize,
        stays: usize,
        image: Page,
    },
    Call {
        slot: usize,
        cpu: usize,
        entry: u16,
        act: Act,
        serve: bool,
        out: Page,
        meanwhile: Meanwhile,
    },
    /// An operation that was left goes on with its token, until it ends or S is interrupted again.
    Continue {
        slot: usize,
        cpu: usize,
        act: Act,
        page: Page,
        meanwhile: Meanwhile,
    },
    Unregister {
        slot: usize,
    },
    Abort {
        slot: usize,
    },
    Collect,
    Pass {
        ms: u64,
    },
    /// The application dies, is swapped out, or comes back.
    OwnerPage {
        app: usize,
        page: Page,
    },
}

/// What another processor does while S runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meanwhile {
    Nothing,
    Abort,
    /// The page for the results goes away.
    ResultPageGoes,
    Collect,
    Register(usize),
    AbortOther(usize),
    CallOther(usize),
}

/// S returns, at once.
pub fn plain_call(slot: usize, cpu: usize) -> Op {
    let (act, out, meanwhile) = (Act::Return, Page::Present, Meanwhile::Nothing);
    Op::Call { slot, cpu, entry: 0, act, serve: false, out, meanwhile }
}

impl World {
    /// Does a step and judges what came of it.
    pub fn play(&self, op: Op) {
        match op {
            Op::Register { app, stays, image } => self.register(app, stays, image),
            Op::Call { slot, .. } => {
                if let Some(life) = self.life(slot) {
                    self.call(&life, op);
                }
            }
            Op::Continue { slot, cpu, act, page, meanwhile } => {
                if let Some(life) = self.life(slot) {
                    match life.phase {
                        Phase::Registering => self.continue_registration(&life, page, PATIENCE),
                        Phase::InCall(_) => self.continue_call(&life, cpu, act, page, meanwhile),
                        Phase::Wiping(_) => self.continue_wipe(&life),
                        Phase::Idle => {}
                    }
                }
            }
            Op::Unregister { slot } | Op::Abort { slot } => {
                if let Some(life) = self.life(slot) {
                    self.unregister(&life, matches!(op, Op::Abort { .. }));
                }
            }
            Op::Collect => self.collect(),
            Op::Pass { ms } => self.ledger.borrow_mut().now += ms,
            Op::OwnerPage { app, page } => self.set_owner_page(app, page),
        }
        self.look_after_owners();
    }

    pub fn life(&self, slot: usize) -> Option<Life> {
        self.ledger.borrow().lives.iter().find(|life| life.slot == slot).cloned()
    }

    pub fn with_life<T>(&self, serial: u64, change: impl FnOnce(&mut Life) -> T) -> Option<T> {
        self.ledger.borrow_mut().lives.iter_mut().find(|life| life.serial == serial).map(change)
    }

    pub fn stay(&self, cpu: usize, serial: u64) -> Stay<'_> {
        Stay { world: self, cpu, serial, script: VecDeque::new(), meanwhile: Cell::new(None), early: false }
    }

    fn set_owner_page(&self, app: usize, page: Page) {
        self.map_owner(app, page);
        self.ledger.borrow_mut().owner_pages[app] = page;
    }

    fn register(&self, app: usize, stays: usize, image: Page) {
        self.set_owner_page(app, Page::Present);
        self.look_after_owners();
        self.map_image(app, image);
        let cpu = self.program(self.space_of(app), Handle { low: 0, high: 0 });
        let free = self.pals.pool.lock().free_count();
        let mut hardware = self.stay(0, 0);
        for _ in 0..PATIENCE {
            let (gva, length, owner) = (Gva(image_gva(app)), image_length(), Gva(owner_gva(app)));
            let mut caller = Caller { cpu: &cpu, hardware: &mut hardware };
            match self.pals.register(&mut caller, Some((gva, length)), owner) {
                Err(Stop::Restart) => self.bury(None),
                Err(Stop::Failed(_, Status::NoMemory)) => {
                    self.bury(None);
                    self.ensure(free < self.needed(app), || {
                        "refused for want of memory, which there was".into()
                    });
                    return;
                }
                outcome => {
                    self.bury(None);
                    let Some(life) = self.birth(app, outcome) else { return };
                    self.registration_went_on(&life, outcome, image, stays - 1);
                    return;
                }
            }
        }
        self.wrong(|| "a registration never begins".into());
    }

    /// Writes a new PAL down.
    fn birth(&self, app: usize, outcome: Outcome) -> Option<Life> {
        let slot = match outcome {
            Err(Stop::Again(token)) | Err(Stop::Fault { token: Some(token), .. }) => slot_of(token),
            Ok(0) => Some(self.owner_holds(app).low as usize % MAX_PALS),
            _ => None,
        };
        let mut ledger = self.ledger.borrow_mut();
        let taken = |slot| ledger.lives.iter().any(|life| life.slot == slot);
        let Some(slot) = slot.filter(|slot| !taken(*slot)) else {
            drop(ledger);
            self.wrong(|| format!("a registration came to {outcome:?}"));
            return None;
        };
        ledger.born += 1;
        let life = Life {
            serial: ledger.born,
            slot,
            app,
            handle: Handle { low: 0, high: 0 },
            incarnation: 0,
            phase: Phase::Registering,
            token: 0,
            old_token: 0,
            frames: BTreeSet::new(),
            ran: false,
            dead_since: Some(ledger.now),
            last_used: ledger.now,
            faults: 0,
            aborted: false,
        };
        ledger.lives.push(life.clone());
        Some(life)
    }

    fn continue_registration(&self, life: &Life, image: Page, stays: usize) {
        self.map_image(life.app, image);
        let outcome = self.resume(&mut self.stay(0, life.serial), life);
        self.registration_went_on(life, outcome, image, stays - 1);
    }

    fn registration_went_on(&self, life: &Life, mut outcome: Outcome, image: Page, mut stays: usize) {
        let now = self.ledger.borrow().now;
        loop {
            self.with_life(life.serial, |life| (life.last_used, life.dead_since) = (now, Some(now)));
            match outcome {
                Err(Stop::Again(token)) => self.take_token(life, token),
                Err(Stop::Fault { gva, error_code, token: Some(token) }) => {
                    self.take_token(life, token);
                    let faults = self.with_life(life.serial, |life| {
                        life.faults += 1;
                        life.faults
                    });
                    // Three for the image's page, as many for the owner page.
                    self.ensure(faults <= Some(2 * 3), || "a registration never ends".into());
                    let image_away =
                        image == Page::Empty && error_code == 4 && gva.page().0 == image_gva(life.app) + PAGE;
                    let owner_away = self.ledger.borrow().owner_pages[life.app] != Page::Present
                        && (gva.0, error_code) == (owner_gva(life.app), 6);
                    self.ensure(image_away || owner_away, || format!("asked for {gva:?} with {error_code}"));
                    return;
                }
                OK => return self.registered(life),
                Err(Stop::Failed(gva, Status::NoProgress)) => {
                    let away = gva & !0xfff == image_gva(life.app) + PAGE && image == Page::Empty
                        || gva == owner_gva(life.app);
                    self.ensure(away, || format!("no progress at {gva:#x}"));
                    return self.bury(Some(life.serial));
                }
                Err(Stop::Failed(0, Status::NoMemory)) => return self.bury(Some(life.serial)),
                outcome => return self.wrong(|| format!("a registration came to {outcome:?}")),
            }
            if stays == 0 {
                return;
            }
            stays -= 1;
            let Some(life) = self.life(life.slot) else { return };
            outcome = self.resume(&mut self.stay(0, life.serial), &life);
        }
    }

    fn registered(&self, life: &Life) {
        let handle = self.owner_holds(life.app);
        let mut ledger = self.ledger.borrow_mut();
        let used = ledger.handles.contains(&handle) || handle.high == 0;
        ledger.handles.push(handle);
        drop(ledger);
        self.ensure(!used, || "a handle was used twice".into());
        self.with_life(life.serial, |life| (life.handle, life.phase) = (handle, Phase::Idle));
    }

    fn call(&self, life: &Life, op: Op) {
        let Op::Call { cpu, entry, act, serve, out, meanwhile, .. } = op else { return };
        self.map_out(self.space_of(life.app), out);
        let mut ledger = self.ledger.borrow_mut();
        ledger.calls += 1;
        let (number, now, stays) = (ledger.calls, ledger.now, ledger.stays);
        drop(ledger);
        let idle = life.phase == Phase::Idle;
        if idle {
            let open = Open { entry, number, entered: false, returned: false, left: [0; 17], faults: 0 };
            self.with_life(life.serial, |life| {
                (life.phase, life.last_used) = (Phase::InCall(open), now);
                life.dead_since = None;
            });
        }
        let begin = |hardware: &mut Stay| {
            let cpu = self.application(life.app, life.handle, entry);
            let outcome = self.pals.call(&mut Caller { cpu: &cpu, hardware }, entry);
            self.count_machine_check(&cpu);
            outcome
        };
        let outcome = self.enter(life, cpu, act, serve, meanwhile, begin);
        let ran = self.ledger.borrow().stays - stays;
        if idle && life.aborted {
            let gone = failed(Status::NoSuchPal);
            self.ensure(ran == 0 && (outcome == gone || matches!(outcome, Err(Stop::Again(_)))), || {
                format!("a call of a PAL that was aborted came to {outcome:?}")
            });
            self.died(life, outcome, gone);
        } else if !idle {
            let refused =
                if matches!(life.phase, Phase::InCall(_)) { Status::Busy } else { Status::NoSuchPal };
            self.ensure(outcome == failed(refused) && ran == 0, || {
                format!("called out of turn: {outcome:?}")
            });
        } else if has_buffers(entry) && out != Page::Present {
            let code = if out == Page::Clean { 7 } else { 6 };
            let asked = matches!(outcome, Err(Stop::Fault { gva, error_code, token: None }) if is_out_page(gva) && error_code == code);
            self.ensure(asked && ran == 0, || {
                format!("a call without room for its results came to {outcome:?}")
            });
            self.with_life(life.serial, |life| life.phase = Phase::Idle);
        } else {
            self.ran(life, act, out, meanwhile, outcome);
        }
    }

    fn continue_call(&self, life: &Life, cpu: usize, act: Act, out: Page, meanwhile: Meanwhile) {
        self.map_out(self.space_of(life.app), out);
        let now = self.ledger.borrow().now;
        let outcome = self.enter(life, cpu, act, false, meanwhile, |hardware| self.resume(hardware, life));
        self.with_life(life.serial, |life| life.last_used = now);
        self.ran(life, act, out, meanwhile, outcome);
    }

    /// Into S and back, the other processor doing what it does.
    fn enter(
        &self,
        life: &Life,
        cpu: usize,
        act: Act,
        serve: bool,
        meanwhile: Meanwhile,
        begin: impl FnOnce(&mut Stay) -> Outcome,
    ) -> Outcome {
        let other = || self.meanwhile(life, cpu, meanwhile);
        let mut hardware = self.stay(cpu, life.serial);
        hardware.script.extend(serve.then_some(Act::Serve));
        hardware.script.push_back(act);
        hardware.meanwhile = Cell::new(Some(&other));
        hardware.early = matches!(&life.phase, Phase::InCall(open) if open.returned);
        begin(&mut hardware)
    }

    fn meanwhile(&self, life: &Life, cpu: usize, meanwhile: Meanwhile) {
        let other_cpu = (cpu + 1) % self.shape.processors.len();
        let application = self.application(life.app, life.handle, 0);
        let caller = &mut Caller { cpu: &application, hardware: &mut self.stay(other_cpu, 0) };
        // While one processor has the PAL, another is told so, whatever it wants.
        let busy = failed(Status::Busy);
        let called = self.pals.call(caller, 0);
        let unregistered = self.pals.unregister(caller, false);
        let resumed = self.pals.resume(caller, life.token);
        let info = self.pals.pal_info(caller).err();
        self.ensure(called == busy && unregistered == busy && info == Some(Status::Busy), || {
            "a PAL that runs on one processor was not busy on the other".into()
        });
        // Whether the token is worth anything is seen when the PAL can be had.
        self.ensure(resumed == Err(Stop::Again(life.token)), || {
            format!("a PAL that runs was continued: {resumed:?}")
        });
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Abort => {
                let outcome = self.pals.unregister(caller, true);
                self.ensure(outcome == OK, || format!("abort of a PAL that runs came to {outcome:?}"));
                self.with_life(life.serial, |life| life.aborted = true);
            }
            Meanwhile::ResultPageGoes => self.map_out(self.space_of(life.app), Page::Empty),
            Meanwhile::Collect => self.collect(),
            Meanwhile::Register(app) => self.register(app, PATIENCE, Page::Present),
            Meanwhile::AbortOther(slot) if slot != life.slot => self.play(Op::Abort { slot }),
            Meanwhile::CallOther(slot) if slot != life.slot => self.play(plain_call(slot, other_cpu)),
            Meanwhile::AbortOther(_) | Meanwhile::CallOther(_) => {}
        }
    }

    /// Judges what came of a call in which S ran, or was to deliver.
    fn ran(&self, life: &Life, act: Act, out: Page, meanwhile: Meanwhile, outcome: Outcome) {
        let ran_before = matches!(&life.phase, Phase::InCall(open) if open.returned);
        let Some((phase, aborted)) = self.with_life(life.serial, |life| (life.phase.clone(), life.aborted))
        else {
            return self.wrong(|| "a PAL died while it ran".into());
        };
        let Phase::InCall(mut open) = phase else { return self.wrong(|| "a call that is none".into()) };
        let act = if ran_before { Act::Return } else { act };
        let checks = core::mem::take(&mut self.ledger.borrow_mut().machine_checks);
        self.ensure(checks == u64::from(act == Act::MachineCheck), || {
            format!("{checks} machine checks went on to the OS")
        });
        if aborted && !ran_before {
            self.ensure(matches!(outcome, LOST | Err(Stop::Again(_))), || {
                format!("aborted, and came to {outcome:?}")
            });
            self.untouched(life);
            return self.died(life, outcome, LOST);
        }
        let away =
            has_buffers(open.entry) && (out != Page::Present || meanwhile == Meanwhile::ResultPageGoes);
        match (act, outcome) {
            (Act::Interrupt, Err(Stop::Again(token))) => {
                self.take_token(life, token);
                self.untouched(life);
            }
            (Act::Fault, Err(Stop::Failed(13, Status::Faulted)) | Err(Stop::Again(_))) => {
                self.untouched(life);
                self.died(life, outcome, Err(Stop::Failed(13, Status::Faulted)));
            }
            (Act::BadReturn, Err(Stop::Failed(14, Status::Faulted)) | Err(Stop::Again(_))) => {
                self.untouched(life);
                self.died(life, outcome, Err(Stop::Failed(14, Status::Faulted)));
            }
            (Act::MachineCheck, Err(Stop::Failed(18, Status::Faulted)) | Err(Stop::Again(_))) => {
                self.untouched(life);
                self.died(life, outcome, Err(Stop::Failed(18, Status::Faulted)));
            }
            (Act::Return, Err(Stop::Fault { gva, token: Some(token), .. })) if away && is_out_page(gva) => {
                open.faults += 1;
                self.ensure(open.faults <= 3, || "a call never ends".into());
                self.with_life(life.serial, |life| life.phase = Phase::InCall(open));
                self.take_token(life, token);
                self.untouched(life);
            }
            (Act::Return, Err(Stop::Failed(gva, Status::NoProgress))) if away && is_out_page(Gva(gva)) => {
                self.ensure(open.faults > 0, || "given up at once".into());
                self.untouched(life);
                self.with_life(life.serial, |life| life.phase = Phase::Idle);
            }
            (Act::Return, Ok(value)) if !away => {
                let result = RESULT | open.number;
                let results = self.results(self.space_of(life.app));
                let expected = if has_buffers(open.entry) { [result, result, 0] } else { [FILL; 3] };
                self.ensure(value == result && results == expected, || {
                    format!("results {value:#x}, {results:x?} instead of {result:#x}")
                });
                self.with_life(life.serial, |life| life.phase = Phase::Idle);
                self.refill(self.space_of(life.app));
            }
            (act, outcome) => self.wrong(|| format!("after {act:?} a call came to {outcome:?}")),
        }
    }

    /// No result has gone anywhere.
    fn untouched(&self, life: &Life) {
        let results = self.results(self.space_of(life.app));
        self.ensure(results == [FILL; 3], || format!("half a result: {results:x?}"));
    }

    fn continue_wipe(&self, life: &Life) {
        let Phase::Wiping(result) = life.phase else { return };
        let now = self.ledger.borrow().now;
        self.with_life(life.serial, |life| life.last_used = now);
        for _ in 0..PATIENCE {
            let Some(life) = self.life(life.slot).filter(|life| life.token != 0) else { return };
            match self.resume(&mut self.stay(0, life.serial), &life) {
                Err(Stop::Again(token)) => self.take_token(&life, token),
                outcome => {
                    self.ensure(outcome == result, || format!("a wipe came to {outcome:?}"));
                    return self.bury(Some(life.serial));
                }
            }
        }
        self.wrong(|| "a wipe never ends".into());
    }

    fn unregister(&self, life: &Life, abort: bool) {
        let cpu = self.program(self.space_of(life.app), life.handle);
        let caller = Caller { cpu: &cpu, hardware: &mut self.stay(0, 0) };
        let outcome = self.pals.unregister(&caller, abort);
        match life.phase {
            Phase::Idle => {}
            Phase::InCall(_) if abort => {}
            Phase::InCall(_) => {
                return self.ensure(outcome == failed(Status::Busy), || format!("{outcome:?}, not Busy"));
            }
            Phase::Registering | Phase::Wiping(_) => {
                return self.ensure(outcome == failed(Status::NoSuchPal), || format!("{outcome:?}"));
            }
        }
        self.ensure(outcome == OK || matches!(outcome, Err(Stop::Again(_))), || {
            format!("unregister: {outcome:?}")
        });
        self.died(life, outcome, OK);
    }

    /// A PAL is gone, or being wiped with a token for what is left.
    fn died(&self, life: &Life, outcome: Outcome, result: Outcome) {
        let now = self.ledger.borrow().now;
        match outcome {
            Err(Stop::Again(token)) => {
                self.take_token(life, token);
                self.with_life(life.serial, |life| {
                    (life.phase, life.last_used) = (Phase::Wiping(result), now);
                    life.frames.clear();
                });
            }
            _ => self.bury(Some(life.serial)),
        }
    }

    fn collect(&self) {
        let mut hardware = self.stay(0, 0);
        let mut outcome = self.pals.collect(&mut hardware);
        let before = self.ledger.borrow().lives.len();
        for _ in 0..PATIENCE + MAX_PALS {
            match outcome {
                Err(Stop::Restart) => outcome = self.pals.collect(&mut hardware),
                Ok(freed) => {
                    self.bury(None);
                    self.looked();
                    let gone = before - self.ledger.borrow().lives.len();
                    return self.ensure(freed == gone as u64, || format!("{gone} went, {freed} were told"));
                }
                outcome => return self.wrong(|| format!("collect came to {outcome:?}")),
            }
        }
        self.wrong(|| "collect never ends".into());
    }

    fn resume(&self, hardware: &mut Stay, life: &Life) -> Outcome {
        let cpu = self.program(self.space_of(life.app), life.handle);
        let outcome = self.pals.resume(&mut Caller { cpu: &cpu, hardware }, life.token);
        self.count_machine_check(&cpu);
        outcome
    }

    fn count_machine_check(&self, cpu: &Cpu) {
        self.ledger.borrow_mut().machine_checks += u64::from(cpu.machine_check.take());
    }

    fn take_token(&self, life: &Life, token: u64) {
        let before = self.with_life(life.serial, |life| {
            life.old_token = core::mem::replace(&mut life.token, token);
            life.old_token
        });
        let good = slot_of(token) == Some(life.slot) && before.is_some_and(|before| token > before);
        self.ensure(good, || "a token that is another's, or old".into());
    }
}

/// The slot that a token names.
pub fn slot_of(token: u64) -> Option<usize> {
    (token & TOKEN_BIT != 0).then_some(token as usize % MAX_PALS)
}

const PAGE: u64 = crate::addr::PAGE_SIZE;
