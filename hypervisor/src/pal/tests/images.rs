//! Images: measured, broken, paged out.

use super::super::*;
use super::POOL;
use super::failed;
use super::machine::*;
use crate::addr::{Hpa, PAGE_SIZE};
use abi::image::{FLAG_FPU, HEADER_SIZE, Header};

#[test]
fn the_measurement_is_the_images() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mut expected = utpm::Hasher::measurement();
    expected.update(&image_bytes(&header()));
    let info = m.info(handle);
    assert_eq!(info.measurement, expected.finish());
    assert_eq!(info.pages, 24);
}

#[test]
fn a_broken_image_leaves_nothing() {
    let mut m = Machine::new();
    let free = m.free();
    let good = image_bytes(&header());
    for length in [0, HEADER_SIZE as u64 - 1, good.len() as u64 - 1, good.len() as u64 + 1, u64::MAX] {
        assert_eq!(m.all(What::Register(length), OWNER), failed(Status::BadImage));
    }
    let length = good.len() as u64;
    assert_eq!(m.all(What::Register(length), OWNER + 8), failed(Status::BadArgument));
    assert_eq!(m.all(What::Register(length), 1 << 48), Err(Stop::Failed(1 << 48, Status::BadAddress)));
    // The second page of the image turns into a device while it is read.
    m.map(IMAGE + PAGE_SIZE, 0xfee0_0000, 0x67);
    let device = m.all(What::Register(length), OWNER);
    assert!(matches!(device, Err(Stop::Failed(_, Status::BadAddress))), "{device:?}");
    m.map(IMAGE + PAGE_SIZE, POOL, 0x67);
    let reserve = m.all(What::Register(length), OWNER);
    assert!(matches!(reserve, Err(Stop::Failed(_, Status::BadAddress))), "{reserve:?}");
    assert_eq!(m.free(), free);
    assert_eq!(m.pals.count(), 0);
    assert!(m.pool_is_zero());
}

#[test]
fn an_image_page_is_paged_in_once() {
    let mut m = Machine::new();
    let length = image_bytes(&header()).len() as u64;
    m.map(IMAGE + PAGE_SIZE, 0, 0);
    let mut outcome = m.one(What::Register(length));
    while let Err(Stop::Again(token)) = outcome {
        outcome = m.one(What::Resume(token));
    }
    let Err(Stop::Fault { gva, error_code: 4, token: Some(token) }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(gva, Gva(IMAGE + PAGE_SIZE));
    m.map(IMAGE + PAGE_SIZE, 0x18_1000, 0x67);
    let mut outcome = m.one(What::Resume(token));
    while let Err(Stop::Again(token)) = outcome {
        outcome = m.one(What::Resume(token));
    }
    assert_eq!(outcome, OK);
}

#[test]
fn an_fpu_that_is_not_there_is_refused() {
    for (fpu, expected) in [(false, failed(Status::Unsupported)), (true, OK)] {
        let mut m = Machine::new();
        m.pals = Box::leak(Box::new(Pals { fpu, ..super::pals(&m.memory) }));
        let bytes = image_bytes(&Header { flags: FLAG_FPU, ..header() });
        m.memory.map().copy_to(Hpa(0x18_0000), &bytes);
        assert_eq!(m.all(What::Register(bytes.len() as u64), OWNER), expected);
    }
}
