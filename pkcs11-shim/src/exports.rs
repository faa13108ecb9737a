//! The C functions (section 5) and the list of them.
//!
//! One macro makes every function: it takes the caller's promise about pointers, checks that the library is
//! initialised in this very process, catches panics, and turns the result into a return code. The bodies only
//! turn arguments into values and back.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result};

use crate::arguments::Caller;
use crate::encryption::Direction::{Decrypt, Encrypt};
use crate::module::{self, CRYPTOKI_VERSION, Module};
use crate::session::Session;
use crate::{digest, encryption, key_mgmt, object, random, session, signing, slot_token, verification};

/// What a call may use.
struct Call<'a> {
    caller: Caller<'a>,
    module: &'a Module,
    /// The session to poison if the call panics.
    touched: &'a Cell<CK_SESSION_HANDLE>,
}

impl Call<'_> {
    fn session(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>> {
        self.touched.set(handle);
        self.module.session(handle)
    }
}

/// Runs a function that needs the library initialised.
fn enter(caller: Caller<'_>, body: impl FnOnce(&Call<'_>) -> Result<()>) -> CK_RV {
    let touched = Cell::new(CK_INVALID_HANDLE);
    let outcome = guarded(|| {
        let module = module::current()?;
        let Some(module) = module.as_deref() else {
            return Err(Error::new(CKR_CRYPTOKI_NOT_INITIALIZED, "C_Initialize has not been called"));
        };
        body(&Call { caller, module, touched: &touched })
    });
    outcome.unwrap_or_else(|| {
        let _ = guarded(|| {
            if let Some(module) = module::current()?.as_deref() {
                module.session(touched.get())?.poison();
            }
            Ok(())
        });
        CKR_GENERAL_ERROR
    })
}

/// Runs a function that works without the library being initialised.
fn enter_uninitialized(caller: &Caller<'_>, body: impl FnOnce(&Caller<'_>) -> Result<()>) -> CK_RV {
    guarded(|| body(caller)).unwrap_or(CKR_GENERAL_ERROR)
}

/// The return code; `None` after a panic, which must not unwind into C.
fn guarded(body: impl FnOnce() -> Result<()>) -> Option<CK_RV> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Some(CKR_OK),
        Ok(Err(error)) => Some(error.code),
        Err(payload) => {
            // Dropping what was thrown could panic again.
            std::mem::forget(payload);
            None
        }
    }
}

fn not_supported() -> Result<()> {
    Err(Error::new(CKR_FUNCTION_NOT_SUPPORTED, "this function is not supported"))
}

/// Defines the exported functions, and the list of them: a function that is missing does not compile.
macro_rules! exports {
    ($(
        $(#[$doc:meta])*
        $kind:ident fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$call:ident| $body:expr;
    )*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// Every pointer is NULL or points at what the standard says, unchanged during the call.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
                // SAFETY: this function's own safety section is the promise.
                let caller = unsafe { Caller::new() };
                exports!(@$kind caller, $call, $body)
            }
        )*

        /// The 2.40 function list.
        static FUNCTION_LIST: CK_FUNCTION_LIST =
            CK_FUNCTION_LIST { version: CRYPTOKI_VERSION, $($name: Some($name)),* };
    };
    (@always $caller:ident, $call:ident, $body:expr) => { enter_uninitialized(&$caller, |$call| $body) };
    (@initialized $caller:ident, $call:ident, $body:expr) => { enter($caller, |$call| $body) };
}

type Bytes = *mut CK_BYTE;
type Len = *mut CK_ULONG;

exports! {
    /// Section 5.4.
    always fn C_Initialize(arguments: *mut std::ffi::c_void) |caller| {
        caller.initialize(arguments.cast_const().cast())?;
        module::initialize()
    };

    /// Section 5.4.
    always fn C_Finalize(reserved: *mut std::ffi::c_void) |_caller| {
        if !reserved.is_null() {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "pReserved is not NULL"));
        }
        module::finalize()
    };

    /// Section 5.4.
    initialized fn C_GetInfo(info: *mut CK_INFO) |call| {
        call.caller.out(info)?.write(module::info(call.module));
        Ok(())
    };

    /// Section 5.4.
    always fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) |caller| {
        caller.out(list)?.write((&raw const FUNCTION_LIST).cast_mut());
        Ok(())
    };

    /// Section 5.5. A token is present in every slot.
    initialized fn C_GetSlotList(_token_present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: Len) |call| {
        let out = call.caller.out_buffer(slots, count)?;
        out.deliver_list(&slot_token::slot_list(call.module, slots.is_null())?)
    };

    /// Section 5.5.
    initialized fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) |call| {
        let out = call.caller.out(info)?;
        out.write(slot_token::slot_info(call.module, slot)?);
        Ok(())
    };

    /// Section 5.5.
    initialized fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) |call| {
        let out = call.caller.out(info)?;
        out.write(slot_token::token_info(call.module, slot)?);
        Ok(())
    };

    /// Section 5.5.
    initialized fn C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: Len) |call| {
        let out = call.caller.out_buffer(list, count)?;
        out.deliver_list(&slot_token::mechanism_list(call.module, slot)?)
    };

    /// Section 5.5.
    initialized fn C_GetMechanismInfo(
        slot: CK_SLOT_ID,
        kind: CK_MECHANISM_TYPE,
        info: *mut CK_MECHANISM_INFO,
    ) |call| {
        let out = call.caller.out(info)?;
        out.write(slot_token::mechanism_info(call.module, slot, kind)?);
        Ok(())
    };

    /// Section 5.5.
    initialized fn C_InitToken(slot: CK_SLOT_ID, pin: Bytes, pin_len: CK_ULONG, label: Bytes) |call| {
        let label: [u8; 32] = call.caller.value(label.cast())?;
        let pin = call.caller.slice(non_null(pin)?, pin_len)?;
        slot_token::init_token(call.module, slot, pin, &label)
    };

    /// Section 5.5.
    initialized fn C_InitPIN(session: CK_SESSION_HANDLE, pin: Bytes, pin_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        slot_token::init_pin(call.module, &session, call.caller.slice(non_null(pin)?, pin_len)?)
    };

    /// Section 5.5.
    initialized fn C_SetPIN(
        session: CK_SESSION_HANDLE,
        old: Bytes,
        old_len: CK_ULONG,
        new: Bytes,
        new_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let old = call.caller.slice(non_null(old)?, old_len)?;
        let new = call.caller.slice(non_null(new)?, new_len)?;
        slot_token::set_pin(call.module, &session, old, new)
    };

    /// Section 5.6. Nothing happens to a token by itself, so the callback is never called.
    initialized fn C_OpenSession(
        slot: CK_SLOT_ID,
        flags: CK_FLAGS,
        _application: *mut std::ffi::c_void,
        _notify: CK_NOTIFY,
        session: *mut CK_SESSION_HANDLE,
    ) |call| {
        let out = call.caller.out(session)?;
        out.write(session::open_session(call.module, slot, flags)?);
        Ok(())
    };

    /// Section 5.6.
    initialized fn C_CloseSession(session: CK_SESSION_HANDLE) |call| session::close_session(call.module, session);

    /// Section 5.6.
    initialized fn C_CloseAllSessions(slot: CK_SLOT_ID) |call| session::close_all_sessions(call.module, slot);

    /// Section 5.6.
    initialized fn C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) |call| {
        let session = call.session(session)?;
        call.caller.out(info)?.write(session::session_info(&session));
        Ok(())
    };

    /// Section 5.6.
    initialized fn C_GetOperationState(session: CK_SESSION_HANDLE, _state: Bytes, _len: Len) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.6.
    initialized fn C_SetOperationState(
        session: CK_SESSION_HANDLE,
        _state: Bytes,
        _len: CK_ULONG,
        _encryption_key: CK_OBJECT_HANDLE,
        _authentication_key: CK_OBJECT_HANDLE,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.6.
    initialized fn C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: Bytes, pin_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        session::login(call.module, &session, user, call.caller.slice(pin, pin_len)?)
    };

    /// Section 5.6.
    initialized fn C_Logout(session: CK_SESSION_HANDLE) |call| {
        let session = call.session(session)?;
        session::logout(call.module, &session)
    };

    /// Section 5.7.
    initialized fn C_CreateObject(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        object: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(object)?;
        let template = call.caller.template(template, count)?;
        out.write(object::create_object(call.module, &session, &template)?);
        Ok(())
    };

    /// Section 5.7.
    initialized fn C_CopyObject(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        copy: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(copy)?;
        let template = call.caller.template(template, count)?;
        out.write(object::copy_object(call.module, &session, object, &template)?);
        Ok(())
    };

    /// Section 5.7.
    initialized fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) |call| {
        let session = call.session(session)?;
        object::destroy_object(call.module, &session, object)
    };

    /// Section 5.7.
    initialized fn C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(size)?;
        out.write(object::object_size(call.module, &session, object)?);
        Ok(())
    };

    /// Section 5.7.
    initialized fn C_GetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let template = non_null(template)?;
        let object = call.module.object(&session, object)?;
        let answer = |kind| object::attribute_value(call.module, &object, kind);
        call.caller.fill_template(template, count, answer)
    };

    /// Section 5.7.
    initialized fn C_SetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let template = call.caller.template(non_null(template)?, count)?;
        object::set_attribute_value(call.module, &session, object, &template)
    };

    /// Section 5.7.
    initialized fn C_FindObjectsInit(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        object::find_objects_init(call.module, &session, &call.caller.template(template, count)?)
    };

    /// Section 5.7.
    initialized fn C_FindObjects(
        session: CK_SESSION_HANDLE,
        objects: *mut CK_OBJECT_HANDLE,
        max: CK_ULONG,
        count: Len,
    ) |call| {
        let session = call.session(session)?;
        let mut room = max;
        let out = call.caller.out_buffer(non_null(objects)?, &raw mut room)?;
        let out_count = call.caller.out(count)?;
        let found = object::find_objects(&session, usize::try_from(max).unwrap_or(usize::MAX))?;
        out_count.write(found.len() as CK_ULONG);
        out.deliver_list(&found)
    };

    /// Section 5.7.
    initialized fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) |call| {
        object::find_objects_final(&*call.session(session)?)
    };

    /// Section 5.8.
    initialized fn C_EncryptInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let mechanism = call.caller.optional_mechanism(mechanism)?;
        encryption::init(call.module, &session, Encrypt, mechanism, key)
    };

    /// Section 5.8.
    initialized fn C_Encrypt(
        session: CK_SESSION_HANDLE,
        data: Bytes,
        data_len: CK_ULONG,
        encrypted: Bytes,
        encrypted_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(encrypted, encrypted_len)?;
        let data = call.caller.slice(data, data_len)?;
        out.deliver(encryption::single(call.module, &session, Encrypt, out.room(), data)?)
    };

    /// Section 5.8.
    initialized fn C_EncryptUpdate(
        session: CK_SESSION_HANDLE,
        part: Bytes,
        part_len: CK_ULONG,
        encrypted: Bytes,
        encrypted_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(encrypted, encrypted_len)?;
        let part = call.caller.slice(part, part_len)?;
        out.deliver(encryption::update(call.module, &session, Encrypt, out.room(), part)?)
    };

    /// Section 5.8.
    initialized fn C_EncryptFinal(session: CK_SESSION_HANDLE, last: Bytes, last_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(last, last_len)?;
        out.deliver(encryption::last(call.module, &session, Encrypt, out.room())?)
    };

    /// Section 5.9.
    initialized fn C_DecryptInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let mechanism = call.caller.optional_mechanism(mechanism)?;
        encryption::init(call.module, &session, Decrypt, mechanism, key)
    };

    /// Section 5.9.
    initialized fn C_Decrypt(
        session: CK_SESSION_HANDLE,
        encrypted: Bytes,
        encrypted_len: CK_ULONG,
        data: Bytes,
        data_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(data, data_len)?;
        let encrypted = call.caller.slice(encrypted, encrypted_len)?;
        out.deliver(encryption::single(call.module, &session, Decrypt, out.room(), encrypted)?)
    };

    /// Section 5.9.
    initialized fn C_DecryptUpdate(
        session: CK_SESSION_HANDLE,
        encrypted: Bytes,
        encrypted_len: CK_ULONG,
        part: Bytes,
        part_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(part, part_len)?;
        let encrypted = call.caller.slice(encrypted, encrypted_len)?;
        out.deliver(encryption::update(call.module, &session, Decrypt, out.room(), encrypted)?)
    };

    /// Section 5.9.
    initialized fn C_DecryptFinal(session: CK_SESSION_HANDLE, last: Bytes, last_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(last, last_len)?;
        out.deliver(encryption::last(call.module, &session, Decrypt, out.room())?)
    };

    /// Section 5.10.
    initialized fn C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM) |call| {
        let session = call.session(session)?;
        digest::digest_init(&session, call.caller.optional_mechanism(mechanism)?.as_ref())
    };

    /// Section 5.10.
    initialized fn C_Digest(
        session: CK_SESSION_HANDLE,
        data: Bytes,
        data_len: CK_ULONG,
        digest: Bytes,
        digest_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(digest, digest_len)?;
        let data = call.caller.slice(data, data_len)?;
        out.deliver(digest::digest(&session, out.room(), data)?)
    };

    /// Section 5.10.
    initialized fn C_DigestUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        digest::digest_update(&session, call.caller.slice(part, part_len)?)
    };

    /// Section 5.10.
    initialized fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) |call| {
        digest::digest_key(call.module, &*call.session(session)?, key)
    };

    /// Section 5.10.
    initialized fn C_DigestFinal(session: CK_SESSION_HANDLE, digest: Bytes, digest_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(digest, digest_len)?;
        out.deliver(digest::digest_final(&session, out.room())?)
    };

    /// Section 5.11.
    initialized fn C_SignInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        signing::sign_init(call.module, &session, call.caller.optional_mechanism(mechanism)?, key)
    };

    /// Section 5.11.
    initialized fn C_Sign(
        session: CK_SESSION_HANDLE,
        data: Bytes,
        data_len: CK_ULONG,
        signature: Bytes,
        signature_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(signature, signature_len)?;
        let data = call.caller.slice(data, data_len)?;
        out.deliver(signing::sign(call.module, &session, out.room(), data)?)
    };

    /// Section 5.11.
    initialized fn C_SignUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        signing::sign_update(&session, call.caller.slice(part, part_len)?)
    };

    /// Section 5.11.
    initialized fn C_SignFinal(session: CK_SESSION_HANDLE, signature: Bytes, signature_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(signature, signature_len)?;
        out.deliver(signing::sign_final(call.module, &session, out.room())?)
    };

    /// Section 5.11.
    initialized fn C_SignRecoverInit(
        session: CK_SESSION_HANDLE,
        _mechanism: *mut CK_MECHANISM,
        _key: CK_OBJECT_HANDLE,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.11.
    initialized fn C_SignRecover(
        session: CK_SESSION_HANDLE,
        _data: Bytes,
        _data_len: CK_ULONG,
        _signature: Bytes,
        _signature_len: Len,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.12.
    initialized fn C_VerifyInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        verification::verify_init(call.module, &session, call.caller.optional_mechanism(mechanism)?, key)
    };

    /// Section 5.12.
    initialized fn C_Verify(
        session: CK_SESSION_HANDLE,
        data: Bytes,
        data_len: CK_ULONG,
        signature: Bytes,
        signature_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let data = call.caller.slice(data, data_len)?;
        let signature = call.caller.slice(signature, signature_len)?;
        verification::verify(call.module, &session, data, signature)
    };

    /// Section 5.12.
    initialized fn C_VerifyUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        verification::verify_update(&session, call.caller.slice(part, part_len)?)
    };

    /// Section 5.12.
    initialized fn C_VerifyFinal(session: CK_SESSION_HANDLE, signature: Bytes, signature_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        verification::verify_final(call.module, &session, call.caller.slice(signature, signature_len)?)
    };

    /// Section 5.12.
    initialized fn C_VerifyRecoverInit(
        session: CK_SESSION_HANDLE,
        _mechanism: *mut CK_MECHANISM,
        _key: CK_OBJECT_HANDLE,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.12.
    initialized fn C_VerifyRecover(
        session: CK_SESSION_HANDLE,
        _signature: Bytes,
        _signature_len: CK_ULONG,
        _data: Bytes,
        _data_len: Len,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.13.
    initialized fn C_DigestEncryptUpdate(
        session: CK_SESSION_HANDLE,
        _part: Bytes,
        _part_len: CK_ULONG,
        _encrypted: Bytes,
        _encrypted_len: Len,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.13.
    initialized fn C_DecryptDigestUpdate(
        session: CK_SESSION_HANDLE,
        _encrypted: Bytes,
        _encrypted_len: CK_ULONG,
        _part: Bytes,
        _part_len: Len,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.13.
    initialized fn C_SignEncryptUpdate(
        session: CK_SESSION_HANDLE,
        _part: Bytes,
        _part_len: CK_ULONG,
        _encrypted: Bytes,
        _encrypted_len: Len,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.13.
    initialized fn C_DecryptVerifyUpdate(
        session: CK_SESSION_HANDLE,
        _encrypted: Bytes,
        _encrypted_len: CK_ULONG,
        _part: Bytes,
        _part_len: Len,
    ) |call| {
        call.session(session)?;
        not_supported()
    };

    /// Section 5.14.
    initialized fn C_GenerateKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(key)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        let template = call.caller.template(template, count)?;
        out.write(key_mgmt::generate_key(call.module, &session, &mechanism, &template)?);
        Ok(())
    };

    /// Section 5.14.
    initialized fn C_GenerateKeyPair(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        public_template: *mut CK_ATTRIBUTE,
        public_count: CK_ULONG,
        private_template: *mut CK_ATTRIBUTE,
        private_count: CK_ULONG,
        public_key: *mut CK_OBJECT_HANDLE,
        private_key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out_public = call.caller.out(public_key)?;
        let out_private = call.caller.out(private_key)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        let public = call.caller.template(public_template, public_count)?;
        let private = call.caller.template(private_template, private_count)?;
        let (public, private) = key_mgmt::generate_key_pair(call.module, &session, &mechanism, &public, &private)?;
        out_public.write(public);
        out_private.write(private);
        Ok(())
    };

    /// Section 5.14.
    initialized fn C_WrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        wrapping_key: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
        wrapped: Bytes,
        wrapped_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(wrapped, wrapped_len)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        out.deliver(key_mgmt::wrap_key(call.module, &session, &mechanism, wrapping_key, key, out.room())?)
    };

    /// Section 5.14.
    initialized fn C_UnwrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        unwrapping_key: CK_OBJECT_HANDLE,
        wrapped: Bytes,
        wrapped_len: CK_ULONG,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(key)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        let wrapped = call.caller.slice(wrapped, wrapped_len)?;
        let template = call.caller.template(template, count)?;
        out.write(key_mgmt::unwrap_key(call.module, &session, &mechanism, unwrapping_key, wrapped, &template)?);
        Ok(())
    };

    /// Section 5.14.
    initialized fn C_DeriveKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        base_key: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(key)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        let template = call.caller.template(template, count)?;
        out.write(key_mgmt::derive_key(call.module, &session, &mechanism, base_key, &template)?);
        Ok(())
    };

    /// Section 5.15. The generator seeds itself; what applications add is accepted, as they expect, and not needed.
    initialized fn C_SeedRandom(session: CK_SESSION_HANDLE, seed: Bytes, seed_len: CK_ULONG) |call| {
        call.session(session)?;
        call.caller.slice(non_null(seed)?, seed_len).map(|_| ())
    };

    /// Section 5.15.
    initialized fn C_GenerateRandom(session: CK_SESSION_HANDLE, random: Bytes, len: CK_ULONG) |call| {
        call.session(session)?;
        let out = call.caller.out_exact(non_null(random)?, len)?;
        out.deliver(&random::generate_random(call.module, out.len())?)
    };

    /// Section 5.16.
    initialized fn C_GetFunctionStatus(_session: CK_SESSION_HANDLE) |_call| not_parallel();

    /// Section 5.16.
    initialized fn C_CancelFunction(_session: CK_SESSION_HANDLE) |_call| not_parallel();

    /// Section 5.5. Tokens don't come and go, so only polling makes sense.
    initialized fn C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut std::ffi::c_void) |call| {
        call.caller.out(slot)?;
        if !reserved.is_null() {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "pReserved is not NULL"));
        }
        if flags & CKF_DONT_BLOCK == 0 {
            return not_supported();
        }
        Err(Error::new(CKR_NO_EVENT, "no slot event happened"))
    };
}

/// Refuses NULL where the standard does not even allow it with length 0.
fn non_null<T>(pointer: *mut T) -> Result<*mut T> {
    if pointer.is_null() { Err(Error::new(CKR_ARGUMENTS_BAD, "a pointer is NULL")) } else { Ok(pointer) }
}

fn not_parallel() -> Result<()> {
    Err(Error::new(CKR_FUNCTION_NOT_PARALLEL, "functions are not executed in parallel"))
}

/// The file that the loader has taken this code from, by the name that it was asked for: a link is not followed.
pub fn loaded_from() -> Option<PathBuf> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    let function: CK_C_GetFunctionList = Some(C_GetFunctionList);
    // SAFETY: `dladdr` looks the address up and writes the structure, if its answer is not 0.
    let file = unsafe {
        match libc::dladdr(function? as *const std::ffi::c_void, found.as_mut_ptr()) {
            0 => return None,
            _ => found.assume_init().dli_fname,
        }
    };
    // SAFETY: NULL, or the loader's own text, which stays as long as this code is loaded.
    let file = unsafe { (!file.is_null()).then(|| CStr::from_ptr(file)) }?;
    Some(OsStr::from_bytes(file.to_bytes()).into())
}

const _: () = assert!(
    size_of::<CK_FUNCTION_LIST>() == 8 + 68 * size_of::<CK_C_Initialize>(),
    "a 2.40 function list has a version and 68 functions"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_this_code_is_known() {
        let own = std::env::current_exe().expect("running");
        assert_eq!(loaded_from().expect("loaded").canonicalize().expect("there"), own);
    }

    #[test]
    fn a_panic_does_not_reach_the_caller() {
        assert_eq!(guarded(|| Ok(())), Some(CKR_OK));
        assert_eq!(guarded(not_supported), Some(CKR_FUNCTION_NOT_SUPPORTED));
        assert_eq!(guarded(|| panic!("not foreseen")), None);
    }
}
