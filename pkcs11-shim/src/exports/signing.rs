//! Signatures and MACs (section 5.11).

use super::*;
use crate::{recovery, signing};

exports! {
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
        let (out, data) = call.step(&session, CKF_SIGN, |caller| {
            Ok((caller.out_buffer(signature, signature_len)?, caller.slice(data, data_len)?))
        })?;
        out.deliver(signing::sign(call.module, &session, out.room(), data)?)
    };

    /// Section 5.11.
    initialized fn C_SignUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        let part = call.step(&session, CKF_SIGN, |caller| caller.slice(part, part_len))?;
        signing::sign_update(&session, part)
    };

    /// Section 5.11.
    initialized fn C_SignFinal(session: CK_SESSION_HANDLE, signature: Bytes, signature_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.step(&session, CKF_SIGN, |caller| caller.out_buffer(signature, signature_len))?;
        out.deliver(signing::sign_final(call.module, &session, out.room())?)
    };

    /// Section 5.11.
    initialized fn C_SignRecoverInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        recovery::sign_recover_init(call.module, &session, call.caller.optional_mechanism(mechanism)?, key)
    };

    /// Section 5.11.
    initialized fn C_SignRecover(
        session: CK_SESSION_HANDLE,
        data: Bytes,
        data_len: CK_ULONG,
        signature: Bytes,
        signature_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let (out, data) = call.step(&session, CKF_SIGN_RECOVER, |caller| {
            Ok((caller.out_buffer(signature, signature_len)?, caller.slice(data, data_len)?))
        })?;
        out.deliver(recovery::sign_recover(call.module, &session, out.room(), data)?)
    };
}
