//! S's counters, kept by a TPM that the OS uses as well.

use super::super::counters::Counting;
use super::super::*;
use super::machine::*;
use super::program;
use crate::addr::{Hpa, PAGE_SIZE};
use crate::tpm::tests::bus::{Bus, Quirks};
use crate::tpm::tests::model::Model;
use crate::vmcb::{Vmcb, exit_code};
use abi::LAUNCH_COUNTER;
use abi::image::SENTINEL;
use abi::number::{COUNTER_INCREMENT, COUNTER_READ};
use std::cell::RefCell;
use std::rc::Rc;
use utpm::Counters;
use zeroize::Zeroizing;

const AUTH: [u8; 32] = [5; 32];
const SECOND: u64 = OWNER + PAGE_SIZE;

/// The TPM's registers.
#[derive(Clone)]
struct Wire(Rc<RefCell<Bus>>);

impl Registers for Wire {
    fn read8(&mut self, offset: u16) -> u8 {
        self.0.borrow_mut().read8(offset)
    }
    fn write8(&mut self, offset: u16, value: u8) {
        self.0.borrow_mut().write8(offset, value);
    }
    fn read32(&mut self, offset: u16) -> u32 {
        self.0.borrow_mut().read32(offset)
    }
}

/// A machine with counters, and an S that asks for one thing.
struct Counts {
    m: Machine,
    tpm: Wire,
    /// What S asks for, and for which counter.
    asks: (u16, u64),
    /// 1: every wait for registers of the TPM that do not answer at once is in vain.
    tsc_per_ms: u64,
}

/// A processor on which S has asked.
struct Asking<'a> {
    counts: &'a Counts,
    mem: DirectMap,
    answer: Option<(Option<Status>, u64)>,
}

impl Hardware for Asking<'_> {
    fn run_pal(&mut self, pal: &PalFrames, _: Incarnation, regs: &mut Gprs) {
        // SAFETY: the test's memory; the VMCB is the PAL's under test.
        let vmcb = unsafe { &mut *self.mem.pointer(pal.vmcb, PAGE_SIZE).cast::<Vmcb>() };
        let entry = header().entries[0].addr;
        if vmcb.save.rip == entry {
            // At its first instruction, for the first time or still.
            vmcb.control.exit_code = exit_code::VMMCALL.into();
            (vmcb.save.rax, regs.rdi) = (self.counts.asks.0.into(), self.counts.asks.1);
            return;
        }
        assert_eq!(vmcb.save.rip, entry + 3);
        self.answer = Some((trustvisor_pal::status(regs.rdx), vmcb.save.rax));
        vmcb.control.exit_code = exit_code::PAGE_FAULT.into();
        (vmcb.control.exit_info_1, vmcb.control.exit_info_2) = (0x14, SENTINEL);
        vmcb.save.rip = SENTINEL;
        vmcb.save.rsp += 8;
    }
    fn now_ms(&self) -> u64 {
        self.counts.m.now
    }
    fn tpm(&mut self) -> Tis<impl Registers, TscClock> {
        Tis::beside_the_os(self.counts.tpm.clone(), TscClock { tsc_per_ms: self.counts.tsc_per_ms }, 1)
    }
    fn pkru(&self) -> u32 {
        0
    }
}

/// What S was answered, and the stays that it took.
type Asked = (Option<Status>, u64);

impl Counts {
    fn new() -> Self {
        Self::with(Quirks::default())
    }

    fn with(quirks: Quirks) -> Self {
        let mut model = Model::v20(&[0x0b]);
        model.nv.0 = AUTH;
        let m = Machine::new();
        let counts = Self {
            m,
            tpm: Wire(Rc::new(RefCell::new(Bus::new(model, quirks)))),
            asks: (0, 0),
            tsc_per_ms: 1 << 28,
        };
        counts.boot();
        counts
    }

    /// What the next launch finds.
    fn boot(&self) {
        let table = self.tpm.0.borrow().model.nv.1.clone().try_into().unwrap();
        *self.m.pals.tpm.counting.lock() =
            Some(Counting::new(Counters::new(&table), Zeroizing::new(AUTH), self.m.now));
    }

    fn stay(
        &self,
        handle: Handle,
        f: impl FnOnce(&mut Caller<Asking<'_>>) -> Outcome,
    ) -> (Outcome, Option<Asked>) {
        let cpu = program(self.m.cr3, handle, &Gprs::default());
        let mut asking = Asking { counts: self, mem: self.m.memory.map(), answer: None };
        (f(&mut Caller { cpu: &cpu, hardware: &mut asking }), asking.answer)
    }

    fn begin(&mut self, handle: Handle, asks: (u16, u64)) -> (Outcome, Option<Asked>) {
        self.asks = asks;
        self.stay(handle, |caller| self.m.pals.call(caller, 0))
    }

    fn go_on(&self, handle: Handle, outcome: Outcome) -> (Outcome, Option<Asked>) {
        let Err(Stop::Again(token)) = outcome else { panic!("{outcome:?}") };
        self.stay(handle, |caller| self.m.pals.resume(caller, token))
    }

    /// Until S is answered.
    fn ask(&mut self, handle: Handle, asks: (u16, u64)) -> Asked {
        let (mut outcome, mut answer) = self.begin(handle, asks);
        for _ in 0..30_000 {
            if let Some(answer) = answer {
                assert_eq!(outcome, Ok(answer.1));
                return answer;
            }
            self.m.now += 1;
            (outcome, answer) = self.go_on(handle, outcome);
        }
        panic!("S waits for ever");
    }

    fn increment(&mut self, handle: Handle) -> Asked {
        self.ask(handle, (COUNTER_INCREMENT, 7))
    }

    fn read(&mut self, handle: Handle) -> u64 {
        let (status, value) = self.ask(handle, (COUNTER_READ, 7));
        assert_eq!(status, Some(Status::Ok));
        value
    }

    /// The first counter's value as the TPM keeps it.
    fn kept(&self) -> u64 {
        u64::from_be_bytes(*self.tpm.0.borrow().model.nv.1[16..].first_chunk().unwrap())
    }

    fn is_free(&self) -> bool {
        self.tpm.0.borrow().is_free()
    }
}

fn ok(value: u64) -> Asked {
    (Some(Status::Ok), value)
}

const NOT_KEPT: Asked = (Some(Status::NotKept), 0);

#[test]
fn an_increment_is_told_when_it_is_kept() {
    for quirks in [Quirks::default(), Quirks { burst: 1, slow: 3, ..Quirks::default() }] {
        let mut c = Counts::with(quirks);
        let handle = c.m.register(OWNER);
        assert_eq!(c.read(handle), 0);
        for value in 1..5 {
            let (mut outcome, mut answer) = c.begin(handle, (COUNTER_INCREMENT, 7));
            while answer.is_none() {
                assert!(c.m.pals.committing.load(Ordering::Relaxed));
                (outcome, answer) = c.go_on(handle, outcome);
            }
            assert_eq!((answer, c.kept()), (Some(ok(value)), value));
            assert!(!c.m.pals.committing.load(Ordering::Relaxed) && c.is_free());
        }
        assert_eq!(c.ask(handle, (COUNTER_INCREMENT, 8)), ok(1), "another counter");
        c.boot();
        assert_eq!(c.read(handle), 4);
    }
}

/// At once, without the TPM, for all instances of S, until the next launch.
#[test]
fn counters_of_the_launch_count_until_the_next() {
    let mut c = Counts::with(Quirks { thinks: 500, ..Quirks::default() });
    let (first, second) = (c.m.register(OWNER), c.m.register(SECOND));
    let (read, up) = ((COUNTER_READ, LAUNCH_COUNTER | 7), (COUNTER_INCREMENT, LAUNCH_COUNTER | 7));
    assert_eq!(c.ask(first, read), ok(0));
    for value in 1..1000 {
        assert_eq!(c.begin(first, up).1, Some(ok(value)), "it waits");
    }
    assert_eq!((c.ask(second, up), c.ask(first, read)), (ok(1000), ok(1000)));
    assert_eq!(
        (c.read(first), c.kept(), c.increment(first)),
        (0, 0, ok(1)),
        "a lasting counter of this number"
    );
    assert_eq!(c.ask(first, read), ok(1000));
    for number in 8..23 {
        assert_eq!(c.ask(first, (COUNTER_INCREMENT, LAUNCH_COUNTER | number)), ok(1));
    }
    assert_eq!(c.ask(first, (COUNTER_INCREMENT, LAUNCH_COUNTER | 23)), (Some(Status::TooMany), 0));
    c.boot();
    assert_eq!((c.ask(first, read), c.read(first)), (ok(0), 1));
    *c.m.pals.tpm.counting.lock() = None;
    assert_eq!(c.ask(first, up), (Some(Status::Unsupported), 0));
}

/// However long the TPM thinks: a stay is short.
#[test]
fn nobody_waits_for_the_tpm_in_the_hypervisor() {
    let mut c = Counts::with(Quirks { thinks: 500, ..Quirks::default() });
    let handle = c.m.register(OWNER);
    let (mut outcome, mut answer) = c.begin(handle, (COUNTER_INCREMENT, 7));
    let mut stays = 0;
    while answer.is_none() {
        let before = c.tpm.0.borrow().accesses;
        (outcome, answer) = c.go_on(handle, outcome);
        let accesses = c.tpm.0.borrow().accesses - before;
        assert!(accesses < 250, "{accesses} accesses in a stay");
        stays += 1;
    }
    assert!(answer == Some(ok(1)) && stays > 500, "{stays} stays");
}

#[test]
fn each_pal_has_its_own() {
    let mut c = Counts::new();
    let (s, quoting) = (c.m.register(OWNER), c.m.register_quoting(SECOND));
    assert_eq!((c.increment(s), c.increment(s)), (ok(1), ok(2)));
    assert_eq!(c.read(s), 2);
    // The quoting PAL of the tests has the same image, so the same identity and the same counters.
    assert_eq!(c.increment(quoting), ok(3));
    c.m.memory.map().write_u64(Hpa(0x18_0000 + 0x800), 1);
    let other = c.m.register(OWNER + 2 * PAGE_SIZE);
    assert_eq!((c.read(other), c.increment(other), c.read(s)), (0, ok(1), 3));
}

#[test]
fn the_os_has_its_turn() {
    let mut c = Counts::with(Quirks { held_by: Some(0), ..Quirks::default() });
    let handle = c.m.register(OWNER);
    let (mut outcome, mut answer) = c.begin(handle, (COUNTER_INCREMENT, 7));
    for _ in 0..100 {
        c.m.now += 10;
        (outcome, answer) = c.go_on(handle, outcome);
        assert_eq!((answer, c.tpm.0.borrow().active), (None, Some(0)), "nothing is taken from the OS");
    }
    let mut os = c.tpm.clone();
    os.write8(0x0000, 0x20);
    assert_eq!(c.tpm.0.borrow().active, Some(1));
    os.write8(0x0000, 0x02);
    while answer.is_none() {
        assert_eq!(c.tpm.0.borrow().active, Some(1));
        (outcome, answer) = c.go_on(handle, outcome);
    }
    assert_eq!((answer, c.tpm.0.borrow().active), (Some(ok(1)), Some(0)), "and the OS waits no longer");
}

#[test]
fn an_os_that_keeps_the_tpm_has_it() {
    let mut c = Counts::with(Quirks { held_by: Some(0), ..Quirks::default() });
    let handle = c.m.register(OWNER);
    assert_eq!(c.increment(handle), NOT_KEPT);
    let bus = |c: &Counts| (c.tpm.0.borrow().active, c.tpm.0.borrow().asked);
    assert_eq!((bus(&c), c.kept()), ((Some(0), None), 0));
    c.tpm.clone().write8(0x0000, 0x20);
    assert_eq!(c.increment(handle), ok(1));
}

/// Linux's driver waits for 750 ms.
#[test]
fn a_tpm_that_thinks_too_long_is_given_back() {
    let mut c = Counts::with(Quirks { thinks: u32::MAX, ..Quirks::default() });
    let handle = c.m.register(OWNER);
    let start = c.m.now;
    assert_eq!(c.increment(handle), NOT_KEPT);
    assert!(c.m.now - start < 750 && c.tpm.0.borrow().active.is_none());
    assert_eq!(c.read(handle), 0);
}

#[test]
fn what_the_tpm_refuses_is_not_kept() {
    let mut c = Counts::new();
    let handle = c.m.register(OWNER);
    assert_eq!(c.increment(handle), ok(1));
    for code in [0x921, 0x920, 0x922, 0x98e] {
        c.tpm.0.borrow_mut().model.refuses = Some(code);
        assert_eq!(c.increment(handle), NOT_KEPT);
        assert!((c.kept(), c.is_free()) == (1, true));
        c.tpm.0.borrow_mut().model.refuses = None;
    }
    assert_eq!((c.read(handle), c.increment(handle)), (1, ok(2)));
    c.tpm.0.borrow_mut().model.nv.0 = [6; 32];
    assert_eq!((c.increment(handle), c.read(handle)), (NOT_KEPT, 2));
}

/// The TPM, or the power, goes at every access to its registers. What S was told is kept, and nothing counts twice.
#[test]
fn a_tpm_that_goes_away_at_any_moment_loses_nothing() {
    for accesses in 0.. {
        let mut c = Counts::new();
        c.tsc_per_ms = 1;
        let handle = c.m.register(OWNER);
        assert_eq!(c.increment(handle), ok(1));
        let already = c.tpm.0.borrow().accesses;
        c.tpm.0.borrow_mut().quirks.stuck_after = Some(already + accesses);
        let told = c.increment(handle);
        let kept = c.kept();
        assert!(
            told == ok(2) && kept == 2 || told == NOT_KEPT && [1, 2].contains(&kept),
            "{accesses}: {told:?}, {kept}"
        );
        // It comes back as it was, or after a boot.
        if accesses % 2 == 0 {
            let model = c.tpm.0.borrow().model.clone();
            c.tpm = Wire(Rc::new(RefCell::new(Bus::new(model, Quirks::default()))));
            c.boot();
            assert_eq!(c.read(handle), kept);
        } else {
            c.tpm.0.borrow_mut().quirks.stuck_after = None;
        }
        let next = c.read(handle) + 1;
        // A locality that could not be given back is still there.
        assert_eq!(c.increment(handle), ok(next), "{accesses}");
        assert_eq!(c.kept(), next);
        if told == ok(2) && c.tpm.0.borrow().accesses < already + accesses {
            assert!(accesses > 50, "only {accesses} accesses");
            break;
        }
    }
}

#[test]
fn one_increment_at_a_time() {
    let mut c = Counts::new();
    let (first, second) = (c.m.register(OWNER), c.m.register_quoting(SECOND));
    let (mut one, mut answer) = c.begin(first, (COUNTER_INCREMENT, 7));
    let (mut other, nothing) = c.begin(second, (COUNTER_INCREMENT, 7));
    assert_eq!((answer, nothing), (None, None));
    // The other's caller drives it, and waits until the first has been told.
    for _ in 0..20 {
        (other, answer) = c.go_on(second, other);
        assert_eq!(answer, None);
    }
    assert_eq!(c.kept(), 1);
    (one, answer) = c.go_on(first, one);
    assert_eq!((one, answer), (Ok(1), Some(ok(1))));
    while answer.is_none_or(|answer| answer == ok(1)) {
        (other, answer) = c.go_on(second, other);
    }
    assert_eq!((answer, c.kept()), (Some(ok(2)), 2));
}

#[test]
fn who_is_not_there_to_be_told_is_waited_for_no_longer() {
    let mut c = Counts::new();
    let (first, second) = (c.m.register(OWNER), c.m.register_quoting(SECOND));
    assert_eq!(c.begin(first, (COUNTER_INCREMENT, 7)).1, None);
    assert_eq!(c.increment(second), ok(2));
    assert!(c.m.now < 7_000);
}

#[test]
fn who_dies_in_an_increment_leaves_it_to_others() {
    let mut c = Counts::new();
    let handle = c.m.register(OWNER);
    let (_, answer) = c.begin(handle, (COUNTER_INCREMENT, 7));
    assert_eq!(answer, None);
    assert!(c.m.all(What::Unregister(handle, true), OWNER).is_ok());
    // The processor goes on with it at its interrupts.
    let mut looks = 0;
    while c.m.pals.commit(&mut Asking { counts: &c, mem: c.m.memory.map(), answer: None }) {
        looks += 1;
        assert!(looks < 20);
    }
    assert!(looks > 0 && c.kept() == 1 && c.is_free());
    let handle = c.m.register(OWNER);
    assert_eq!((c.read(handle), c.increment(handle)), (1, ok(2)));
}

#[test]
fn sixteen_and_no_more() {
    let mut c = Counts::new();
    let handle = c.m.register(OWNER);
    for number in 0..16 {
        assert_eq!(c.ask(handle, (COUNTER_INCREMENT, number)), ok(1));
    }
    assert_eq!(c.ask(handle, (COUNTER_INCREMENT, 16)), (Some(Status::TooMany), 0));
    assert_eq!(c.ask(handle, (COUNTER_INCREMENT, 15)), ok(2));
}

/// No program wears the TPM's memory out in a day.
#[test]
fn so_many_and_then_one_in_a_while() {
    let mut c = Counts::new();
    let handle = c.m.register(OWNER);
    for value in 1..=256 {
        assert_eq!(c.increment(handle), ok(value));
    }
    for value in 257..260 {
        assert_eq!(c.increment(handle), NOT_KEPT);
        c.m.now += 600_000;
        assert_eq!(c.increment(handle), ok(value));
    }
    assert_eq!(c.increment(handle), NOT_KEPT);
    assert_eq!(c.kept(), 259);
}

#[test]
fn without_a_root_in_the_tpm_there_are_none() {
    let mut c = Counts::new();
    *c.m.pals.tpm.counting.lock() = None;
    let handle = c.m.register(OWNER);
    for number in [COUNTER_READ, COUNTER_INCREMENT] {
        assert_eq!(c.ask(handle, (number, 0)), (Some(Status::Unsupported), 0));
    }
}
