//! Saving and restoring what a session is at (section 5.6).
//!
//! A saved state is a name under which this library keeps a copy of the operations. It holds until `C_Finalize`, and
//! can be restored any number of times, in any session with the same token.

use std::collections::VecDeque;
use std::sync::Mutex;

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result, random};

use crate::digest::DigestOperation;
use crate::encryption::CipherOperation;
use crate::handles::{lock, read};
use crate::module::Module;
use crate::object::Object;
use crate::operation::{Operations, not_initialized};
use crate::output::{Output, Room};
use crate::session::Session;
use crate::signing::SignOperation;
use crate::verification::VerifyOperation;

/// The states that were saved, the oldest first.
#[derive(Default)]
pub struct SavedOperations(Mutex<VecDeque<Saved>>);

struct Saved {
    name: [u8; NAME_BYTES],
    slot: CK_SLOT_ID,
    state: State,
}

/// A copy of the operations that can be saved.
#[derive(Clone)]
struct State {
    digest: Option<DigestOperation>,
    encrypt: Option<CipherOperation>,
    decrypt: Option<CipherOperation>,
    sign: Option<SignOperation>,
    verify: Option<VerifyOperation>,
}

/// `C_GetOperationState`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED` if there is nothing to save; `CKR_STATE_UNSAVEABLE` for a search or a message-based
/// operation, for a key that wants a login for each use, for encryption by a key stream, and beyond 1 MiB of data that
/// wait for their end.
pub fn save(module: &Module, session: &Session, room: Room) -> Result<Output> {
    let operations = session.operations();
    if operations.find.is_some() || operations.is_recovering_or_messaging() {
        return Err(unsaveable("a search or a message-based operation can't be saved"));
    }
    if operations.encrypt.as_ref().is_some_and(CipherOperation::is_stream) {
        return Err(unsaveable("restored twice, this encryption would use its key stream twice"));
    }
    if gathered_bytes(&operations) > MAX_GATHERED_BYTES {
        return Err(unsaveable("too much data wait for the operation's end"));
    }
    let state = State {
        digest: operations.digest.clone(),
        encrypt: operations.encrypt.clone(),
        decrypt: operations.decrypt.clone(),
        sign: operations.sign.clone(),
        verify: operations.verify.clone(),
    };
    drop(operations);
    if state.is_empty() {
        return Err(not_initialized());
    }
    if state.keys().any(Object::wants_login_for_each_use) {
        return Err(unsaveable("the key wants a login for each use"));
    }
    if let Some(answer) = Output::without_bytes(room, NAME_BYTES) {
        return Ok(answer);
    }
    let mut name = [0; NAME_BYTES];
    random::fill(&mut name)?;
    let mut saved = lock(&module.saved_operations.0);
    if saved.len() == MAX_SAVED {
        saved.pop_front();
    }
    saved.push_back(Saved { name, slot: session.slot.id, state });
    Ok(Output::Public(name.to_vec()))
}

/// `C_SetOperationState`. What the session is at ends. The state knows its keys, so 0 may stand for them
/// (`CKF_RESTORE_KEY_NOT_NEEDED`).
///
/// # Errors
/// `CKR_SAVED_STATE_INVALID`, also for a private key whose user is not logged in, and for one that is gone; `CKR_KEY_CHANGED`, `CKR_KEY_NOT_NEEDED`.
pub fn restore(
    module: &Module,
    session: &Session,
    state: &[u8],
    encryption_key: CK_OBJECT_HANDLE,
    authentication_key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let found = lock(&module.saved_operations.0)
        .iter()
        .find(|saved| saved.name == state && saved.slot == session.slot.id)
        .map(|saved| saved.state.clone());
    let state = found.ok_or_else(|| invalid("no state of this token has been saved under this name"))?;
    // Held until the operations are there: a logout comes before, or ends them.
    let mut operations = session.operations();
    if state.keys().any(|key| key.private) && !session.slot.user_logged_in() {
        return Err(invalid("the state needs a private key, and the user is not logged in"));
    }
    if !state.keys().all(|key| read(&session.slot.catalogue).has(key)) {
        return Err(invalid("a key of the state is not there any more"));
    }
    let ciphers = [&state.encrypt, &state.decrypt].into_iter().flatten().map(|operation| &*operation.key);
    check_key(module, session, encryption_key, &ciphers.collect::<Vec<_>>())?;
    check_key(module, session, authentication_key, &state.authentication_keys().collect::<Vec<_>>())?;
    *operations = Default::default();
    operations.digest = state.digest;
    operations.encrypt = state.encrypt;
    operations.decrypt = state.decrypt;
    operations.sign = state.sign;
    operations.verify = state.verify;
    Ok(())
}

/// A key that the application names must be the one of the state.
fn check_key(module: &Module, session: &Session, handle: CK_OBJECT_HANDLE, used: &[&Object]) -> Result<()> {
    if handle == CK_INVALID_HANDLE {
        return Ok(());
    }
    if used.is_empty() {
        return Err(Error::new(CKR_KEY_NOT_NEEDED, "the state has no use for this key"));
    }
    let named = module.object(session, handle).ok();
    if !named.is_some_and(|named| used.iter().any(|key| key.unique_id() == named.unique_id())) {
        return Err(Error::new(CKR_KEY_CHANGED, "the state has been saved with another key"));
    }
    Ok(())
}

impl State {
    fn is_empty(&self) -> bool {
        self.digest.is_none() && self.keys().next().is_none()
    }

    fn authentication_keys(&self) -> impl Iterator<Item = &Object> {
        let sign = self.sign.as_ref().map(|operation| &*operation.key);
        sign.into_iter().chain(self.verify.as_ref().map(|operation| &*operation.key))
    }

    fn keys(&self) -> impl Iterator<Item = &Object> {
        let ciphers = [&self.encrypt, &self.decrypt].into_iter().flatten().map(|operation| &*operation.key);
        ciphers.chain(self.authentication_keys())
    }
}

impl SavedOperations {
    /// Forgets what was saved of a token.
    pub fn forget(&self, slot: CK_SLOT_ID) {
        lock(&self.0).retain(|saved| saved.slot != slot);
    }
}

fn gathered_bytes(operations: &Operations) -> usize {
    let ciphers = [&operations.encrypt, &operations.decrypt];
    let ciphers = ciphers.into_iter().flatten().map(CipherOperation::gathered_bytes);
    let sign = operations.sign.as_ref().map_or(0, |operation| operation.message.gathered_bytes());
    let verify = operations.verify.as_ref().map_or(0, |operation| operation.message.gathered_bytes());
    ciphers.sum::<usize>() + sign + verify
}

fn invalid(message: &'static str) -> Error {
    Error::new(CKR_SAVED_STATE_INVALID, message)
}

fn unsaveable(message: &'static str) -> Error {
    Error::new(CKR_STATE_UNSAVEABLE, message)
}

const NAME_BYTES: usize = 32;
/// How many states are kept; after that the oldest is forgotten.
const MAX_SAVED: usize = 1024;
const MAX_GATHERED_BYTES: usize = 1 << 20;
