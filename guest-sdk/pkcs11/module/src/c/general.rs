//! General-purpose functions.

use crate::memory::{padded, put};
use crate::outcome::{Rv, rv};
use crate::{lists, process};
use cryptoki_sys::*;
use std::os::raw::c_void;

/// `CK_INFO` and the like: who made this.
pub const MANUFACTURER: &[u8] = b"TrustVisor";
/// The library's, and S's, version.
pub const VERSION: CK_VERSION = CK_VERSION { major: 0, minor: 1 };

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_Initialize(args: *mut c_void) -> CK_RV {
    // SAFETY: null or the arguments, says the application.
    rv(unsafe { (args as *const CK_C_INITIALIZE_ARGS).as_ref() }
        .map_or(Ok(()), check)
        .and_then(|()| process::initialise()))
}

/// Locks are the OS's: who wants only others gets none.
fn check(args: &CK_C_INITIALIZE_ARGS) -> Result<(), Rv> {
    let given = [
        args.CreateMutex.is_some(),
        args.DestroyMutex.is_some(),
        args.LockMutex.is_some(),
        args.UnlockMutex.is_some(),
    ];
    if !args.pReserved.is_null() || given.contains(&true) && given.contains(&false) {
        return Err(CKR_ARGUMENTS_BAD);
    }
    if given.contains(&true) && args.flags & CKF_OS_LOCKING_OK == 0 {
        return Err(CKR_CANT_LOCK);
    }
    Ok(())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    if !reserved.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    rv(process::finalise())
}

/// `C_GetInfo` of the list of v2.40.
///
/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    // SAFETY: as the application says.
    rv(unsafe { get_info(info, lists::V2_40) })
}

/// `C_GetInfo` of the list of v3.0.
///
/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetInfo_3_0(info: *mut CK_INFO) -> CK_RV {
    // SAFETY: as the application says.
    rv(unsafe { get_info(info, lists::V3_0) })
}

unsafe fn get_info(info: *mut CK_INFO, version: CK_VERSION) -> Result<(), Rv> {
    process::slots()?;
    let said = CK_INFO {
        cryptokiVersion: version,
        manufacturerID: padded(MANUFACTURER),
        flags: 0,
        libraryDescription: padded(b"PKCS#11 token in S"),
        libraryVersion: VERSION,
    };
    // SAFETY: as the application says.
    unsafe { put(info, said) }
}

/// The functions of v2.40.
///
/// # Safety
/// `list` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: as the application says.
    rv(unsafe { put(list, (&raw const lists::LIST_2_40).cast_mut()) })
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_GetFunctionStatus(_session: CK_SESSION_HANDLE) -> CK_RV {
    not_parallel()
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_CancelFunction(_session: CK_SESSION_HANDLE) -> CK_RV {
    not_parallel()
}

fn not_parallel() -> CK_RV {
    rv(process::slots().and(Err(CKR_FUNCTION_NOT_PARALLEL)))
}
