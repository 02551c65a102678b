//! An application in C's place: it has the function list and a folder of its own, in a process of its own.

#![allow(dead_code, missing_docs)]

use cryptoki_sys::*;
use std::os::raw::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

pub const OFFICER: &[u8] = b"87654321";
pub const USER: &[u8] = b"1234";

/// Calls a function of the list, which has them all.
#[macro_export]
macro_rules! c {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let function = $crate::common::list().$name.unwrap();
        // SAFETY: the arguments are what the standard wants, or null where that is being tried.
        #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)]
        unsafe { function($($argument),*) }
    }};
}

pub fn list() -> &'static CK_FUNCTION_LIST {
    let mut list = null_mut();
    // SAFETY: there is room for a pointer.
    assert_eq!(unsafe { trustvisor_pkcs11::C_GetFunctionList(&mut list) }, CKR_OK);
    // SAFETY: the list is static.
    unsafe { &*list }
}

/// Runs the work in a child, and says how that ends: 0 is well.
pub fn child(work: impl FnOnce()) -> i32 {
    // SAFETY: the child does its work and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: runs nothing of the parent's.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = -1;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 1000 + status }
}

/// Runs a test in a process of its own, with a folder of its own.
pub fn alone(test: impl FnOnce(&Path)) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let status = child(|| {
        // SAFETY: the child has one thread.
        unsafe { std::env::set_var("TRUSTVISOR_TOKENS", folder.path()) };
        test(folder.path());
    });
    assert_eq!(status, 0);
}

pub fn initialize() {
    assert_eq!(c!(C_Initialize(null_mut())), CKR_OK);
}

pub fn finalize() {
    assert_eq!(c!(C_Finalize(null_mut())), CKR_OK);
}

pub fn mutable(bytes: &[u8]) -> *mut u8 {
    bytes.as_ptr().cast_mut()
}

pub fn init_token(slot: CK_SLOT_ID, label: &str) -> CK_RV {
    let label = format!("{label:32}");
    c!(C_InitToken(slot, mutable(OFFICER), OFFICER.len() as u64, mutable(label.as_bytes())))
}

pub fn open(slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    assert_eq!(c!(C_OpenSession(slot, flags, null_mut(), None, &mut session)), CKR_OK);
    session
}

pub fn login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: &[u8]) -> CK_RV {
    c!(C_Login(session, user, mutable(pin), pin.len() as u64))
}

/// Initialises, with a token whose user has a PIN and is logged in.
pub fn ready() -> CK_SESSION_HANDLE {
    initialize();
    assert_eq!(init_token(0, "test"), CKR_OK);
    let session = open(0);
    assert_eq!(login(session, CKU_SO, OFFICER), CKR_OK);
    assert_eq!(c!(C_InitPIN(session, mutable(USER), USER.len() as u64)), CKR_OK);
    assert_eq!(c!(C_Logout(session)), CKR_OK);
    assert_eq!(login(session, CKU_USER, USER), CKR_OK);
    session
}

pub fn attribute<T: ?Sized>(kind: CK_ATTRIBUTE_TYPE, value: &T) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE {
        type_: kind,
        pValue: (&raw const *value).cast::<c_void>().cast_mut(),
        ulValueLen: size_of_val(value) as u64,
    }
}

pub fn mechanism(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: null_mut(), ulParameterLen: 0 }
}

/// A data object.
pub fn create(session: CK_SESSION_HANDLE, label: &str, token: CK_BBOOL) -> CK_RV {
    let mut template = [
        attribute(CKA_CLASS, &CKO_DATA),
        attribute(CKA_TOKEN, &token),
        attribute(CKA_PRIVATE, &CK_FALSE),
        attribute(CKA_LABEL, label.as_bytes()),
        attribute(CKA_VALUE, b"value".as_slice()),
    ];
    let mut object = 0;
    c!(C_CreateObject(session, template.as_mut_ptr(), template.len() as u64, &mut object))
}

/// The objects that have these attributes, a few at a time.
pub fn find(session: CK_SESSION_HANDLE, template: &[CK_ATTRIBUTE]) -> Vec<CK_OBJECT_HANDLE> {
    let count = template.len() as u64;
    assert_eq!(c!(C_FindObjectsInit(session, template.as_ptr().cast_mut(), count)), CKR_OK);
    let mut found = Vec::new();
    loop {
        let (mut some, mut count) = ([0; 3], 0);
        assert_eq!(c!(C_FindObjects(session, some.as_mut_ptr(), 3, &mut count)), CKR_OK);
        if count == 0 {
            break;
        }
        found.extend(&some[..count as usize]);
    }
    assert_eq!(c!(C_FindObjectsFinal(session)), CKR_OK);
    found
}

/// How many data objects have this label.
pub fn count(session: CK_SESSION_HANDLE, label: &str) -> usize {
    find(session, &[attribute(CKA_CLASS, &CKO_DATA), attribute(CKA_LABEL, label.as_bytes())]).len()
}

/// An AES key of the session's.
pub fn aes(session: CK_SESSION_HANDLE) -> CK_OBJECT_HANDLE {
    let mut mechanism = mechanism(CKM_AES_KEY_GEN);
    let mut template = [
        attribute(CKA_VALUE_LEN, &16u64),
        attribute(CKA_ENCRYPT, &CK_TRUE),
        attribute(CKA_DECRYPT, &CK_TRUE),
    ];
    let mut key = 0;
    let count = template.len() as u64;
    assert_eq!(c!(C_GenerateKey(session, &mut mechanism, template.as_mut_ptr(), count, &mut key)), CKR_OK);
    key
}
