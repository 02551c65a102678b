//! Encrypting, decrypting, digesting, signing and verifying: at once or in parts. An operation whose result does not fit goes on.

use super::{Engine, fits};
use crate::ck::{attribute, rv};
use crate::object::{Object, number};
use crate::operation::{Active, State};
use crate::platform::Platform;
use crate::protocol::{Answer, Error, Mechanism, Operation, Response};

/// What a key must be allowed for an operation.
fn permission(operation: Operation) -> Option<u64> {
    Some(match operation {
        Operation::Encrypt => attribute::ENCRYPT,
        Operation::Decrypt => attribute::DECRYPT,
        Operation::Sign => attribute::SIGN,
        Operation::Verify => attribute::VERIFY,
        Operation::Digest => return None,
    })
}

/// Whether a key may be used for a purpose and by a mechanism.
pub(super) fn permitted(key: &Object, purpose: u64, mechanism: u64) -> Result<(), Error> {
    if !key.flag(purpose) {
        return Err(Error::Rv(rv::KEY_FUNCTION_NOT_PERMITTED));
    }
    // An empty list allows all.
    let allowed = key.get(attribute::ALLOWED_MECHANISMS).filter(|list| !list.is_empty());
    if allowed.is_some_and(|list| !list.chunks_exact(8).any(|one| number(one) == Some(mechanism))) {
        return Err(Error::Rv(rv::MECHANISM_INVALID));
    }
    Ok(())
}

impl<P: Platform> Engine<P> {
    pub(super) fn init(
        &mut self,
        session: u64,
        operation: Operation,
        mechanism: &Mechanism,
        key: u64,
    ) -> Response {
        if self.session(session)?.active.contains_key(&(operation as u8)) {
            return Err(Error::Rv(rv::OPERATION_ACTIVE));
        }
        let active = match permission(operation) {
            None => Active::begin(operation, mechanism, None)?,
            Some(permission) => {
                let key = self.key(key, rv::KEY_HANDLE_INVALID)?;
                permitted(key, permission, mechanism.mechanism)?;
                Active::begin(operation, mechanism, Some(key))?
            }
        };
        let session = self.session_mut(session)?;
        session.authenticated = false;
        session.active.insert(operation as u8, active);
        Ok(Answer::Done)
    }

    /// The operation, if it may go on.
    fn going(&mut self, session: u64, operation: Operation) -> Result<&mut Active, Error> {
        let authenticated = self.session(session)?.authenticated;
        let active = self.active(session, operation)?;
        if active.wants_pin && !authenticated {
            return Err(Error::Rv(rv::USER_NOT_LOGGED_IN));
        }
        Ok(active)
    }

    fn end<T>(&mut self, session: u64, operation: Operation, result: Result<T, Error>) -> Result<T, Error> {
        if !matches!(result, Err(Error::TooSmall(_))) {
            let session = self.session_mut(session)?;
            session.active.remove(&(operation as u8));
            session.authenticated = false;
        }
        result
    }

    pub(super) fn single(
        &mut self,
        session: u64,
        operation: Operation,
        data: &[u8],
        signature: &[u8],
        room: Option<u64>,
    ) -> Response {
        let active = self.going(session, operation)?;
        if active.parts {
            return Err(Error::Rv(rv::OPERATION_ACTIVE));
        }
        let most = active.output(operation, data.len())? as u64;
        if operation != Operation::Verify && room.is_none() {
            return Err(Error::TooSmall(most));
        }
        // Another copy, which can be thrown away if the result does not fit.
        let mut copy = Active { state: active.state.clone(), parts: false, wants_pin: false };
        let result = copy.update(data).and_then(|mut begin| {
            begin.extend(self.tools.finish(operation, copy.state, signature)?);
            Ok(begin)
        });
        let result = result.and_then(|bytes| answer(operation, bytes, room));
        self.end(session, operation, result)
    }

    pub(super) fn update(
        &mut self,
        session: u64,
        operation: Operation,
        data: &[u8],
        room: Option<u64>,
    ) -> Response {
        let active = self.going(session, operation)?;
        if let State::Cipher(cipher) = &active.state {
            let needed = cipher.output(data.len(), false) as u64;
            if room.is_none_or(|room| room < needed) {
                return Err(Error::TooSmall(needed));
            }
        } else if let (Operation::Encrypt | Operation::Decrypt, None) = (operation, room) {
            return Err(Error::TooSmall(0));
        }
        active.parts = true;
        match active.update(data) {
            Ok(bytes) => Ok(Answer::Bytes(bytes)),
            Err(error) => self.end(session, operation, Err(error)),
        }
    }

    pub(super) fn finish(
        &mut self,
        session: u64,
        operation: Operation,
        signature: &[u8],
        room: Option<u64>,
    ) -> Response {
        let active = self.going(session, operation)?;
        let most = active.output(operation, 0)? as u64;
        if operation != Operation::Verify && room.is_none() {
            return Err(Error::TooSmall(most));
        }
        let state = active.state.clone();
        let result = self.tools.finish(operation, state, signature);
        let result = result.and_then(|bytes| answer(operation, bytes, room));
        self.end(session, operation, result)
    }

    pub(super) fn digest_key(&mut self, session: u64, key: u64) -> Response {
        self.session(session)?;
        let key = self.key(key, rv::KEY_HANDLE_INVALID)?;
        let secret = key.secret().ok_or(Error::Rv(rv::KEY_INDIGESTIBLE))?;
        // A digest of part of a key is the key, sooner or later.
        if key.flag(attribute::SENSITIVE) || !key.flag(attribute::EXTRACTABLE) {
            return Err(Error::Rv(rv::KEY_INDIGESTIBLE));
        }
        let secret = zeroize::Zeroizing::new(secret.to_vec());
        let active = self.active(session, Operation::Digest)?;
        active.parts = true;
        active.update(&secret).map(|_| Answer::Done)
    }
}

fn answer(operation: Operation, bytes: alloc::vec::Vec<u8>, room: Option<u64>) -> Response {
    if operation == Operation::Verify { Ok(Answer::Done) } else { fits(bytes, room) }
}
