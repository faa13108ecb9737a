//! Making, wrapping and deriving keys, and random numbers (sections 5.14 and 5.15).

use super::*;
use crate::nonce::{Nonce, NonceGenerator};
use crate::output::Room;
use crate::{key_mgmt, random};
use hsm_emulator::units::mechanism::{Mechanism, Parameter};

exports! {
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

    /// Version 3.2 section 5.18.
    initialized fn C_EncapsulateKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        public_key: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        ciphertext: Bytes,
        ciphertext_len: Len,
        key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(ciphertext, ciphertext_len)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        let template = call.caller.template(template, count)?;
        // Who asks for the length alone gets no key.
        let out_key = if out.room() == Room::Query { None } else { Some(call.caller.out(key)?) };
        let (ciphertext, made) = key_mgmt::encapsulate_key(call.module, &session, &mechanism, public_key, &template, out.room())?;
        if let (Some(out_key), Some(made)) = (out_key, made) {
            out_key.write(made);
        }
        out.deliver(ciphertext)
    };

    /// Version 3.2 section 5.18.
    initialized fn C_DecapsulateKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        private_key: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        ciphertext: Bytes,
        ciphertext_len: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(key)?;
        let mechanism = call.caller.mechanism(mechanism)?;
        let ciphertext = call.caller.slice(ciphertext, ciphertext_len)?;
        let template = call.caller.template(template, count)?;
        out.write(key_mgmt::decapsulate_key(call.module, &session, &mechanism, private_key, &template, ciphertext)?);
        Ok(())
    };

    /// Version 3.2 section 5.18.
    initialized fn C_WrapKeyAuthenticated(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        wrapping_key: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
        associated: Bytes,
        associated_len: CK_ULONG,
        wrapped: Bytes,
        wrapped_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(wrapped, wrapped_len)?;
        let associated = call.caller.slice(associated, associated_len)?;
        let (mechanism, nonce) = call.caller.authenticated_wrap(mechanism, associated, true)?;
        let mechanism = with_nonce(call.module, mechanism, nonce.as_ref().filter(|_| out.room() != Room::Query))?;
        out.deliver(key_mgmt::wrap_key(call.module, &session, &mechanism, wrapping_key, key, out.room())?)
    };

    /// Version 3.2 section 5.18.
    initialized fn C_UnwrapKeyAuthenticated(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        unwrapping_key: CK_OBJECT_HANDLE,
        wrapped: Bytes,
        wrapped_len: CK_ULONG,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        associated: Bytes,
        associated_len: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(key)?;
        let associated = call.caller.slice(associated, associated_len)?;
        let (mechanism, _) = call.caller.authenticated_wrap(mechanism, associated, false)?;
        let wrapped = call.caller.slice(wrapped, wrapped_len)?;
        let template = call.caller.template(template, count)?;
        out.write(key_mgmt::unwrap_key(call.module, &session, &mechanism, unwrapping_key, wrapped, &template)?);
        Ok(())
    };
}

/// The mechanism with the nonce that is made for this call, if one is.
fn with_nonce(module: &Module, mut mechanism: Mechanism, nonce: Option<&Nonce<'_>>) -> Result<Mechanism> {
    if let (Parameter::Gcm { iv, .. }, Some(nonce)) = (&mut mechanism.parameter, nonce) {
        if let CKG_GENERATE_COUNTER | CKG_GENERATE_COUNTER_XOR = nonce.generator {
            let message = "one call counts nothing: its nonce is given, or random";
            return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, message));
        }
        *iv = NonceGenerator::default().next(module, nonce)?;
    }
    Ok(mechanism)
}
