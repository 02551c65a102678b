//! The functions of PKCS#11, by the chapters of the standard: each checks its arguments, asks S, and answers in C.
//!
//! All are `unsafe extern "C"`, and safe as far as the application's pointers are what the standard wants them to be (`crate::memory`).

#![allow(non_snake_case)]

pub mod general;
pub mod interfaces;
pub mod keys;
pub mod objects;
pub mod operations;
pub mod sessions;
pub mod slots;
pub mod unsupported;

use crate::outcome::{Rv, plain};
use crate::process;
use cryptoki_sys::CK_SESSION_HANDLE;
use token::protocol::{Answer, Error, Request};

/// Asks what concerns a session, whose S calls it by another handle.
fn ask(session: CK_SESSION_HANDLE, request: impl FnOnce(u64) -> Request) -> Result<Answer, Error> {
    let slot = process::slot_of(session).map_err(Error::Rv)?;
    slot.with(|token| {
        let handle = token.session(session)?.handle;
        Ok(token.ask(request(handle)))
    })
    .map_err(Error::Rv)?
}

/// The same, of an answer that is `Done`.
fn ask_done(session: CK_SESSION_HANDLE, request: impl FnOnce(u64) -> Request) -> Result<(), Rv> {
    ask(session, request).and_then(crate::outcome::done).map_err(plain)
}

/// The same, of an answer that is a handle.
fn ask_handle(session: CK_SESSION_HANDLE, request: impl FnOnce(u64) -> Request) -> Result<u64, Rv> {
    ask(session, request).and_then(crate::outcome::handle).map_err(plain)
}
