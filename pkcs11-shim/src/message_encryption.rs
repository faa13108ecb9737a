//! Message-based encryption and decryption by AEAD mechanisms (version 3.0 sections 5.9 and 5.11): one
//! initialisation, many messages, each with a nonce and a tag of its own.

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Error, Result};
use zeroize::Zeroizing;

use crate::arguments::OutExact;
use crate::encryption::Direction;
use crate::mechanisms::MechanismInfo;
use crate::module::Module;
use crate::nonce::{Nonce, NonceGenerator};
use crate::object::{Object, with_blob};
use crate::operation::{Operations, Prepared, begin, cancel, gather, not_initialized, require_authorised};
use crate::output::{Output, Room};
use crate::session::Session;

/// A message-based encryption or decryption between its initialisation and its end.
pub struct MessageCipher {
    pub(crate) key: Arc<Object>,
    kind: CK_MECHANISM_TYPE,
    nonces: NonceGenerator,
    /// The message that is given in parts.
    message: Option<Parts>,
    /// False while the key waits for its login, which each message needs again.
    pub authorised: bool,
}

/// The parameter of one message.
pub struct AeadMessage<'a> {
    /// Its nonce.
    pub nonce: Nonce<'a>,
    /// Bytes of its tag.
    pub tag_bytes: usize,
    /// Where the tag is, or goes.
    pub tag: OutExact<'a>,
}

/// What of a message is here.
struct Parts {
    nonce: Vec<u8>,
    associated: Vec<u8>,
    data: Zeroizing<Vec<u8>>,
}

/// `C_MessageEncryptInit`, `C_MessageDecryptInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`Prepared::check_key`].
pub fn init(
    module: &Module,
    session: &Session,
    direction: Direction,
    kind: Option<CK_MECHANISM_TYPE>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let place = place(&mut operations, direction);
    let Some(kind) = kind else { return cancel(place) };
    begin(place, || {
        let (flag, permission) = match direction {
            Direction::Encrypt => (CKF_MESSAGE_ENCRYPT, CKA_ENCRYPT),
            Direction::Decrypt => (CKF_MESSAGE_DECRYPT, CKA_DECRYPT),
        };
        let info = MechanismInfo::with_flag(kind, flag)?;
        let Prepared { key, authorised } = Prepared::check_key(module, session, info, key, permission)?;
        Ok(MessageCipher { key, kind, nonces: NonceGenerator::default(), message: None, authorised })
    })
}

/// The mechanism of the operation, which says what the parameters of its messages look like.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn mechanism(session: &Session, direction: Direction) -> Result<CK_MECHANISM_TYPE> {
    let mut operations = session.operations();
    place(&mut operations, direction).as_ref().map(|operation| operation.kind).ok_or_else(not_initialized)
}

/// `C_EncryptMessage`, `C_DecryptMessage`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`; `CKR_OPERATION_ACTIVE` within a message in parts; `CKR_AEAD_DECRYPT_FAILED`;
/// `CKR_MECHANISM_PARAM_INVALID`. The operation goes on in any case.
pub fn single(
    module: &Module,
    session: &Session,
    direction: Direction,
    message: &AeadMessage<'_>,
    associated: &[u8],
    data: &[u8],
    room: Room,
) -> Result<Output> {
    let mut operations = session.operations();
    let operation = place(&mut operations, direction).as_mut().ok_or_else(not_initialized)?;
    if operation.message.is_some() {
        return Err(within_message());
    }
    if let Some(answer) = Output::without_bytes(room, data.len()) {
        return Ok(answer);
    }
    require_authorised(operation.authorised)?;
    let nonce = operation.nonce(module, direction, message)?;
    operation.call(module, direction, message, nonce, associated, data)
}

/// `C_EncryptMessageBegin`, `C_DecryptMessageBegin`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`; `CKR_OPERATION_ACTIVE` within a message; `CKR_MECHANISM_PARAM_INVALID`.
pub fn begin_message(
    module: &Module,
    session: &Session,
    direction: Direction,
    message: &AeadMessage<'_>,
    associated: &[u8],
) -> Result<()> {
    let mut operations = session.operations();
    let operation = place(&mut operations, direction).as_mut().ok_or_else(not_initialized)?;
    if operation.message.is_some() {
        return Err(within_message());
    }
    let nonce = operation.nonce(module, direction, message)?;
    operation.message = Some(Parts { nonce, associated: associated.to_vec(), data: Zeroizing::default() });
    Ok(())
}

/// `C_EncryptMessageNext`, `C_DecryptMessageNext`. Everything comes out with the last part.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED` without a beginning; `CKR_DATA_LEN_RANGE` beyond 64 MiB; as [`single`]. The message
/// ends with an error, the operation goes on.
pub fn next(
    module: &Module,
    session: &Session,
    direction: Direction,
    message: &AeadMessage<'_>,
    part: &[u8],
    room: Room,
    last: bool,
) -> Result<Output> {
    let mut operations = session.operations();
    let operation = place(&mut operations, direction).as_mut().ok_or_else(not_initialized)?;
    let mut parts = operation.message.take().ok_or_else(not_initialized)?;
    let needed = if last { parts.data.len() + part.len() } else { 0 };
    if let Some(answer) = Output::without_bytes(room, needed) {
        operation.message = Some(parts);
        return Ok(answer);
    }
    gather(&mut parts.data, part)?;
    if !last {
        operation.message = Some(parts);
        return Ok(Output::Public(Vec::new()));
    }
    require_authorised(operation.authorised)?;
    let Parts { nonce, associated, data } = parts;
    operation.call(module, direction, message, nonce, &associated, &data)
}

/// `C_MessageEncryptFinal`, `C_MessageDecryptFinal`: also a message that is not complete ends.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn end(session: &Session, direction: Direction) -> Result<()> {
    place(&mut session.operations(), direction).take().map(drop).ok_or_else(not_initialized)
}

impl MessageCipher {
    fn nonce(&mut self, module: &Module, direction: Direction, message: &AeadMessage<'_>) -> Result<Vec<u8>> {
        match direction {
            Direction::Encrypt => self.nonces.next(module, &message.nonce),
            Direction::Decrypt => Ok(message.nonce.given.clone()),
        }
    }

    fn call(
        &mut self,
        module: &Module,
        direction: Direction,
        message: &AeadMessage<'_>,
        nonce: Vec<u8>,
        associated: &[u8],
        data: &[u8],
    ) -> Result<Output> {
        let (aad, tag_bytes) = (associated.to_vec(), message.tag_bytes);
        let parameter = match self.kind {
            CKM_AES_CCM => {
                Parameter::Ccm { data_len: data.len() as u64, nonce, aad, tag_bytes: tag_bytes as u64 }
            }
            _ => Parameter::Gcm { iv: nonce, aad, tag_bits: 8 * tag_bytes as u32 },
        };
        let mechanism = Mechanism { kind: self.kind, parameter };
        // A key that wants a login wants it for each use.
        self.authorised = !self.key.wants_login_for_each_use();
        match direction {
            Direction::Encrypt => {
                let mut sealed =
                    with_blob(module, &self.key, |key| module.backend.encrypt(&mechanism, key, data))?;
                let tag = sealed.split_off(sealed.len().saturating_sub(message.tag_bytes));
                message.tag.deliver(&tag)?;
                Ok(Output::Public(sealed))
            }
            Direction::Decrypt => {
                let sealed = [data, message.tag.bytes()].concat();
                let opened =
                    with_blob(module, &self.key, |key| module.backend.decrypt(&mechanism, key, &sealed));
                opened.map(Output::Secret).map_err(|error| match error.code {
                    CKR_ENCRYPTED_DATA_INVALID => Error::new(CKR_AEAD_DECRYPT_FAILED, error.message),
                    _ => error,
                })
            }
        }
    }
}

fn place(operations: &mut Operations, direction: Direction) -> &mut Option<MessageCipher> {
    match direction {
        Direction::Encrypt => &mut operations.message_encrypt,
        Direction::Decrypt => &mut operations.message_decrypt,
    }
}

fn within_message() -> Error {
    Error::new(CKR_OPERATION_ACTIVE, "a message in parts is not complete")
}
