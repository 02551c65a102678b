//! Handles and tokens in the wrong hands.

use super::super::*;
use super::failed;
use super::machine::*;
use crate::addr::{Hpa, PAGE_SIZE};

#[test]
fn a_stranger_gets_nothing_even_with_the_handle_or_the_token() {
    let mut m = Machine::new();
    let length = image_bytes(&header()).len() as u64;
    let Err(Stop::Again(token)) = m.one(What::Register(length)) else { panic!("registered in one stay") };
    let mut stranger = |call| m.with(|run| run(&mut Op { call, owner: OWNER, cr3_offset: PAGE_SIZE }));
    assert_eq!(stranger(What::Resume(token)), failed(Status::Lost));
    let mut outcome = m.one(What::Resume(token));
    while let Err(Stop::Again(token)) = outcome {
        outcome = m.one(What::Resume(token));
    }
    assert_eq!(outcome, OK);
    let mem = m.memory.map();
    let handle = Handle { low: mem.read_u64(Hpa(0x1a_0000)), high: mem.read_u64(Hpa(0x1a_0008)) };
    let mut stranger = |call| m.with(|run| run(&mut Op { call, owner: OWNER, cr3_offset: PAGE_SIZE }));
    for call in
        [What::Call(handle, 0, [0; 6]), What::Unregister(handle, false), What::Unregister(handle, true)]
    {
        assert_eq!(stranger(call), failed(Status::NoSuchPal));
    }
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK);
}
