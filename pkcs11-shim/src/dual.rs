//! Two operations at once (section 5.13). Both end if one of them fails, unless only the buffer was too small.

use hsm_emulator::units::Result;

use crate::encryption::output_bytes;
use crate::module::Module;
use crate::operation::{Operations, go_on, not_initialized};
use crate::output::{Output, Room};
use crate::session::Session;

/// `C_DigestEncryptUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED` if one of them is not in progress; those of both.
pub fn digest_encrypt_update(module: &Module, session: &Session, room: Room, part: &[u8]) -> Result<Output> {
    let mut operations = session.operations();
    let Operations { digest, encrypt, .. } = &mut *operations;
    together(digest, encrypt, |digest, encrypt| {
        let output = go_on(encrypt, |operation| operation.update(module, room, part))?;
        if !is_length(&output) {
            go_on(digest, |operation| operation.update(part))?;
        }
        Ok(output)
    })
}

/// `C_DecryptDigestUpdate`.
///
/// # Errors
/// As [`digest_encrypt_update`].
pub fn decrypt_digest_update(
    module: &Module,
    session: &Session,
    room: Room,
    encrypted: &[u8],
) -> Result<Output> {
    let mut operations = session.operations();
    let Operations { digest, decrypt, .. } = &mut *operations;
    together(digest, decrypt, |digest, decrypt| {
        let output = go_on(decrypt, |operation| operation.update(module, room, encrypted))?;
        if !is_length(&output) {
            go_on(digest, |operation| operation.update(output_bytes(&output)))?;
        }
        Ok(output)
    })
}

/// `C_SignEncryptUpdate`.
///
/// # Errors
/// As [`digest_encrypt_update`].
pub fn sign_encrypt_update(module: &Module, session: &Session, room: Room, part: &[u8]) -> Result<Output> {
    let mut operations = session.operations();
    let Operations { sign, encrypt, .. } = &mut *operations;
    together(sign, encrypt, |sign, encrypt| {
        let output = go_on(encrypt, |operation| operation.update(module, room, part))?;
        if !is_length(&output) {
            go_on(sign, |operation| operation.message.update(part))?;
        }
        Ok(output)
    })
}

/// `C_DecryptVerifyUpdate`.
///
/// # Errors
/// As [`digest_encrypt_update`].
pub fn decrypt_verify_update(
    module: &Module,
    session: &Session,
    room: Room,
    encrypted: &[u8],
) -> Result<Output> {
    let mut operations = session.operations();
    let Operations { verify, decrypt, .. } = &mut *operations;
    together(verify, decrypt, |verify, decrypt| {
        let output = go_on(decrypt, |operation| operation.update(module, room, encrypted))?;
        if !is_length(&output) {
            go_on(verify, |operation| operation.update(output_bytes(&output)))?;
        }
        Ok(output)
    })
}

/// Runs a step of two operations that are in progress.
fn together<A, B>(
    first: &mut Option<A>,
    second: &mut Option<B>,
    step: impl FnOnce(&mut Option<A>, &mut Option<B>) -> Result<Output>,
) -> Result<Output> {
    if first.is_none() || second.is_none() {
        return Err(not_initialized());
    }
    step(first, second).inspect_err(|_| {
        *first = None;
        *second = None;
    })
}

fn is_length(output: &Output) -> bool {
    matches!(output, Output::Length(_) | Output::TooSmall(_))
}
