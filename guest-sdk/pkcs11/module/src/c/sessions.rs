//! Sessions and PINs.

use super::slots::pin_bytes;
use super::{ask, ask_done};
use crate::memory::put;
use crate::outcome::{Rv, plain, rv};
use crate::process::{self, SLOTS};
use cryptoki_sys::*;
use std::os::raw::c_void;
use token::protocol::{Answer, Operation, Request, User};

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let work = || {
        let slot = process::slot(slot)?;
        if flags & CKF_SERIAL_SESSION == 0 {
            return Err(CKR_SESSION_PARALLEL_NOT_SUPPORTED);
        }
        if session.is_null() {
            return Err(CKR_ARGUMENTS_BAD);
        }
        let handle = slot.open_session(flags & CKF_RW_SESSION != 0)?;
        // SAFETY: as the application says.
        unsafe { put(session, handle) }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    rv(process::slot_of(session).and_then(|slot| slot.close_session(session)))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    rv(process::slot(slot).and_then(|slot| slot.close_all_sessions()))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) -> CK_RV {
    let said = || match ask(session, |session| Request::SessionInfo { session }).map_err(plain)? {
        Answer::Session(said) => Ok(CK_SESSION_INFO {
            slotID: session % SLOTS as u64,
            state: said.state,
            flags: said.flags,
            ulDeviceError: 0,
        }),
        _ => Err(CKR_GENERAL_ERROR),
    };
    // SAFETY: as the application says.
    rv(said().and_then(|said| unsafe { put(info, said) }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_InitPIN(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    // SAFETY: as the application says.
    let pin = process::slots().and_then(|_| unsafe { pin_bytes(pin, length) });
    rv(pin.and_then(|pin| ask_done(session, |session| Request::InitPin { session, pin })))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_length: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_length: CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slots()?;
        // SAFETY: as the application says.
        let (old, new) = unsafe { (pin_bytes(old, old_length)?, pin_bytes(new, new_length)?) };
        ask_done(session, |session| Request::SetPin { session, old, new })
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    // SAFETY: as the application says.
    rv(unsafe { login(session, user, pin, length) })
}

/// `C_LoginUser`: the token's users have no names, so an empty one is theirs.
///
/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
    _name: *mut CK_UTF8CHAR,
    name_length: CK_ULONG,
) -> CK_RV {
    if name_length != 0 {
        return rv(process::slots().and(Err(CKR_ARGUMENTS_BAD)));
    }
    // SAFETY: as the application says.
    rv(unsafe { login(session, user, pin, length) })
}

unsafe fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *const CK_UTF8CHAR,
    length: CK_ULONG,
) -> Result<(), Rv> {
    process::slots()?;
    let user = match user {
        CKU_SO => User::SecurityOfficer,
        CKU_USER => User::User,
        CKU_CONTEXT_SPECIFIC => User::ContextSpecific,
        _ => return Err(CKR_USER_TYPE_INVALID),
    };
    // SAFETY: as the caller vouches.
    let pin = unsafe { pin_bytes(pin, length) }?;
    ask_done(session, |session| Request::Login { session, user, pin })
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_Logout(session: CK_SESSION_HANDLE) -> CK_RV {
    rv(ask_done(session, |session| Request::Logout { session }))
}

/// `C_SessionCancel`: ends what the flags name, and is content if it has ended already.
///
/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> CK_RV {
    let work = || {
        process::slot_of(session)?.with(|token| {
            let session = token.session(session)?;
            if flags & CKF_FIND_OBJECTS != 0 {
                session.found = None;
            }
            Ok(())
        })?;
        let operations = [
            (CKF_ENCRYPT, Operation::Encrypt),
            (CKF_DECRYPT, Operation::Decrypt),
            (CKF_DIGEST, Operation::Digest),
            (CKF_SIGN, Operation::Sign),
            (CKF_VERIFY, Operation::Verify),
        ];
        for (flag, operation) in operations {
            if flags & flag != 0 {
                match ask_done(session, |session| Request::Cancel { session, operation }) {
                    Ok(()) | Err(CKR_OPERATION_NOT_INITIALIZED) => {}
                    Err(rv) => return Err(rv),
                }
            }
        }
        Ok(())
    };
    rv(work())
}
