//! The file: the present one opens, no other.

use super::*;

fn label(process: &mut Process, session: u64, text: &str) -> Vec<u8> {
    let template = vec![
        number(attribute::CLASS, class::DATA),
        flag(attribute::TOKEN, true),
        (attribute::LABEL, text.as_bytes().to_vec()),
    ];
    process.keep(Request::CreateObject { session, template }).1.unwrap()
}

#[test]
fn the_last_version_opens_and_no_earlier_one() {
    let machine = Machine::default();
    let (mut process, session, first) = machine.in_use();
    let files = [first, label(&mut process, session, "one"), label(&mut process, session, "two")];
    let loaded: Vec<_> = files.iter().map(|file| machine.process().load(file)).collect();
    assert_eq!(loaded, [Loaded::NotCurrent, Loaded::NotCurrent, Loaded::Current]);
    machine.launch();
    assert_eq!(machine.process().load(&files[1]), Loaded::NotCurrent);
    let mut process = machine.process_with(&files[2]);
    let session = process.open(false);
    let found = handles(process.ask(Request::FindObjects { session, template: vec![] }).unwrap());
    assert_eq!(found.len(), 2);
}

/// At each point where a process can be killed one of the two files opens: the old one before the commit, the new one from then on.
#[test]
fn a_process_that_is_killed_loses_nothing() {
    let machine = Machine::default();
    let (mut process, session, old) = machine.in_use();
    let template = vec![number(attribute::CLASS, class::DATA), flag(attribute::TOKEN, true)];
    let Ok(Answer::Write(new)) = process.ask(Request::CreateObject { session, template }) else { panic!() };
    assert_eq!(machine.process().load(&new), Loaded::NotCurrent);
    assert_eq!(machine.process().load(&old), Loaded::Current);
    process.ask(Request::Commit).unwrap();
    assert_eq!(machine.process().load(&new), Loaded::Current);
    assert_eq!(machine.process().load(&old), Loaded::NotCurrent);
    assert_eq!(process.ask(Request::Commit), Err(rv(rv::OPERATION_NOT_INITIALIZED)), "once");
}

#[test]
fn a_commit_that_was_not_kept_can_be_asked_for_again() {
    let machine = Machine::default();
    let (mut process, session, _) = machine.in_use();
    let template = vec![number(attribute::CLASS, class::DATA), flag(attribute::TOKEN, true)];
    let Ok(Answer::Write(new)) = process.ask(Request::CreateObject { session, template }) else { panic!() };
    machine.0.borrow_mut().starved = true;
    assert_eq!(process.ask(Request::Commit), Err(rv(rv::DEVICE_ERROR)));
    machine.0.borrow_mut().starved = false;
    assert!(process.ask(Request::Commit).is_ok());
    assert_eq!(machine.process().load(&new), Loaded::Current);
}

/// Two processes write at once (one of them without the lock): one change is made, the other is told.
#[test]
fn of_two_changes_one_is_made() {
    let machine = Machine::default();
    let (mut one, session, file) = machine.in_use();
    let mut other = machine.process_with(&file);
    let template = vec![number(attribute::CLASS, class::DATA), flag(attribute::TOKEN, true)];
    let write = |process: &mut Process, session| {
        let request = Request::CreateObject { session, template: template.clone() };
        let Ok(Answer::Write(file)) = process.ask(request) else { panic!() };
        file
    };
    let others = other.user();
    let (ours, _) = (write(&mut one, session), write(&mut other, others));
    assert!(one.ask(Request::Commit).is_ok());
    assert_eq!(other.ask(Request::Commit), Err(rv(rv::DEVICE_ERROR)));
    assert_eq!(other.ask(Request::Current), Ok(Answer::Loaded(Loaded::NotCurrent)));
    assert_eq!(other.load(&ours), Loaded::Current);
}

#[test]
fn what_was_changed_by_others_does_not_open() {
    let machine = Machine::default();
    let (_, file) = machine.initialised();
    for at in (0..file.len()).step_by(7) {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert_eq!(machine.process().load(&changed), Loaded::DoesNotOpen, "byte {at}");
    }
    for length in [0, 7, 11, 12, 43, 44, 60, file.len() - 1] {
        assert_eq!(machine.process().load(&file[..length]), Loaded::DoesNotOpen, "{length} bytes");
    }
    let mut other = machine.process();
    other.ask(Request::Start { token: 1, adx: false }).unwrap();
    assert_eq!(other.load(&file), Loaded::DoesNotOpen, "another token's");
}

/// Another initialisation of the token: what a process has of the old one is gone.
#[test]
fn sessions_end_with_their_token() {
    let machine = Machine::default();
    let (mut one, file) = machine.initialised();
    let mut other = machine.process_with(&file);
    let session = other.user();
    let Ok(Answer::Loaded(Loaded::Current)) = other.ask(Request::Current) else { panic!() };
    // The login was kept, so the first has to load.
    one.ask(Request::CloseAllSessions).unwrap();
    let store = other.keep(Request::CreateObject {
        session,
        template: vec![number(attribute::CLASS, class::DATA), flag(attribute::TOKEN, true)],
    });
    assert_eq!(one.load(&store.1.unwrap()), Loaded::Current);
    let (_, new) = one.keep(Request::InitToken { pin: OFFICER.to_vec(), label: vec![b'x'; 32] });
    assert_eq!(other.load(&new.unwrap()), Loaded::Current);
    assert_eq!(other.ask(Request::SessionInfo { session }), Err(rv(rv::SESSION_HANDLE_INVALID)));
}

/// A process that has an old state writes nothing of it, compares no PIN with it, and proves nothing.
#[test]
fn an_old_state_in_memory_is_worth_nothing() {
    let machine = Machine::default();
    let (mut old, session, file) = machine.in_use();
    let mut present = machine.process_with(&file);
    let theirs = present.user();
    let template = vec![number(attribute::CLASS, class::DATA), flag(attribute::TOKEN, true)];
    let create = |session| Request::CreateObject { session, template: template.clone() };
    present.keep(create(theirs));
    assert_eq!(old.ask(create(session)), Err(rv(rv::DEVICE_ERROR)));
    let change = Request::SetPin { session, old: USER.to_vec(), new: b"other".to_vec() };
    assert_eq!(old.ask(change.clone()), Err(rv(rv::DEVICE_ERROR)));
    let evidence = Request::Evidence { session, key: 1, nonce: vec![7; 32] };
    assert_eq!(old.ask(evidence), Err(rv(rv::DEVICE_ERROR)));
    old.ask(Request::Logout { session }).unwrap();
    let login = Request::Login { session, user: User::User, pin: USER.to_vec() };
    assert_eq!(old.ask(login), Err(rv(rv::DEVICE_ERROR)));
}

#[test]
fn who_logged_in_by_another_pin_is_logged_out() {
    let machine = Machine::default();
    let (mut one, session, file) = machine.in_use();
    let mut other = machine.process_with(&file);
    let theirs = other.user();
    let change = Request::SetPin { session: theirs, old: USER.to_vec(), new: b"other".to_vec() };
    let changed = other.keep(change).1.unwrap();
    assert_eq!(one.load(&changed), Loaded::Current);
    assert_eq!(one.ask(Request::Logout { session }), Err(rv(rv::USER_NOT_LOGGED_IN)));
    assert!(other.ask(Request::Logout { session: theirs }).is_ok(), "who changed it stays");
}

#[test]
fn what_the_token_keeps_is_changed_by_nobody_who_is_not_logged_in() {
    let machine = Machine::default();
    let (mut process, session, _) = machine.in_use();
    let template = vec![
        number(attribute::CLASS, class::DATA),
        flag(attribute::TOKEN, true),
        flag(attribute::PRIVATE, false),
    ];
    let object = handle(process.keep(Request::CreateObject { session, template: template.clone() }).0);
    process.ask(Request::Logout { session }).unwrap();
    let label = vec![(attribute::LABEL, b"x".to_vec())];
    for request in [
        Request::CreateObject { session, template },
        Request::CopyObject { session, object, template: vec![] },
        Request::SetAttributes { session, object, template: label },
        Request::DestroyObject { session, object },
    ] {
        assert_eq!(process.ask(request.clone()), Err(rv(rv::USER_NOT_LOGGED_IN)), "{request:?}");
    }
}
