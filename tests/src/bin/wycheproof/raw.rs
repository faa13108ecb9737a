//! The C functions themselves, for the mechanisms that the cryptoki crate has no names for.
#![allow(unsafe_code)]

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::*;
use integration_tests::arguments::{Mechanism, Outcome, Template, attributes, check, parts};

/// A session, and the functions of its library.
pub struct Calls<'a> {
    /// The session.
    pub session: &'a Session,
    functions: Pkcs11,
}

impl<'a> Calls<'a> {
    /// The functions of the library that this session is with.
    pub fn new(library: &str, session: &'a Session) -> Result<Self, super::Error> {
        // SAFETY: the library is loaded and initialised already.
        Ok(Self { session, functions: unsafe { Pkcs11::new(library) }? })
    }

    pub fn create(&self, template: Template<'_>) -> Outcome<ObjectHandle> {
        let (mut template, mut object) = (attributes(template), 0);
        let (pointer, len) = parts(&mut template);
        // SAFETY: as all calls here: every pointer is at a live value of the length that is said.
        let code =
            unsafe { self.functions.C_CreateObject(self.session.handle(), pointer, len, &raw mut object) };
        check(code)?;
        // SAFETY: the library has just made it.
        Ok(unsafe { ObjectHandle::new_from_raw(object) })
    }

    pub fn encrypt(&self, mechanism: Mechanism<'_>, key: ObjectHandle, data: &[u8]) -> Outcome<Vec<u8>> {
        let (mut mechanism, session) = (mechanism.inner, self.session.handle());
        check(unsafe { self.functions.C_EncryptInit(session, &raw mut mechanism, key.handle()) })?;
        output(data.len(), |out, len| unsafe {
            self.functions.C_Encrypt(session, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    pub fn decrypt(&self, mechanism: Mechanism<'_>, key: ObjectHandle, data: &[u8]) -> Outcome<Vec<u8>> {
        let (mut mechanism, session) = (mechanism.inner, self.session.handle());
        check(unsafe { self.functions.C_DecryptInit(session, &raw mut mechanism, key.handle()) })?;
        output(data.len(), |out, len| unsafe {
            self.functions.C_Decrypt(session, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    pub fn sign(&self, mechanism: Mechanism<'_>, key: ObjectHandle, data: &[u8]) -> Outcome<Vec<u8>> {
        let (mut mechanism, session) = (mechanism.inner, self.session.handle());
        check(unsafe { self.functions.C_SignInit(session, &raw mut mechanism, key.handle()) })?;
        output(data.len(), |out, len| unsafe {
            self.functions.C_Sign(session, data.as_ptr().cast_mut(), data.len() as CK_ULONG, out, len)
        })
    }

    pub fn verify(
        &self,
        mechanism: Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
        signature: &[u8],
    ) -> Outcome<()> {
        let (mut mechanism, session) = (mechanism.inner, self.session.handle());
        check(unsafe { self.functions.C_VerifyInit(session, &raw mut mechanism, key.handle()) })?;
        check(unsafe {
            self.functions.C_Verify(
                session,
                data.as_ptr().cast_mut(),
                data.len() as CK_ULONG,
                signature.as_ptr().cast_mut(),
                signature.len() as CK_ULONG,
            )
        })
    }
}

/// What a call writes: a little more than it is given, at most.
fn output(data_len: usize, call: impl Fn(*mut CK_BYTE, *mut CK_ULONG) -> CK_RV) -> Outcome<Vec<u8>> {
    let mut out = vec![0; data_len + MORE_BYTES];
    let mut len = out.len() as CK_ULONG;
    check(call(out.as_mut_ptr(), &raw mut len))?;
    out.truncate(len as usize);
    Ok(out)
}

/// The longest MAC or tag.
const MORE_BYTES: usize = 64;
