//! Slots, tokens and their PINs (section 5.5).

use super::*;
use crate::slot_token;

exports! {
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

    /// Section 5.5. Another process can make a token, which then appears in a slot of its own.
    initialized fn C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut std::ffi::c_void) |call| {
        let out = call.caller.out(slot)?;
        if !reserved.is_null() {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "pReserved is not NULL"));
        }
        out.write(slot_token::wait_for_slot_event(call.module, flags & CKF_DONT_BLOCK != 0)?);
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
        old_pin: Bytes,
        old_pin_len: CK_ULONG,
        new_pin: Bytes,
        new_pin_len: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let old = call.caller.slice(non_null(old_pin)?, old_pin_len)?;
        let new = call.caller.slice(non_null(new_pin)?, new_pin_len)?;
        slot_token::set_pin(call.module, &session, old, new)
    };
}
