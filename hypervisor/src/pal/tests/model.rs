//! All orders in which two applications, two PALs and two processors can get into each other's way, tried by a model checker.
//!
//! The search is breadth first from several beginnings, some of which are far from the empty pool.
//! A state is the whole world ([`Snapshot`]); a step runs the production code ([`World::play`]), which judges what the step
//! came to; then the invariants are checked. Of every state it is also shown that strangers get nothing from it, and that it can
//! be left: every call ends, and when the owners are gone everything comes back ([`audit`]).
//!
//! Two processors meet where they can: while S runs on one (which holds the slot's lock for the whole stay), the other does any one
//! operation; and once S has returned, before its results are delivered. What the model cannot show is two processors inside one
//! operation's instructions: the order of the slot's atomic words before the lock is taken.
//!
//! `TRUSTVISOR_MODEL=deep` goes one step deeper than the default, which is for every day.

use super::invariants::{check, check_free_slots};
use super::play::{Meanwhile, Op};
use super::s::Act;
use super::snapshot::{SLOTS, Snapshot, Stage};
use super::world::*;
use stateright::{Checker, Model, Property};
use std::hash::{Hash, Hasher};

const SHAPE: Shape = Shape {
    apps: 2,
    spaces: 2,
    // Its bookkeeping, two PALs (one with an FPU) and a little: too little for a third.
    pool_pages: 1 + 10 + 11 + 6,
    param_pages: 1,
    // One ASID for all PALs on either processor; one must flush everything for it.
    processors: &[(3, true), (3, false)],
};

std::thread_local! {
    static STAGE: Stage = Stage::new(World::new(SHAPE));
}

#[derive(Clone)]
struct State {
    snapshot: Snapshot,
    depth: usize,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.snapshot.fingerprint.hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.snapshot.fingerprint == other.snapshot.fingerprint
    }
}

impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:x}", self.snapshot.fingerprint)
    }
}

/// The life cycle from an empty pool, and from states that are far from it.
struct LifeCycle {
    depth: usize,
}

/// Where the search begins, and how many steps earlier it ends there.
fn beginnings() -> [(usize, Vec<Op>); 5] {
    let owner = |app, page| Op::OwnerPage { app, page };
    let pass = |ms| Op::Pass { ms };
    let two = vec![register(0), register(1)];
    let and = |more: &[Op]| [&two[..], more].concat();
    let frozen = call(0, 0, 1, Act::Interrupt, Page::Present, Meanwhile::Nothing);
    // Both owners dead and seen so once, long ago; one PAL frozen.
    let dead = [frozen, owner(0, Page::Empty), owner(1, Page::Empty), pass(5_000), Op::Collect, pass(10_000)];
    // One owner was away for a look and came back; the other is swapped out.
    let alive = [owner(0, Page::Empty), owner(1, Page::Swapped), pass(5_000), Op::Collect, pass(10_000)];
    let alive = [&alive[..], &[owner(0, Page::Present), Op::Collect]].concat();
    [(1, vec![]), (0, two.clone()), (1, and(&[frozen])), (0, and(&dead)), (1, and(&alive))]
}

pub const fn register(app: usize) -> Op {
    Op::Register { app, stays: 64, image: Page::Present }
}

const fn call(slot: usize, cpu: usize, entry: u16, act: Act, out: Page, meanwhile: Meanwhile) -> Op {
    Op::Call { slot, cpu, entry, act, serve: false, out, meanwhile }
}

/// What can happen next.
pub fn steps(world: &Ledger, apps: &[usize]) -> Vec<Op> {
    let mut ops = Vec::new();
    if world.lives.len() < SLOTS - 1 {
        for app in apps.iter().copied() {
            ops.push(register(app));
            ops.push(Op::Register { app, stays: 1, image: Page::Present });
            ops.push(Op::Register { app, stays: 64, image: Page::Empty });
        }
    }
    for life in &world.lives {
        let slot = life.slot;
        let other = world.lives.iter().find(|l| l.slot != slot).map_or(slot, |l| l.slot);
        steps_of(life, other, apps[(life.app + 1) % apps.len()], &mut ops);
    }
    ops.push(Op::Collect);
    ops.extend([5_000, 10_000].map(|ms| Op::Pass { ms }));
    for app in apps.iter().copied() {
        let pages = [Page::Present, Page::Empty, Page::Swapped];
        let others = pages.into_iter().filter(|page| *page != world.owner_pages[app]);
        ops.extend(others.map(|page| Op::OwnerPage { app, page }));
    }
    ops
}

/// What can happen to one PAL.
pub fn steps_of(life: &Life, other: usize, other_app: usize, ops: &mut Vec<Op>) {
    use Meanwhile::{Abort, AbortOther, CallOther, Collect, Nothing, Register, ResultPageGoes};
    let slot = life.slot;
    let here = Page::Present;
    let meet = [Abort, Collect, Register(other_app), AbortOther(other), CallOther(other)];
    let go = |cpu, act, page, meanwhile| Op::Continue { slot, cpu, act, page, meanwhile };
    match &life.phase {
        Phase::Idle => {
            ops.push(Op::Unregister { slot });
            for cpu in 0..2 {
                for act in [Act::Return, Act::Interrupt, Act::Fault, Act::MachineCheck] {
                    ops.push(call(slot, cpu, 0, act, here, Nothing));
                }
            }
            ops.push(Op::Call {
                slot,
                cpu: 0,
                entry: 0,
                act: Act::Return,
                serve: true,
                out: here,
                meanwhile: Nothing,
            });
            ops.push(call(slot, 0, 0, Act::BadReturn, here, Nothing));
            for act in [Act::Return, Act::Fault, Act::MachineCheck] {
                ops.push(call(slot, 0, 0, act, here, Abort));
            }
            ops.extend(meet.map(|meanwhile| call(slot, 1, 0, Act::Interrupt, here, meanwhile)));
            ops.push(call(slot, 0, 1, Act::Return, here, Nothing));
            ops.push(call(slot, 0, 1, Act::Interrupt, here, Nothing));
            ops.push(call(slot, 0, 1, Act::Return, here, ResultPageGoes));
            ops.push(call(slot, 0, 1, Act::Return, Page::Empty, Nothing));
            ops.push(call(slot, 0, 2, Act::Return, Page::Clean, Nothing));
            ops.push(call(slot, 1, 2, Act::Return, here, Nothing));
            ops.push(call(slot, 1, 3, Act::Return, here, Nothing));
        }
        Phase::InCall(open) => {
            ops.push(Op::Abort { slot });
            if open.returned {
                ops.push(go(0, Act::Return, here, Nothing));
                ops.push(go(1, Act::Return, Page::Empty, Nothing));
                ops.push(go(0, Act::Return, here, Abort));
                return;
            }
            for cpu in 0..2 {
                for act in [Act::Return, Act::Interrupt, Act::Fault] {
                    ops.push(go(cpu, act, here, Nothing));
                }
            }
            ops.push(go(0, Act::MachineCheck, here, Nothing));
            ops.push(go(1, Act::Return, here, Abort));
            ops.extend(meet.map(|meanwhile| go(1, Act::Interrupt, here, meanwhile)));
            if has_buffers(open.entry) {
                ops.push(go(0, Act::Return, Page::Empty, Nothing));
                ops.push(go(0, Act::Return, here, ResultPageGoes));
            }
        }
        Phase::Registering => {
            ops.push(go(0, Act::Return, here, Nothing));
            ops.push(go(0, Act::Return, Page::Empty, Nothing));
        }
        Phase::Wiping(_) => ops.push(go(0, Act::Return, here, Nothing)),
    }
}

impl Model for LifeCycle {
    type State = State;
    type Action = Op;

    fn init_states(&self) -> Vec<State> {
        STAGE.with(|stage| {
            let empty = stage.take();
            let begin = |(depth, ops): (usize, Vec<Op>)| {
                stage.restore(&empty);
                ops.iter().for_each(|op| stage.world.play(*op));
                State { snapshot: finish(stage), depth }
            };
            let states = beginnings().map(begin).into();
            stage.restore(&empty);
            states
        })
    }

    fn actions(&self, state: &State, ops: &mut Vec<Op>) {
        if state.depth < self.depth {
            ops.extend(steps(&state.snapshot.ledger, &[0, 1]));
        }
    }

    fn next_state(&self, last: &State, op: Op) -> Option<State> {
        STAGE.with(|stage| {
            stage.restore(&last.snapshot);
            stage.world.play(op);
            Some(State { snapshot: finish(stage), depth: last.depth + 1 })
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(PROPERTY, |_, state: &State| audit(state).is_ok())]
    }
}

/// The state after a step, in whose ledger stands what the invariants found wrong.
fn finish(stage: &Stage) -> Snapshot {
    let snapshot = stage.take();
    match check(&stage.world, &|frame| stage.contents(frame)) {
        Ok(()) => snapshot,
        Err(wrong) => {
            stage.world.wrong(|| wrong);
            stage.take()
        }
    }
}

const PROPERTY: &str = "all is as it must be";

/// What is to hold of a state besides what was checked on the way to it.
fn audit(state: &State) -> Result<(), String> {
    STAGE.with(|stage| {
        let world = &stage.world;
        stage.restore(&state.snapshot);
        right(world)?;
        check_free_slots(world)?;
        world.strangers();
        right(world)?;
        if stage.take().fingerprint != state.snapshot.fingerprint {
            return Err("a stranger changed something".into());
        }
        stage.restore(&state.snapshot);
        world.starve();
        right(world)?;
        stage.restore(&state.snapshot);
        world.come_to_an_end();
        stage.take();
        check(world, &|frame| stage.contents(frame))?;
        check_free_slots(world)
    })
}

fn right(world: &World) -> Result<(), String> {
    world.ledger.borrow().wrong.clone().map_or(Ok(()), Err)
}

#[test]
fn all_orders_of_two_pals_on_two_processors() {
    let world = World::new(SHAPE);
    let left = world.pals.pool.lock().total() - world.needed(0) - world.needed(1);
    assert!(left < world.needed(0), "a third PAL has room");
    let deep = std::env::var("TRUSTVISOR_MODEL").is_ok_and(|depth| depth == "deep");
    let (depth, threads, least) = if deep { (4, 2, 60_000) } else { (3, 1, 10_000) };
    let checker = LifeCycle { depth }.checker().threads(threads).spawn_bfs().join();
    println!(
        "{} steps, {} different states, depth {depth}",
        checker.state_count(),
        checker.unique_state_count()
    );
    if let Some(path) = checker.discovery(PROPERTY) {
        let wrong = audit(path.last_state());
        let ops = path.into_actions();
        panic!("{wrong:?} after {ops:#?}");
    }
    assert!(checker.unique_state_count() >= least, "part of the states was not looked at");
}
