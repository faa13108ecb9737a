//! Signatures and MACs (section 5.11).
//!
//! Mechanisms that hash are taken apart: the hash is computed here, so that the data never travel, and
//! the HSM signs it with the mechanism that does not hash.

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::Result;
use hsm_emulator::units::mechanism::{Mechanism, asymmetric, digest, mac};
use openssl::hash::MessageDigest;
use zeroize::Zeroizing;

use crate::local::{self, Hasher};
use crate::module::Module;
use crate::object::{Object, with_blob};
use crate::operation::{Prepared, begin, cancel, finish, gather, go_on, not_initialized, require_authorised};
use crate::output::{Output, Room};
use crate::session::Session;

/// A signature in progress.
#[derive(Clone)]
pub struct SignOperation {
    pub(crate) key: Arc<Object>,
    /// What is to be signed.
    pub message: Message,
    /// False while the key waits for its login.
    pub authorised: bool,
}

/// What is to be signed or verified, and how far it has come.
#[derive(Clone)]
pub struct Message {
    scheme: Scheme,
    stage: Stage,
}

/// How a mechanism treats its data.
#[derive(Clone)]
struct Scheme {
    /// What the HSM is asked to do.
    mechanism: Mechanism,
    hash: Hash,
}

#[derive(Clone)]
enum Hash {
    /// The data are signed as they are, in one part.
    None,
    /// The mechanism reads everything itself, in parts if need be.
    Inside,
    /// Hashed here, by the digest of this mechanism.
    Here(CK_MECHANISM_TYPE, MessageDigest),
}

#[derive(Clone)]
enum Stage {
    Ready,
    Hashing(Hasher),
    Gathering(Zeroizing<Vec<u8>>),
}

/// `C_SignInit`.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and those of [`Prepared::check`].
pub fn sign_init(
    module: &Module,
    session: &Session,
    mechanism: Option<Mechanism>,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    let mut operations = session.operations();
    let Some(mechanism) = mechanism else { return cancel(&mut operations.sign) };
    begin(&mut operations.sign, || SignOperation::new(module, session, mechanism, key, CKF_SIGN, CKA_SIGN))
}

/// `C_Sign`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also after a part; `CKR_DATA_LEN_RANGE`.
pub fn sign(module: &Module, session: &Session, room: Room, data: &[u8]) -> Result<Output> {
    finish(&mut session.operations().sign, |operation| operation.single(module, room, data))
}

/// `C_SignUpdate`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`, also for a mechanism without parts; `CKR_DATA_LEN_RANGE`.
pub fn sign_update(session: &Session, data: &[u8]) -> Result<()> {
    go_on(&mut session.operations().sign, |operation| operation.message.update(data))
}

/// `C_SignFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn sign_final(module: &Module, session: &Session, room: Room) -> Result<Output> {
    finish(&mut session.operations().sign, |operation| operation.last(module, room))
}

impl SignOperation {
    /// `flag` (`CKF_*`) is the use, `permission` (`CKA_*`) what the key must allow.
    ///
    /// # Errors
    /// Those of [`Prepared::check`].
    pub fn new(
        module: &Module,
        session: &Session,
        mechanism: Mechanism,
        key: CK_OBJECT_HANDLE,
        flag: CK_FLAGS,
        permission: CK_ATTRIBUTE_TYPE,
    ) -> Result<Self> {
        let Prepared { key, authorised } =
            Prepared::check(module, session, &mechanism, key, flag, permission)?;
        let message = Message::new(mechanism, &key);
        Ok(Self { key, message, authorised })
    }

    /// Signs a message of one part.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED` after a part; `CKR_DATA_LEN_RANGE`.
    pub fn single(&self, module: &Module, room: Room, data: &[u8]) -> Result<Output> {
        self.message.require_no_part()?;
        if let Some(answer) = Output::without_bytes(room, self.signature_bytes()) {
            return Ok(answer);
        }
        require_authorised(self.authorised)?;
        let input = self.message.whole(data)?;
        self.call(module, input.as_deref().unwrap_or(data))
    }

    /// Signs the parts.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED` if the mechanism takes none.
    pub fn last(&mut self, module: &Module, room: Room) -> Result<Output> {
        self.message.require_parts()?;
        if let Some(answer) = Output::without_bytes(room, self.signature_bytes()) {
            return Ok(answer);
        }
        require_authorised(self.authorised)?;
        let input = self.message.end()?;
        self.call(module, &input)
    }

    /// The length of the signature.
    pub fn signature_bytes(&self) -> usize {
        signature_bytes(&self.key, self.message.mechanism())
    }

    fn call(&self, module: &Module, input: &[u8]) -> Result<Output> {
        let mechanism = self.message.mechanism();
        with_blob(module, &self.key, |key| module.backend.sign(mechanism, key, input)).map(Output::Public)
    }
}

impl Message {
    /// Nothing of it is known yet but the mechanism.
    pub fn new(mechanism: Mechanism, key: &Object) -> Self {
        // A public key is used here, where nobody but this library asks for the raw mechanism.
        let whole = key.restricted() && key.class() != Some(CKO_PUBLIC_KEY);
        Self { scheme: Scheme::of(mechanism, whole), stage: Stage::Ready }
    }

    /// The mechanism that signs or verifies what [`Message::end`] gives.
    pub fn mechanism(&self) -> &Mechanism {
        &self.scheme.mechanism
    }

    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED` if the message came in parts: it must end in parts.
    pub fn require_no_part(&self) -> Result<()> {
        if matches!(self.stage, Stage::Ready) { Ok(()) } else { Err(not_initialized()) }
    }

    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED` if the mechanism takes no parts.
    pub fn require_parts(&self) -> Result<()> {
        if matches!(self.scheme.hash, Hash::None) { Err(not_initialized()) } else { Ok(()) }
    }

    /// What to sign for this message in one part; `None`: the data themselves.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`.
    pub fn whole(&self, data: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.scheme.hash {
            Hash::None | Hash::Inside => Ok(None),
            Hash::Here(digest, function) => {
                self.scheme.framed(digest, local::digest(function, data)?).map(Some)
            }
        }
    }

    /// Takes a part.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED`, `CKR_DATA_LEN_RANGE`.
    pub fn update(&mut self, data: &[u8]) -> Result<()> {
        self.require_parts()?;
        if let Stage::Ready = self.stage {
            self.stage = self.scheme.first_stage()?;
        }
        match &mut self.stage {
            Stage::Hashing(hasher) => hasher.update(data).map_err(local::failed),
            Stage::Gathering(gathered) => gather(gathered, data),
            Stage::Ready => Err(not_initialized()),
        }
    }

    /// Bytes that wait for the end.
    pub fn gathered_bytes(&self) -> usize {
        match &self.stage {
            Stage::Gathering(gathered) => gathered.len(),
            Stage::Ready | Stage::Hashing(_) => 0,
        }
    }

    /// The parts are complete: what to sign.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`.
    pub fn end(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        let stage = match std::mem::replace(&mut self.stage, Stage::Ready) {
            Stage::Ready => self.scheme.first_stage()?,
            stage => stage,
        };
        match (stage, &self.scheme.hash) {
            (Stage::Hashing(mut hasher), Hash::Here(digest, _)) => {
                let hash = hasher.finish().map_err(local::failed)?.to_vec();
                self.scheme.framed(*digest, hash).map(Zeroizing::new)
            }
            (Stage::Gathering(gathered), _) => Ok(gathered),
            _ => Err(not_initialized()),
        }
    }
}

impl Scheme {
    /// `whole`: the key is restricted to certain mechanisms, so the HSM must be asked for the very one.
    fn of(mechanism: Mechanism, whole: bool) -> Self {
        if let Some((digest, raw)) = digest::hash_and_sign(mechanism.kind)
            && let Ok(function) = local::digest_function(digest)
        {
            if whole {
                return Self { mechanism, hash: Hash::Inside };
            }
            let mechanism = Mechanism { kind: raw, parameter: mechanism.parameter };
            return Self { mechanism, hash: Hash::Here(digest, function) };
        }
        let hash = if takes_parts(&mechanism) { Hash::Inside } else { Hash::None };
        Self { mechanism, hash }
    }

    /// What the mechanism that does not hash wants: the hash, for PKCS #1 in a DigestInfo.
    fn framed(&self, digest: CK_MECHANISM_TYPE, hash: Vec<u8>) -> Result<Vec<u8>> {
        if self.mechanism.kind == CKM_RSA_PKCS { digest::digest_info(digest, &hash) } else { Ok(hash) }
    }

    fn first_stage(&self) -> Result<Stage> {
        match self.hash {
            Hash::None => Err(not_initialized()),
            Hash::Inside => Ok(Stage::Gathering(Zeroizing::default())),
            Hash::Here(_, function) => Ok(Stage::Hashing(local::hasher(function)?)),
        }
    }
}

/// Does the mechanism take its data in parts?
pub fn takes_parts(mechanism: &Mechanism) -> bool {
    digest::hash_and_sign(mechanism.kind).is_some()
        || mac::bytes(mechanism).is_some()
        || matches!(mechanism.kind, CKM_EDDSA | CKM_ML_DSA | CKM_SLH_DSA)
}

/// The length of a signature, from what is known of the key.
pub fn signature_bytes(key: &Object, mechanism: &Mechanism) -> usize {
    match mac::bytes(mechanism) {
        Some(bytes) => bytes.unwrap_or(0),
        None => asymmetric::signature_bytes(&key.attributes),
    }
}
