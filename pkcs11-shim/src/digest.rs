//! Message digests (section 5.10), computed here.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Error, Result};

use crate::local::{DigestKind, Hasher, failed};
use crate::mechanisms::MechanismInfo;
use crate::operation::{begin, cancel, finish, go_on, not_initialized};
use crate::output::{Output, Room};
use crate::session::Session;

/// A digest in progress.
pub struct DigestOperation {
    kind: DigestKind,
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
        let kind = DigestKind::of_mechanism(mechanism.kind)
            .ok_or_else(|| Error::new(CKR_MECHANISM_INVALID, "no such digest"))?;
        Ok(DigestOperation { kind, hasher: None })
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
        match Output::without_bytes(room, operation.kind.bytes()) {
            Some(answer) => Ok(answer),
            None => operation.kind.digest(data).map(Output::Public),
        }
    })
}

/// `C_DigestUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn digest_update(session: &Session, data: &[u8]) -> Result<()> {
    go_on(&mut session.operations().digest, |operation| {
        let hasher = match &mut operation.hasher {
            Some(hasher) => hasher,
            none => none.insert(operation.kind.hasher()?),
        };
        hasher.update(data).map_err(failed)
    })
}

/// `C_DigestFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn digest_final(session: &Session, room: Room) -> Result<Output> {
    finish(&mut session.operations().digest, |operation| {
        if let Some(answer) = Output::without_bytes(room, operation.kind.bytes()) {
            return Ok(answer);
        }
        let digest = match &mut operation.hasher {
            Some(hasher) => hasher.finish().map_err(failed)?.to_vec(),
            None => operation.kind.digest(&[])?,
        };
        Ok(Output::Public(digest))
    })
}
