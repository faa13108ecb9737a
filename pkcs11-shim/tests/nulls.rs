//! Every exported function with NULL, zero and absurd arguments: a refusal, never a crash.
#![allow(clippy::unwrap_used)]

mod support;

use std::ptr::{null_mut, without_provenance_mut};

use cryptoki_sys::*;

/// Calls each function once before C_Initialize, and once after.
macro_rules! matrix {
    ($($name:ident($($argument:expr),*);)*) => {
        fn all_calls() -> Vec<(&'static str, CK_RV)> {
            vec![$((stringify!($name), call!($name($($argument),*)))),*]
        }
    };
}

/// No session has this handle.
const NO_SESSION: CK_SESSION_HANDLE = 0;

matrix! {
    C_GetInfo(null_mut());
    C_GetFunctionList(null_mut());
    C_GetSlotList(CK_TRUE, null_mut(), null_mut());
    C_GetSlotInfo(0, null_mut());
    C_GetTokenInfo(0, null_mut());
    C_GetMechanismList(0, null_mut(), null_mut());
    C_GetMechanismInfo(0, CKM_AES_GCM, null_mut());
    C_InitToken(0, null_mut(), 8, null_mut());
    C_InitPIN(NO_SESSION, null_mut(), 8);
    C_SetPIN(NO_SESSION, null_mut(), 8, null_mut(), 8);
    C_OpenSession(0, CKF_SERIAL_SESSION, null_mut(), None, null_mut());
    C_CloseSession(NO_SESSION);
    C_CloseAllSessions(CK_ULONG::MAX);
    C_GetSessionInfo(NO_SESSION, null_mut());
    C_GetOperationState(NO_SESSION, null_mut(), null_mut());
    C_SetOperationState(NO_SESSION, null_mut(), 8, 0, 0);
    C_Login(NO_SESSION, CKU_USER, null_mut(), 8);
    C_Logout(NO_SESSION);
    C_CreateObject(NO_SESSION, null_mut(), 8, null_mut());
    C_CopyObject(NO_SESSION, 0, null_mut(), 8, null_mut());
    C_DestroyObject(NO_SESSION, 0);
    C_GetObjectSize(NO_SESSION, 0, null_mut());
    C_GetAttributeValue(NO_SESSION, 0, null_mut(), 8);
    C_SetAttributeValue(NO_SESSION, 0, null_mut(), 8);
    C_FindObjectsInit(NO_SESSION, null_mut(), 8);
    C_FindObjects(NO_SESSION, null_mut(), 8, null_mut());
    C_FindObjectsFinal(NO_SESSION);
    C_EncryptInit(NO_SESSION, null_mut(), 0);
    C_Encrypt(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_EncryptUpdate(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_EncryptFinal(NO_SESSION, null_mut(), null_mut());
    C_DecryptInit(NO_SESSION, null_mut(), 0);
    C_Decrypt(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_DecryptUpdate(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_DecryptFinal(NO_SESSION, null_mut(), null_mut());
    C_DigestInit(NO_SESSION, null_mut());
    C_Digest(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_DigestUpdate(NO_SESSION, null_mut(), 8);
    C_DigestKey(NO_SESSION, 0);
    C_DigestFinal(NO_SESSION, null_mut(), null_mut());
    C_SignInit(NO_SESSION, null_mut(), 0);
    C_Sign(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_SignUpdate(NO_SESSION, null_mut(), 8);
    C_SignFinal(NO_SESSION, null_mut(), null_mut());
    C_SignRecoverInit(NO_SESSION, null_mut(), 0);
    C_SignRecover(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_VerifyInit(NO_SESSION, null_mut(), 0);
    C_Verify(NO_SESSION, null_mut(), 8, null_mut(), 8);
    C_VerifyUpdate(NO_SESSION, null_mut(), 8);
    C_VerifyFinal(NO_SESSION, null_mut(), 8);
    C_VerifyRecoverInit(NO_SESSION, null_mut(), 0);
    C_VerifyRecover(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_DigestEncryptUpdate(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_DecryptDigestUpdate(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_SignEncryptUpdate(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_DecryptVerifyUpdate(NO_SESSION, null_mut(), 8, null_mut(), null_mut());
    C_GenerateKey(NO_SESSION, null_mut(), null_mut(), 8, null_mut());
    C_GenerateKeyPair(NO_SESSION, null_mut(), null_mut(), 8, null_mut(), 8, null_mut(), null_mut());
    C_WrapKey(NO_SESSION, null_mut(), 0, 0, null_mut(), null_mut());
    C_UnwrapKey(NO_SESSION, null_mut(), 0, null_mut(), 8, null_mut(), 8, null_mut());
    C_DeriveKey(NO_SESSION, null_mut(), 0, null_mut(), 8, null_mut());
    C_SeedRandom(NO_SESSION, null_mut(), 8);
    C_GenerateRandom(NO_SESSION, null_mut(), 8);
    C_GetFunctionStatus(NO_SESSION);
    C_CancelFunction(NO_SESSION);
    C_WaitForSlotEvent(CKF_DONT_BLOCK, null_mut(), null_mut());
}

#[test]
fn null_arguments_are_refused_in_every_state() {
    for (name, code) in all_calls() {
        let expected =
            if name == "C_GetFunctionList" { CKR_ARGUMENTS_BAD } else { CKR_CRYPTOKI_NOT_INITIALIZED };
        assert_eq!(code, expected, "{name} before C_Initialize");
    }
    assert_eq!(call!(C_Finalize(null_mut())), CKR_CRYPTOKI_NOT_INITIALIZED);
    let slot = support::token();
    assert_eq!(call!(C_Initialize(null_mut())), CKR_CRYPTOKI_ALREADY_INITIALIZED);
    for (name, code) in all_calls() {
        let expected: &[CK_RV] = match name {
            "C_GetFunctionStatus" | "C_CancelFunction" => &[CKR_FUNCTION_NOT_PARALLEL],
            "C_CloseAllSessions" => &[CKR_SLOT_ID_INVALID],
            _ => &[CKR_ARGUMENTS_BAD, CKR_SESSION_HANDLE_INVALID],
        };
        assert!(expected.contains(&code), "{name} gave {code:#x}");
    }
    in_a_session(support::open(slot));
    assert_eq!(call!(C_Finalize(without_provenance_mut(1))), CKR_ARGUMENTS_BAD);
    assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
}

/// The same with a session that exists, where a NULL could be taken at its word.
fn in_a_session(session: CK_SESSION_HANDLE) {
    let [aes, ..] = support::session_keys(session);
    let mut len: CK_ULONG = 8;
    let mut byte = 0u8;
    let mut gcm = support::mechanism::<u8>(CKM_AES_GCM, &mut []);
    let bad = CKR_ARGUMENTS_BAD;
    assert_eq!(call!(C_InitPIN(session, null_mut(), 8)), bad);
    assert_eq!(call!(C_SetPIN(session, null_mut(), 8, null_mut(), 8)), bad);
    assert_eq!(call!(C_Login(session, CKU_SO, null_mut(), 8)), bad);
    assert_eq!(call!(C_GetSessionInfo(session, null_mut())), bad);
    assert_eq!(call!(C_CreateObject(session, null_mut(), 8, &raw mut len)), bad);
    assert_eq!(call!(C_CreateObject(session, null_mut(), 0, null_mut())), bad);
    assert_eq!(call!(C_CopyObject(session, aes, null_mut(), 1, &raw mut len)), bad);
    assert_eq!(call!(C_GetObjectSize(session, aes, null_mut())), bad);
    assert_eq!(call!(C_GetAttributeValue(session, aes, null_mut(), 1)), bad);
    assert_eq!(call!(C_SetAttributeValue(session, aes, null_mut(), 1)), bad);
    assert_eq!(call!(C_FindObjectsInit(session, null_mut(), 1)), bad);
    assert_eq!(call!(C_FindObjectsInit(session, null_mut(), 0)), CKR_OK);
    assert_eq!(call!(C_FindObjects(session, null_mut(), 1, &raw mut len)), bad);
    assert_eq!(call!(C_FindObjects(session, &raw mut len, 1, null_mut())), bad);
    assert_eq!(call!(C_FindObjectsFinal(session)), CKR_OK);
    // No mechanism, and no operation that it could cancel.
    assert_eq!(call!(C_EncryptInit(session, null_mut(), aes)), bad);
    assert_eq!(call!(C_DecryptInit(session, null_mut(), aes)), bad);
    assert_eq!(call!(C_DigestInit(session, null_mut())), bad);
    assert_eq!(call!(C_SignInit(session, null_mut(), aes)), bad);
    assert_eq!(call!(C_VerifyInit(session, null_mut(), aes)), bad);
    assert_eq!(call!(C_EncryptInit(session, &raw mut gcm, aes)), CKR_MECHANISM_PARAM_INVALID);
    assert_eq!(call!(C_Encrypt(session, null_mut(), 1, &raw mut byte, &raw mut len)), bad);
    assert_eq!(call!(C_Encrypt(session, &raw mut byte, 1, &raw mut byte, null_mut())), bad);
    assert_eq!(call!(C_Encrypt(session, &raw mut byte, CK_ULONG::MAX, &raw mut byte, &raw mut len)), bad);
    assert_eq!(call!(C_DigestUpdate(session, null_mut(), 1)), bad);
    assert_eq!(call!(C_GenerateKey(session, null_mut(), null_mut(), 0, &raw mut len)), bad);
    assert_eq!(call!(C_GenerateKey(session, &raw mut gcm, null_mut(), 0, null_mut())), bad);
    assert_eq!(call!(C_GenerateRandom(session, null_mut(), 1)), bad);
    assert_eq!(call!(C_GenerateRandom(session, &raw mut byte, CK_ULONG::MAX)), CKR_DATA_LEN_RANGE);
    assert_eq!(call!(C_SeedRandom(session, null_mut(), 1)), bad);
    assert_eq!(call!(C_WrapKey(session, null_mut(), aes, aes, null_mut(), &raw mut len)), bad);
    assert_eq!(
        call!(C_UnwrapKey(session, null_mut(), aes, &raw mut byte, 1, null_mut(), 0, &raw mut len)),
        bad
    );
    assert_eq!(call!(C_DeriveKey(session, null_mut(), aes, null_mut(), 0, &raw mut len)), bad);
}
