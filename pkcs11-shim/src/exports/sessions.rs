//! Sessions, logins, and operations as a whole (section 5.6).

use super::*;
use crate::{operation_state, session};

exports! {
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

    /// Version 3.0 section 5.6.
    initialized fn C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS) |call| {
        call.session(session)?.operations().cancel(flags);
        Ok(())
    };

    /// Section 5.6.
    initialized fn C_GetOperationState(session: CK_SESSION_HANDLE, state: Bytes, state_len: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out_buffer(state, state_len)?;
        out.deliver(operation_state::save(call.module, &session, out.room())?)
    };

    /// Section 5.6.
    initialized fn C_SetOperationState(
        session: CK_SESSION_HANDLE,
        state: Bytes,
        state_len: CK_ULONG,
        encryption_key: CK_OBJECT_HANDLE,
        authentication_key: CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let state = call.caller.slice(non_null(state)?, state_len)?;
        operation_state::restore(call.module, &session, state, encryption_key, authentication_key)
    };

    /// Section 5.6.
    initialized fn C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: Bytes, pin_len: CK_ULONG) |call| {
        let session = call.session(session)?;
        session::login(call.module, &session, user, call.caller.slice(pin, pin_len)?)
    };

    /// Version 3.0 section 5.6. The users of a token are its security officer and its user, who have no names.
    initialized fn C_LoginUser(
        session: CK_SESSION_HANDLE,
        user: CK_USER_TYPE,
        pin: Bytes,
        pin_len: CK_ULONG,
        username: Bytes,
        username_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        if !call.caller.slice(username, username_len)?.is_empty() {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "the users of this token have no names"));
        }
        session::login(call.module, &session, user, call.caller.slice(pin, pin_len)?)
    };

    /// Section 5.6.
    initialized fn C_Logout(session: CK_SESSION_HANDLE) |call| {
        let session = call.session(session)?;
        session::logout(call.module, &session)
    };

    /// Version 3.2 section 5.6. Nothing here is validated by anybody.
    initialized fn C_GetSessionValidationFlags(
        session: CK_SESSION_HANDLE,
        kind: CK_SESSION_VALIDATION_FLAGS_TYPE,
        flags: *mut CK_FLAGS,
    ) |call| {
        call.session(session)?;
        let out = call.caller.out(flags)?;
        if kind != CKS_LAST_VALIDATION_OK {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "no such type of validation flags"));
        }
        out.write(0);
        Ok(())
    };

    /// Section 5.16.
    initialized fn C_GetFunctionStatus(_session: CK_SESSION_HANDLE) |_call| not_parallel();

    /// Section 5.16.
    initialized fn C_CancelFunction(_session: CK_SESSION_HANDLE) |_call| not_parallel();

    /// Version 3.2 section 5.21.
    initialized fn C_AsyncComplete(session: CK_SESSION_HANDLE, _function: Bytes, _result: *mut CK_ASYNC_DATA) |call| {
        not_asynchronous(call, session)
    };

    /// Version 3.2 section 5.21.
    initialized fn C_AsyncGetID(session: CK_SESSION_HANDLE, _function: Bytes, _id: Len) |call| {
        not_asynchronous(call, session)
    };

    /// Version 3.2 section 5.21.
    initialized fn C_AsyncJoin(
        session: CK_SESSION_HANDLE,
        _function: Bytes,
        _id: CK_ULONG,
        _data: Bytes,
        _data_len: CK_ULONG,
    ) |call| not_asynchronous(call, session);
}

fn not_parallel() -> Result<()> {
    Err(Error::new(CKR_FUNCTION_NOT_PARALLEL, "functions are not executed in parallel"))
}

/// `C_OpenSession` opens no asynchronous sessions, so this is none.
fn not_asynchronous(call: &Call<'_>, session: CK_SESSION_HANDLE) -> Result<()> {
    call.session(session)?;
    Err(Error::new(CKR_SESSION_ASYNC_NOT_SUPPORTED, "the session is not asynchronous"))
}
