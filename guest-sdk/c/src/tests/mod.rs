use super::*;
use std::ffi::CStr;
use std::ptr::{null, null_mut};

fn message() -> String {
    // SAFETY: a text of this library.
    unsafe { CStr::from_ptr(tv_message()) }.to_string_lossy().into_owned()
}

#[test]
fn null_is_an_error_everywhere() {
    // SAFETY: NULL is allowed.
    unsafe {
        assert_eq!(tv_get_info(null_mut()), -6);
        assert_eq!(message(), "a pointer is NULL");
        assert_eq!(tv_measure(null(), 5, null_mut()), -6);
        assert_eq!(tv_register(null(), 0, null_mut()), -6);
        assert_eq!(tv_call(null(), 0, null(), 0, null_mut()), -6);
        assert_eq!(tv_call_attested(null(), 0, null(), 0, null(), null_mut()), -6);
        assert_eq!(tv_call_evidence(null(), 0, null(), null_mut()), -6);
        assert_eq!(tv_report_evidence(null(), null(), 1, null(), 0, null_mut()), -6);
        assert_eq!(tv_call_report(null(), 1, 1, null_mut(), null_mut()), -6);
        assert_eq!(tv_get_pal_info(null(), null_mut()), -6);
        assert_eq!(tv_abort(null()), -6);
        assert_eq!(tv_unregister(null_mut()), 0);
        tv_free(null_mut());
    }
}

#[test]
fn without_trustvisor_calls_say_so() {
    let mut pal = null_mut();
    // SAFETY: the pointers are good.
    unsafe {
        assert_eq!(tv_register([1u8; 4].as_ptr(), 4, &mut pal), -1);
        assert!(pal.is_null());
        assert_eq!(tv_collect(null_mut()), -1);
    }
    assert_eq!(message(), "TrustVisor is not running on this machine");
    // SAFETY: the pointers are good.
    let measured = unsafe { tv_measure([1u8; 4].as_ptr(), 4, null_mut()) };
    assert_eq!((measured, message().as_str()), (-4, "not a PAL image: shorter than its header"));
}

#[test]
fn every_error_of_the_header_has_a_sentence() {
    let header = include_str!("../../trustvisor.h");
    let list = header.split_once("enum tv_error {").unwrap().1.split_once("};").unwrap().0;
    let numbers = list.split(',').filter_map(|entry| {
        let (_, value) = entry.split_once(" = ")?;
        value.split(|c: char| c != '-' && !c.is_ascii_digit()).next()?.parse::<i32>().ok()
    });
    let mut count = 0;
    for number in numbers.filter(|number| *number != -100) {
        // SAFETY: a text of this library.
        let text = unsafe { CStr::from_ptr(tv_error(number)) };
        assert_ne!(text, c"an error that is unknown here", "{number}");
        count += 1;
    }
    assert_eq!(count, 17 + 10);
}
