//! Two operations at once (section 5.13). Both end if one of them fails, unless only the buffer was too small.

use hsm_emulator::units::Result;

use crate::encryption::{CipherOperation, output_bytes};
use crate::module::Module;
use crate::operation::{Operations, go_on, not_initialized};
use crate::output::{Output, Room};
use crate::session::Session;

/// `C_DigestEncryptUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED` if one of them is not in progress; those of both.
pub fn digest_encrypt_update(module: &Module, session: &Session, room: Room, part: &[u8]) -> Result<Output> {
    let Operations { digest, encrypt, .. } = &mut *session.operations();
    let step = |cipher: &mut CipherOperation| cipher.update(module, room, part);
    together(encrypt, digest, step, |digest, _| digest.update(part))
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
    let Operations { digest, decrypt, .. } = &mut *session.operations();
    let step = |cipher: &mut CipherOperation| cipher.update(module, room, encrypted);
    together(decrypt, digest, step, |digest, plain| digest.update(plain))
}

/// `C_SignEncryptUpdate`.
///
/// # Errors
/// As [`digest_encrypt_update`].
pub fn sign_encrypt_update(module: &Module, session: &Session, room: Room, part: &[u8]) -> Result<Output> {
    let Operations { sign, encrypt, .. } = &mut *session.operations();
    let step = |cipher: &mut CipherOperation| cipher.update(module, room, part);
    together(encrypt, sign, step, |sign, _| sign.message.update(part))
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
    let Operations { verify, decrypt, .. } = &mut *session.operations();
    let step = |cipher: &mut CipherOperation| cipher.update(module, room, encrypted);
    together(decrypt, verify, step, |verify, plain| verify.update(plain))
}

/// Runs a step of a cipher, and feeds the other operation unless only a length is the answer; both are in progress.
fn together<A>(
    cipher: &mut Option<CipherOperation>,
    other: &mut Option<A>,
    step: impl FnOnce(&mut CipherOperation) -> Result<Output>,
    feed: impl FnOnce(&mut A, &[u8]) -> Result<()>,
) -> Result<Output> {
    if cipher.is_none() || other.is_none() {
        return Err(not_initialized());
    }
    let done = go_on(cipher, step).and_then(|output| {
        if !matches!(output, Output::Length(_) | Output::TooSmall(_)) {
            go_on(other, |other| feed(other, output_bytes(&output)))?;
        }
        Ok(output)
    });
    done.inspect_err(|_| {
        *cipher = None;
        *other = None;
    })
}
