//! Owners that die, and a pool that is full.

use super::super::*;
use super::failed;
use super::machine::*;
use crate::addr::{Hpa, PAGE_SIZE};

#[test]
fn collect_takes_the_dead_and_spares_the_living() {
    let mut m = Machine::new();
    let free = m.free();
    let (dead, alive, swapped) =
        (m.register(OWNER), m.register(OWNER + PAGE_SIZE), m.register(OWNER + 2 * PAGE_SIZE));
    m.map(OWNER, 0, 0);
    m.map(OWNER + 2 * PAGE_SIZE, 0x1234_5000, 0x2);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK, "one look condemns nobody");
    m.now += 9_999;
    assert_eq!(m.all(What::Collect, OWNER), OK, "nor do two that are too close");
    m.now += 1;
    assert_eq!(m.all(What::Collect, OWNER), Ok(1));
    assert_eq!(m.one(What::Call(dead, 0, [0; 6])), failed(Status::NoSuchPal));
    m.now += 60_000;
    assert_eq!(m.all(What::Collect, OWNER), OK);
    for handle in [alive, swapped] {
        assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK);
        assert_eq!(m.all(What::Unregister(handle, false), OWNER), OK);
    }
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

/// Whoever is killed in the middle of a pass takes no look from others.
#[test]
fn a_pass_that_nobody_goes_on_with_is_over() {
    let mut m = Machine::new();
    m.register(OWNER);
    m.map(OWNER, 0, 0);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK, "the first look");
    m.now += 9_000;
    assert_eq!(m.one(What::Collect), Err(Stop::Restart), "past the first slots, and no further");
    m.now += 1_000;
    assert_eq!(m.all(What::Collect, OWNER), Ok(1), "the second look");
}

#[test]
fn a_page_that_lost_its_handle_is_dead_and_a_call_clears_suspicion() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    m.memory.map().write_u64(Hpa(0x1a_0000), 0);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK);
    m.now += 10_000;
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK, "the call made it alive again");
    m.now += 10_000;
    assert_eq!(m.all(What::Collect, OWNER), Ok(1));
}

#[test]
fn a_full_pool_is_an_error_and_makes_room_from_the_dead() {
    let mut m = Machine::new();
    let needed = space::PalFrames::needed(&header()) as u32;
    let length = image_bytes(&header()).len() as u64;
    let mut registered = 0;
    while m.free() >= needed {
        m.register(OWNER);
        registered += 1;
    }
    assert!(registered > 10);
    assert_eq!(m.all(What::Register(length), OWNER + PAGE_SIZE), failed(Status::NoMemory));
    // All but the last handle were overwritten in the owner page: those PALs are dead. The first attempt took a look.
    m.now += 12_000;
    assert_eq!(m.all(What::Register(length), OWNER + PAGE_SIZE), failed(Status::NoMemory));
    m.now += 12_000;
    assert_eq!(m.all(What::Register(length), OWNER + PAGE_SIZE), OK);
}

#[test]
fn an_owner_page_that_cannot_be_written_is_asked_for_before_anything_is_taken() {
    let mut m = Machine::new();
    let free = m.free();
    m.map(OWNER, 0x1a_0000, 0x65);
    let length = image_bytes(&header()).len() as u64;
    let wanted = Err(Stop::Fault { gva: Gva(OWNER), error_code: 7, token: None });
    assert_eq!(m.one(What::Register(length)), wanted);
    assert_eq!((m.free(), m.pals.count()), (free, 0));
}

#[test]
fn the_handle_waits_for_the_owner_page() {
    let mut m = Machine::new();
    let mut outcome = m.one(What::Register(image_bytes(&header()).len() as u64));
    m.map(OWNER, 0, 0);
    while let Err(Stop::Again(token)) = outcome {
        outcome = m.one(What::Resume(token));
    }
    let Err(Stop::Fault { gva: Gva(OWNER), error_code: 6, token: Some(token) }) = outcome else {
        panic!("{outcome:?}")
    };
    m.map(OWNER, 0x1a_0000, 0x67);
    assert_eq!(m.one(What::Resume(token)), OK);
    assert_ne!(m.memory.map().read_u64(Hpa(0x1a_0008)), 0);
}
