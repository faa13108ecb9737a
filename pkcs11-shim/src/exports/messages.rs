//! Message-based encryption and signatures (version 3.0, sections 5.9, 5.11, 5.14 and 5.16): one initialisation, many messages.

use super::*;
use crate::encryption::Direction::{self, Decrypt, Encrypt};
use crate::{message_encryption, message_signing};

exports! {
    /// Section 5.9. AEAD mechanisms have their parameter in each message, so what the mechanism has here is not looked at.
    initialized fn C_MessageEncryptInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let kind = call.caller.optional_mechanism_kind(mechanism)?;
        message_encryption::init(call.module, &session, Encrypt, kind, key)
    };

    /// Section 5.9.
    initialized fn C_EncryptMessage(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        associated: Bytes,
        associated_len: CK_ULONG,
        plaintext: Bytes,
        plaintext_len: CK_ULONG,
        ciphertext: Bytes,
        ciphertext_len: Len,
    ) |call| {
        let output = (ciphertext, ciphertext_len);
        let input = (plaintext, plaintext_len);
        whole(call, session, Encrypt, (parameter, parameter_len), (associated, associated_len), input, output)
    };

    /// Section 5.9.
    initialized fn C_EncryptMessageBegin(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        associated: Bytes,
        associated_len: CK_ULONG,
    ) |call| begin(call, session, Encrypt, (parameter, parameter_len), (associated, associated_len));

    /// Section 5.9.
    initialized fn C_EncryptMessageNext(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        part: Bytes,
        part_len: CK_ULONG,
        ciphertext: Bytes,
        ciphertext_len: Len,
        flags: CK_FLAGS,
    ) |call| {
        let output = (ciphertext, ciphertext_len);
        next(call, session, Encrypt, (parameter, parameter_len), (part, part_len), output, flags)
    };

    /// Section 5.9.
    initialized fn C_MessageEncryptFinal(session: CK_SESSION_HANDLE) |call| {
        message_encryption::end(&*call.session(session)?, Encrypt)
    };

    /// Section 5.11. The mechanism's parameter is not looked at, as with `C_MessageEncryptInit`.
    initialized fn C_MessageDecryptInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let kind = call.caller.optional_mechanism_kind(mechanism)?;
        message_encryption::init(call.module, &session, Decrypt, kind, key)
    };

    /// Section 5.11.
    initialized fn C_DecryptMessage(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        associated: Bytes,
        associated_len: CK_ULONG,
        ciphertext: Bytes,
        ciphertext_len: CK_ULONG,
        plaintext: Bytes,
        plaintext_len: Len,
    ) |call| {
        let output = (plaintext, plaintext_len);
        let input = (ciphertext, ciphertext_len);
        whole(call, session, Decrypt, (parameter, parameter_len), (associated, associated_len), input, output)
    };

    /// Section 5.11.
    initialized fn C_DecryptMessageBegin(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        associated: Bytes,
        associated_len: CK_ULONG,
    ) |call| begin(call, session, Decrypt, (parameter, parameter_len), (associated, associated_len));

    /// Section 5.11.
    initialized fn C_DecryptMessageNext(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        part: Bytes,
        part_len: CK_ULONG,
        plaintext: Bytes,
        plaintext_len: Len,
        flags: CK_FLAGS,
    ) |call| {
        let output = (plaintext, plaintext_len);
        next(call, session, Decrypt, (parameter, parameter_len), (part, part_len), output, flags)
    };

    /// Section 5.11.
    initialized fn C_MessageDecryptFinal(session: CK_SESSION_HANDLE) |call| {
        message_encryption::end(&*call.session(session)?, Decrypt)
    };

    /// Section 5.14.
    initialized fn C_MessageSignInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        message_signing::sign_init(call.module, &session, call.caller.optional_mechanism(mechanism)?, key)
    };

    /// Section 5.14.
    initialized fn C_SignMessage(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        data: Bytes,
        data_len: CK_ULONG,
        signature: Bytes,
        signature_len: Len,
    ) |call| {
        let session = call.session(session)?;
        no_parameter(parameter_len)?;
        let out = call.caller.out_buffer(signature, signature_len)?;
        let data = call.caller.slice(data, data_len)?;
        out.deliver(message_signing::sign(call.module, &session, out.room(), data)?)
    };

    /// Section 5.14.
    initialized fn C_SignMessageBegin(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        no_parameter(parameter_len)?;
        message_signing::sign_begin(&session)
    };

    /// Section 5.14. The last part comes with a place for the signature's length, the others without.
    initialized fn C_SignMessageNext(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        part: Bytes,
        part_len: CK_ULONG,
        signature: Bytes,
        signature_len: Len,
    ) |call| {
        let session = call.session(session)?;
        no_parameter(parameter_len)?;
        let part = call.caller.slice(part, part_len)?;
        if signature_len.is_null() {
            return message_signing::sign_next(&session, part);
        }
        let out = call.caller.out_buffer(signature, signature_len)?;
        out.deliver(message_signing::sign_last(call.module, &session, out.room(), part)?)
    };

    /// Section 5.14.
    initialized fn C_MessageSignFinal(session: CK_SESSION_HANDLE) |call| {
        message_signing::sign_end(&*call.session(session)?)
    };

    /// Section 5.16.
    initialized fn C_MessageVerifyInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        message_signing::verify_init(call.module, &session, call.caller.optional_mechanism(mechanism)?, key)
    };

    /// Section 5.16.
    initialized fn C_VerifyMessage(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        data: Bytes,
        data_len: CK_ULONG,
        signature: Bytes,
        signature_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        no_parameter(parameter_len)?;
        let data = call.caller.slice(data, data_len)?;
        let signature = call.caller.slice(signature, signature_len)?;
        message_signing::verify(call.module, &session, data, signature)
    };

    /// Section 5.16.
    initialized fn C_VerifyMessageBegin(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        no_parameter(parameter_len)?;
        message_signing::verify_begin(&session)
    };

    /// Section 5.16. The last part comes with the signature, the others without.
    initialized fn C_VerifyMessageNext(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_len: CK_ULONG,
        part: Bytes,
        part_len: CK_ULONG,
        signature: Bytes,
        signature_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        no_parameter(parameter_len)?;
        let part = call.caller.slice(part, part_len)?;
        if signature.is_null() && signature_len == 0 {
            return message_signing::verify_next(&session, part);
        }
        let signature = call.caller.slice(signature, signature_len)?;
        message_signing::verify_last(call.module, &session, part, signature)
    };

    /// Section 5.16.
    initialized fn C_MessageVerifyFinal(session: CK_SESSION_HANDLE) |call| {
        message_signing::verify_end(&*call.session(session)?)
    };
}

type Parameter = (*mut std::ffi::c_void, CK_ULONG);
type Input = (Bytes, CK_ULONG);

fn whole(
    call: &Call<'_>,
    session: CK_SESSION_HANDLE,
    direction: Direction,
    parameter: Parameter,
    associated: Input,
    input: Input,
    output: (Bytes, Len),
) -> Result<()> {
    let session = call.session(session)?;
    let out = call.caller.out_buffer(output.0, output.1)?;
    let kind = message_encryption::mechanism(&session, direction)?;
    let message = call.caller.aead_message(kind, parameter.0, parameter.1, direction == Encrypt)?;
    let associated = call.caller.slice(associated.0, associated.1)?;
    let input = call.caller.slice(input.0, input.1)?;
    let room = out.room();
    out.deliver(message_encryption::single(
        call.module,
        &session,
        direction,
        &message,
        associated,
        input,
        room,
    )?)
}

fn begin(
    call: &Call<'_>,
    session: CK_SESSION_HANDLE,
    direction: Direction,
    parameter: Parameter,
    associated: Input,
) -> Result<()> {
    let session = call.session(session)?;
    let kind = message_encryption::mechanism(&session, direction)?;
    let message = call.caller.aead_message(kind, parameter.0, parameter.1, direction == Encrypt)?;
    let associated = call.caller.slice(associated.0, associated.1)?;
    message_encryption::begin_message(call.module, &session, direction, &message, associated)
}

fn next(
    call: &Call<'_>,
    session: CK_SESSION_HANDLE,
    direction: Direction,
    parameter: Parameter,
    part: Input,
    output: (Bytes, Len),
    flags: CK_FLAGS,
) -> Result<()> {
    let session = call.session(session)?;
    let out = call.caller.out_buffer(output.0, output.1)?;
    let kind = message_encryption::mechanism(&session, direction)?;
    let message = call.caller.aead_message(kind, parameter.0, parameter.1, direction == Encrypt)?;
    let part = call.caller.slice(part.0, part.1)?;
    let last = flags & CKF_END_OF_MESSAGE != 0;
    out.deliver(message_encryption::next(call.module, &session, direction, &message, part, out.room(), last)?)
}

/// No mechanism that signs has a parameter for each message.
fn no_parameter(len: CK_ULONG) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the mechanism has no parameter for each message"))
}
