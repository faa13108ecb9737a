//! Signatures from which the data are recovered (sections 5.11 and 5.12): RSA without hashing.

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::Result;
use hsm_emulator::units::mechanism::Mechanism;

use crate::module::Module;
use crate::object::Object;
use crate::operation::{Prepared, begin, cancel, finish};
use crate::output::{Output, Room};
use crate::session::Session;
use crate::signing::SignOperation;

/// A verification in progress that gives the data.
#[derive(Clone)]
pub struct VerifyRecoverOperation {
    pub(crate) key: Arc<Object>,
    mechanism: Mechanism,
}

/// `C_SignRecoverInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`Prepared::check`].
pub fn sign_recover_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.sign_recover) };
    begin(&mut operations.sign_recover, || {
        SignOperation::new(module, session, mechanism, key, CKF_SIGN_RECOVER, CKA_SIGN_RECOVER)
    })
}

/// `C_SignRecover`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, `CKR_DATA_LEN_RANGE`.
pub fn sign_recover(module: &Module, session: &Session, room: Room, data: &[u8]) -> Result<Output> {
    finish(&mut session.operations().sign_recover, |operation| operation.single(module, room, data))
}

/// `C_VerifyRecoverInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`Prepared::check`].
pub fn verify_recover_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.verify_recover) };
    begin(&mut operations.verify_recover, || {
        let Prepared { key, .. } =
            Prepared::check(module, session, &mechanism, key, CKF_VERIFY_RECOVER, CKA_VERIFY_RECOVER)?;
        Ok(VerifyRecoverOperation { key, mechanism })
    })
}

/// `C_VerifyRecover`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify_recover(session: &Session, room: Room, signature: &[u8]) -> Result<Output> {
    finish(&mut session.operations().verify_recover, |operation| {
        let data = operation.key.public_key()?.verify_recover(&operation.mechanism, signature)?;
        Ok(Output::without_bytes(room, data.len()).unwrap_or(Output::Public(data)))
    })
}
