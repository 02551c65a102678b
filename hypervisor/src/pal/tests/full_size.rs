//! Random sequences at full size: as many PALs as the pool holds, in several address spaces and on three processors, with wipes
//! that take more than one stay and more PALs than ASIDs.

use super::invariants::{Contents, check, check_free_slots};
use super::model::{register, steps_of};
use super::play::Op;
use super::world::*;
use crate::addr::PAGE_SIZE;
use proptest::prelude::*;

const SHAPE: Shape = Shape {
    apps: 200,
    spaces: 8,
    // For about 190 PALs.
    pool_pages: 4_300,
    param_pages: 13,
    processors: &[(16, true), (16, false), (16, true)],
};

/// Steps between two looks at all of the memory.
const LOOK: usize = 40;

/// Numbers that decide about a step.
type Choice = (u8, u16, u16, u8);

fn choose(world: &World, (kind, one, another, cpu): Choice) -> Op {
    let ledger = world.ledger.borrow();
    let app = usize::from(one) % SHAPE.apps;
    let life = |number: u16| &ledger.lives[usize::from(number) % ledger.lives.len()];
    let op = match kind {
        0..=9 => Op::Register { app, stays: 1 + usize::from(another) % 30, image: Page::Present },
        10..=14 => Op::Register { app, stays: 64, image: Page::Empty },
        15..=19 => Op::Collect,
        20..=29 => Op::Pass { ms: u64::from(another) % 12_000 },
        30..=49 => {
            let page = [Page::Present, Page::Empty, Page::Swapped][usize::from(another) % 3];
            Op::OwnerPage { app, page }
        }
        _ if ledger.lives.is_empty() => register(app),
        _ => {
            let mut ops = Vec::new();
            steps_of(life(one), life(another).slot, usize::from(another) % SHAPE.apps, &mut ops);
            ops.swap_remove(usize::from(kind) % ops.len())
        }
    };
    let cpu = usize::from(cpu) % SHAPE.processors.len();
    match op {
        Op::Call { slot, entry, act, serve, out, meanwhile, .. } => {
            Op::Call { slot, cpu, entry, act, serve, out, meanwhile }
        }
        Op::Continue { slot, act, page, meanwhile, .. } => Op::Continue { slot, cpu, act, page, meanwhile },
        op => op,
    }
}

fn look(world: &World) -> Result<(), TestCaseError> {
    let contents = |frame| {
        let mut bytes = [0; PAGE_SIZE as usize];
        world.mem().copy_from(frame, &mut bytes);
        Contents::of(&bytes)
    };
    check(world, &contents).and_then(|()| check_free_slots(world)).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn many_pals_on_three_processors(
        steps in proptest::collection::vec(any::<Choice>(), 400..800), apps in 100..SHAPE.apps,
    ) {
        let world = World::new(SHAPE);
        (0..apps).for_each(|app| world.play(register(app)));
        look(&world)?;
        for (number, step) in steps.into_iter().enumerate() {
            let op = choose(&world, step);
            world.play(op);
            world.memory.take_reads();
            let wrong = world.ledger.borrow().wrong.clone();
            prop_assert!(wrong.is_none(), "{wrong:?} after {op:?}");
            if number % LOOK == 0 {
                look(&world)?;
            }
        }
        world.strangers();
        look(&world)?;
        world.come_to_an_end();
        look(&world)?;
        let pool = world.pals.pool.lock();
        prop_assert_eq!(pool.free_count(), pool.total());
    }
}
