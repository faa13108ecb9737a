//! Message digests (section 5.10), computed here.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Error, Result};
use openssl::hash::MessageDigest;

use crate::local::{self, Hasher};
use crate::mechanisms::MechanismInfo;
use crate::module::Module;
use crate::object::{attribute_value, key};
use crate::operation::{begin, cancel, finish, go_on, not_initialized};
use crate::output::{Output, Room};
use crate::session::Session;

/// A digest in progress.
#[derive(Clone)]
pub struct DigestOperation {
    function: MessageDigest,
    hasher: Option<Hasher>,
}

/// `C_DigestInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, `CKR_MECHANISM_INVALID`, `CKR_MECHANISM_PARAM_INVALID`.
pub fn digest_init(session: &Session, mechanism: Option<&Mechanism>) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.digest) };
    begin(&mut operations.digest, || {
        MechanismInfo::for_use(mechanism, CKF_DIGEST)?;
        Ok(DigestOperation { function: local::digest_function(mechanism.kind)?, hasher: None })
    })
}

/// `C_Digest`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also after a part.
pub fn digest(session: &Session, room: Room, data: &[u8]) -> Result<Output> {
    finish(&mut session.operations().digest, |operation| {
        if operation.hasher.is_some() {
            return Err(not_initialized());
        }
        match Output::without_bytes(room, operation.function.size()) {
            Some(answer) => Ok(answer),
            None => local::digest(operation.function, data).map(Output::Public),
        }
    })
}

/// `C_DigestUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn digest_update(session: &Session, data: &[u8]) -> Result<()> {
    go_on(&mut session.operations().digest, |operation| operation.update(data))
}

impl DigestOperation {
    /// Takes a part.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED`.
    pub fn update(&mut self, data: &[u8]) -> Result<()> {
        let hasher = match &mut self.hasher {
            Some(hasher) => hasher,
            none => none.insert(local::hasher(self.function)?),
        };
        hasher.update(data).map_err(local::failed)
    }
}

/// `C_DigestKey`: the key's value, if that may leave the HSM.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, `CKR_KEY_HANDLE_INVALID`, `CKR_KEY_INDIGESTIBLE`.
pub fn digest_key(module: &Module, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<()> {
    if session.operations().digest.is_none() {
        return Err(not_initialized());
    }
    let indigestible =
        || Error::new(CKR_KEY_INDIGESTIBLE, "only secret keys that are not sensitive are digested");
    let key = key(module, session, handle)?;
    if key.class() != Some(CKO_SECRET_KEY) || key.is(CKA_SENSITIVE) || !key.is(CKA_EXTRACTABLE) {
        return Err(indigestible());
    }
    let value = attribute_value(module, &key, CKA_VALUE)?;
    digest_update(session, value.as_bytes())
}

/// `C_DigestFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn digest_final(session: &Session, room: Room) -> Result<Output> {
    finish(&mut session.operations().digest, |operation| {
        if let Some(answer) = Output::without_bytes(room, operation.function.size()) {
            return Ok(answer);
        }
        let digest = match &mut operation.hasher {
            Some(hasher) => hasher.finish().map_err(local::failed)?.to_vec(),
            None => local::digest(operation.function, &[])?,
        };
        Ok(Output::Public(digest))
    })
}
