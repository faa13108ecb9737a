//! Operations that run together, are saved and restored, or give back what was signed.

use std::ptr;

use cryptoki_sys::*;

use super::functions::{aes_key, finish_digest, open, plain, raw, rsa_pair, twice, user, with_bytes};

fn start_cipher(session: CK_SESSION_HANDLE, decrypt: bool, key: CK_OBJECT_HANDLE) {
    let mut iv = [5; 16];
    let mut cbc = with_bytes(CKM_AES_CBC, &mut iv);
    let code = if decrypt {
        raw!(C_DecryptInit(session, &raw mut cbc, key))
    } else {
        raw!(C_EncryptInit(session, &raw mut cbc, key))
    };
    assert_eq!(code, CKR_OK);
}

fn start_digest(session: CK_SESSION_HANDLE) {
    let mut sha256 = plain(CKM_SHA256);
    assert_eq!(raw!(C_DigestInit(session, &raw mut sha256)), CKR_OK);
}

fn sha256(session: CK_SESSION_HANDLE, data: &[u8]) -> Vec<u8> {
    start_digest(session);
    let data = data.to_vec();
    let len = data.len() as CK_ULONG;
    twice(|out, out_len| raw!(C_Digest(session, data.as_ptr().cast_mut(), len, out, out_len))).unwrap()
}

#[test]
fn digest_and_encryption_run_together() {
    let session = user("digest and encrypt");
    let key = aes_key(session);
    let mut data = [6; 32];
    let encrypt = |data: &mut [u8]| {
        let len = data.len() as CK_ULONG;
        twice(|out, out_len| raw!(C_DigestEncryptUpdate(session, data.as_mut_ptr(), len, out, out_len)))
    };
    start_digest(session);
    assert_eq!(encrypt(&mut data), Err(CKR_OPERATION_NOT_INITIALIZED));
    start_cipher(session, false, key);
    let mut encrypted = encrypt(&mut data).unwrap();
    assert_eq!(encrypted.len(), 32);
    let digest = finish_digest(session).unwrap();
    assert_eq!(digest, sha256(session, &data));
    let mut len = 0;
    assert_eq!(raw!(C_EncryptFinal(session, ptr::null_mut(), &raw mut len)), CKR_OK);

    start_digest(session);
    start_cipher(session, true, key);
    let plain = twice(|out, len| raw!(C_DecryptDigestUpdate(session, encrypted.as_mut_ptr(), 32, out, len)));
    assert_eq!(plain.unwrap(), data);
    assert_eq!(finish_digest(session).unwrap(), digest);
}

#[test]
fn signature_and_encryption_run_together() {
    let session = user("sign and encrypt");
    let key = aes_key(session);
    let (public, private) = rsa_pair(session, CK_FALSE);
    let mut mechanism = plain(CKM_SHA256_RSA_PKCS);
    let mut data = [6; 32];
    assert_eq!(raw!(C_SignInit(session, &raw mut mechanism, private)), CKR_OK);
    start_cipher(session, false, key);
    let encrypted = twice(|out, len| raw!(C_SignEncryptUpdate(session, data.as_mut_ptr(), 32, out, len)));
    let mut encrypted = encrypted.unwrap();
    let mut signature = twice(|out, len| raw!(C_SignFinal(session, out, len))).unwrap();

    assert_eq!(raw!(C_VerifyInit(session, &raw mut mechanism, public)), CKR_OK);
    start_cipher(session, true, key);
    let plain = twice(|out, len| raw!(C_DecryptVerifyUpdate(session, encrypted.as_mut_ptr(), 32, out, len)));
    assert_eq!(plain.unwrap(), data);
    assert_eq!(raw!(C_VerifyFinal(session, signature.as_mut_ptr(), 256)), CKR_OK);

    // A signature that takes no parts ends both.
    let mut mechanism = super::functions::plain(CKM_RSA_PKCS);
    let mut len = 0;
    assert_eq!(raw!(C_EncryptFinal(session, ptr::null_mut(), &raw mut len)), CKR_OK);
    assert_eq!(raw!(C_SignInit(session, &raw mut mechanism, private)), CKR_OK);
    let mut out = [0; 32];
    let mut len = 32;
    let mut step =
        || raw!(C_SignEncryptUpdate(session, data.as_mut_ptr(), 32, out.as_mut_ptr(), &raw mut len));
    assert_eq!(step(), CKR_OPERATION_NOT_INITIALIZED);
    start_cipher(session, false, key);
    assert_eq!(raw!(C_SignInit(session, &raw mut mechanism, private)), CKR_OK);
    assert_eq!(step(), CKR_OPERATION_NOT_INITIALIZED);
    start_cipher(session, false, key);
    assert_eq!(raw!(C_SignInit(session, &raw mut mechanism, private)), CKR_OK);
}

#[test]
fn a_digest_is_saved_and_goes_on_in_two_places() {
    let session = user("saved digest");
    let state = |session| twice(|out, len| raw!(C_GetOperationState(session, out, len)));
    assert_eq!(state(session), Err(CKR_OPERATION_NOT_INITIALIZED));
    start_digest(session);
    let mut data = *b"first second";
    assert_eq!(raw!(C_DigestUpdate(session, data.as_mut_ptr(), 6)), CKR_OK);
    let mut saved = state(session).unwrap();
    let len = saved.len() as CK_ULONG;
    assert_eq!(raw!(C_DigestUpdate(session, data[6..].as_mut_ptr(), 6)), CKR_OK);
    let mut info = CK_SESSION_INFO::default();
    assert_eq!(raw!(C_GetSessionInfo(session, &raw mut info)), CKR_OK);
    let mut other = 0;
    assert_eq!(
        raw!(C_OpenSession(info.slotID, CKF_SERIAL_SESSION, ptr::null_mut(), None, &raw mut other)),
        CKR_OK
    );
    for _ in 0..2 {
        assert_eq!(raw!(C_SetOperationState(other, saved.as_mut_ptr(), len, 0, 0)), CKR_OK);
        assert_eq!(finish_digest(other).unwrap(), sha256(other, b"first "));
    }
    assert_eq!(finish_digest(session).unwrap(), sha256(session, b"first second"));
    let key = aes_key(session);
    assert_eq!(raw!(C_SetOperationState(other, saved.as_mut_ptr(), len, key, 0)), CKR_KEY_NOT_NEEDED);
    saved[0] ^= 1;
    assert_eq!(raw!(C_SetOperationState(other, saved.as_mut_ptr(), len, 0, 0)), CKR_SAVED_STATE_INVALID);
    // Another token knows nothing of it.
    saved[0] ^= 1;
    let elsewhere = open(super::new_token("elsewhere"));
    assert_eq!(raw!(C_SetOperationState(elsewhere, saved.as_mut_ptr(), len, 0, 0)), CKR_SAVED_STATE_INVALID);
}

#[test]
fn an_encryption_is_saved_with_its_key() {
    let session = user("saved encryption");
    let (key, other_key) = (aes_key(session), aes_key(session));
    start_cipher(session, false, key);
    let mut data = [1; 32];
    let update = |data: &mut [u8]| {
        let len = data.len() as CK_ULONG;
        twice(|out, out_len| raw!(C_EncryptUpdate(session, data.as_mut_ptr(), len, out, out_len))).unwrap()
    };
    update(&mut data[..20]);
    let mut saved = twice(|out, len| raw!(C_GetOperationState(session, out, len))).unwrap();
    let len = saved.len() as CK_ULONG;
    let rest = update(&mut data[20..]);
    let mut restore = |key| raw!(C_SetOperationState(session, saved.as_mut_ptr(), len, key, 0));
    assert_eq!(restore(other_key), CKR_KEY_CHANGED);
    assert_eq!(restore(key), CKR_OK);
    assert_eq!(update(&mut data[20..]), rest);
    assert_eq!(raw!(C_Logout(session)), CKR_OK);
    assert_eq!(restore(0), CKR_SAVED_STATE_INVALID);
}

#[test]
fn what_was_signed_is_recovered() {
    let session = user("recovery");
    let (public, private) = rsa_pair(session, CK_FALSE);
    let mut mechanism = plain(CKM_RSA_PKCS);
    let mut data = *b"recover me";
    assert_eq!(raw!(C_SignRecoverInit(session, &raw mut mechanism, private)), CKR_OK);
    let mut signature =
        twice(|out, len| raw!(C_SignRecover(session, data.as_mut_ptr(), 10, out, len))).unwrap();
    let mut recover = || {
        assert_eq!(raw!(C_VerifyRecoverInit(session, &raw mut mechanism, public)), CKR_OK);
        twice(|out, len| raw!(C_VerifyRecover(session, signature.as_mut_ptr(), 256, out, len)))
    };
    assert_eq!(recover().unwrap(), data);
    let mut len = 0;
    assert_eq!(
        raw!(C_VerifyRecover(session, ptr::null_mut(), 0, ptr::null_mut(), &raw mut len)),
        CKR_OPERATION_NOT_INITIALIZED
    );
    signature[9] ^= 1;
    let mut recover = || {
        assert_eq!(raw!(C_VerifyRecoverInit(session, &raw mut mechanism, public)), CKR_OK);
        twice(|out, len| raw!(C_VerifyRecover(session, signature.as_mut_ptr(), 256, out, len)))
    };
    assert_eq!(recover(), Err(CKR_SIGNATURE_INVALID));
    let mut hashing = plain(CKM_SHA256_RSA_PKCS);
    assert_eq!(raw!(C_SignRecoverInit(session, &raw mut hashing, private)), CKR_MECHANISM_INVALID);
}
