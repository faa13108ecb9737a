//! Verification of signatures and MACs (section 5.12). Signatures are verified here: no secret is needed.

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Error, Result};

use crate::module::Module;
use crate::object::{Object, with_blob};
use crate::operation::{Prepared, begin, cancel, go_on, not_initialized};
use crate::session::Session;
use crate::signing::{Message, signature_bytes};

/// A verification in progress.
#[derive(Clone)]
pub struct VerifyOperation {
    pub(crate) key: Arc<Object>,
    /// What is to be verified.
    pub message: Message,
    /// The signature, where it came first (`C_VerifySignatureInit`).
    signature: Option<Vec<u8>>,
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
    begin(&mut operations.verify, || VerifyOperation::new(module, session, mechanism, key, CKF_VERIFY))
}

/// `C_Verify`.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`; `CKR_OPERATION_NOT_INITIALIZED`, also after a part.
pub fn verify(module: &Module, session: &Session, data: &[u8], signature: &[u8]) -> Result<()> {
    let operation = session.operations().verify.take().ok_or_else(not_initialized)?;
    operation.require_signature_last()?.single(module, data, signature)
}

/// `C_VerifyUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also for a mechanism without parts; `CKR_DATA_LEN_RANGE`.
pub fn verify_update(session: &Session, data: &[u8]) -> Result<()> {
    go_on(&mut session.operations().verify, |operation| operation.update(data))
}

/// `C_VerifyFinal`.
///
/// # Errors
/// As [`verify`].
pub fn verify_final(module: &Module, session: &Session, signature: &[u8]) -> Result<()> {
    let mut operation = session.operations().verify.take().ok_or_else(not_initialized)?;
    operation.require_signature_last()?;
    operation.last(module, signature)
}

/// `C_VerifySignatureInit`.
///
/// # Errors
/// As [`verify_init`], and `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify_signature_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
    signature: &[u8],
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.verify) };
    begin(&mut operations.verify, || {
        let operation = VerifyOperation::new(module, session, mechanism, key, CKF_VERIFY)?;
        operation.check_length(signature)?;
        Ok(VerifyOperation { signature: Some(signature.to_vec()), ..operation })
    })
}

/// `C_VerifySignature`.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`; `CKR_OPERATION_NOT_INITIALIZED`, also after a part.
pub fn verify_signature(module: &Module, session: &Session, data: &[u8]) -> Result<()> {
    let mut operation = session.operations().verify.take().ok_or_else(not_initialized)?;
    let signature = operation.signature.take().ok_or_else(not_initialized)?;
    operation.single(module, data, &signature)
}

/// `C_VerifySignatureUpdate`.
///
/// # Errors
/// As [`verify_update`].
pub fn verify_signature_update(session: &Session, data: &[u8]) -> Result<()> {
    go_on(&mut session.operations().verify, |operation| {
        if operation.signature.is_none() {
            return Err(not_initialized());
        }
        operation.message.update(data)
    })
}

/// `C_VerifySignatureFinal`.
///
/// # Errors
/// As [`verify_signature`].
pub fn verify_signature_final(module: &Module, session: &Session) -> Result<()> {
    let mut operation = session.operations().verify.take().ok_or_else(not_initialized)?;
    let signature = operation.signature.take().ok_or_else(not_initialized)?;
    operation.last(module, &signature)
}

impl VerifyOperation {
    /// `flag` (`CKF_*`) is the use.
    ///
    /// # Errors
    /// Those of [`Prepared::check`].
    pub fn new(
        module: &Module,
        session: &Session,
        mechanism: Mechanism,
        key: CK_OBJECT_HANDLE,
        flag: CK_FLAGS,
    ) -> Result<Self> {
        let Prepared { key, .. } = Prepared::check(module, session, &mechanism, key, flag, CKA_VERIFY)?;
        let message = Message::new(mechanism, &key);
        Ok(Self { key, message, signature: None })
    }

    /// Verifies a message of one part.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`; `CKR_OPERATION_NOT_INITIALIZED` after a part.
    pub fn single(&self, module: &Module, data: &[u8], signature: &[u8]) -> Result<()> {
        self.message.require_no_part()?;
        let input = self.message.whole(data)?;
        self.check(module, input.as_deref().unwrap_or(data), signature)
    }

    /// Takes a part, before the signature.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED`, also for a mechanism without parts; `CKR_DATA_LEN_RANGE`.
    pub fn update(&mut self, data: &[u8]) -> Result<()> {
        self.require_signature_last()?;
        self.message.update(data)
    }

    /// Verifies the parts.
    ///
    /// # Errors
    /// As [`Self::single`].
    pub fn last(&mut self, module: &Module, signature: &[u8]) -> Result<()> {
        self.message.require_parts()?;
        let input = self.message.end()?;
        self.check(module, &input, signature)
    }

    fn require_signature_last(&self) -> Result<&Self> {
        if self.signature.is_none() { Ok(self) } else { Err(not_initialized()) }
    }

    fn check_length(&self, signature: &[u8]) -> Result<()> {
        if signature.len() != signature_bytes(&self.key, self.message.mechanism()) {
            return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature's length is not the key's"));
        }
        Ok(())
    }

    fn check(&self, module: &Module, input: &[u8], signature: &[u8]) -> Result<()> {
        let mechanism = self.message.mechanism();
        self.check_length(signature)?;
        match self.key.class() {
            Some(CKO_PUBLIC_KEY) => self.key.public_key()?.verify(mechanism, input, signature),
            _ => with_blob(module, &self.key, |key| module.backend.verify(mechanism, key, input, signature)),
        }
    }
}
