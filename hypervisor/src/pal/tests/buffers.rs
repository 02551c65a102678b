//! What goes into a call and what comes out.

use super::super::*;
use super::failed;
use super::machine::*;
use crate::addr::{Hpa, PAGE_SIZE};
use abi::image::kind;
use proptest::prelude::*;

#[test]
fn a_call_finds_nothing_of_the_last_ones_buffers() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mem = m.memory.map();
    mem.copy_to(Hpa(0x19_0000), &[0xa5; PAGE_SIZE as usize]);
    assert_eq!(m.all(What::Call(handle, 1, [BUFFER, 2000, BUFFER, 0, 0, 0]), OWNER), OK);
    // The out buffer lies where the in buffer was, and S writes nothing.
    assert_eq!(m.all(What::Call(handle, 1, [BUFFER, 0, BUFFER + PAGE_SIZE, 2000, 0, 0]), OWNER), OK);
    let mut bytes = [0xff; 2000];
    mem.copy_from(Hpa(0x19_1000), &mut bytes);
    assert_eq!(bytes, [0; 2000]);
}

#[test]
fn results_wait_for_their_page_and_s_runs_once() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let args = [BUFFER, 100, BUFFER + PAGE_SIZE, 50, 0, 0];
    // Not dirty: asked for before S runs, as a write fault on a present page.
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x27);
    let gva = Gva(BUFFER + PAGE_SIZE);
    let wanted = Err(Stop::Fault { gva, error_code: 7, token: None });
    assert_eq!(m.one(What::Call(handle, 1, args)), wanted);
    assert_eq!(m.runs, 0);
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x67);
    // Gone while S runs: the results are kept, and delivered when it is back.
    m.acts = std::vec![Act::Interrupt, Act::Return(3)];
    let Err(Stop::Again(token)) = m.one(What::Call(handle, 1, args)) else { panic!("not frozen") };
    m.map(BUFFER + PAGE_SIZE, 0, 0);
    let Err(Stop::Fault { token: Some(token), error_code: 6, .. }) = m.one(What::Resume(token)) else {
        panic!("no fault")
    };
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x67);
    assert_eq!(m.one(What::Resume(token)), Ok(3));
    assert_eq!(m.runs, 2);
}

#[test]
fn a_result_page_that_never_comes_ends_the_call() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Interrupt, Act::Return(3)];
    let args = [BUFFER, 0, BUFFER + PAGE_SIZE, 50, 0, 0];
    let Err(Stop::Again(token)) = m.one(What::Call(handle, 1, args)) else { panic!("not frozen") };
    m.map(BUFFER + PAGE_SIZE, 0, 0);
    let mut outcome = m.one(What::Resume(token));
    let mut faults = 0;
    while let Err(Stop::Fault { token: Some(token), .. }) = outcome {
        faults += 1;
        outcome = m.one(What::Resume(token));
    }
    assert_eq!((faults, outcome), (3, Err(Stop::Failed(BUFFER + PAGE_SIZE, Status::NoProgress))));
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK, "the PAL is idle again");
}

#[test]
fn buffers_that_do_not_fit_or_do_not_exist() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mut status = |args| m.one(What::Call(handle, 1, args));
    assert_eq!(status([BUFFER, 20 * PAGE_SIZE + 1, 0, 0, 0, 0]), failed(Status::TooLarge));
    assert_eq!(status([BUFFER, u64::MAX, BUFFER, u64::MAX, 0, 0]), failed(Status::TooLarge));
    let high = 0xffff_8000_0000_0000;
    assert_eq!(status([high, 1, 0, 0, 0, 0]), Err(Stop::Failed(high, Status::BadAddress)));
    assert_eq!(status([1 << 47, 1, 0, 0, 0, 0]), Err(Stop::Failed(1 << 47, Status::BadAddress)));
    assert_eq!(status([0, 0, 0, 0, 0, 0]), OK, "empty buffers need no memory");
    assert_eq!(m.one(What::Call(handle, 2, [0; 6])), failed(Status::BadArgument));
    assert_eq!(m.one(What::Call(handle, 64, [0; 6])), failed(Status::BadArgument));
}

#[test]
fn the_parameter_section_is_no_longer_than_the_image_says() {
    let mut m = Machine::new();
    let mut header = header();
    header.sections[1] = section(kind::PARAM, 2, 0, 20);
    header.sections[2] = section(kind::DATA, 22, 100, 1);
    m.memory.map().copy_to(Hpa(0x18_0000), &image_bytes(&header));
    let handle = m.register(OWNER);
    let pal = m.pals.slots[handle.low as usize % MAX_PALS].pal.lock();
    let place = |offset| pal.frames.param(m.memory.map(), offset);
    assert!(place(20 * PAGE_SIZE - 1).is_some());
    assert_eq!(place(20 * PAGE_SIZE), None, "the data");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Results land where they belong, whatever the buffers' place and size, and nowhere else.
    #[test]
    fn bytes_go_in_and_out(at in 0u64..4096, length in 0u64..8192, out in 0u64..3000, out_length in 0u64..4096) {
        let mut m = Machine::new();
        let handle = m.register(OWNER);
        let mem = m.memory.map();
        for page in 0..4u64 {
            mem.copy_to(Hpa(0x19_0000 + page * PAGE_SIZE), &[0xa5; PAGE_SIZE as usize]);
        }
        let args = [BUFFER + at, length, BUFFER + 3 * PAGE_SIZE + out, out_length.min(PAGE_SIZE - out), 0, 0];
        prop_assert_eq!(m.all(What::Call(handle, 1, args), OWNER), OK);
        // S wrote nothing: the out buffer was zeroed before it ran, and that is what comes back.
        let mut bytes = [0; PAGE_SIZE as usize];
        mem.copy_from(Hpa(0x19_3000), &mut bytes);
        let range = out as usize..(out + args[3]) as usize;
        for (i, byte) in bytes.iter().enumerate() {
            prop_assert_eq!(*byte, if range.contains(&i) { 0 } else { 0xa5 });
        }
    }
}
