//! The functions that the `cryptoki` crate has no method for, as C code calls them.
#![allow(unsafe_code, reason = "C interface")]

use std::ptr;

use cryptoki::slot::Slot;
use cryptoki_sys::*;

use super::raw::functions;
use super::user_session;

/// `C_GetInterface`.
pub fn interface(version: Option<(u8, u8)>, flags: CK_FLAGS) -> Result<CK_INTERFACE, CK_RV> {
    let mut version = version.map(|(major, minor)| CK_VERSION { major, minor });
    let version = version.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    let mut name = *b"PKCS 11\0";
    let mut found = ptr::null_mut();
    // SAFETY: all pointers are valid.
    unsafe {
        match functions().C_GetInterface(name.as_mut_ptr(), version, &raw mut found, flags) {
            CKR_OK => Ok(*found),
            code => Err(code),
        }
    }
}

/// `C_GetInterfaceList`.
pub fn interfaces() -> Vec<CK_INTERFACE> {
    let mut list = [CK_INTERFACE::default(); 8];
    let mut count = 0;
    // SAFETY: the list has as much room as the count says.
    unsafe {
        let get = |list, count| functions().C_GetInterfaceList(list, count);
        assert_eq!(get(ptr::null_mut(), &raw mut count), CKR_OK);
        assert!(count > 1 && count as usize <= list.len());
        let mut less = count - 1;
        assert_eq!(get(list.as_mut_ptr(), &raw mut less), CKR_BUFFER_TOO_SMALL);
        assert_eq!(less, count);
        assert_eq!(get(list.as_mut_ptr(), &raw mut count), CKR_OK);
    }
    list[..count as usize].to_vec()
}

/// Calls a function.
macro_rules! raw {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let functions = $crate::pkcs11_suite::raw::functions();
        // SAFETY: the tests give NULL or pointers at live values.
        #[allow(unsafe_code, clippy::macro_metavars_in_unsafe)]
        unsafe { functions.$name($($argument),*) }
    }};
}
pub(crate) use raw;

/// A session with the token.
pub fn open(slot: Slot) -> CK_SESSION_HANDLE {
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    assert_eq!(raw!(C_OpenSession(slot.id(), flags, ptr::null_mut(), None, &raw mut session)), CKR_OK);
    session
}

/// A session of the user with a new token.
pub fn user(label: &str) -> CK_SESSION_HANDLE {
    let session = user_session(label);
    let raw = open(session.get_session_info().unwrap().slot_id());
    // It would log out if it were the last one.
    drop(session);
    raw
}

/// A mechanism without parameter.
pub fn plain(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 }
}

/// A mechanism whose parameter is these bytes.
pub fn with_bytes(mechanism: CK_MECHANISM_TYPE, bytes: &mut [u8]) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: bytes.as_mut_ptr().cast(), ulParameterLen: bytes.len() as CK_ULONG }
}

/// A template whose values are these, for as long as they live.
pub fn template(values: &mut [(CK_ATTRIBUTE_TYPE, Vec<u8>)]) -> Vec<CK_ATTRIBUTE> {
    let entry = |(kind, value): &mut (CK_ATTRIBUTE_TYPE, Vec<u8>)| CK_ATTRIBUTE {
        type_: *kind,
        pValue: value.as_mut_ptr().cast(),
        ulValueLen: value.len() as CK_ULONG,
    };
    values.iter_mut().map(entry).collect()
}

/// The value of a numerical attribute.
pub fn ulong(value: CK_ULONG) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// An AES session key of 32 bytes.
pub fn aes_key(session: CK_SESSION_HANDLE) -> CK_OBJECT_HANDLE {
    let mut values = [(CKA_VALUE_LEN, ulong(32)), (CKA_EXTRACTABLE, vec![CK_TRUE])];
    let mut template = template(&mut values);
    let mut key = 0;
    let mut mechanism = plain(CKM_AES_KEY_GEN);
    assert_eq!(
        raw!(C_GenerateKey(session, &raw mut mechanism, template.as_mut_ptr(), 2, &raw mut key)),
        CKR_OK
    );
    key
}

/// An RSA session key pair: (public, private), whose private key may want a login for each use.
pub fn rsa_pair(session: CK_SESSION_HANDLE, always: CK_BBOOL) -> (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) {
    let mut bits = [(CKA_MODULUS_BITS, ulong(2048))];
    let mut logins = [(CKA_ALWAYS_AUTHENTICATE, vec![always])];
    let (mut public, mut private) = (template(&mut bits), template(&mut logins));
    let (mut public_key, mut private_key) = (0, 0);
    let mut mechanism = plain(CKM_RSA_PKCS_KEY_PAIR_GEN);
    let code = raw!(C_GenerateKeyPair(
        session,
        &raw mut mechanism,
        public.as_mut_ptr(),
        1,
        private.as_mut_ptr(),
        1,
        &raw mut public_key,
        &raw mut private_key
    ));
    assert_eq!(code, CKR_OK);
    (public_key, private_key)
}

/// The two calls of a function with output: the length, and the bytes, for which there is first too little room.
pub fn twice(mut call: impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CK_RV) -> Result<Vec<u8>, CK_RV> {
    let mut len = 0;
    match call(ptr::null_mut(), &raw mut len) {
        CKR_OK => {}
        code => return Err(code),
    }
    let mut bytes = vec![0; len as usize];
    if len > 0 {
        let mut short = len - 1;
        match call(bytes.as_mut_ptr(), &raw mut short) {
            // The length asked for may be more than it takes.
            CKR_OK => {
                bytes.truncate(short as usize);
                return Ok(bytes);
            }
            CKR_BUFFER_TOO_SMALL => {}
            code => return Err(code),
        }
    } else {
        bytes.push(0);
    }
    match call(bytes.as_mut_ptr(), &raw mut len) {
        CKR_OK => {
            bytes.truncate(len as usize);
            Ok(bytes)
        }
        code => Err(code),
    }
}

/// `C_Digest` by SHA-256, in an operation that is in progress.
pub fn finish_digest(session: CK_SESSION_HANDLE) -> Result<Vec<u8>, CK_RV> {
    twice(|out, len| raw!(C_DigestFinal(session, out, len)))
}
