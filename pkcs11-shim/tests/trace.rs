//! Calls are traced on request, without secrets.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::ptr::null_mut;

use cryptoki_sys::*;
use hsm_pkcs11::exports::interfaces::C_GetInterfaceList;

#[test]
fn a_trace_has_calls_and_codes_and_no_secret() {
    let file = tempfile::tempdir().unwrap().keep().join("trace");
    // SAFETY: no other thread of this program runs yet.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("HSM_PKCS11_TRACE", &file);
    }
    let session = support::open(support::token());
    let mut wrong = *b"wrong-pin";
    assert_eq!(call!(C_Logout(session)), CKR_OK);
    assert_eq!(call!(C_Login(session, CKU_USER, wrong.as_mut_ptr(), 9)), CKR_PIN_INCORRECT);
    let mut sha256 = CK_MECHANISM { mechanism: CKM_SHA256, pParameter: null_mut(), ulParameterLen: 0 };
    assert_eq!(call!(C_DigestInit(session, &raw mut sha256)), CKR_OK);
    let (mut data, mut digest, mut len) = (*b"traced data", [0; 32], 31);
    let mut digest_of = |len| call!(C_Digest(session, data.as_mut_ptr(), 11, digest.as_mut_ptr(), len));
    assert_eq!(digest_of(&raw mut len), CKR_BUFFER_TOO_SMALL);
    assert_eq!(digest_of(&raw mut len), CKR_OK);
    assert_eq!(call!(C_DestroyObject(session, 77)), CKR_OBJECT_HANDLE_INVALID);
    // Each interface has its own.
    let (mut interfaces, mut count) = ([CK_INTERFACE::default(); 3], 3);
    // SAFETY: there is room for so many, and their lists begin with a version and C_GetInfo's place, as all do.
    #[allow(unsafe_code)]
    unsafe {
        assert_eq!(C_GetInterfaceList(interfaces.as_mut_ptr(), &raw mut count), CKR_OK);
        for interface in interfaces {
            let list = interface.pFunctionList.cast::<CK_FUNCTION_LIST>();
            assert_eq!((*list).C_GetInfo.expect("in every list")(&mut CK_INFO::default()), CKR_OK);
        }
    }

    let trace = std::fs::read_to_string(&file).unwrap();
    let head = format!("hsm_pkcs11[{}.", std::process::id());
    assert!(trace.lines().all(|line| line.starts_with(&head) && line.ends_with(" us")), "{trace}");
    let has = |wanted: &str| assert!(trace.contains(wanted), "{wanted:?} is not in\n{trace}");
    has(&format!("C_DigestInit(session={session}, mechanism=0x250) CKR_OK "));
    has(&format!("C_Digest(session={session}, data=..., data_len=11, digest=..., digest_len=32) "));
    has("(CKR_BUFFER_TOO_SMALL) ");
    assert_eq!(trace.matches(" C_GetInfo(info=...) CKR_OK ").count(), 3, "{trace}");
    has(&format!(
        "C_DestroyObject(session={session}, object=77) no visible object has this handle (CKR_OBJECT_HANDLE_INVALID) "
    ));
    has(&format!("C_Login(session={session}, user=1, pin=..., pin_len=*) "));
    for secret in ["wrong-pin", "12345678", "traced data"] {
        assert!(!trace.contains(secret), "{secret} is in\n{trace}");
    }
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    support::forget_state();
}
