//! Tries are counted, whoever is killed and whatever is put back.

use super::*;
use crate::ck::flag;
use crate::pin::{A_LEASE, LEASES};

const TRIES: u64 = A_LEASE * LEASES;

fn login(process: &mut Process, session: u64, pin: &[u8]) -> Response {
    process.ask(Request::Login { session, user: User::User, pin: pin.to_vec() })
}

fn flags(process: &mut Process) -> u64 {
    match process.ask(Request::TokenInfo).unwrap() {
        Answer::Token(info) => info.flags,
        other => panic!("{other:?}"),
    }
}

/// Wrong PINs until it is locked, each by a process that is new: how many were compared.
fn guesses(machine: &Machine, file: &[u8], relaunch: bool) -> u64 {
    for guess in 0..100 {
        if relaunch {
            machine.launch();
        }
        let mut process = machine.process_with(file);
        let session = process.open(true);
        match login(&mut process, session, b"wrong") {
            Err(Error::Rv(rv::PIN_INCORRECT)) => {}
            Err(Error::Rv(rv::PIN_LOCKED)) => return guess,
            other => panic!("{other:?}"),
        }
    }
    panic!("never locked");
}

#[test]
fn wrong_pins_lock_the_token_whoever_is_killed() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    assert_eq!(guesses(&machine, &file, false), TRIES);
    let mut process = machine.process_with(&file);
    assert!(flags(&mut process) & flag::USER_PIN_LOCKED != 0);
    let session = process.open(true);
    assert_eq!(login(&mut process, session, USER), Err(rv(rv::PIN_LOCKED)), "the right one");
    machine.launch();
    let mut process = machine.process_with(&file);
    let session = process.open(true);
    assert_eq!(login(&mut process, session, USER), Err(rv(rv::PIN_LOCKED)), "after another launch");
}

#[test]
fn a_launch_gives_no_tries_back() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    assert_eq!(guesses(&machine, &file, true), LEASES, "a lease for each launch");
}

#[test]
fn the_officer_unlocks() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    guesses(&machine, &file, false);
    let mut process = machine.process_with(&file);
    let session = process.open(true);
    process.keep(Request::Login { session, user: User::SecurityOfficer, pin: OFFICER.to_vec() });
    let (_, file) = process.keep(Request::InitPin { session, pin: b"another".to_vec() });
    let file = file.unwrap();
    let mut process = machine.process_with(&file);
    let session = process.open(true);
    assert!(login(&mut process, session, b"another").is_ok());
    // What was left of the last lease is there as well.
    assert!((TRIES..TRIES + A_LEASE).contains(&guesses(&machine, &file, false)));
}

#[test]
fn a_right_pin_gives_all_tries_back() {
    let machine = Machine::default();
    let (_, mut file) = machine.initialised();
    for _ in 0..5 {
        for _ in 0..TRIES - 1 {
            let mut process = machine.process_with(&file);
            let session = process.open(true);
            assert_eq!(login(&mut process, session, b"wrong"), Err(rv(rv::PIN_INCORRECT)));
        }
        let mut process = machine.process_with(&file);
        let session = process.open(true);
        let kept = process.keep(Request::Login { session, user: User::User, pin: USER.to_vec() });
        file = kept.1.expect("the tries that were used are remembered until then");
    }
}

#[test]
fn an_old_file_gives_no_tries_back() {
    let machine = Machine::default();
    let (_, old) = machine.initialised();
    let mut process = machine.process_with(&old);
    let session = process.open(true);
    let kept = process.keep(Request::Login { session, user: User::User, pin: USER.to_vec() });
    kept.1.expect("the first login of a launch is kept");
    assert_eq!(machine.process().load(&old), Loaded::NotCurrent);
}

#[test]
fn logins_cost_the_hardware_tpm_nothing_after_the_first() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    let mut process = machine.process_with(&file);
    let session = process.open(true);
    let kept = process.keep(Request::Login { session, user: User::User, pin: USER.to_vec() });
    let file = kept.1.unwrap();
    let before = machine.0.borrow().lasting_increments;
    for _ in 0..100 {
        let mut process = machine.process_with(&file);
        let session = process.open(true);
        assert_eq!(login(&mut process, session, USER), Ok(Answer::Done));
    }
    assert_eq!(machine.0.borrow().lasting_increments, before);
}

/// Another S takes a lease just when this one has its number: what that grants is not for this one.
#[test]
fn a_lease_is_for_later_tries() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    let wrong = |machine: &Machine, file: &[u8]| {
        let mut process = machine.process_with(file);
        let session = process.open(true);
        assert_eq!(login(&mut process, session, b"wrong"), Err(rv(rv::PIN_INCORRECT)));
    };
    let leases = |machine: &Machine| machine.0.borrow().counters[&Counter::Lasting(2)];
    (0..A_LEASE).for_each(|_| wrong(&machine, &file));
    assert_eq!(leases(&machine), 1);
    let (other, its_file) = (machine.clone(), file.clone());
    machine.0.borrow_mut().meanwhile = Some(Box::new(move || wrong(&other, &its_file)));
    wrong(&machine, &file);
    assert_eq!(leases(&machine), 3);
}

/// An OS that keeps the hardware TPM away gets nothing compared that it has no lease for.
#[test]
fn a_try_that_cannot_be_counted_is_not_compared() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    machine.0.borrow_mut().starved = true;
    for pin in [USER, b"wrong"].repeat(20) {
        let mut process = machine.process_with(&file);
        let session = process.open(true);
        assert_eq!(login(&mut process, session, pin), Err(rv(rv::DEVICE_ERROR)));
    }
    machine.0.borrow_mut().starved = false;
    assert_eq!(guesses(&machine, &file, false), TRIES, "what was not compared costs nothing");
}

#[test]
fn pins_are_changed_by_who_knows_them() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    let mut process = machine.process_with(&file);
    let session = process.open(true);
    let change = |old: &[u8], new: &[u8]| Request::SetPin { session, old: old.to_vec(), new: new.to_vec() };
    assert_eq!(process.ask(change(b"wrong", b"new pin")), Err(rv(rv::PIN_INCORRECT)));
    assert_eq!(process.ask(change(USER, b"new")), Err(rv(rv::PIN_LEN_RANGE)));
    let (answer, _) = process.keep(change(USER, b"new pin"));
    assert_eq!(answer, Answer::Done);
    assert_eq!(login(&mut process, session, USER), Err(rv(rv::PIN_INCORRECT)));
    assert_eq!(login(&mut process, session, b"new pin").map(drop), Ok(()));
    assert_eq!(
        process.ask(Request::InitPin { session, pin: USER.to_vec() }),
        Err(rv(rv::USER_NOT_LOGGED_IN))
    );
    let new = Request::InitToken { pin: b"wrong".to_vec(), label: vec![b' '; 32] };
    assert_eq!(process.ask(new.clone()), Err(rv(rv::SESSION_EXISTS)));
    process.ask(Request::CloseAllSessions).unwrap();
    assert_eq!(process.ask(new), Err(rv(rv::PIN_INCORRECT)), "a token is initialised again by its officer");
}

#[test]
fn a_login_whose_record_cannot_be_kept_is_one() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    machine.launch();
    let mut process = machine.process_with(&file);
    let session = process.open(true);
    assert!(matches!(login(&mut process, session, USER), Ok(Answer::Write(_))));
    assert_eq!(process.ask(Request::Abandon), Ok(Answer::Done));
    assert_eq!(login(&mut process, session, USER), Err(rv(rv::USER_ALREADY_LOGGED_IN)));
}
