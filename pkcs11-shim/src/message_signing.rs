//! Message-based signatures and verification (version 3.0 sections 5.14 and 5.16): one initialisation, many messages.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Error, Result};

use crate::module::Module;
use crate::operation::{begin, cancel, not_initialized};
use crate::output::{Output, Room};
use crate::session::Session;
use crate::signing::{Message, SignOperation};
use crate::verification::VerifyOperation;

/// A message-based signature between its initialisation and its end.
pub struct MessageSign {
    mechanism: Mechanism,
    /// The signature of the next message.
    pub operation: SignOperation,
    in_parts: bool,
}

/// A message-based verification between its initialisation and its end.
pub struct MessageVerify {
    mechanism: Mechanism,
    /// The verification of the next message.
    pub operation: VerifyOperation,
    in_parts: bool,
}

/// `C_MessageSignInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`SignOperation::new`].
pub fn sign_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.message_sign) };
    begin(&mut operations.message_sign, || {
        let operation =
            SignOperation::new(module, session, mechanism.clone(), key, CKF_MESSAGE_SIGN, CKA_SIGN)?;
        Ok(MessageSign { mechanism, operation, in_parts: false })
    })
}

/// `C_SignMessage`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`; `CKR_OPERATION_ACTIVE` within a message in parts; the mechanism's own. The
/// operation goes on in any case.
pub fn sign(module: &Module, session: &Session, room: Room, data: &[u8]) -> Result<Output> {
    let mut operations = session.operations();
    let signing = operations.message_sign.as_mut().ok_or_else(not_initialized)?;
    between_messages(signing.in_parts)?;
    let output = signing.operation.single(module, room, data);
    signing.settle(&output);
    output
}

/// `C_SignMessageBegin`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also for a mechanism without parts; `CKR_OPERATION_ACTIVE` within a message.
pub fn sign_begin(session: &Session) -> Result<()> {
    let mut operations = session.operations();
    let signing = operations.message_sign.as_mut().ok_or_else(not_initialized)?;
    between_messages(signing.in_parts)?;
    signing.operation.message.require_parts()?;
    signing.in_parts = true;
    Ok(())
}

/// `C_SignMessageNext`, before the last part.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED` without a beginning; `CKR_DATA_LEN_RANGE`.
pub fn sign_next(session: &Session, part: &[u8]) -> Result<()> {
    let mut operations = session.operations();
    let signing = operations.message_sign.as_mut().filter(|signing| signing.in_parts);
    let signing = signing.ok_or_else(not_initialized)?;
    let taken = signing.operation.message.update(part);
    if taken.is_err() {
        signing.start_over();
    }
    taken
}

/// `C_SignMessageNext` with the last part.
///
/// # Errors
/// As [`sign_next`] and [`sign`]; the message ends with an error.
pub fn sign_last(module: &Module, session: &Session, room: Room, part: &[u8]) -> Result<Output> {
    let mut operations = session.operations();
    let signing = operations.message_sign.as_mut().filter(|signing| signing.in_parts);
    let signing = signing.ok_or_else(not_initialized)?;
    // What does not fit may come again, so the part is not taken before it does.
    if let Some(answer) = Output::without_bytes(room, signing.operation.signature_bytes()) {
        return Ok(answer);
    }
    let output = signing.operation.message.update(part).and_then(|()| signing.operation.last(module, room));
    signing.settle(&output);
    output
}

/// `C_MessageSignFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn sign_end(session: &Session) -> Result<()> {
    session.operations().message_sign.take().map(drop).ok_or_else(not_initialized)
}

/// `C_MessageVerifyInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`VerifyOperation::new`].
pub fn verify_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.message_verify) };
    begin(&mut operations.message_verify, || {
        let operation = VerifyOperation::new(module, session, mechanism.clone(), key, CKF_MESSAGE_VERIFY)?;
        Ok(MessageVerify { mechanism, operation, in_parts: false })
    })
}

/// `C_VerifyMessage`.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`; as [`sign`].
pub fn verify(module: &Module, session: &Session, data: &[u8], signature: &[u8]) -> Result<()> {
    let mut operations = session.operations();
    let verifying = operations.message_verify.as_mut().ok_or_else(not_initialized)?;
    between_messages(verifying.in_parts)?;
    verifying.operation.single(module, data, signature)
}

/// `C_VerifyMessageBegin`.
///
/// # Errors
/// As [`sign_begin`].
pub fn verify_begin(session: &Session) -> Result<()> {
    let mut operations = session.operations();
    let verifying = operations.message_verify.as_mut().ok_or_else(not_initialized)?;
    between_messages(verifying.in_parts)?;
    verifying.operation.message.require_parts()?;
    verifying.in_parts = true;
    Ok(())
}

/// `C_VerifyMessageNext`, before the last part.
///
/// # Errors
/// As [`sign_next`].
pub fn verify_next(session: &Session, part: &[u8]) -> Result<()> {
    let mut operations = session.operations();
    let verifying = operations.message_verify.as_mut().filter(|verifying| verifying.in_parts);
    let verifying = verifying.ok_or_else(not_initialized)?;
    let taken = verifying.operation.message.update(part);
    if taken.is_err() {
        verifying.start_over();
    }
    taken
}

/// `C_VerifyMessageNext` with the last part.
///
/// # Errors
/// As [`sign_next`] and [`verify`].
pub fn verify_last(module: &Module, session: &Session, part: &[u8], signature: &[u8]) -> Result<()> {
    let mut operations = session.operations();
    let verifying = operations.message_verify.as_mut().filter(|verifying| verifying.in_parts);
    let verifying = verifying.ok_or_else(not_initialized)?;
    let taken = verifying.operation.message.update(part);
    let verified = taken.and_then(|()| verifying.operation.last(module, signature));
    verifying.start_over();
    verified
}

/// `C_MessageVerifyFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn verify_end(session: &Session) -> Result<()> {
    session.operations().message_verify.take().map(drop).ok_or_else(not_initialized)
}

impl MessageSign {
    /// After a message, or what was to be one; a length is not yet the end.
    fn settle(&mut self, output: &Result<Output>) {
        if !matches!(output, Ok(Output::Length(_) | Output::TooSmall(_))) {
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        self.operation.message = Message::new(self.mechanism.clone(), &self.operation.key);
        // A key that wants a login wants it for each use.
        self.operation.authorised = !self.operation.key.wants_login_for_each_use();
        self.in_parts = false;
    }
}

impl MessageVerify {
    fn start_over(&mut self) {
        self.operation.message = Message::new(self.mechanism.clone(), &self.operation.key);
        self.in_parts = false;
    }
}

fn between_messages(in_parts: bool) -> Result<()> {
    if in_parts {
        return Err(Error::new(CKR_OPERATION_ACTIVE, "a message in parts is not complete"));
    }
    Ok(())
}
