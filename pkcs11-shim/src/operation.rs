//! Operations in progress: one place for each family in every session, and the rules common to all.

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, asymmetric};
use hsm_emulator::units::{Error, Result};

use crate::digest::DigestOperation;
use crate::encryption::CipherOperation;
use crate::mechanisms::MechanismInfo;
use crate::message_encryption::MessageCipher;
use crate::message_signing::{MessageSign, MessageVerify};
use crate::module::Module;
use crate::object::{Object, key};
use crate::output::Output;
use crate::recovery::VerifyRecoverOperation;
use crate::session::Session;
use crate::signing::SignOperation;
use crate::verification::VerifyOperation;

/// The operations of a session. The standard lets one of each family run at a time.
#[derive(Default)]
pub struct Operations {
    /// Search.
    pub find: Option<Find>,
    /// Digest.
    pub digest: Option<DigestOperation>,
    /// Encryption.
    pub encrypt: Option<CipherOperation>,
    /// Decryption.
    pub decrypt: Option<CipherOperation>,
    /// Signature.
    pub sign: Option<SignOperation>,
    /// Verification.
    pub verify: Option<VerifyOperation>,
    /// Signature from which the data are recovered.
    pub sign_recover: Option<SignOperation>,
    /// Recovery of the data from a signature.
    pub verify_recover: Option<VerifyRecoverOperation>,
    /// Message-based encryption.
    pub message_encrypt: Option<MessageCipher>,
    /// Message-based decryption.
    pub message_decrypt: Option<MessageCipher>,
    /// Message-based signatures.
    pub message_sign: Option<MessageSign>,
    /// Message-based verification.
    pub message_verify: Option<MessageVerify>,
}

impl Operations {
    /// The flag of an operation whose key wants a login for each use, and has not had it.
    pub fn awaiting_login(&mut self) -> Option<&mut bool> {
        let signatures = [
            self.sign.as_mut(),
            self.sign_recover.as_mut(),
            self.message_sign.as_mut().map(|signing| &mut signing.operation),
        ];
        let flags = [
            self.decrypt.as_mut().map(|operation| &mut operation.authorised),
            self.message_decrypt.as_mut().map(|operation| &mut operation.authorised),
        ];
        let signatures = signatures.into_iter().flatten().map(|operation| &mut operation.authorised);
        signatures.chain(flags.into_iter().flatten()).find(|authorised| !**authorised)
    }

    /// `C_SessionCancel`: ends the operations of these kinds (`CKF_*`), whichever are in progress.
    pub fn cancel(&mut self, flags: CK_FLAGS) {
        self.end_if(flags, |_| true);
        if flags & CKF_DIGEST != 0 {
            self.digest = None;
        }
        if flags & CKF_FIND_OBJECTS != 0 {
            self.find = None;
        }
    }

    /// Is there an operation with recovery, or a message-based one?
    pub fn is_recovering_or_messaging(&self) -> bool {
        self.sign_recover.is_some()
            || self.verify_recover.is_some()
            || self.message_encrypt.is_some()
            || self.message_decrypt.is_some()
            || self.message_sign.is_some()
            || self.message_verify.is_some()
    }

    /// Ends the operations of these kinds (`CKF_*`) whose keys are `wanted`.
    fn end_if(&mut self, flags: CK_FLAGS, wanted: impl Fn(&Object) -> bool) {
        let has = |flag: CK_FLAGS| flags & flag != 0;
        self.encrypt.take_if(|o| has(CKF_ENCRYPT) && wanted(&o.key));
        self.decrypt.take_if(|o| has(CKF_DECRYPT) && wanted(&o.key));
        self.sign.take_if(|o| has(CKF_SIGN) && wanted(&o.key));
        self.verify.take_if(|o| has(CKF_VERIFY) && wanted(&o.key));
        self.sign_recover.take_if(|o| has(CKF_SIGN_RECOVER) && wanted(&o.key));
        self.verify_recover.take_if(|o| has(CKF_VERIFY_RECOVER) && wanted(&o.key));
        self.message_encrypt.take_if(|o| has(CKF_MESSAGE_ENCRYPT) && wanted(&o.key));
        self.message_decrypt.take_if(|o| has(CKF_MESSAGE_DECRYPT) && wanted(&o.key));
        self.message_sign.take_if(|o| has(CKF_MESSAGE_SIGN) && wanted(&o.operation.key));
        self.message_verify.take_if(|o| has(CKF_MESSAGE_VERIFY) && wanted(&o.operation.key));
    }

    /// After a logout: nobody may go on using a private key.
    pub fn end_all_with_private_keys(&mut self) {
        self.find = None;
        self.end_if(CK_FLAGS::MAX, |key| key.private);
    }
}

/// A search whose results are being handed out.
pub struct Find {
    found: std::vec::IntoIter<CK_OBJECT_HANDLE>,
}

impl Find {
    /// A search that found these.
    pub fn new(found: Vec<CK_OBJECT_HANDLE>) -> Self {
        Self { found: found.into_iter() }
    }

    /// The next ones.
    pub fn next(&mut self, max: usize) -> Vec<CK_OBJECT_HANDLE> {
        self.found.by_ref().take(max).collect()
    }
}

/// A key and a mechanism that fit together and may be used as the application wants.
pub struct Prepared {
    /// The key.
    pub key: Arc<Object>,
    /// False if the key wants a login before it is used (`CKA_ALWAYS_AUTHENTICATE`).
    pub authorised: bool,
}

impl Prepared {
    /// All that `C_*Init` has to check. `flag` (`CKF_*`) is the use, `permission` (`CKA_*`) what the key must allow.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_MECHANISM_PARAM_INVALID`, `CKR_KEY_HANDLE_INVALID`,
    /// `CKR_KEY_FUNCTION_NOT_PERMITTED`, `CKR_KEY_TYPE_INCONSISTENT`.
    pub fn check(
        module: &Module,
        session: &Session,
        mechanism: &Mechanism,
        handle: CK_OBJECT_HANDLE,
        flag: CK_FLAGS,
        permission: CK_ATTRIBUTE_TYPE,
    ) -> Result<Self> {
        let info = MechanismInfo::for_use(mechanism, flag)?;
        let prepared = Self::check_key(module, session, info, handle, permission)?;
        asymmetric::check_parameter(mechanism, &prepared.key.attributes)?;
        Ok(prepared)
    }

    /// The part of it that is about the key.
    ///
    /// # Errors
    /// `CKR_KEY_HANDLE_INVALID`, `CKR_KEY_FUNCTION_NOT_PERMITTED`, `CKR_KEY_TYPE_INCONSISTENT`, `CKR_MECHANISM_INVALID`.
    pub fn check_key(
        module: &Module,
        session: &Session,
        info: &MechanismInfo,
        handle: CK_OBJECT_HANDLE,
        permission: CK_ATTRIBUTE_TYPE,
    ) -> Result<Self> {
        let key = key(module, session, handle)?;
        if !key.is(permission) {
            return Err(Error::new(
                CKR_KEY_FUNCTION_NOT_PERMITTED,
                "the key's attributes don't permit this use",
            ));
        }
        if !key.key_type().is_some_and(|key_type| info.takes(key_type)) {
            return Err(Error::new(CKR_KEY_TYPE_INCONSISTENT, "the mechanism is not for keys of this type"));
        }
        check_allowed(&key, info.kind)?;
        let authorised = !key.wants_login_for_each_use();
        Ok(Self { key, authorised })
    }
}

/// Does the key's list of mechanisms, if it has one, hold this one?
///
/// # Errors
/// `CKR_MECHANISM_INVALID`.
pub fn check_allowed(key: &Object, kind: CK_MECHANISM_TYPE) -> Result<()> {
    match key.attributes.get(CKA_ALLOWED_MECHANISMS) {
        Some(list) if !list.is_empty() && !list.chunks(8).any(|entry| entry == kind.to_le_bytes()) => {
            Err(Error::new(CKR_MECHANISM_INVALID, "the key is not allowed to be used with this mechanism"))
        }
        _ => Ok(()),
    }
}

/// Starts an operation in a free place.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of `make`.
pub fn begin<T>(place: &mut Option<T>, make: impl FnOnce() -> Result<T>) -> Result<()> {
    if place.is_some() {
        return Err(Error::new(CKR_OPERATION_ACTIVE, "an operation of this kind is in progress"));
    }
    *place = Some(make()?);
    Ok(())
}

/// `C_*Init` without a mechanism cancels the operation.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` if there is none.
pub fn cancel<T>(place: &mut Option<T>) -> Result<()> {
    place
        .take()
        .map(drop)
        .ok_or_else(|| Error::new(CKR_ARGUMENTS_BAD, "no mechanism, and no operation to cancel"))
}

/// A step after which the operation goes on, unless it fails.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, and those of `step`.
pub fn go_on<T, R>(place: &mut Option<T>, step: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
    let mut operation = place.take().ok_or_else(not_initialized)?;
    let result = step(&mut operation)?;
    *place = Some(operation);
    Ok(result)
}

/// The last step: the operation goes on only if the step answers with a length instead of bytes.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, and those of `step`.
pub fn finish<T>(place: &mut Option<T>, step: impl FnOnce(&mut T) -> Result<Output>) -> Result<Output> {
    let mut operation = place.take().ok_or_else(not_initialized)?;
    let output = step(&mut operation)?;
    if matches!(output, Output::Length(_) | Output::TooSmall(_)) {
        *place = Some(operation);
    }
    Ok(output)
}

/// The error of a step without a beginning, or out of order.
pub fn not_initialized() -> Error {
    Error::new(CKR_OPERATION_NOT_INITIALIZED, "no operation of this kind waits for this step")
}

/// # Errors
/// `CKR_USER_NOT_LOGGED_IN` if the key wants a login for each use and has not had it.
pub fn require_authorised(authorised: bool) -> Result<()> {
    if authorised {
        return Ok(());
    }
    Err(Error::new(CKR_USER_NOT_LOGGED_IN, "the key wants a login (CKU_CONTEXT_SPECIFIC) for each use"))
}

/// Data that must be whole before the HSM gets it.
///
/// # Errors
/// `CKR_DATA_LEN_RANGE` beyond 64 MiB.
pub fn gather(gathered: &mut Vec<u8>, data: &[u8]) -> Result<()> {
    if gathered.len() + data.len() > MAX_GATHERED_BYTES {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "this mechanism takes at most 64 MiB in parts"));
    }
    if gathered.capacity() < gathered.len() + data.len() {
        // Grow in a way that leaves no copy of the old content behind.
        let mut larger = Vec::with_capacity((gathered.len() + data.len()).next_power_of_two());
        larger.extend_from_slice(gathered);
        zeroize::Zeroize::zeroize(gathered);
        *gathered = larger;
    }
    gathered.extend_from_slice(data);
    Ok(())
}

/// 64 MiB, and a tag.
const MAX_GATHERED_BYTES: usize = (64 << 20) + 16;
