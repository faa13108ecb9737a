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
        let out = call.caller.out_buffer(signature, signature_len)?;
        let data = call.caller.slice(data, data_len)?;
        out.deliver(recovery::sign_recover(call.module, &session, out.room(), data)?)
    };
}
