//! The interfaces of v3.0: "PKCS 11" in two versions. The one without a version is v2.40, which is here as a whole; v3.0 lacks the functions
//! on messages.

use crate::lists;
use crate::memory::{put, put_list};
use crate::outcome::{Rv, rv};
use cryptoki_sys::*;
use std::ffi::CStr;

/// The interfaces.
///
/// # Safety
/// As `C_GetInterfaceList` wants its pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(list: *mut CK_INTERFACE, count: *mut CK_ULONG) -> CK_RV {
    let all = lists::INTERFACES.each_ref().map(|interface| interface.0);
    // SAFETY: as the application says.
    rv(unsafe { put_list(list, count, &all) })
}

/// The first interface of this name, version and these flags; null is any.
///
/// # Safety
/// As `C_GetInterface` wants its pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    // SAFETY: as the application says.
    rv(unsafe { find(name, version, flags) }
        // SAFETY: the same.
        .and_then(|found| unsafe { put(interface, (&raw const *found).cast_mut()) }))
}

unsafe fn find(
    name: *const CK_UTF8CHAR,
    version: *const CK_VERSION,
    flags: CK_FLAGS,
) -> Result<&'static CK_INTERFACE, Rv> {
    // SAFETY: null or text that ends with a zero byte, says the application.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name.cast()) });
    // SAFETY: null or a version, says the application.
    let version = unsafe { version.as_ref() };
    let found = lists::INTERFACES.iter().zip([lists::V2_40, lists::V3_0]).find(|(interface, has)| {
        name.is_none_or(|name| name == lists::NAME)
            && version.is_none_or(|v| (v.major, v.minor) == (has.major, has.minor))
            && interface.0.flags & flags == flags
    });
    found.map(|(interface, _)| &interface.0).ok_or(CKR_ARGUMENTS_BAD)
}
