//! PKCS #11 tokens: PINs, and objects in the keystore.

pub mod restore;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cryptoki_sys::*;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::pins::{self, Recognised};
use super::reencryption::unstage;
use super::region::Region;
use super::storage::{Sealing, from_keystore, is_about_master_key};
use super::stored_keys::{self, objects_of};
use crate::keystore::{self, Effect, Expect, Importance, Record, Write};
use crate::units::{Attributes, CryptoUnit, Error, KeyBlob, Result, random, vendor};

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

/// Proof that a PIN was right: opaque, sealed by the unit, void once the PIN changes.
#[derive(Clone)]
pub struct Grant(pub Vec<u8>);

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grant")
    }
}

/// Identity of a token object, for ever and in every process.
pub type ObjectId = [u8; 16];

/// What changed among a token's objects.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Where the next question starts.
    pub revision: u64,
    /// New or changed objects.
    pub stored: Vec<(ObjectId, KeyBlob)>,
    /// Objects that are gone.
    pub deleted: Vec<ObjectId>,
    /// Is there more to be had at once?
    pub more: bool,
}

/// An object to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Chosen by whoever makes the object.
    pub id: ObjectId,
    /// Sealed.
    pub object: &'a KeyBlob,
    /// What it takes the place of, which must be what is stored; `None` for a new object.
    pub replaces: Option<&'a KeyBlob>,
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
        let checked = self.check_pin(serial, User::So, so_pin)?;
        self.update(serial, None, |token| {
            if token.so.blob()? != checked {
                return Err(Error::new(CKR_PIN_INCORRECT, "the SO PIN was changed at the same time"));
            }
            label.clone_into(&mut token.label);
            token.so.failures = 0;
            token.user = None;
            token.erasing = true;
            Ok(true)
        })?;
        let (token, _) = self.read(serial)?;
        Ok(token.public(serial.to_owned()))
    }

    /// Checks a PIN.
    ///
    /// # Errors
    /// `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`, `CKR_USER_PIN_NOT_INITIALIZED`, `CKR_TOKEN_NOT_PRESENT`.
    pub fn login(&self, serial: &str, user: User, pin: &[u8]) -> Result<Grant> {
        let record = self.check_pin(serial, user, pin)?;
        let fields = Attributes::new()
            .with(GRANT_SERIAL, serial)
            .with(GRANT_USER, [u8::from(user == User::So)])
            .with(GRANT_PIN, record.as_bytes());
        let blob = self.region.unit()?.seal(&Attributes::new().with(GRANT, []), &fields)?;
        Ok(Grant(blob.as_bytes().to_vec()))
    }

    /// Sets the user's PIN, and unlocks it. Needs the SO's grant.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, `CKR_PIN_LEN_RANGE`.
    pub fn init_pin(&self, grant: &Grant, pin: &[u8]) -> Result<()> {
        let (serial, user) = self.open_grant(grant)?;
        if user != User::So {
            return Err(Error::new(CKR_USER_NOT_LOGGED_IN, "only the SO may set the user's PIN"));
        }
        pins::check_len(pin)?;
        let sealing = self.sealing()?;
        let record = self.seal_pin(&sealing, &serial, User::User, pin)?;
        self.update(&serial, Some(&sealing), |token| {
            token.user = Some(StoredPin::new(&record));
            Ok(true)
        })?;
        tracing::info!(serial, "user PIN set by the SO");
        Ok(())
    }

    /// The object with `CKA_TRUSTED`. Needs the SO's grant.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, and as [`CryptoUnit::trust_object`].
    pub fn trust_object(&self, grant: &Grant, object: &KeyBlob) -> Result<KeyBlob> {
        let (serial, user) = self.open_grant(grant)?;
        if user != User::So {
            return Err(Error::new(CKR_USER_NOT_LOGGED_IN, "only the SO may say that an object is trusted"));
        }
        let trusted = self.region.seal_for_caller(|unit| unit.trust_object(object))?;
        tracing::info!(serial, "the SO says that an object is trusted");
        Ok(trusted)
    }

    /// Changes a PIN.
    ///
    /// # Errors
    /// As [`Self::login`], and `CKR_PIN_LEN_RANGE`.
    pub fn set_pin(&self, serial: &str, user: User, old: &[u8], new: &[u8]) -> Result<()> {
        pins::check_len(new)?;
        let checked = StoredPin::new(&self.check_pin(serial, user, old)?).record;
        let sealing = self.sealing()?;
        let record = self.seal_pin(&sealing, serial, user, new)?;
        self.update(serial, Some(&sealing), |token| {
            let pin = token.pin_mut(user)?;
            if pin.record != checked {
                return Err(Error::new(CKR_PIN_INCORRECT, "the PIN was changed at the same time"));
            }
            *pin = StoredPin::new(&record);
            Ok(true)
        })?;
        tracing::info!(serial, ?user, "PIN changed");
        Ok(())
    }

    /// Stores objects durably, all or none. Private objects need the user's grant. Several ones must be new. The
    /// revision since then.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`, `CKR_USER_NOT_LOGGED_IN`, `CKR_OBJECT_HANDLE_INVALID`, `CKR_TOKEN_NOT_PRESENT`, `CKR_DEVICE_MEMORY`.
    pub fn put_objects(&self, serial: &str, grant: Option<&Grant>, objects: &[Put<'_>]) -> Result<u64> {
        if objects.len() > 1 && objects.iter().any(|put| put.replaces.is_some()) {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "only one object at a time takes another one's place"));
        }
        // Only what a unit sealed is stored: an altered blob is refused here, not when it is needed.
        let sealing = self.sealing()?;
        let kind = objects_of(serial);
        let sealed = |put: &Put<'_>| {
            let (attributes, _) = sealing.unit().unseal_pkcs11(put.object)?;
            let mut body = put.object.as_bytes().to_vec();
            body.extend_from_slice(&sealing.unit().bind(&[serial.as_bytes(), &put.id], put.object)?);
            Ok((attributes, body))
        };
        let sealed: Vec<_> = objects.iter().map(sealed).collect::<Result<_>>()?;
        self.commit_objects(serial, &kind, Some(&sealing), |tokens| {
            let write = |(put, (attributes, body)): (&Put<'_>, &(Attributes, Vec<u8>))| {
                let id = hex::encode(put.id);
                let expect = tokens.expect_object(serial, grant, &kind, &id, put.replaces)?;
                tokens.permit(serial, grant, attributes)?;
                Ok(Write { kind: kind.clone(), id, expect, effect: Effect::Put(body.clone()) })
            };
            objects.iter().zip(&sealed).map(write).collect()
        })
    }

    /// What must be stored where an object is to be stored: nothing, or the object that it takes the place of, if that
    /// may be changed.
    fn expect_object(
        &self,
        serial: &str,
        grant: Option<&Grant>,
        kind: &str,
        id: &str,
        replaces: Option<&KeyBlob>,
    ) -> Result<Expect> {
        let Some(replaces) = replaces else { return Ok(Expect::Absent) };
        let (record, attributes) = self.permit_stored(serial, grant, kind, id)?;
        // A change made from an old state would undo what was changed since.
        if record.body.split_last_chunk::<32>().is_none_or(|(blob, _)| blob != replaces.as_bytes()) {
            return Err(gone());
        }
        if attributes.bool(CKA_MODIFIABLE) == Some(false) {
            return Err(Error::new(CKR_ACTION_PROHIBITED, "the object is not modifiable"));
        }
        Ok(Expect::Version(record.version))
    }

    /// Destroys an object durably.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, `CKR_OBJECT_HANDLE_INVALID`, `CKR_ACTION_PROHIBITED` if it is not destroyable.
    pub fn delete_object(&self, serial: &str, grant: Option<&Grant>, id: ObjectId) -> Result<u64> {
        let kind = objects_of(serial);
        let name = hex::encode(id);
        let mut destroyed = None;
        let revision = self.commit_objects(serial, &kind, None, |tokens| {
            let (record, attributes) = tokens.permit_stored(serial, grant, &kind, &name)?;
            if attributes.bool(CKA_DESTROYABLE) == Some(false) {
                return Err(Error::new(CKR_ACTION_PROHIBITED, "the object is not destroyable"));
            }
            let expect = Expect::Version(record.version);
            destroyed = Some(record);
            Ok(vec![Write { kind: kind.clone(), id: name.clone(), expect, effect: Effect::Delete }])
        })?;
        destroyed.iter().for_each(|record| self.forget(record));
        Ok(revision)
    }

    /// What changed after a revision (0: everything). Private objects only with the user's grant. An object that
    /// was altered or moved, or is under a master key that is gone, is left out, and named in the log.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN` for a grant that is void, `CKR_DEVICE_ERROR` if the keystore cannot be read.
    pub fn changes(&self, serial: &str, grant: Option<&Grant>, since: u64) -> Result<Changes> {
        // Nothing has changed, and so has no PIN: whoever was let see the rest sees no more by this.
        if since > 0
            && self.region.unit().is_ok()
            && self.region.keystore().head().is_ok_and(|head| head == since)
        {
            return Ok(Changes { revision: since, ..Changes::default() });
        }
        // Left out while the master key is just changing, an object would never be asked for again.
        match self.region.patiently(|| self.changes_now(serial, grant, since, false)) {
            Err(error) if is_about_master_key(&error) && !self.region.settles() => {
                self.changes_now(serial, grant, since, true)
            }
            outcome => outcome,
        }
    }

    /// The changes; those that are under another master key than the unit's are left out or an error.
    fn changes_now(
        &self,
        serial: &str,
        grant: Option<&Grant>,
        since: u64,
        leave_out_foreign: bool,
    ) -> Result<Changes> {
        let unit = self.region.unit()?;
        // What is being erased is not shown any more.
        self.read(serial)?;
        let private = self.is_user(serial, grant)?;
        let log = self.region.keystore().changes(&objects_of(serial), since).map_err(from_keystore)?;
        let mut changes = Changes { revision: log.revision, more: log.more, ..Changes::default() };
        for change in log.changes {
            let Some(record) = change.record else {
                changes.deleted.push(object_id(&change.id)?);
                continue;
            };
            match stored_object(&unit, serial, &record) {
                Ok((id, object, attributes)) => {
                    if private || attributes.bool(CKA_PRIVATE) != Some(true) {
                        changes.stored.push((id, object));
                    }
                }
                Err(error) if is_about_master_key(&error) && !leave_out_foreign => return Err(error),
                Err(error) => tracing::error!(serial, object = record.id, %error, "an object takes no part"),
            }
        }
        Ok(changes)
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

    /// Checks a PIN; its sealed record. The attempt is counted durably before the comparison, so neither a kill
    /// nor guesses at the same time give one guess more than allowed.
    ///
    /// Processes that log in with the right PIN at the same time can reach the limit together for a moment: the
    /// first one that is done takes the count back. So a PIN counts as locked only when it stays at the limit.
    fn check_pin(&self, serial: &str, user: User, pin: &[u8]) -> Result<KeyBlob> {
        self.region.patiently(|| self.check_pin_now(serial, user, pin))
    }

    fn check_pin_now(&self, serial: &str, user: User, pin: &[u8]) -> Result<KeyBlob> {
        for _ in 0..LOCK_CHECKS {
            if let Some(record) = self.recognise(serial, user, pin)? {
                return Ok(record);
            }
            let checked = self.one_at_a_time(|| {
                // The thread before may have brought the same PIN.
                match self.recognise(serial, user, pin)? {
                    Some(record) => Ok(Some(record)),
                    None => self.check_pin_slowly(serial, user, pin),
                }
            })?;
            match checked {
                Some(record) => return Ok(record),
                None => std::thread::sleep(LOCK_CHECK_INTERVAL),
            }
        }
        Err(Error::new(CKR_PIN_LOCKED, "the PIN is locked after too many wrong ones"))
    }

    /// The PIN's record, if this process has found the PIN right before and nobody has guessed since.
    fn recognise(&self, serial: &str, user: User, pin: &[u8]) -> Result<Option<KeyBlob>> {
        let (token, _) = self.read(serial)?;
        let stored = token.pin(user)?;
        let record = stored.blob()?;
        let fingerprint = self.recognised.fingerprint(&record, pin);
        let known = self.right.read().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint);
        Ok((known && stored.failures == 0).then_some(record))
    }

    /// Counts, compares, and takes the count back if the PIN is right; `None`, without a comparison, if the limit
    /// is reached.
    fn check_pin_slowly(&self, serial: &str, user: User, pin: &[u8]) -> Result<Option<KeyBlob>> {
        let mut counted = None;
        self.count(serial, |token| {
            let stored = token.pin_mut(user)?;
            counted = None;
            if stored.failures < MAX_PIN_FAILURES {
                stored.failures += 1;
                counted = Some((stored.blob()?, stored.failures));
            }
            Ok(counted.is_some())
        })?;
        let Some((record, failures)) = counted else { return Ok(None) };
        let verified =
            self.region.unit().and_then(|unit| pins::verify(&unit, &owner(serial, user), &record, pin));
        if let Ok(false) = verified {
            tracing::warn!(serial, ?user, failures, "wrong PIN");
            let code = if failures >= MAX_PIN_FAILURES { CKR_PIN_LOCKED } else { CKR_PIN_INCORRECT };
            return Err(Error::new(code, "the PIN is wrong"));
        }
        self.count(serial, |token| {
            let stored = token.pin_mut(user)?;
            // What the unit could not compare was no guess.
            stored.failures = if verified.is_ok() { 0 } else { stored.failures.saturating_sub(1) };
            Ok(true)
        })?;
        verified?;
        let mut right = self.right.write().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MAX_RECOGNISED {
            right.clear();
        }
        right.insert(self.recognised.fingerprint(&record, pin));
        Ok(Some(record))
    }

    fn sealing(&self) -> Result<Sealing> {
        self.region.sealing(self.region.unit()?).map_err(from_keystore)
    }

    fn seal_pin(&self, sealing: &Sealing, serial: &str, user: User, pin: &[u8]) -> Result<KeyBlob> {
        self.one_at_a_time(|| pins::seal(sealing.unit(), &owner(serial, user), pin))
    }

    /// Runs what hashes a PIN. Those who wait are few: a flood of logins is refused, not queued.
    fn one_at_a_time<T>(&self, hash: impl FnOnce() -> Result<T>) -> Result<T> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = if waiting < MAX_WAITING {
            let _hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
            hash()
        } else {
            Err(Error::passing(CKR_FUNCTION_FAILED, "too many logins at the same time; try again"))
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    /// Whose grant it is, if it is still good.
    fn open_grant(&self, grant: &Grant) -> Result<(String, User)> {
        let void = || {
            Error::new(
                CKR_USER_NOT_LOGGED_IN,
                "the login is void since the PIN or the master key was changed: log in again",
            )
        };
        let blob = KeyBlob::parse(&grant.0).map_err(|_| void())?;
        let (clear, fields) = self.region.unit()?.unseal(&blob).map_err(|error| match error.code {
            vendor::CKR_IBM_WKID_MISMATCH => void(),
            _ => error,
        })?;
        let serial = fields.get(GRANT_SERIAL).and_then(|bytes| str::from_utf8(bytes).ok());
        let (true, Some(serial), Some(user), Some(pin)) =
            (clear.contains(GRANT), serial, fields.bool(GRANT_USER), fields.get(GRANT_PIN))
        else {
            return Err(void());
        };
        let user = if user { User::So } else { User::User };
        let (token, _) = self.read(serial)?;
        if token.pin(user).map_err(|_| void())?.blob()?.as_bytes() != pin {
            return Err(void());
        }
        Ok((serial.to_owned(), user))
    }

    /// Does the grant open this token's private objects?
    fn is_user(&self, serial: &str, grant: Option<&Grant>) -> Result<bool> {
        let Some(grant) = grant else { return Ok(false) };
        let (granted, user) = self.open_grant(grant)?;
        Ok(granted == serial && user == User::User)
    }

    fn permit(&self, serial: &str, grant: Option<&Grant>, attributes: &Attributes) -> Result<()> {
        if attributes.bool(CKA_PRIVATE) == Some(true) && !self.is_user(serial, grant)? {
            return Err(Error::new(CKR_USER_NOT_LOGGED_IN, "private objects need the user's login"));
        }
        Ok(())
    }

    /// The stored object, if it may be touched: its record and its attributes.
    fn permit_stored(
        &self,
        serial: &str,
        grant: Option<&Grant>,
        kind: &str,
        id: &str,
    ) -> Result<(Record, Attributes)> {
        let record = self.region.keystore().get(kind, id).map_err(from_keystore)?.ok_or_else(gone)?;
        let (_, _, attributes) = stored_object(&*self.region.unit()?, serial, &record)?;
        self.permit(serial, grant, &attributes)?;
        Ok((record, attributes))
    }

    /// Closes a destroyed object in the units.
    fn forget(&self, record: &Record) {
        let blob = record.body.split_last_chunk::<32>().and_then(|(blob, _)| KeyBlob::parse(blob).ok());
        for installed in self.region.units().iter() {
            blob.iter().for_each(|blob| installed.unit.forget(blob));
        }
    }

    /// Commits writes to objects, on the condition that neither the token nor the objects have changed since
    /// `prepare` looked: else it looks again. So no object outlives the erasure of its token.
    fn commit_objects(
        &self,
        serial: &str,
        kind: &str,
        sealing: Option<&Sealing>,
        mut prepare: impl FnMut(&Self) -> Result<Vec<Write>>,
    ) -> Result<u64> {
        loop {
            let (_, version) = self.read(serial)?;
            let mut writes = prepare(self)?;
            let is_new = |write: &&Write| write.expect == Expect::Absent;
            let new: Vec<_> = writes.iter().filter(is_new).map(|write| write.id.clone()).collect();
            let expect = Expect::Version(version);
            writes
                .insert(0, Write { kind: TOKEN.into(), id: serial.to_owned(), expect, effect: Effect::Keep });
            let committed = match sealing {
                Some(sealing) => self.region.commit_sealed(sealing, writes),
                None => {
                    let staged: Vec<_> = writes[1..].iter().map(|write| unstage(kind, &write.id)).collect();
                    writes.splice(1..1, staged);
                    self.region.keystore().commit(writes)
                }
            };
            match committed {
                Err(keystore::Error::Conflict { kind: conflict, id })
                    if conflict == kind && new.contains(&id) =>
                {
                    return Err(gone());
                }
                Err(keystore::Error::Conflict { .. }) => {}
                outcome => return outcome.map_err(from_keystore),
            }
        }
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

    /// Changes what is counted: with the failover region lost, people must still be able to log in.
    fn count(&self, serial: &str, change: impl FnMut(&mut StoredToken) -> Result<bool>) -> Result<()> {
        self.change(serial, change, |writes| self.region.keystore().commit_as(writes, Importance::Passing))
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

/// A stored object, if it is what was stored there.
fn stored_object(
    unit: &CryptoUnit,
    serial: &str,
    record: &Record,
) -> Result<(ObjectId, KeyBlob, Attributes)> {
    let moved = || Error::new(CKR_DEVICE_ERROR, "the stored object was altered or moved");
    let id = object_id(&record.id)?;
    let (blob, binding) = record.body.split_last_chunk::<32>().ok_or_else(moved)?;
    let object = KeyBlob::parse(blob)?;
    let pattern = unit.verification_pattern();
    if pattern.is_none_or(|pattern| pattern.wrapping_key_id() != object.wrapping_key_id()) {
        return Err(Error::passing(
            vendor::CKR_IBM_WKID_MISMATCH,
            "the stored object is under a master key that is not the unit's current one",
        ));
    }
    let expected = unit.bind(&[serial.as_bytes(), &id], &object)?;
    if !bool::from(expected.ct_eq(binding)) {
        return Err(moved());
    }
    let attributes = object.attributes()?;
    Ok((id, object, attributes))
}

fn object_id(id: &str) -> Result<ObjectId> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(id, &mut bytes)
        .map_err(|_| Error::new(CKR_DEVICE_ERROR, "the id of a stored object is damaged"))?;
    Ok(bytes)
}

/// Whose PIN a record holds.
fn owner(serial: &str, user: User) -> Vec<u8> {
    format!("{serial}/{user:?}").into_bytes()
}

fn no_user_pin() -> Error {
    Error::new(CKR_USER_PIN_NOT_INITIALIZED, "the user has no PIN yet: the SO must set it")
}

fn gone() -> Error {
    Error::new(
        CKR_OBJECT_HANDLE_INVALID,
        "the object does not exist any more, was changed, or exists already",
    )
}

/// The longest label, in bytes.
pub const LABEL_BYTES: usize = 32;
/// Wrong PINs in a row at which a PIN is locked.
pub const MAX_PIN_FAILURES: u32 = 10;
const MAX_RECOGNISED: usize = 1024;
const MAX_TOKENS: usize = 1000;
const MAX_WAITING: usize = 64;
const LOCK_CHECKS: u32 = 20;
const LOCK_CHECK_INTERVAL: Duration = Duration::from_millis(25);
const TOKEN: &str = stored_keys::TOKEN;

// Field numbers of a grant.
const GRANT: u64 = CKA_VENDOR_DEFINED | 0x4853_0003;
const GRANT_SERIAL: u64 = 1;
const GRANT_USER: u64 = 2;
const GRANT_PIN: u64 = 3;
