use super::*;
use std::sync::{Mutex, MutexGuard};
use trustvisor_pal::host;

/// The count of tries is the process's.
fn fresh() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|error| error.into_inner());
    TRIES.replace(0);
    guard
}

fn record(user: &str, password: &str) -> Vec<u8> {
    let mut record = vec![0; MAX_RECORD];
    let length = enroll(user, password, &mut record).unwrap();
    record.truncate(length);
    record
}

#[test]
fn the_right_password_is_right() {
    let _fresh = fresh();
    let alice = record("alice", "sesame");
    assert_eq!(check("alice", "sesame", &alice), Ok(true));
    for wrong in ["", "Sesame", "sesame "] {
        assert_eq!(check("alice", wrong, &alice), Ok(false));
    }
    assert_ne!(alice, record("alice", "sesame"), "each record has a salt of its own");
}

#[test]
fn a_record_is_its_user_s_and_this_s_s() {
    let _fresh = fresh();
    let alice = record("alice", "sesame");
    assert_eq!(check("bob", "sesame", &alice), Err(Refusal::Record));
    assert_eq!(host::run_as(b"another S", || check("alice", "sesame", &alice)), Err(Refusal::Record));
    for at in [0, 100, alice.len() - 1] {
        let mut changed = alice.clone();
        changed[at] ^= 1;
        assert_eq!(check("alice", "sesame", &changed), Err(Refusal::Record));
    }
    assert_eq!(check("alice", "sesame", b""), Err(Refusal::Record));
}

/// What somebody else sealed for this S is no record, though it opens.
#[test]
fn a_forged_record_is_refused() {
    let _fresh = fresh();
    let this = Policy::this_pal().unwrap();
    let mut data = [0; FIXED + 5];
    data[SALT..FIXED].copy_from_slice(&*hash("mine", &[0; SALT]));
    data[FIXED..].copy_from_slice(b"alice");
    let mut forged = [0; FIXED + 5 + OVERHEAD];
    host::run_as(b"another S", || seal(&data, &this, &mut forged)).unwrap();
    assert_eq!(check("alice", "mine", &forged), Err(Refusal::Record));
}

#[test]
fn tries_are_counted() {
    let _fresh = fresh();
    let alice = record("alice", "sesame");
    for _ in 0..MOST_TRIES {
        assert_eq!(check("alice", "wrong", &alice), Ok(false));
    }
    assert_eq!(check("alice", "sesame", &alice), Err(Refusal::TooMany));
}

#[test]
fn names_have_a_length() {
    assert_eq!(enroll("", "x", &mut [0; MAX_RECORD]), Err(Refusal::User));
    assert_eq!(enroll(&"x".repeat(MAX_USER + 1), "x", &mut [0; MAX_RECORD]), Err(Refusal::User));
    let long = "x".repeat(MAX_USER);
    assert_eq!(record(&long, "x").len(), MAX_RECORD);
    assert_eq!(enroll("x", "x", &mut [0; 10]), Err(Refusal::Tpm));
}
