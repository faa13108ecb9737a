//! PKCS #11 tokens: what is stored of them.

mod login;
mod objects;
pub mod restore;

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cryptoki_sys::*;
use serde::{Deserialize, Serialize};

pub use self::login::Grant;
pub use self::objects::{Changes, ObjectId, Put};
use super::pins::{self, Recognised};
use super::reencryption::unstage;
use super::region::Region;
use super::storage::{Sealing, from_keystore};
use super::stored_keys::{TOKEN, objects_of};
use crate::keystore::{self, Effect, Expect, Record, Write};
use crate::units::{Error, KeyBlob, Result, random};

/// The tokens of an instance.
pub struct Tokens {
    region: Arc<Region>,
    recognised: Recognised,
    /// Fingerprints of PINs that were right.
    right: RwLock<HashSet<[u8; 32]>>,
    /// One PIN hash at a time: it takes 19 MiB and a core.
    hashing: Mutex<()>,
    /// Threads that wait for it.
    waiting: AtomicUsize,
}

/// A token as anybody may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// 16 hexadecimal digits; the token's identity.
    pub serial: String,
    /// At most 32 bytes of UTF-8.
    pub label: String,
    /// Has the SO set the user's PIN?
    pub user_pin_initialized: bool,
    /// Wrong user PINs in a row.
    pub user_pin_failures: u32,
    /// Wrong SO PINs in a row.
    pub so_pin_failures: u32,
    /// Wrong PINs in a row at which a PIN is locked.
    pub max_pin_failures: u32,
}

/// Who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// The user: private objects.
    User,
    /// The security officer: PINs.
    So,
}

/// The stored form of a token.
#[derive(Serialize, Deserialize)]
struct StoredToken {
    /// Position among the tokens, by time of creation.
    order: u64,
    label: String,
    so: StoredPin,
    user: Option<StoredPin>,
    /// `C_InitToken` has begun to erase the objects, and has not finished.
    erasing: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredPin {
    /// Base64 of the sealed record.
    record: String,
    /// Wrong PINs in a row, counted before each comparison.
    failures: u32,
}

impl Tokens {
    /// The tokens in a region's keystore.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` without randomness.
    pub fn new(region: Arc<Region>) -> Result<Self> {
        Ok(Self {
            region,
            recognised: Recognised::new()?,
            right: RwLock::default(),
            hashing: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// All tokens, in the order of their creation.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if the keystore cannot be read.
    pub fn list(&self) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        for record in self.region.keystore().scan(TOKEN).map_err(from_keystore)? {
            match parse(&record) {
                Ok(token) => tokens.push((token, record.id)),
                Err(error) => tracing::error!(%error, "a token takes no part"),
            }
        }
        tokens.sort_by_key(|(token, _)| token.order);
        Ok(tokens.into_iter().map(|(token, serial)| token.public(serial)).collect())
    }

    /// Makes a token; or, if `serial` names one, erases and renames it, which needs its SO PIN.
    ///
    /// # Errors
    /// `CKR_PIN_LEN_RANGE`, `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`, `CKR_ARGUMENTS_BAD` for a label over 32 bytes.
    pub fn init(&self, serial: Option<&str>, so_pin: &[u8], label: &str) -> Result<Token> {
        check_label(label)?;
        let Some(serial) = serial else { return self.create(so_pin, label) };
        let right = self.login(serial, User::So, so_pin)?;
        self.update(serial, None, |token| {
            self.check_still_right(&right)?;
            label.clone_into(&mut token.label);
            token.so.failures = 0;
            token.user = None;
            token.erasing = true;
            Ok(true)
        })?;
        let (token, _) = self.read(serial)?;
        Ok(token.public(serial.to_owned()))
    }

    fn create(&self, so_pin: &[u8], label: &str) -> Result<Token> {
        pins::check_len(so_pin)?;
        let order = self.next_order()?;
        let serial = hex::encode(random::array::<8>()?);
        let sealing = self.sealing()?;
        let so = StoredPin::new(&self.seal_pin(&sealing, &serial, User::So, so_pin)?);
        let token = StoredToken { order, label: label.to_owned(), so, user: None, erasing: false };
        let writes = vec![write(&serial, Expect::Absent, &token)?];
        self.region.commit_sealed(&sealing, writes).map_err(from_keystore)?;
        tracing::info!(serial, label, "token initialised");
        Ok(token.public(serial))
    }

    /// The position of the next token.
    fn next_order(&self) -> Result<u64> {
        let others = self.region.keystore().scan(TOKEN).map_err(from_keystore)?;
        if others.len() >= MAX_TOKENS {
            return Err(Error::new(CKR_DEVICE_MEMORY, "there are 1,000 tokens already"));
        }
        let order = others.iter().filter_map(|record| parse(record).ok()).map(|token| token.order + 1).max();
        Ok(order.unwrap_or(0))
    }

    fn sealing(&self) -> Result<Sealing> {
        self.region.sealing(self.region.unit()?).map_err(from_keystore)
    }

    /// A token's record and its version. An erasure that was begun is finished first.
    fn read(&self, serial: &str) -> Result<(StoredToken, u64)> {
        loop {
            let record = self
                .region
                .keystore()
                .get(TOKEN, serial)
                .map_err(from_keystore)?
                .ok_or_else(|| Error::new(CKR_TOKEN_NOT_PRESENT, "no such token"))?;
            let token = parse(&record)?;
            if !token.erasing {
                return Ok((token, record.version));
            }
            self.finish_erasure(serial, token, record.version)?;
        }
    }

    /// Deletes all objects of a token that is being erased. Nobody can add one meanwhile, since that needs the
    /// record in a version before the erasure.
    fn finish_erasure(&self, serial: &str, mut token: StoredToken, version: u64) -> Result<()> {
        token.erasing = false;
        let mut writes = vec![write(serial, Expect::Version(version), &token)?];
        let kind = objects_of(serial);
        let objects = self.region.keystore().scan(&kind).map_err(from_keystore)?;
        for record in &objects {
            let (kind, id) = (kind.clone(), record.id.clone());
            writes.push(unstage(&kind, &id));
            writes.push(Write { kind, id, expect: Expect::Version(record.version), effect: Effect::Delete });
        }
        match self.region.keystore().commit(writes) {
            // Another process finished it.
            Err(keystore::Error::Conflict { .. }) => return Ok(()),
            outcome => outcome.map_err(from_keystore)?,
        };
        objects.iter().for_each(|record| self.forget(record));
        tracing::warn!(serial, objects = objects.len(), "token erased and initialised again");
        self.region.keystore().erase_log().map_err(from_keystore)
    }

    /// Changes a token's record if `change` says so; again if somebody else changed it meanwhile. `sealing` is
    /// what a new PIN record in it was sealed with.
    fn update(
        &self,
        serial: &str,
        sealing: Option<&Sealing>,
        change: impl FnMut(&mut StoredToken) -> Result<bool>,
    ) -> Result<()> {
        let commit = |writes| match sealing {
            Some(sealing) => self.region.commit_sealed(sealing, writes),
            None => self.region.keystore().commit(writes),
        };
        self.change(serial, change, commit)
    }

    fn change(
        &self,
        serial: &str,
        mut change: impl FnMut(&mut StoredToken) -> Result<bool>,
        commit: impl Fn(Vec<Write>) -> keystore::Result<u64>,
    ) -> Result<()> {
        loop {
            let (mut token, version) = self.read(serial)?;
            if !change(&mut token)? {
                return Ok(());
            }
            let writes = vec![write(serial, Expect::Version(version), &token)?];
            match commit(writes) {
                Err(keystore::Error::Conflict { .. }) => {}
                outcome => return outcome.map(|_| ()).map_err(from_keystore),
            }
        }
    }
}

impl StoredToken {
    fn pin(&self, user: User) -> Result<&StoredPin> {
        match user {
            User::So => Ok(&self.so),
            User::User => self.user.as_ref().ok_or_else(no_user_pin),
        }
    }

    fn pin_mut(&mut self, user: User) -> Result<&mut StoredPin> {
        match user {
            User::So => Ok(&mut self.so),
            User::User => self.user.as_mut().ok_or_else(no_user_pin),
        }
    }

    fn public(self, serial: String) -> Token {
        Token {
            serial,
            label: self.label,
            user_pin_initialized: self.user.is_some(),
            user_pin_failures: self.user.map_or(0, |pin| pin.failures),
            so_pin_failures: self.so.failures,
            max_pin_failures: MAX_PIN_FAILURES,
        }
    }
}

impl StoredPin {
    fn new(record: &KeyBlob) -> Self {
        Self { record: BASE64.encode(record.as_bytes()), failures: 0 }
    }

    fn blob(&self) -> Result<KeyBlob> {
        let bytes = BASE64
            .decode(&self.record)
            .map_err(|_| Error::new(CKR_DEVICE_ERROR, "the token's stored record is damaged"))?;
        KeyBlob::parse(&bytes)
    }
}

fn check_label(label: &str) -> Result<()> {
    if label.len() > LABEL_BYTES {
        return Err(Error::new(CKR_ARGUMENTS_BAD, "a token label has at most 32 bytes"));
    }
    Ok(())
}

fn parse(record: &Record) -> Result<StoredToken> {
    serde_json::from_slice(&record.body).map_err(|_| {
        Error::new(CKR_DEVICE_ERROR, format!("token {}: its stored record is damaged", record.id))
    })
}

fn write(serial: &str, expect: Expect, token: &StoredToken) -> Result<Write> {
    let body = serde_json::to_vec(token)
        .map_err(|_| Error::new(CKR_DEVICE_ERROR, "the token's record cannot be written"))?;
    Ok(Write { kind: TOKEN.into(), id: serial.to_owned(), expect, effect: Effect::Put(body) })
}

fn no_user_pin() -> Error {
    Error::new(CKR_USER_PIN_NOT_INITIALIZED, "the user has no PIN yet: the SO must set it")
}

/// The longest label, in bytes.
pub const LABEL_BYTES: usize = 32;
/// Wrong PINs in a row at which a PIN is locked.
pub const MAX_PIN_FAILURES: u32 = 10;
const MAX_TOKENS: usize = 1000;
