//! The interfaces of version 3, and the functions that are about sessions as a whole.

use std::ffi::CStr;
use std::ptr;

use cryptoki_sys::*;

use super::functions::{interface, interfaces, open, plain, raw, rsa_pair, user};
use super::{USER_PIN, new_token};

#[test]
fn every_version_has_an_interface() {
    let versions: Vec<_> = interfaces()
        .into_iter()
        .map(|interface| {
            assert_eq!(interface.flags, 0);
            // SAFETY: the name ends with NUL, and each list begins with a version.
            #[allow(unsafe_code)]
            let (name, version) = unsafe {
                (
                    CStr::from_ptr(interface.pInterfaceName.cast()),
                    *interface.pFunctionList.cast::<CK_VERSION>(),
                )
            };
            assert_eq!(name, c"PKCS 11");
            (version.major, version.minor)
        })
        .collect();
    assert_eq!(versions, [(3, 2), (3, 0), (2, 40)]);
    for version in versions {
        assert!(interface(Some(version), 0).is_ok());
    }
    assert_eq!(interface(Some((3, 1)), 0).map(|_| ()), Err(CKR_ARGUMENTS_BAD));
    assert_eq!(interface(None, CKF_INTERFACE_FORK_SAFE).map(|_| ()), Err(CKR_ARGUMENTS_BAD));
}

#[test]
fn each_list_says_its_own_version() {
    for interface in interfaces() {
        let mut info = CK_INFO::default();
        // SAFETY: all lists begin as that of 2.40 does, with `C_GetInfo` at the same place.
        #[allow(unsafe_code)]
        let (version, code) = unsafe {
            let list = &*interface.pFunctionList.cast::<CK_FUNCTION_LIST>();
            (list.version, list.C_GetInfo.unwrap()(&raw mut info))
        };
        assert_eq!(code, CKR_OK);
        let said = info.cryptokiVersion;
        assert_eq!((said.major, said.minor), (version.major, version.minor));
    }
}

#[test]
fn users_have_no_names() {
    let session = open(new_token("no names"));
    let mut pin = USER_PIN.as_bytes().to_vec();
    let mut name = *b"root";
    let len = pin.len() as CK_ULONG;
    let login = |pin: *mut u8, name: *mut u8, name_len| {
        raw!(C_LoginUser(session, CKU_USER, pin, len, name, name_len))
    };
    assert_eq!(login(pin.as_mut_ptr(), name.as_mut_ptr(), 4), CKR_ARGUMENTS_BAD);
    assert_eq!(login(pin.as_mut_ptr(), ptr::null_mut(), 0), CKR_OK);
    assert_eq!(login(pin.as_mut_ptr(), ptr::null_mut(), 0), CKR_USER_ALREADY_LOGGED_IN);
}

#[test]
fn operations_are_cancelled_by_kind() {
    let session = user("cancel");
    let (public, private) = rsa_pair(session, CK_FALSE);
    let mut sha256 = plain(CKM_SHA256);
    let mut rsa = plain(CKM_SHA256_RSA_PKCS);
    let mut raw_rsa = plain(CKM_RSA_PKCS);
    assert_eq!(raw!(C_DigestInit(session, &raw mut sha256)), CKR_OK);
    assert_eq!(raw!(C_SignInit(session, &raw mut rsa, private)), CKR_OK);
    assert_eq!(raw!(C_SignRecoverInit(session, &raw mut raw_rsa, private)), CKR_OK);
    assert_eq!(raw!(C_MessageVerifyInit(session, &raw mut rsa, public)), CKR_OK);
    assert_eq!(raw!(C_FindObjectsInit(session, ptr::null_mut(), 0)), CKR_OK);

    assert_eq!(raw!(C_SessionCancel(session, CKF_SIGN | CKF_FIND_OBJECTS | CKF_ENCRYPT)), CKR_OK);
    assert_eq!(raw!(C_FindObjectsFinal(session)), CKR_OPERATION_NOT_INITIALIZED);
    assert_eq!(raw!(C_SignInit(session, &raw mut rsa, private)), CKR_OK);
    // The others go on.
    assert_eq!(raw!(C_DigestInit(session, &raw mut sha256)), CKR_OPERATION_ACTIVE);
    assert_eq!(raw!(C_SignRecoverInit(session, &raw mut raw_rsa, private)), CKR_OPERATION_ACTIVE);
    assert_eq!(raw!(C_MessageVerifyFinal(session)), CKR_OK);
    assert_eq!(raw!(C_SessionCancel(session, CKF_DIGEST | CKF_SIGN_RECOVER)), CKR_OK);
    assert_eq!(raw!(C_DigestInit(session, &raw mut sha256)), CKR_OK);
    assert_eq!(raw!(C_SignRecoverInit(session, &raw mut raw_rsa, private)), CKR_OK);
}

#[test]
fn there_are_no_asynchronous_sessions() {
    let slot = new_token("asynchronous");
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_ASYNC_SESSION;
    assert_eq!(
        raw!(C_OpenSession(slot.id(), flags, ptr::null_mut(), None, &raw mut session)),
        CKR_SESSION_ASYNC_NOT_SUPPORTED
    );
    let session = open(slot);
    let mut function = *b"C_Sign\0";
    let mut data = CK_ASYNC_DATA::default();
    assert_eq!(
        raw!(C_AsyncComplete(session, function.as_mut_ptr(), &raw mut data)),
        CKR_SESSION_ASYNC_NOT_SUPPORTED
    );
    let mut flags = 1;
    assert_eq!(raw!(C_GetSessionValidationFlags(session, CKS_LAST_VALIDATION_OK, &raw mut flags)), CKR_OK);
    assert_eq!(flags, 0);
    assert_eq!(raw!(C_GetSessionValidationFlags(session, 99, &raw mut flags)), CKR_ARGUMENTS_BAD);
}
