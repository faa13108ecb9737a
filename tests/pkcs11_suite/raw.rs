//! The C functions themselves, for the mechanisms that the cryptoki crate has no names for.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::OnceLock;

use cryptoki::slot::Slot;
use cryptoki_sys::*;
pub use integration_tests::arguments::{FALSE, Mechanism, Outcome, TRUE, Template, ulong};
use integration_tests::arguments::{attributes, check, parts};

use super::{built, new_token, pkcs11};
use crate::pkcs11_fixture::library;

/// Attributes of a secret key whose value may be looked at.
pub const OPEN: Template<'static> = &[(CKA_SENSITIVE, FALSE), (CKA_EXTRACTABLE, TRUE)];

/// A session of the user with the token that all tests by raw functions share: p11tool, whose test runs beside them,
/// finds nothing where there are more than 48 slots.
pub struct RawSession {
    handle: CK_SESSION_HANDLE,
}

impl RawSession {
    pub fn new() -> Self {
        static SLOT: OnceLock<Slot> = OnceLock::new();
        let slot = SLOT.get_or_init(|| {
            let slot = new_token("raw");
            // The user is logged in as long as the session is open, which is to the end.
            std::mem::forget(library::user_session(pkcs11(), slot));
            slot
        });
        let mut handle = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        // SAFETY: as all calls here: every pointer is at a live value of the length that is said.
        check(unsafe { functions().C_OpenSession(slot.id(), flags, null_mut(), None, &raw mut handle) })
            .expect("a session");
        Self { handle }
    }

    pub fn generate_key(
        &self,
        mechanism: Mechanism<'_>,
        template: Template<'_>,
    ) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut mechanism, mut template, mut key) = (mechanism.inner, attributes(template), 0);
        let (pointer, len) = parts(&mut template);
        let code =
            unsafe { functions().C_GenerateKey(self.handle, &raw mut mechanism, pointer, len, &raw mut key) };
        check(code).map(|()| key)
    }

    /// (public, private)
    pub fn generate_key_pair(
        &self,
        mechanism: Mechanism<'_>,
        public: Template<'_>,
        private: Template<'_>,
    ) -> Outcome<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
        let (mut public, mut private) = (attributes(public), attributes(private));
        let ((public, public_len), (private, private_len)) = (parts(&mut public), parts(&mut private));
        let (mut mechanism, mut keys) = (mechanism.inner, (0, 0));
        let code = unsafe {
            functions().C_GenerateKeyPair(
                self.handle,
                &raw mut mechanism,
                public,
                public_len,
                private,
                private_len,
                &raw mut keys.0,
                &raw mut keys.1,
            )
        };
        check(code).map(|()| keys)
    }

    pub fn create(&self, template: Template<'_>) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut template, mut object) = (attributes(template), 0);
        let (pointer, len) = parts(&mut template);
        check(unsafe { functions().C_CreateObject(self.handle, pointer, len, &raw mut object) })
            .map(|()| object)
    }

    /// A secret key whose value is known and may be looked at.
    pub fn secret(&self, key_type: CK_KEY_TYPE, value: &[u8]) -> CK_OBJECT_HANDLE {
        let (class, key_type) = (ulong(CKO_SECRET_KEY), ulong(key_type));
        let own =
            [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type), (CKA_VALUE, value), (CKA_DERIVE, TRUE)];
        self.create(&[&own[..], OPEN].concat()).expect("a secret key")
    }

    pub fn attribute(&self, object: CK_OBJECT_HANDLE, kind: CK_ATTRIBUTE_TYPE) -> Outcome<Vec<u8>> {
        let mut value = vec![0; 8192];
        let mut entry = [CK_ATTRIBUTE {
            type_: kind,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        }];
        let (pointer, len) = parts(&mut entry);
        check(unsafe { functions().C_GetAttributeValue(self.handle, object, pointer, len) })?;
        value.truncate(entry[0].ulValueLen as usize);
        Ok(value)
    }

    /// A template that is an attribute: its size, the sizes of its values, and then they. `short`: there is one byte
    /// less room for the first of them.
    pub fn nested_attribute(
        &self,
        object: CK_OBJECT_HANDLE,
        kind: CK_ATTRIBUTE_TYPE,
        short: bool,
    ) -> Outcome<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>> {
        let mut outer = [CK_ATTRIBUTE { type_: kind, pValue: null_mut(), ulValueLen: 0 }];
        let ask = |outer: &mut [CK_ATTRIBUTE]| {
            let (pointer, len) = parts(outer);
            check(unsafe { functions().C_GetAttributeValue(self.handle, object, pointer, len) })
        };
        ask(&mut outer)?;
        let mut inner = vec![
            CK_ATTRIBUTE { type_: 0, pValue: null_mut(), ulValueLen: 0 };
            outer[0].ulValueLen as usize / size_of::<CK_ATTRIBUTE>()
        ];
        outer[0].pValue = inner.as_mut_ptr().cast();
        ask(&mut outer)?;
        let mut values: Vec<_> = inner.iter().map(|entry| vec![0; entry.ulValueLen as usize]).collect();
        for (entry, value) in inner.iter_mut().zip(&mut values) {
            entry.pValue = value.as_mut_ptr().cast();
        }
        inner[0].ulValueLen -= CK_ULONG::from(short);
        ask(&mut outer)?;
        Ok(inner.iter().map(|entry| entry.type_).zip(values).collect())
    }

    pub fn value(&self, object: CK_OBJECT_HANDLE) -> Vec<u8> {
        self.attribute(object, CKA_VALUE).expect("a value")
    }

    pub fn encrypt(&self, mechanism: Mechanism<'_>, key: CK_OBJECT_HANDLE, data: &[u8]) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_EncryptInit(self.handle, &raw mut mechanism, key) })?;
        output(|out, len| unsafe {
            functions().C_Encrypt(self.handle, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    pub fn decrypt(&self, mechanism: Mechanism<'_>, key: CK_OBJECT_HANDLE, data: &[u8]) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_DecryptInit(self.handle, &raw mut mechanism, key) })?;
        output(|out, len| unsafe {
            functions().C_Decrypt(self.handle, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    /// In parts of so many bytes.
    pub fn encrypt_parts(
        &self,
        mechanism: Mechanism<'_>,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        part: usize,
    ) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_EncryptInit(self.handle, &raw mut mechanism, key) })?;
        let mut all = Vec::new();
        for part in data.chunks(part) {
            all.extend(output(|out, len| unsafe {
                let pointer = part.as_ptr().cast_mut();
                functions().C_EncryptUpdate(self.handle, pointer, part.len() as CK_ULONG, out, len)
            })?);
        }
        all.extend(output(|out, len| unsafe { functions().C_EncryptFinal(self.handle, out, len) })?);
        Ok(all)
    }

    /// In parts of so many bytes.
    pub fn decrypt_parts(
        &self,
        mechanism: Mechanism<'_>,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        part: usize,
    ) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_DecryptInit(self.handle, &raw mut mechanism, key) })?;
        let mut all = Vec::new();
        for part in data.chunks(part) {
            all.extend(output(|out, len| unsafe {
                let pointer = part.as_ptr().cast_mut();
                functions().C_DecryptUpdate(self.handle, pointer, part.len() as CK_ULONG, out, len)
            })?);
        }
        all.extend(output(|out, len| unsafe { functions().C_DecryptFinal(self.handle, out, len) })?);
        Ok(all)
    }

    pub fn sign(&self, mechanism: Mechanism<'_>, key: CK_OBJECT_HANDLE, data: &[u8]) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_SignInit(self.handle, &raw mut mechanism, key) })?;
        output(|out, len| unsafe {
            functions().C_Sign(self.handle, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    /// In parts of so many bytes.
    pub fn sign_parts(
        &self,
        mechanism: Mechanism<'_>,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        part: usize,
    ) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_SignInit(self.handle, &raw mut mechanism, key) })?;
        for part in data.chunks(part) {
            let pointer = part.as_ptr().cast_mut();
            check(unsafe { functions().C_SignUpdate(self.handle, pointer, part.len() as CK_ULONG) })?;
        }
        output(|out, len| unsafe { functions().C_SignFinal(self.handle, out, len) })
    }

    pub fn verify(
        &self,
        mechanism: Mechanism<'_>,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        signature: &[u8],
    ) -> Outcome<()> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_VerifyInit(self.handle, &raw mut mechanism, key) })?;
        check(unsafe {
            functions().C_Verify(
                self.handle,
                data.as_ptr().cast_mut(),
                data.len() as CK_ULONG,
                signature.as_ptr().cast_mut(),
                signature.len() as CK_ULONG,
            )
        })
    }

    /// Signs and verifies, and refuses what is altered.
    pub fn check_signatures(
        &self,
        mechanism: Mechanism<'_>,
        public: CK_OBJECT_HANDLE,
        private: CK_OBJECT_HANDLE,
        data: &[u8],
    ) {
        let signature = self.sign(mechanism, private, data).expect("a signature");
        self.verify(mechanism, public, data, &signature).expect("the signature is good");
        let mut altered = signature.clone();
        altered[signature.len() / 2] ^= 1;
        assert_eq!(self.verify(mechanism, public, data, &altered), Err(CKR_SIGNATURE_INVALID));
        assert_eq!(self.verify(mechanism, public, data, &signature[1..]), Err(CKR_SIGNATURE_LEN_RANGE));
    }

    pub fn digest(&self, mechanism: Mechanism<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        check(unsafe { functions().C_DigestInit(self.handle, &raw mut mechanism) })?;
        output(|out, len| unsafe {
            functions().C_Digest(self.handle, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    pub fn derive(
        &self,
        mechanism: Mechanism<'_>,
        base: CK_OBJECT_HANDLE,
        template: Template<'_>,
    ) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut mechanism, mut template, mut key) = (mechanism.inner, attributes(template), 0);
        let (pointer, len) = parts(&mut template);
        let code = unsafe {
            functions().C_DeriveKey(self.handle, &raw mut mechanism, base, pointer, len, &raw mut key)
        };
        check(code).map(|()| key)
    }

    pub fn wrap(
        &self,
        mechanism: Mechanism<'_>,
        wrapping: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Outcome<Vec<u8>> {
        let mut mechanism = mechanism.inner;
        let mechanism = &raw mut mechanism;
        output(|out, len| unsafe { functions().C_WrapKey(self.handle, mechanism, wrapping, key, out, len) })
    }

    pub fn unwrap(
        &self,
        mechanism: Mechanism<'_>,
        unwrapping: CK_OBJECT_HANDLE,
        wrapped: &[u8],
        template: Template<'_>,
    ) -> Outcome<CK_OBJECT_HANDLE> {
        let (mut mechanism, mut template, mut key) = (mechanism.inner, attributes(template), 0);
        let (pointer, len) = parts(&mut template);
        let code = unsafe {
            functions().C_UnwrapKey(
                self.handle,
                &raw mut mechanism,
                unwrapping,
                wrapped.as_ptr().cast_mut(),
                wrapped.len() as CK_ULONG,
                pointer,
                len,
                &raw mut key,
            )
        };
        check(code).map(|()| key)
    }
}

/// A template as an attribute's value: entries, which point at the values.
pub struct Nested<'a> {
    entries: Vec<CK_ATTRIBUTE>,
    values: PhantomData<&'a ()>,
}

impl<'a> Nested<'a> {
    pub fn new(template: Template<'a>) -> Self {
        Self { entries: attributes(template), values: PhantomData }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the entries have no gaps, and are only looked at.
        unsafe { std::slice::from_raw_parts(self.entries.as_ptr().cast(), size_of_val(&self.entries[..])) }
    }
}

/// The library that the whole process has; configured before it is loaded for the first time.
pub fn functions() -> &'static Pkcs11 {
    static FUNCTIONS: OnceLock<Pkcs11> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        pkcs11();
        // SAFETY: it is loaded already; nothing runs.
        unsafe { Pkcs11::new(built("libhsm_pkcs11.so")) }.expect("the library")
    })
}

/// Asks for the length first, as the standard has it.
fn output(call: impl Fn(*mut CK_BYTE, *mut CK_ULONG) -> CK_RV) -> Outcome<Vec<u8>> {
    let mut len = 0;
    check(call(null_mut(), &raw mut len))?;
    let mut out = vec![0; len as usize];
    check(call(out.as_mut_ptr(), &raw mut len))?;
    out.truncate(len as usize);
    Ok(out)
}
