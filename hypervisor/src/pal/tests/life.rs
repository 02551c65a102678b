//! A PAL's way from registration to wipe.

use super::super::*;
use super::failed;
use super::machine::*;
use crate::addr::PAGE_SIZE;
use proptest::prelude::*;

#[test]
fn register_call_unregister_leaves_nothing() {
    let mut m = Machine::new();
    let free = m.free();
    for _ in 0..3 {
        let handle = m.register(OWNER);
        assert_eq!(m.pals.count(), 1);
        assert_eq!(u64::from(free - m.free()), space::PalFrames::needed(&header()));
        m.acts = std::vec![Act::Return(42)];
        assert_eq!(m.all(What::Call(handle, 0, [1, 0, 0, 0, 0, 0]), OWNER), Ok(42));
        assert_eq!(m.all(What::Unregister(handle, false), OWNER), OK);
        assert_eq!(m.free(), free);
        assert!(m.pool_is_zero());
        let refused = m.one(What::Call(handle, 0, [0; 6]));
        assert_eq!(refused, failed(Status::NoSuchPal), "the handle is dead");
    }
    assert_eq!(m.pals.count(), 0);
}

#[test]
fn an_interrupt_freezes_s_and_only_its_token_goes_on() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Interrupt, Act::Interrupt, Act::Return(7)];
    let Err(Stop::Again(first)) = m.one(What::Call(handle, 0, [0; 6])) else { panic!("not frozen") };
    assert_eq!(m.one(What::Call(handle, 0, [0; 6])), failed(Status::Busy));
    assert_eq!(m.one(What::Unregister(handle, false)), failed(Status::Busy));
    let stranger =
        m.with(|run| run(&mut Op { call: What::Resume(first), owner: OWNER, cr3_offset: PAGE_SIZE }));
    assert_eq!(stranger, failed(Status::Lost));
    assert_eq!(m.one(What::Resume(first ^ 1 << 20)), failed(Status::Lost));
    let guess = core::mem::replace(&mut m.registers, Handle { low: handle.low, high: 1 });
    assert_eq!(m.one(What::Resume(first)), failed(Status::Lost), "a token without the handle");
    m.registers = guess;
    let Err(Stop::Again(second)) = m.one(What::Resume(first)) else { panic!("not frozen") };
    assert_eq!(m.one(What::Resume(first)), failed(Status::Lost), "a token is good once");
    assert_eq!(m.one(What::Resume(second)), Ok(7));
    assert_eq!(m.one(What::Resume(second)), failed(Status::Lost));
    assert_eq!(m.runs, 3);
}

#[test]
fn abort_wipes_a_frozen_pal() {
    let mut m = Machine::new();
    let free = m.free();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Interrupt];
    let Err(Stop::Again(token)) = m.one(What::Call(handle, 0, [0; 6])) else { panic!("not frozen") };
    assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
    assert_eq!(m.one(What::Resume(token)), failed(Status::Lost));
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

#[test]
fn a_fault_of_s_wipes_it_and_says_so() {
    let mut m = Machine::new();
    let free = m.free();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Fault];
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), Err(Stop::Failed(13, Status::Faulted)));
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

#[test]
fn a_slot_gives_no_token_out_twice() {
    let mut m = Machine::new();
    let mut given = Vec::new();
    for _ in 0..3 {
        let handle = m.register(OWNER);
        m.acts = std::vec![Act::Interrupt];
        let Err(Stop::Again(token)) = m.one(What::Call(handle, 0, [0; 6])) else { panic!("not frozen") };
        assert!(!given.contains(&token));
        given.push(token);
        assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Any sequence of operations keeps the pool's accounting: what is not free belongs to a registered PAL, and when all are gone
    /// everything is zero.
    #[test]
    fn the_pool_always_adds_up(ops in proptest::collection::vec((0u8..7, 0usize..4), 1..60)) {
        let mut m = Machine::new();
        let free = m.free();
        let needed = space::PalFrames::needed(&header()) as u32;
        let mut live: Vec<(Handle, Option<u64>)> = Vec::new();
        for (op, which) in ops {
            let pick = which % live.len().max(1);
            match op {
                0 | 1 if live.len() < 4 => live.push((m.register(OWNER + which as u64 * PAGE_SIZE), None)),
                2 if !live.is_empty() => {
                    m.acts = std::vec![Act::Interrupt, Act::Return(0)];
                    match m.one(What::Call(live[pick].0, 0, [0; 6])) {
                        Err(Stop::Again(token)) => live[pick].1 = Some(token),
                        other => prop_assert_eq!(other, failed(Status::Busy)),
                    }
                }
                3 if !live.is_empty() => {
                    if let Some(token) = live[pick].1.take() {
                        m.acts.clear();
                        m.registers = live[pick].0;
                        prop_assert_eq!(m.one(What::Resume(token)), OK);
                    }
                }
                4 if !live.is_empty() => {
                    let (handle, token) = live.remove(pick);
                    prop_assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
                    if let Some(token) = token {
                        prop_assert_eq!(m.one(What::Resume(token)), failed(Status::Lost));
                    }
                }
                5 if !live.is_empty() && live[pick].1.is_none() => {
                    m.acts = std::vec![Act::Fault];
                    let (handle, _) = live.remove(pick);
                    prop_assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), Err(Stop::Failed(13, Status::Faulted)));
                }
                _ => {}
            }
            prop_assert_eq!(free - m.free(), needed * live.len() as u32);
            prop_assert_eq!(m.pals.count(), live.len() as u64);
        }
        for (handle, _) in live {
            prop_assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
        }
        prop_assert_eq!(m.free(), free);
        prop_assert!(m.pool_is_zero());
    }
}
