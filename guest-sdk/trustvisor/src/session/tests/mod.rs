use super::*;
use abi::Status;
use std::sync::atomic::AtomicUsize;

const NONE: Option<Status> = None;

fn refused(status: Status) -> Error {
    Error::Refused { status, detail: 0 }
}

/// A session whose S is the number of its registration, and how many there were.
fn numbered() -> (Session<usize>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let session = Session::new(move || Ok(counter.fetch_add(1, Ordering::Relaxed) + 1));
    (session.patience(Duration::from_millis(50)), count)
}

/// Calls an S that answers these one after the other, and then what number it is.
fn call(session: &Session<usize>, answers: &[Status]) -> (Result<usize, Error>, usize) {
    let calls = AtomicUsize::new(0);
    let result = session.call(|s| match answers.get(calls.fetch_add(1, Ordering::Relaxed)) {
        Some(status) => Err(refused(*status)),
        None => Ok(*s),
    });
    (result, calls.into_inner())
}

#[test]
fn one_registration_serves_all_calls() {
    let (session, count) = numbered();
    assert_eq!(count.load(Ordering::Relaxed), 0);
    for _ in 0..3 {
        assert_eq!(call(&session, &[]).0.unwrap(), 1);
    }
    session.unregister();
    assert_eq!(call(&session, &[]).0.unwrap(), 2);
}

#[test]
fn who_is_gone_is_registered_anew() {
    for gone in [Status::NoSuchPal, Status::Lost] {
        let (session, _) = numbered();
        assert_eq!(call(&session, &[gone]).0.unwrap(), 2);
        assert_eq!(call(&session, &[gone, gone]).0.unwrap(), 4);
        let (result, calls) = call(&session, &[gone; 5]);
        assert_eq!((result.unwrap_err().status(), calls), (Some(gone), 3));
    }
}

#[test]
fn who_dies_of_a_call_is_not_asked_again() {
    let (session, _) = numbered();
    let (result, calls) = call(&session, &[Status::Faulted; 2]);
    assert_eq!((result.unwrap_err().status(), calls), (Some(Status::Faulted), 1));
    assert_eq!(call(&session, &[]).0.unwrap(), 2);
}

#[test]
fn busy_is_waited_for_but_not_for_ever() {
    let (session, _) = numbered();
    let (result, calls) = call(&session, &[Status::Busy; 3]);
    assert_eq!((result.unwrap(), calls), (1, 4));
    let (result, calls) = call(&session, &[Status::Busy; 100_000]);
    assert_eq!(result.unwrap_err().status(), Some(Status::Busy));
    assert!(calls > 4);
}

#[test]
fn other_errors_are_the_caller_s() {
    let (session, _) = numbered();
    let (result, calls) = call(&session, &[Status::TooLarge]);
    assert_eq!((result.unwrap_err().status(), calls), (Some(Status::TooLarge), 1));
    let none: Session<usize> = Session::new(|| Err(Error::NotPresent));
    assert_eq!(none.call(|_| Ok(())).unwrap_err().status(), NONE);
}

#[test]
fn a_child_registers_anew_even_while_a_thread_of_its_parent_registers() {
    let (session, count) = numbered();
    assert_eq!(call(&session, &[]).0.unwrap(), 1);
    session.hold(|_| {
        // SAFETY: the child uses nothing that another thread may hold, and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let registered = call(&session, &[]).0.is_ok_and(|s| s == 2);
            // SAFETY: leaves without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!registered)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
    });
    assert_eq!((call(&session, &[]).0.unwrap(), count.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn threads_share_it() {
    let (session, count) = numbered();
    std::thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| assert_eq!(call(&session, &[]).0.unwrap(), 1))));
    });
    assert_eq!(count.load(Ordering::Relaxed), 1);
}
