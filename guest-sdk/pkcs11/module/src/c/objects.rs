//! Objects and their attributes.

use super::{ask, ask_done, ask_handle};
use crate::memory::{put, put_list};
use crate::outcome::{Rv, plain, rv};
use crate::process;
use crate::template;
use cryptoki_sys::*;
use token::protocol::{Answer, Request};

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let work = || {
        process::slots()?;
        room_for(object)?;
        // SAFETY: as the application says.
        let template = unsafe { template::read(attributes, count) }?;
        let handle = ask_handle(session, |session| Request::CreateObject { session, template })?;
        // SAFETY: the same.
        unsafe { put(object, handle) }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_CopyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let work = || {
        process::slots()?;
        room_for(copy)?;
        // SAFETY: as the application says.
        let template = unsafe { template::read(attributes, count) }?;
        let handle = ask_handle(session, |session| Request::CopyObject { session, object, template })?;
        // SAFETY: the same.
        unsafe { put(copy, handle) }
    };
    rv(work())
}

/// Nothing is made whose handle nobody learns.
pub fn room_for(handle: *mut CK_OBJECT_HANDLE) -> Result<(), Rv> {
    if handle.is_null() { Err(CKR_ARGUMENTS_BAD) } else { Ok(()) }
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    rv(ask_done(session, |session| Request::DestroyObject { session, object }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetObjectSize(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    size: *mut CK_ULONG,
) -> CK_RV {
    let said = ask_handle(session, |session| Request::ObjectSize { session, object });
    // SAFETY: as the application says.
    rv(said.and_then(|said| unsafe { put(size, said) }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slots()?;
        if attributes.is_null() {
            return Err(CKR_ARGUMENTS_BAD);
        }
        // SAFETY: as the application says.
        let asked = unsafe { template::attributes(attributes, count) }?;
        let types = asked.iter().map(|attribute| attribute.type_).collect();
        match ask(session, |session| Request::GetAttributes { session, object, types }).map_err(plain)? {
            // SAFETY: the same.
            Answer::Attributes(values) => unsafe { template::fill(attributes, &asked, &values) },
            _ => Err(CKR_GENERAL_ERROR),
        }
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_SetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slots()?;
        if attributes.is_null() {
            return Err(CKR_ARGUMENTS_BAD);
        }
        // SAFETY: as the application says.
        let template = unsafe { template::read(attributes, count) }?;
        ask_done(session, |session| Request::SetAttributes { session, object, template })
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let work = || {
        let slot = process::slot_of(session)?;
        // SAFETY: as the application says.
        let template = unsafe { template::read(attributes, count) }?;
        slot.with(|token| {
            let known = token.session(session)?;
            if known.found.is_some() {
                return Err(CKR_OPERATION_ACTIVE);
            }
            let request = Request::FindObjects { session: known.handle, template };
            let found = token.ask(request).and_then(crate::outcome::handles).map_err(plain)?;
            token.session(session)?.found = Some(found.into());
            Ok(())
        })
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    let work = || {
        let slot = process::slot_of(session)?;
        if count.is_null() || objects.is_null() && most != 0 {
            return Err(CKR_ARGUMENTS_BAD);
        }
        slot.with(|token| {
            let found = token.session(session)?.found.as_mut().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
            let some: Vec<_> = found.drain(..found.len().min(most as usize)).collect();
            let mut length = some.len() as CK_ULONG;
            // SAFETY: there is room for `most`, as the application says, and these are not more.
            unsafe { put_list(objects, &mut length, &some) }?;
            // SAFETY: as the application says.
            unsafe { put(count, length) }
        })
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    let work = || {
        process::slot_of(session)?.with(|token| {
            let found = token.session(session)?.found.take();
            found.map(|_| ()).ok_or(CKR_OPERATION_NOT_INITIALIZED)
        })
    };
    rv(work())
}
