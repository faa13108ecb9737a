//! Encryption and decryption (sections 5.8 and 5.9).

use super::*;
use crate::encryption;
use crate::encryption::Direction::{Decrypt, Encrypt};

exports! {
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
        let (out, data) = call.step(&session, CKF_ENCRYPT, |caller| {
            Ok((caller.out_buffer(encrypted, encrypted_len)?, caller.slice(data, data_len)?))
        })?;
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
        let (out, part) = call.step(&session, CKF_ENCRYPT, |caller| {
            Ok((caller.out_buffer(encrypted, encrypted_len)?, caller.slice(part, part_len)?))
        })?;
        out.deliver(encryption::update(call.module, &session, Encrypt, out.room(), part)?)
    };

    /// Section 5.8.
    initialized fn C_EncryptFinal(session: CK_SESSION_HANDLE, last: Bytes, last_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.step(&session, CKF_ENCRYPT, |caller| caller.out_buffer(last, last_len))?;
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
        let (out, encrypted) = call.step(&session, CKF_DECRYPT, |caller| {
            Ok((caller.out_buffer(data, data_len)?, caller.slice(encrypted, encrypted_len)?))
        })?;
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
        let (out, encrypted) = call.step(&session, CKF_DECRYPT, |caller| {
            Ok((caller.out_buffer(part, part_len)?, caller.slice(encrypted, encrypted_len)?))
        })?;
        out.deliver(encryption::update(call.module, &session, Decrypt, out.room(), encrypted)?)
    };

    /// Section 5.9.
    initialized fn C_DecryptFinal(session: CK_SESSION_HANDLE, last: Bytes, last_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.step(&session, CKF_DECRYPT, |caller| caller.out_buffer(last, last_len))?;
        out.deliver(encryption::last(call.module, &session, Decrypt, out.room())?)
    };
}
