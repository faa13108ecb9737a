//! Initialising the library (section 5.4).

use super::*;
use crate::module::CRYPTOKI_2_40;

exports! {
    /// Section 5.4.
    always fn C_Initialize(arguments: *mut std::ffi::c_void) |caller| {
        caller.initialize(arguments.cast_const().cast())?;
        module::initialize()
    };

    /// Section 5.4.
    always fn C_Finalize(reserved: *mut std::ffi::c_void) |_caller| {
        if !reserved.is_null() {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "pReserved is not NULL"));
        }
        module::finalize()
    };

    /// Section 5.4.
    initialized fn C_GetInfo(info: *mut CK_INFO) |call| {
        call.caller.out(info)?.write(module::info(call.module, CRYPTOKI_2_40));
        Ok(())
    };
}

/// `C_GetInfo` of the list of another version.
pub(super) fn give_info(caller: Caller<'_>, info: *mut CK_INFO, version: CK_VERSION) -> CK_RV {
    let trace = trace::begin();
    let given = enter(&caller, |call| {
        call.caller.out(info)?.write(module::info(call.module, version));
        Ok(())
    });
    if let Some(trace) = trace {
        trace.end("C_GetInfo", &[("info", info.shown(&caller, "info", given.is_ok()))], &given);
    }
    code(given)
}
