//! Keys: generated, wrapped, derived. And random numbers.

use super::objects::room_for;
use super::{ask, ask_handle};
use crate::memory::{MOST, copy, put, put_bytes, write};
use crate::outcome::{bytes, handles, plain, rv};
use crate::{parameter, process, template};
use cryptoki_sys::*;
use token::protocol::Request;

/// Most random bytes of one request.
const RANDOM: usize = 4096;

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let work = || {
        process::slots()?;
        room_for(key)?;
        // SAFETY: as the application says.
        let (mechanism, template) =
            unsafe { (parameter::read(mechanism)?, template::read(attributes, count)?) };
        let handle = ask_handle(session, |session| Request::GenerateKey { session, mechanism, template })?;
        // SAFETY: the same.
        unsafe { put(key, handle) }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let work = || {
        process::slots()?;
        room_for(public_key)?;
        room_for(private_key)?;
        // SAFETY: as the application says.
        let mechanism = unsafe { parameter::read(mechanism) }?;
        // SAFETY: the same.
        let (public, private) =
            unsafe { (template::read(public, public_count)?, template::read(private, private_count)?) };
        let request = |session| Request::GenerateKeyPair { session, mechanism, public, private };
        let [public, private] = ask(session, request).and_then(handles).map_err(plain)?[..] else {
            return Err(CKR_GENERAL_ERROR);
        };
        // SAFETY: the same.
        unsafe {
            put(public_key, public)?;
            put(private_key, private)
        }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    out: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slots()?;
        // SAFETY: as the application says.
        let mechanism = unsafe { parameter::read(mechanism) }?;
        let wrap = |room| {
            let request = |session| Request::WrapKey { session, mechanism, wrapping, key, room };
            ask(session, request).and_then(bytes)
        };
        // SAFETY: the same.
        unsafe { put_bytes(out, length, wrap) }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let work = || {
        process::slots()?;
        room_for(key)?;
        // SAFETY: as the application says.
        let (mechanism, data) = unsafe { (parameter::read(mechanism)?, copy(data, length)?) };
        // SAFETY: the same.
        let template = unsafe { template::read(attributes, count) }?;
        let request = |session| Request::UnwrapKey { session, mechanism, unwrapping, data, template };
        let handle = ask_handle(session, request)?;
        // SAFETY: the same.
        unsafe { put(key, handle) }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_DeriveKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let work = || {
        process::slots()?;
        room_for(key)?;
        // SAFETY: as the application says.
        let (mechanism, template) =
            unsafe { (parameter::read(mechanism)?, template::read(attributes, count)?) };
        let request = |session| Request::DeriveKey { session, mechanism, key: base, template };
        let handle = ask_handle(session, request)?;
        // SAFETY: the same.
        unsafe { put(key, handle) }
    };
    rv(work())
}

/// S needs no seed, least of all one of the OS's: this one is taken and left.
///
/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_SeedRandom(
    session: CK_SESSION_HANDLE,
    seed: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slot_of(session)?.with(|token| token.session(session).map(|_| ()))?;
        if seed.is_null() && length != 0 { Err(CKR_ARGUMENTS_BAD) } else { Ok(()) }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slots()?;
        if out.is_null() || length > MOST {
            return Err(CKR_ARGUMENTS_BAD);
        }
        let length = length as usize;
        // Once even for none: it says whether there is such a session.
        for done in (0..length.max(1)).step_by(RANDOM) {
            let some = (length - done).min(RANDOM);
            let request = |session| Request::Random { session, length: some as u64 };
            let random = ask(session, request).and_then(bytes).map_err(plain)?;
            if random.len() != some {
                return Err(CKR_GENERAL_ERROR);
            }
            // SAFETY: within the room that there is, as the application says.
            unsafe { write(out.add(done), &random) };
        }
        Ok(())
    };
    rv(work())
}
