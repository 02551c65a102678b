use super::*;
use crate::seal::{Policy, seal, unseal};
use crate::{counter, pcr, quote, random as numbers};
use abi::quote::key;

fn blob() -> Vec<u8> {
    let mut blob = vec![0; OVERHEAD + 3];
    let policy = Policy::this_pal().unwrap().with_pcr(1, &pcr::read(1).unwrap().sha256);
    assert_eq!(seal(b"key", &policy, &mut blob), Ok(blob.len()));
    blob
}

fn opens(blob: &[u8]) -> bool {
    let mut key = [0; 3];
    let opened = unseal(blob, &mut key);
    assert_eq!(opened.is_ok(), key == *b"key");
    opened.is_ok()
}

#[test]
fn a_blob_opens_for_its_pal_in_its_state() {
    let sealed = blob();
    assert!(opens(&sealed));
    assert!(!run_as(b"another", || opens(&sealed)));
    pcr::extend(1, &Digests::default()).unwrap();
    assert!(!opens(&sealed));
    restart();
    assert!(opens(&sealed));
    assert!(std::thread::spawn(move || opens(&sealed)).join().unwrap(), "another thread is the same PAL");
}

#[test]
fn no_room_is_an_error() {
    let policy = Policy::this_pal().unwrap();
    assert_eq!(seal(b"key", &policy, &mut [0; OVERHEAD + 2]), Err(Status::TooLarge));
    assert_eq!(seal(&[0; MAX_DATA + 1], &policy, &mut [0; 2048]), Err(Status::BadArgument));
    assert_eq!(unseal(&blob(), &mut [0; 2]).map(drop), Err(Status::TooLarge));
}

#[test]
fn a_pal_that_was_run_as_another_comes_back_even_by_a_panic() {
    let before = pcr::read(0).unwrap();
    let _ = std::panic::catch_unwind(|| run_as(b"another", || panic!("on purpose")));
    assert_eq!(pcr::read(0).unwrap(), before);
    assert_ne!(run_as(b"another", || pcr::read(0).unwrap()), before);
    assert_eq!(pcr::read(8), Err(Status::BadArgument));
    assert_eq!(pcr::extend(0, &Digests::default()), Err(Status::BadArgument));
}

#[test]
fn counters_count_and_are_each_pal_s_own() {
    assert_eq!(counter::read(5), Ok(0));
    assert_eq!((counter::increment(5), counter::increment(5)), (Ok(1), Ok(2)));
    run_as(b"another", || assert_eq!((counter::read(5), counter::increment(5)), (Ok(0), Ok(1))));
    counters_fail(Some(Status::NotKept));
    assert_eq!(counter::increment(5), Err(Status::NotKept));
    counters_fail(None);
    assert_eq!(counter::read(5), Ok(2));
    for number in 10..23 {
        assert_eq!(counter::increment(number), Ok(1));
    }
    assert_eq!(counter::increment(23), Err(Status::TooMany));
    assert_eq!(counter::increment(22), Ok(2));
}

#[test]
fn random_numbers_are_not_zero_and_not_the_same() {
    let (mut a, mut b) = ([0; 2000], [0; 2000]);
    numbers::fill(&mut a).unwrap();
    numbers::fill(&mut b).unwrap();
    assert_ne!(a, b);
    assert!(a[1990..].iter().any(|byte| *byte != 0));
}

#[test]
fn a_report_is_one_that_the_quoting_pal_would_know() {
    let mut out = [0; quote::MAX_REPORT];
    let length = quote::report(quote::IDENTITY, key::P256, b"nonce", &mut out).unwrap();
    let (kind, structure) = utpm::quote::genuine(&REPORT_KEY, &out[..length]).unwrap();
    assert_eq!(kind, key::P256);
    assert!(structure.windows(5).any(|window| window == b"nonce"));
    assert_eq!(quote::report(quote::IDENTITY, key::RSA, b"", &mut out), Err(Status::Unsupported));
    assert_eq!(quote::report(0, key::P256, b"", &mut out), Err(Status::BadArgument));
}
