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
    let (mut process, first) = machine.initialised();
    let session = process.open(true);
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
    let (mut process, old) = machine.initialised();
    let session = process.open(true);
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
    let (mut process, _) = machine.initialised();
    let session = process.open(true);
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
    let (mut one, file) = machine.initialised();
    let mut other = machine.process_with(&file);
    let template = vec![number(attribute::CLASS, class::DATA), flag(attribute::TOKEN, true)];
    let write = |process: &mut Process| {
        let session = process.open(true);
        let request = Request::CreateObject { session, template: template.clone() };
        let Ok(Answer::Write(file)) = process.ask(request) else { panic!() };
        file
    };
    let (ours, _) = (write(&mut one), write(&mut other));
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
