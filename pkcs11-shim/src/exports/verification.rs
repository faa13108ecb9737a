//! Verification of signatures and MACs (section 5.12).

use super::*;
use crate::{recovery, verification};

exports! {
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
        let (data, signature) = call.step(&session, CKF_VERIFY, |caller| {
            Ok((caller.slice(data, data_len)?, caller.slice(signature, signature_len)?))
        })?;
        verification::verify(call.module, &session, data, signature)
    };

    /// Section 5.12.
    initialized fn C_VerifyUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        let part = call.step(&session, CKF_VERIFY, |caller| caller.slice(part, part_len))?;
        verification::verify_update(&session, part)
    };

    /// Section 5.12.
    initialized fn C_VerifyFinal(session: CK_SESSION_HANDLE, signature: Bytes, signature_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        let signature = call.step(&session, CKF_VERIFY, |caller| caller.slice(signature, signature_len))?;
        verification::verify_final(call.module, &session, signature)
    };

    /// Section 5.12.
    initialized fn C_VerifyRecoverInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        recovery::verify_recover_init(call.module, &session, call.caller.optional_mechanism(mechanism)?, key)
    };

    /// Section 5.12.
    initialized fn C_VerifyRecover(
        session: CK_SESSION_HANDLE,
        signature: Bytes,
        signature_len: CK_ULONG,
        data: Bytes,
        data_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let (out, signature) = call.step(&session, CKF_VERIFY_RECOVER, |caller| {
            Ok((caller.out_buffer(data, data_len)?, caller.slice(signature, signature_len)?))
        })?;
        out.deliver(recovery::verify_recover(&session, out.room(), signature)?)
    };

    /// Version 3.2 section 5.16.
    initialized fn C_VerifySignatureInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
        signature: Bytes,
        signature_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let mechanism = call.caller.optional_mechanism(mechanism)?;
        let signature = call.caller.slice(signature, signature_len)?;
        verification::verify_signature_init(call.module, &session, mechanism, key, signature)
    };

    /// Version 3.2 section 5.16.
    initialized fn C_VerifySignature(session: CK_SESSION_HANDLE, data: Bytes, data_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        let data = call.step(&session, CKF_VERIFY, |caller| caller.slice(data, data_len))?;
        verification::verify_signature(call.module, &session, data)
    };

    /// Version 3.2 section 5.16.
    initialized fn C_VerifySignatureUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        let part = call.step(&session, CKF_VERIFY, |caller| caller.slice(part, part_len))?;
        verification::verify_signature_update(&session, part)
    };

    /// Version 3.2 section 5.16.
    initialized fn C_VerifySignatureFinal(session: CK_SESSION_HANDLE) |call| {
        let session = call.session(session)?;
        verification::verify_signature_final(call.module, &session)
    };
}
