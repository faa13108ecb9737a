//! Message digests (section 5.10).

use super::*;
use crate::digest;

exports! {
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
        let (out, data) = call.step(&session, CKF_DIGEST, |caller| {
            Ok((caller.out_buffer(digest, digest_len)?, caller.slice(data, data_len)?))
        })?;
        out.deliver(digest::digest(&session, out.room(), data)?)
    };

    /// Section 5.10.
    initialized fn C_DigestUpdate(session: CK_SESSION_HANDLE, part: Bytes, part_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        let part = call.step(&session, CKF_DIGEST, |caller| caller.slice(part, part_len))?;
        digest::digest_update(&session, part)
    };

    /// Section 5.10.
    initialized fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) |call| {
        digest::digest_key(call.module, &*call.session(session)?, key)
    };

    /// Section 5.10.
    initialized fn C_DigestFinal(session: CK_SESSION_HANDLE, digest: Bytes, digest_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.step(&session, CKF_DIGEST, |caller| caller.out_buffer(digest, digest_len))?;
        out.deliver(digest::digest_final(&session, out.room())?)
    };
}
