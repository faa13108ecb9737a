//! Two operations at once (section 5.13).

use super::*;
use crate::dual;

exports! {
    /// Section 5.13.
    initialized fn C_DigestEncryptUpdate(
        session: CK_SESSION_HANDLE,
        part: Bytes,
        part_len: CK_ULONG,
        encrypted: Bytes,
        encrypted_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let (out, part) = call.step(&session, CKF_DIGEST | CKF_ENCRYPT, |caller| {
            Ok((caller.out_buffer(encrypted, encrypted_len)?, caller.slice(part, part_len)?))
        })?;
        out.deliver(dual::digest_encrypt_update(call.module, &session, out.room(), part)?)
    };

    /// Section 5.13.
    initialized fn C_DecryptDigestUpdate(
        session: CK_SESSION_HANDLE,
        encrypted: Bytes,
        encrypted_len: CK_ULONG,
        part: Bytes,
        part_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let (out, encrypted) = call.step(&session, CKF_DECRYPT | CKF_DIGEST, |caller| {
            Ok((caller.out_buffer(part, part_len)?, caller.slice(encrypted, encrypted_len)?))
        })?;
        out.deliver(dual::decrypt_digest_update(call.module, &session, out.room(), encrypted)?)
    };

    /// Section 5.13.
    initialized fn C_SignEncryptUpdate(
        session: CK_SESSION_HANDLE,
        part: Bytes,
        part_len: CK_ULONG,
        encrypted: Bytes,
        encrypted_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let (out, part) = call.step(&session, CKF_SIGN | CKF_ENCRYPT, |caller| {
            Ok((caller.out_buffer(encrypted, encrypted_len)?, caller.slice(part, part_len)?))
        })?;
        out.deliver(dual::sign_encrypt_update(call.module, &session, out.room(), part)?)
    };

    /// Section 5.13.
    initialized fn C_DecryptVerifyUpdate(
        session: CK_SESSION_HANDLE,
        encrypted: Bytes,
        encrypted_len: CK_ULONG,
        part: Bytes,
        part_len: Len,
    ) |call| {
        let session = call.session(session)?;
        let (out, encrypted) = call.step(&session, CKF_DECRYPT | CKF_VERIFY, |caller| {
            Ok((caller.out_buffer(part, part_len)?, caller.slice(encrypted, encrypted_len)?))
        })?;
        out.deliver(dual::decrypt_verify_update(call.module, &session, out.room(), encrypted)?)
    };
}
