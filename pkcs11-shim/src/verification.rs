//! Verification of signatures and MACs (section 5.12). Signatures are verified here: no secret is needed.

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Error, Result};

use crate::module::Module;
use crate::object::Object;
use crate::operation::{Prepared, begin, cancel, go_on, not_initialized};
use crate::session::Session;
use crate::signing::{Message, signature_bytes};

/// A verification in progress.
pub struct VerifyOperation {
    pub(crate) key: Arc<Object>,
    message: Message,
}

/// `C_VerifyInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`Prepared::check`].
pub fn verify_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.verify) };
    begin(&mut operations.verify, || {
        let Prepared { key, .. } = Prepared::check(module, session, &mechanism, key, CKF_VERIFY, CKA_VERIFY)?;
        let message = Message::new(mechanism, &key);
        Ok(VerifyOperation { key, message })
    })
}

/// `C_Verify`.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`; `CKR_OPERATION_NOT_INITIALIZED`, also after a part.
pub fn verify(module: &Module, session: &Session, data: &[u8], signature: &[u8]) -> Result<()> {
    let operation = session.operations().verify.take().ok_or_else(not_initialized)?;
    operation.message.require_no_part()?;
    let input = operation.message.whole(data)?;
    operation.check(module, input.as_deref().unwrap_or(data), signature)
}

/// `C_VerifyUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also for a mechanism without parts; `CKR_DATA_LEN_RANGE`.
pub fn verify_update(session: &Session, data: &[u8]) -> Result<()> {
    go_on(&mut session.operations().verify, |operation| operation.message.update(data))
}

/// `C_VerifyFinal`.
///
/// # Errors
/// As [`verify`].
pub fn verify_final(module: &Module, session: &Session, signature: &[u8]) -> Result<()> {
    let mut operation = session.operations().verify.take().ok_or_else(not_initialized)?;
    operation.message.require_parts()?;
    let input = operation.message.end()?;
    operation.check(module, &input, signature)
}

impl VerifyOperation {
    fn check(&self, module: &Module, input: &[u8], signature: &[u8]) -> Result<()> {
        let mechanism = self.message.mechanism();
        if signature.len() != signature_bytes(&self.key, mechanism) {
            return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature's length is not the key's"));
        }
        match self.key.class() {
            Some(CKO_PUBLIC_KEY) => self.key.public_key()?.verify(mechanism, input, signature),
            _ => module.backend.verify(mechanism, &self.key.blob, input, signature),
        }
    }
}
