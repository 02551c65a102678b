//! An S that is gone is replaced, and its sessions are not.

use super::*;
use tempfile::TempDir;

/// An S that was wiped.
struct Wiped;

impl Backend for Wiped {
    fn ask(&mut self, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Err(Failure::Gone)
    }

    fn evidence(&self, _report: &[u8], _nonce: &[u8]) -> Result<String, String> {
        Err("gone".into())
    }
}

/// A slot with an initialised token and a session.
fn slot() -> (TempDir, Slot, CK_SESSION_HANDLE) {
    let folder = tempfile::tempdir().unwrap();
    let slot = Slot::new(1);
    slot.open(folder.path());
    slot.ask(Request::InitToken { pin: b"12345678".to_vec(), label: vec![b' '; 32] }).unwrap();
    let session = slot.open_session(true).unwrap();
    (folder, slot, session)
}

fn wipe(slot: &Slot) {
    slot.with(|token| {
        token.s = Some(Box::new(Wiped));
        Ok(())
    })
    .unwrap();
}

fn info(slot: &Slot, session: CK_SESSION_HANDLE) -> Result<Answer, Rv> {
    slot.with(|token| {
        let session = token.session(session)?.handle;
        token.ask(Request::SessionInfo { session }).map_err(plain)
    })
}

#[test]
fn a_session_goes_with_its_s() {
    let (_folder, slot, session) = slot();
    assert!(info(&slot, session).is_ok());
    wipe(&slot);
    assert_eq!(info(&slot, session), Err(CKR_DEVICE_REMOVED));
    assert_eq!(info(&slot, session), Err(CKR_SESSION_HANDLE_INVALID));
    let next = slot.open_session(false).unwrap();
    assert!(info(&slot, next).is_ok());
    assert_ne!(next, session);
}

#[test]
fn what_is_nobody_s_is_asked_again() {
    let (_folder, slot, session) = slot();
    wipe(&slot);
    assert!(matches!(slot.ask(Request::TokenInfo), Ok(Answer::Token(_))));
    assert_eq!(info(&slot, session), Err(CKR_SESSION_HANDLE_INVALID));
    wipe(&slot);
    let next = slot.open_session(false).unwrap();
    assert!(info(&slot, next).is_ok());
}

#[test]
fn a_closed_slot_answers_nothing() {
    let (_folder, slot, session) = slot();
    slot.close();
    assert_eq!(info(&slot, session), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
    assert_eq!(slot.ask(Request::TokenInfo), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
}
