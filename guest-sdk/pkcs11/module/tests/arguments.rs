//! What an application may get wrong, and what it may leave open.

mod common;

use common::*;
use cryptoki_sys::*;
use std::ptr::null_mut;

#[test]
fn nothing_works_before_initialize_and_after_finalize() {
    alone(|_| {
        for _ in 0..2 {
            let mut number = 0;
            assert_eq!(c!(C_GetInfo(null_mut())), CKR_CRYPTOKI_NOT_INITIALIZED);
            assert_eq!(c!(C_GetSlotList(0, null_mut(), &mut number)), CKR_CRYPTOKI_NOT_INITIALIZED);
            assert_eq!(c!(C_OpenSession(0, 4, null_mut(), None, &mut number)), CKR_CRYPTOKI_NOT_INITIALIZED);
            assert_eq!(c!(C_Login(4, 1, null_mut(), 0)), CKR_CRYPTOKI_NOT_INITIALIZED);
            assert_eq!(c!(C_Sign(4, null_mut(), 0, null_mut(), &mut number)), CKR_CRYPTOKI_NOT_INITIALIZED);
            assert_eq!(c!(C_GetOperationState(4, null_mut(), null_mut())), CKR_CRYPTOKI_NOT_INITIALIZED);
            assert_eq!(c!(C_Finalize(null_mut())), CKR_CRYPTOKI_NOT_INITIALIZED);
            initialize();
            assert_eq!(c!(C_Initialize(null_mut())), CKR_CRYPTOKI_ALREADY_INITIALIZED);
            finalize();
        }
    });
}

#[test]
fn locks_are_the_os_s() {
    unsafe extern "C" fn lock(_: *mut std::os::raw::c_void) -> CK_RV {
        CKR_OK
    }
    unsafe extern "C" fn create(_: *mut *mut std::os::raw::c_void) -> CK_RV {
        CKR_OK
    }
    alone(|_| {
        let mut args = CK_C_INITIALIZE_ARGS {
            CreateMutex: Some(create),
            DestroyMutex: Some(lock),
            LockMutex: Some(lock),
            UnlockMutex: Some(lock),
            flags: 0,
            pReserved: null_mut(),
        };
        assert_eq!(c!(C_Initialize((&raw mut args).cast())), CKR_CANT_LOCK);
        args.flags = CKF_OS_LOCKING_OK;
        assert_eq!(c!(C_Initialize((&raw mut args).cast())), CKR_OK);
        finalize();
        args.LockMutex = None;
        assert_eq!(c!(C_Initialize((&raw mut args).cast())), CKR_ARGUMENTS_BAD);
        args = CK_C_INITIALIZE_ARGS { flags: CKF_OS_LOCKING_OK, ..Default::default() };
        assert_eq!(c!(C_Initialize((&raw mut args).cast())), CKR_OK);
    });
}

#[test]
fn null_pointers_are_bad_arguments() {
    alone(|_| {
        let session = ready();
        let (mut number, mut aes_ecb) = (0, mechanism(CKM_AES_ECB));
        let bad = CKR_ARGUMENTS_BAD;
        assert_eq!(c!(C_GetInfo(null_mut())), bad);
        assert_eq!(c!(C_GetSlotList(0, null_mut(), null_mut())), bad);
        assert_eq!(c!(C_GetSlotInfo(0, null_mut())), bad);
        assert_eq!(c!(C_GetTokenInfo(0, null_mut())), bad);
        assert_eq!(c!(C_GetMechanismList(0, null_mut(), null_mut())), bad);
        assert_eq!(c!(C_GetMechanismInfo(0, CKM_AES_ECB, null_mut())), bad);
        assert_eq!(c!(C_InitToken(0, null_mut(), 0, null_mut())), bad);
        assert_eq!(c!(C_InitPIN(session, null_mut(), 4)), bad);
        assert_eq!(c!(C_SetPIN(session, null_mut(), 4, null_mut(), 4)), bad);
        assert_eq!(c!(C_OpenSession(0, CKF_SERIAL_SESSION, null_mut(), None, null_mut())), bad);
        assert_eq!(c!(C_GetSessionInfo(session, null_mut())), bad);
        assert_eq!(c!(C_Login(session, CKU_USER, null_mut(), 4)), bad);
        assert_eq!(c!(C_CreateObject(session, null_mut(), 1, &mut number)), bad);
        assert_eq!(c!(C_CreateObject(session, null_mut(), 0, null_mut())), bad);
        assert_eq!(c!(C_CopyObject(session, 1, null_mut(), 1, &mut number)), bad);
        assert_eq!(c!(C_GetAttributeValue(session, 1, null_mut(), 1)), bad);
        assert_eq!(c!(C_SetAttributeValue(session, 1, null_mut(), 1)), bad);
        assert_eq!(c!(C_FindObjectsInit(session, null_mut(), 1)), bad);
        assert_eq!(c!(C_FindObjects(session, null_mut(), 1, &mut number)), bad);
        assert_eq!(c!(C_FindObjects(session, null_mut(), 0, null_mut())), bad);
        let key = aes(session);
        assert_eq!(c!(C_GetObjectSize(session, key, null_mut())), bad);
        assert_eq!(c!(C_EncryptInit(session, &mut aes_ecb, key)), CKR_OK);
        assert_eq!(c!(C_Encrypt(session, null_mut(), 16, null_mut(), &mut number)), bad);
        assert_eq!(c!(C_Encrypt(session, null_mut(), 0, null_mut(), null_mut())), bad);
        assert_eq!(c!(C_EncryptUpdate(session, null_mut(), 16, null_mut(), &mut number)), bad);
        assert_eq!(c!(C_EncryptFinal(session, null_mut(), null_mut())), bad);
        assert_eq!(c!(C_GenerateKey(session, null_mut(), null_mut(), 0, &mut number)), bad);
        assert_eq!(c!(C_GenerateKey(session, &mut aes_ecb, null_mut(), 0, null_mut())), bad);
        assert_eq!(c!(C_WrapKey(session, null_mut(), 1, 1, null_mut(), &mut number)), bad);
        assert_eq!(c!(C_DeriveKey(session, null_mut(), 1, null_mut(), 0, &mut number)), bad);
        assert_eq!(c!(C_SeedRandom(session, null_mut(), 1)), bad);
        assert_eq!(c!(C_GenerateRandom(session, null_mut(), 1)), bad);
        // A parameter that is shorter than its structure, or nowhere.
        let mut pss =
            CK_MECHANISM { mechanism: CKM_RSA_PKCS_PSS, pParameter: null_mut(), ulParameterLen: 24 };
        assert_eq!(c!(C_SignInit(session, &mut pss, key)), CKR_MECHANISM_PARAM_INVALID);
        pss.pParameter = (&raw mut number).cast();
        pss.ulParameterLen = 8;
        assert_eq!(c!(C_SignInit(session, &mut pss, key)), CKR_MECHANISM_PARAM_INVALID);
        // A template in a template.
        let inner = [attribute(CKA_LABEL, b"x".as_slice())];
        let mut outer = [attribute(CKA_CLASS, &CKO_DATA), attribute(CKA_WRAP_TEMPLATE, &inner)];
        assert_eq!(
            c!(C_CreateObject(session, outer.as_mut_ptr(), 2, &mut number)),
            CKR_ATTRIBUTE_TYPE_INVALID
        );
    });
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    alone(|_| {
        let session = ready();
        let (mut number, mut info) = (0, CK_SLOT_INFO::default());
        assert_eq!(c!(C_GetSlotInfo(4, &mut info)), CKR_SLOT_ID_INVALID);
        assert_eq!(c!(C_GetSlotInfo(u64::MAX, &mut info)), CKR_SLOT_ID_INVALID);
        assert_eq!(c!(C_Logout(session + 4)), CKR_SESSION_HANDLE_INVALID);
        assert_eq!(c!(C_Logout(0)), CKR_SESSION_HANDLE_INVALID);
        assert_eq!(c!(C_CloseSession(session + 4)), CKR_SESSION_HANDLE_INVALID);
        assert_eq!(
            c!(C_OpenSession(0, 0, null_mut(), None, &mut number)),
            CKR_SESSION_PARALLEL_NOT_SUPPORTED
        );
        assert_eq!(c!(C_Login(session, 9, mutable(USER), 4)), CKR_USER_TYPE_INVALID);
        assert_eq!(c!(C_GetMechanismInfo(0, 0x7777, &mut Default::default())), CKR_MECHANISM_INVALID);
        assert_eq!(c!(C_FindObjectsFinal(session)), CKR_OPERATION_NOT_INITIALIZED);
        assert_eq!(c!(C_WaitForSlotEvent(CKF_DONT_BLOCK, &mut number, null_mut())), CKR_NO_EVENT);
        assert_eq!(c!(C_GetFunctionStatus(session)), CKR_FUNCTION_NOT_PARALLEL);
        assert_eq!(c!(C_CloseSession(session)), CKR_OK);
        assert_eq!(c!(C_CloseSession(session)), CKR_SESSION_HANDLE_INVALID);
    });
}

#[test]
fn both_versions_have_their_interface() {
    alone(|_| {
        initialize();
        let (mut interfaces, mut count) = ([CK_INTERFACE::default(); 2], 0);
        // SAFETY: there is room for as many as said.
        unsafe {
            assert_eq!(trustvisor_pkcs11::C_GetInterfaceList(null_mut(), &mut count), CKR_OK);
            assert_eq!(count, 2);
            count = 1;
            let list = interfaces.as_mut_ptr();
            assert_eq!(trustvisor_pkcs11::C_GetInterfaceList(list, &mut count), CKR_BUFFER_TOO_SMALL);
            assert_eq!(trustvisor_pkcs11::C_GetInterfaceList(list, &mut count), CKR_OK);
        }
        let get = |name: *mut u8, version: Option<CK_VERSION>, flags| {
            let mut interface = null_mut();
            let mut version = version;
            let version = version.as_mut().map_or(null_mut(), |version| version as *mut _);
            // SAFETY: null, or what it is said to be.
            let rv = unsafe { trustvisor_pkcs11::C_GetInterface(name, version, &mut interface, flags) };
            // SAFETY: an interface, if there is one.
            (rv == CKR_OK).then(|| unsafe { *((*interface).pFunctionList as *const CK_VERSION) })
        };
        let three = CK_VERSION { major: 3, minor: 0 };
        let name = mutable(b"PKCS 11\0");
        assert_eq!(get(null_mut(), None, 0).unwrap().major, 2);
        assert_eq!(get(name, None, CKF_INTERFACE_FORK_SAFE).unwrap().major, 2);
        assert_eq!(get(name, Some(three), 0).unwrap().major, 3);
        assert!(get(name, Some(CK_VERSION { major: 3, minor: 2 }), 0).is_none());
        assert!(get(mutable(b"Vendor\0"), None, 0).is_none());
        assert!(get(name, None, 1 << 9).is_none());
        // SAFETY: the second interface is v3.0's list.
        let list = unsafe { &*(interfaces[1].pFunctionList as *const CK_FUNCTION_LIST_3_0) };
        let mut info = CK_INFO::default();
        // SAFETY: the functions of the list, with room for what they answer.
        unsafe {
            assert_eq!(list.C_GetInfo.unwrap()(&mut info), CKR_OK);
            assert_eq!(list.C_MessageSignFinal.unwrap()(4), CKR_FUNCTION_NOT_SUPPORTED);
            assert_eq!(list.C_SessionCancel.unwrap()(4, CKF_SIGN), CKR_SESSION_HANDLE_INVALID);
        }
        assert_eq!(info.cryptokiVersion.major, 3);
        assert_eq!(c!(C_GetInfo(&mut info)), CKR_OK);
        assert_eq!(info.cryptokiVersion.major, 2);
    });
}
