//! Slots and tokens. A slot's number is its token's: those that are initialised are listed first, and then one that is not.

use super::general::{MANUFACTURER, VERSION};
use crate::backend::MODEL;
use crate::mechanisms;
use crate::memory::{copy, padded, put, put_list};
use crate::outcome::{Rv, rv};
use crate::process;
use cryptoki_sys::*;
use std::os::raw::c_void;
use token::protocol::{Answer, Request, TokenInfo};

/// Flags that say what S is counting at the moment; the module adds none of these.
const UNINITIALISED: CK_FLAGS = CKF_RNG | CKF_LOGIN_REQUIRED;

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetSlotList(
    _token_present: CK_BBOOL,
    list: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: as the application says.
    rv(slot_list().and_then(|slots| unsafe { put_list(list, count, &slots) }))
}

fn slot_list() -> Result<Vec<CK_SLOT_ID>, Rv> {
    let (mut slots, mut free) = (Vec::new(), None);
    for (number, slot) in process::slots()?.iter().enumerate() {
        if slot.with(|token| Ok(token.initialised()))? {
            slots.push(number as CK_SLOT_ID);
        } else {
            free.get_or_insert(number as CK_SLOT_ID);
        }
    }
    slots.extend(free);
    Ok(slots)
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    let said = || {
        process::slot(slot)?;
        Ok(CK_SLOT_INFO {
            slotDescription: padded(format!("TrustVisor slot {slot}").as_bytes()),
            manufacturerID: padded(MANUFACTURER),
            flags: CKF_TOKEN_PRESENT,
            hardwareVersion: VERSION,
            firmwareVersion: VERSION,
        })
    };
    // SAFETY: as the application says.
    rv(said().and_then(|said| unsafe { put(info, said) }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    // SAFETY: as the application says.
    rv(token_info(slot).and_then(|said| unsafe { put(info, said) }))
}

fn token_info(slot: CK_SLOT_ID) -> Result<CK_TOKEN_INFO, Rv> {
    let slot = process::slot(slot)?;
    let (initialised, writable) = slot.with(|token| Ok((token.initialised(), token.writable())))?;
    let mut token = TokenInfo {
        label: Vec::new(),
        serial: Vec::new(),
        flags: UNINITIALISED,
        sessions: 0,
        write_sessions: 0,
        pin: (4, 255),
    };
    // A token without a file is no reason for an S.
    if initialised {
        token = match slot.ask(Request::TokenInfo)? {
            Answer::Token(token) => token,
            _ => return Err(CKR_GENERAL_ERROR),
        };
    }
    Ok(CK_TOKEN_INFO {
        label: padded(&token.label),
        manufacturerID: padded(MANUFACTURER),
        model: padded(MODEL),
        serialNumber: padded(&token.serial),
        flags: token.flags | if writable { 0 } else { CKF_WRITE_PROTECTED },
        ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
        ulSessionCount: token.sessions,
        ulMaxRwSessionCount: CK_EFFECTIVELY_INFINITE,
        ulRwSessionCount: token.write_sessions,
        ulMaxPinLen: token.pin.1,
        ulMinPinLen: token.pin.0,
        ulTotalPublicMemory: crate::template::UNAVAILABLE,
        ulFreePublicMemory: crate::template::UNAVAILABLE,
        ulTotalPrivateMemory: crate::template::UNAVAILABLE,
        ulFreePrivateMemory: crate::template::UNAVAILABLE,
        hardwareVersion: VERSION,
        firmwareVersion: VERSION,
        utcTime: padded(b""),
    })
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: as the application says.
    rv(process::slot(slot).and_then(|_| unsafe { put_list(list, count, &mechanisms::list()) }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    let said = || {
        process::slot(slot)?;
        mechanisms::info(mechanism).ok_or(CKR_MECHANISM_INVALID)
    };
    // SAFETY: as the application says.
    rv(said().and_then(|said| unsafe { put(info, said) }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_InitToken(
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    pin_length: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    let work = || {
        let slot = process::slot(slot)?;
        // SAFETY: as the application says.
        let pin = unsafe { pin_bytes(pin, pin_length) }?;
        // SAFETY: the same; a label is 32 bytes.
        let label = unsafe { copy(label, 32) }?;
        match slot.ask(Request::InitToken { pin, label })? {
            Answer::Done => Ok(()),
            _ => Err(CKR_GENERAL_ERROR),
        }
    };
    rv(work())
}

/// A PIN; a null one would be typed on a keyboard of the token's own, which it does not have.
///
/// # Safety
/// Unless it is null, `pin` is as long as it says.
pub unsafe fn pin_bytes(pin: *const CK_UTF8CHAR, length: CK_ULONG) -> Result<Vec<u8>, Rv> {
    if pin.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    if length > 4096 {
        return Err(CKR_PIN_LEN_RANGE);
    }
    // SAFETY: as the caller vouches.
    unsafe { copy(pin, length) }
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    _slot: *mut CK_SLOT_ID,
    _reserved: *mut c_void,
) -> CK_RV {
    // Tokens come and go by functions of this library only: there is nothing to wait for.
    let event = if flags & CKF_DONT_BLOCK != 0 { CKR_NO_EVENT } else { CKR_FUNCTION_NOT_SUPPORTED };
    rv(process::slots().and(Err(event)))
}
