//! Root keys: create, wrap, unwrap, rotate, disable, enable, delete. The state is checked at every use.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::lifecycle::{Action, State};
use super::on_its_way::OnItsWay;
use crate::keystore::{self, Change, Effect, Expect, Record, Write};
use crate::services::clock::{Clock, rfc3339};
use crate::services::reencryption::unstage;
use crate::services::region::Region;
use crate::services::storage::{Sealing, is_about_master_key, is_of_unit};
use crate::services::stored_keys;
use crate::units::{CryptoUnit, Error as UnitError, KeyBlob, random};

/// The root keys of an instance.
pub struct RootKeys {
    region: Arc<Region>,
    clock: Arc<dyn Clock>,
    loaded: RwLock<Loaded>,
    /// Held while they are read again. `loaded` stays free meanwhile.
    reading: Mutex<()>,
    /// Position up to which there is new key material that the other region has not acknowledged, or 0: nothing is wrapped
    /// with what may be lost.
    held_back: AtomicU64,
    /// Changes that the other region may show already.
    on_its_way: OnItsWay,
    /// Nobody has said for too long whether the keys are as they were read.
    stale: AtomicBool,
}

/// What the keystore holds, parsed: a use of a key reads no disk.
struct Loaded {
    keys: HashMap<String, Arc<RootKey>>,
    /// Keys whose records cannot be read: refused by name, the others serve.
    damaged: HashSet<String>,
    /// [`Region::stored_keys_generation`] before they were read.
    generation: u64,
    /// Up to where the change log has been read.
    revision: u64,
}

/// A root key as the keystore has it, and as anybody with access may see it.
#[derive(Clone, Debug)]
pub struct RootKey {
    /// UUID.
    pub id: String,
    /// What people call it.
    pub metadata: Metadata,
    /// Newest first, each with its sealed material. Empty once destroyed.
    pub versions: Vec<Version>,
    record_version: u64,
    /// Position of its last change, as far as this process knows: it is no older than that.
    revision: u64,
}

/// The stored form of a root key, sealed material aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// 2 to 90 characters.
    pub name: String,
    /// Where in its life it is.
    pub state: State,
    /// Did a caller supply the material?
    pub imported: bool,
    /// 128, 192 or 256.
    pub bits: u32,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339.
    pub updated: String,
    /// RFC 3339.
    pub rotated: Option<String>,
    /// RFC 3339.
    pub deleted: Option<String>,
}

/// One version of a root key.
#[derive(Clone, Debug)]
pub struct Version {
    /// UUID.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    blob: KeyBlob,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    #[serde(flatten)]
    metadata: Metadata,
    versions: Vec<StoredVersion>,
}

#[derive(Serialize, Deserialize)]
struct StoredVersion {
    id: String,
    created: String,
    /// Base64 of the key blob.
    blob: String,
}

/// The outside of a ciphertext: base64 of this as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ciphertext {
    version: String,
    instance: String,
    /// Id of the root key.
    handle: String,
    key_version: String,
    ciphertext: String,
}

/// A wrapped data key.
pub struct Wrapped {
    /// Opaque text.
    pub ciphertext: String,
    /// Only if the data key was generated.
    pub generated: Option<Zeroizing<Vec<u8>>>,
    /// Version that wrapped it.
    pub key_version: String,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("key_version", &self.key_version).finish_non_exhaustive()
    }
}

/// An unwrapped data key.
pub struct Unwrapped {
    /// The data key.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// Version that had wrapped it.
    pub key_version: String,
    /// The same under the newest version, if that is another.
    pub rewrapped: Option<Wrapped>,
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such key.
    #[error("key {0} does not exist in this instance")]
    NotFound(String),
    /// The state forbids it.
    #[error("key {key} is {state:?}: {action:?} is not allowed")]
    State {
        /// Id.
        key: String,
        /// As it is.
        state: State,
        /// What was asked.
        action: Action,
    },
    /// A field is out of range.
    #[error("{field}: {problem}")]
    Field {
        /// Its name in the API.
        field: &'static str,
        /// What it must be.
        problem: &'static str,
    },
    /// Rotating an imported key needs new material.
    #[error("key {0} was imported: rotating it needs new material")]
    MaterialRequired(String),
    /// Another key, another AAD, or altered.
    #[error("the ciphertext does not unwrap with key {0}: wrong key, wrong AAD, or altered")]
    Ciphertext(String),
    /// Somebody changed the key at the same time.
    #[error("key {0} was changed at the same time: try again")]
    Busy(String),
    /// The stored record is damaged.
    #[error("the stored record of key {0} is damaged: restore the keystore from a backup")]
    Damaged(String),
    /// A unit refuses.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The keystore refuses.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
}

/// The result of calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl RootKeys {
    /// The root keys in a region's keystore.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn open(region: Arc<Region>, clock: Arc<dyn Clock>) -> Result<Self> {
        let loaded = RwLock::new(Loaded::read(&region)?);
        Ok(Self {
            region,
            clock,
            loaded,
            reading: Mutex::default(),
            held_back: AtomicU64::new(0),
            on_its_way: OnItsWay::default(),
            stale: AtomicBool::new(false),
        })
    }

    /// A new root key: generated, or imported if there is material.
    ///
    /// # Errors
    /// [`Error::Field`], [`Error::Unit`], [`Error::Keystore`].
    pub fn create(&self, name: &str, material: Option<&[u8]>) -> Result<Arc<RootKey>> {
        if !(2..=90).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(Error::Field { field: "name", problem: "must have 2 to 90 printable characters" });
        }
        let id = uuid::Uuid::new_v4().to_string();
        let now = self.now();
        let (sealing, version) = self.seal_version(&id, material, &now)?;
        let key = RootKey {
            metadata: Metadata {
                name: name.to_owned(),
                state: State::Active,
                imported: material.is_some(),
                bits: bits(material),
                created: now.clone(),
                updated: now,
                rotated: None,
                deleted: None,
            },
            id,
            versions: vec![version],
            record_version: 0,
            revision: 0,
        };
        self.store(key, Some(&sealing))
    }

    /// A root key, by id or CRN.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, key: &str) -> Result<Arc<RootKey>> {
        self.settled(key)
    }

    /// The same without ever waiting; `None` if it has to wait, since the key is being changed.
    pub fn try_get(&self, key: &str) -> Option<Result<Arc<RootKey>>> {
        (!self.is_on_its_way(key)).then(|| self.find(&self.loaded(), key))
    }

    fn find(&self, loaded: &Loaded, key: &str) -> Result<Arc<RootKey>> {
        let id = self.id(key).ok_or_else(|| Error::NotFound(printable(key)))?;
        loaded.keys.get(id).cloned().ok_or_else(|| match loaded.damaged.get(id) {
            Some(id) => Error::Damaged(id.clone()),
            None => Error::NotFound(printable(key)),
        })
    }

    /// All root keys, ordered by id.
    pub fn list(&self, include_destroyed: bool) -> Vec<Arc<RootKey>> {
        let mut list: Vec<_> = self
            .loaded()
            .keys
            .values()
            .filter(|key| include_destroyed || key.metadata.state != State::Destroyed)
            .cloned()
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// Wraps a data key under the newest version; without one, a random 32-byte data key.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::State`], [`Error::Field`], [`Error::Unit`].
    pub fn wrap(&self, key: &str, plaintext: Option<&[u8]>, aad: &[String]) -> Result<Wrapped> {
        self.try_wrap(key, plaintext, aad)
            .unwrap_or_else(|| self.patiently(key, |unit, key| self.wrap_with(unit, key, plaintext, aad)))
    }

    /// The same without ever waiting; `None` if it has to wait, since the master key is changing.
    pub fn try_wrap(&self, key: &str, plaintext: Option<&[u8]>, aad: &[String]) -> Option<Result<Wrapped>> {
        self.at_once(key, |unit, key| self.wrap_with(unit, key, plaintext, aad))
    }

    fn wrap_with(
        &self,
        unit: &CryptoUnit,
        key: &RootKey,
        plaintext: Option<&[u8]>,
        aad: &[String],
    ) -> Result<Wrapped> {
        check_aad(aad)?;
        key.after(Action::Wrap)?;
        match plaintext {
            Some(plaintext) => self.wrap_newest(unit, key, plaintext, aad),
            None => {
                let data_key = Zeroizing::new(random::array::<32>()?.to_vec());
                let wrapped = self.wrap_newest(unit, key, &data_key, aad)?;
                Ok(Wrapped { generated: Some(data_key), ..wrapped })
            }
        }
    }

    /// Unwraps a data key under any version; what an older version wrapped comes back rewrapped too.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::State`], [`Error::Ciphertext`], [`Error::Unit`].
    pub fn unwrap(&self, key: &str, ciphertext: &str, aad: &[String]) -> Result<Unwrapped> {
        self.try_unwrap(key, ciphertext, aad)
            .unwrap_or_else(|| self.patiently(key, |unit, key| self.unwrap_with(unit, key, ciphertext, aad)))
    }

    /// The same without ever waiting; `None` if it has to wait, since the master key is changing.
    pub fn try_unwrap(&self, key: &str, ciphertext: &str, aad: &[String]) -> Option<Result<Unwrapped>> {
        self.at_once(key, |unit, key| self.unwrap_with(unit, key, ciphertext, aad))
    }

    fn unwrap_with(
        &self,
        unit: &CryptoUnit,
        key: &RootKey,
        ciphertext: &str,
        aad: &[String],
    ) -> Result<Unwrapped> {
        check_aad(aad)?;
        key.after(Action::Unwrap)?;
        let refused = || Error::Ciphertext(key.id.clone());
        let envelope: Ciphertext = BASE64
            .decode(ciphertext)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .filter(|envelope: &Ciphertext| {
                envelope.version == CIPHERTEXT_VERSION
                    && envelope.instance == self.region.identity().instance
                    && envelope.handle == key.id
            })
            .ok_or_else(refused)?;
        let wrapped = BASE64.decode(&envelope.ciphertext).map_err(|_| refused())?;
        let version = key.versions.iter().find(|v| v.id == envelope.key_version).ok_or_else(refused)?;
        let plaintext = unit
            .unwrap_data_key(&version.blob, &version.binding(&key.id), aad, &wrapped)
            .map_err(|error| match error.code {
                cryptoki_sys::CKR_ENCRYPTED_DATA_INVALID => refused(),
                _ => error.into(),
            })?;
        // A deactivated key unwraps but no longer wraps.
        let is_newest = key.versions.first().is_some_and(|newest| newest.id == version.id);
        let rewrapped = (!is_newest && key.after(Action::Wrap).is_ok())
            .then(|| self.wrap_newest(unit, key, &plaintext, aad))
            .transpose()?;
        Ok(Unwrapped { plaintext, key_version: version.id.clone(), rewrapped })
    }

    /// Adds a version.
    ///
    /// # Errors
    /// [`Error::State`], [`Error::MaterialRequired`], [`Error::Field`] for material on a generated key.
    pub fn rotate(&self, key: &str, material: Option<&[u8]>) -> Result<Arc<RootKey>> {
        let key = self.current(key)?;
        key.after(Action::Rotate)?;
        match (key.metadata.imported, material) {
            (true, None) => return Err(Error::MaterialRequired(key.id.clone())),
            (false, Some(_)) => {
                return Err(Error::Field {
                    field: "material",
                    problem: "only an imported key takes new material",
                });
            }
            _ => {}
        }
        let now = self.now();
        let (sealing, version) = self.seal_version(&key.id, material, &now)?;
        let mut key = RootKey::clone(&key);
        key.versions.insert(0, version);
        key.metadata.bits = bits(material);
        key.metadata.rotated = Some(now.clone());
        key.metadata.updated = now;
        self.store(key, Some(&sealing))
    }

    /// Active to Suspended.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn disable(&self, key: &str) -> Result<Arc<RootKey>> {
        self.transition(key, Action::Disable)
    }

    /// Suspended to Active.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn enable(&self, key: &str) -> Result<Arc<RootKey>> {
        self.transition(key, Action::Enable)
    }

    /// Destroys a key: its blobs leave the keystore with this commit. So goes a damaged one, which nothing else can
    /// be done with.
    ///
    /// # Errors
    /// [`Error::State`] if it is destroyed already.
    pub fn delete(&self, key: &str) -> Result<Arc<RootKey>> {
        match self.transition(key, Action::Delete) {
            Err(Error::Damaged(id)) => self.destroy_damaged(&id),
            outcome => outcome,
        }
    }

    /// What can still be read of it stays, as of any destroyed key.
    fn destroy_damaged(&self, id: &str) -> Result<Arc<RootKey>> {
        let record = self.region.keystore().get(KIND, id)?.ok_or_else(|| Error::NotFound(printable(id)))?;
        let now = self.now();
        let readable: Option<Metadata> = serde_json::from_slice(&record.body).ok();
        let unreadable = || Metadata {
            name: DAMAGED_NAME.to_owned(),
            state: State::Destroyed,
            imported: false,
            bits: 256,
            created: now.clone(),
            updated: now.clone(),
            rotated: None,
            deleted: None,
        };
        let metadata = Metadata {
            state: State::Destroyed,
            updated: now.clone(),
            deleted: Some(now.clone()),
            ..readable.unwrap_or_else(unreadable)
        };
        let id = id.to_owned();
        let key = RootKey { id, metadata, versions: Vec::new(), record_version: record.version, revision: 0 };
        let key = self.store(key, None)?;
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).damaged.remove(&key.id);
        self.region.keystore().erase_log()?;
        Ok(key)
    }

    fn transition(&self, key: &str, action: Action) -> Result<Arc<RootKey>> {
        let mut key = RootKey::clone(&*self.current(key)?);
        key.metadata.state = key.after(action)?;
        key.metadata.updated = self.now();
        let mut erased = Vec::new();
        if key.metadata.state == State::Destroyed {
            key.metadata.deleted = Some(key.metadata.updated.clone());
            erased = std::mem::take(&mut key.versions);
        }
        let key = self.store(key, None)?;
        for version in &erased {
            self.region.units().iter().for_each(|installed| installed.unit.forget(&version.blob));
        }
        if !erased.is_empty() {
            self.region.keystore().erase_log()?;
        }
        Ok(key)
    }

    /// Uses a key as it is in the memory; `None` if that must be read again first, or if no unit has its master key.
    fn at_once<T>(
        &self,
        key: &str,
        work: impl FnOnce(&CryptoUnit, &RootKey) -> Result<T>,
    ) -> Option<Result<T>> {
        let found = {
            let loaded = match self.loaded.try_read() {
                Ok(loaded) => loaded,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            };
            if loaded.generation != self.region.stored_keys_generation() || self.stale.load(Ordering::Acquire)
            {
                return None;
            }
            self.find(&loaded, key)
        };
        if self.is_on_its_way(key) {
            return None;
        }
        let unit = self.region.serving_unit()?;
        match found.and_then(|found| work(&unit, &found)) {
            Err(Error::Unit(error)) if is_about_master_key(&error) || is_of_unit(&error) => None,
            outcome => Some(outcome),
        }
    }

    /// Uses a key. While units go over to another master key, a unit and a blob may just not fit together: the
    /// next try finds them both changed.
    fn patiently<T>(&self, key: &str, work: impl Fn(&CryptoUnit, &RootKey) -> Result<T>) -> Result<T> {
        let mut patience = self.region.patience();
        loop {
            let outcome = self.region.with_another_unit(is_units, || {
                self.settled(key).and_then(|found| work(&*self.region.unit()?, &found))
            });
            match outcome {
                Err(Error::Unit(error)) if is_about_master_key(&error) => {
                    if !patience.wait() {
                        // They may be going over still, when the patience has come to its end.
                        let retry = error.retry || self.region.settles();
                        return Err(UnitError { retry, ..error }.into());
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn loaded(&self) -> RwLockReadGuard<'_, Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key; all are read again first if they have come under another master key.
    fn current(&self, key: &str) -> Result<Arc<RootKey>> {
        if self.stale.load(Ordering::Acquire) {
            self.refresh(false)?;
        }
        let is_current = || self.loaded().generation == self.region.stored_keys_generation();
        if !is_current() {
            let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
            if !is_current() {
                let Loaded { keys, damaged, generation, .. } = Loaded::read(&self.region)?;
                let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
                damaged.iter().for_each(|id| drop(loaded.keys.remove(id)));
                keys.into_values().for_each(|key| loaded.take(key));
                (loaded.damaged, loaded.generation) = (damaged, generation);
            }
        }
        self.find(&self.loaded(), key)
    }

    /// The key as it is in both regions, if it is just being made or changed.
    fn settled(&self, key: &str) -> Result<Arc<RootKey>> {
        if let Some(id) = self.id(key) {
            self.on_its_way.wait(id);
        }
        self.current(key)
    }

    fn is_on_its_way(&self, key: &str) -> bool {
        self.id(key).is_some_and(|id| self.on_its_way.has(id))
    }

    /// Takes on what somebody else has changed in the keystore; `anew` if its log is another one now.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn refresh(&self, anew: bool) -> Result<()> {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if anew {
            let read = Loaded::read(&self.region)?;
            *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = read;
            return Ok(());
        }
        loop {
            // Nobody who uses a key waits for the database.
            let since = self.loaded().revision;
            let found = self.region.keystore().changes(KIND, since)?;
            if !found.changes.is_empty() {
                let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
                for change in &found.changes {
                    for blob in loaded.follow(change) {
                        self.region.units().iter().for_each(|installed| installed.unit.forget(&blob));
                    }
                }
                loaded.revision = found.revision;
            }
            if !found.more {
                return Ok(());
            }
        }
    }

    /// While they are, no key is used without a look into the keystore.
    pub fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Release);
    }

    fn seal_version(&self, key: &str, material: Option<&[u8]>, now: &str) -> Result<(Sealing, Version)> {
        self.region.with_another_unit(is_units, || {
            let sealing = self.region.sealing(self.region.unit()?)?;
            let version = new_version(&sealing, key, material, now)?;
            Ok((sealing, version))
        })
    }

    fn wrap_newest(
        &self,
        unit: &CryptoUnit,
        key: &RootKey,
        data_key: &[u8],
        aad: &[String],
    ) -> Result<Wrapped> {
        let version = key.versions.first().ok_or_else(|| Error::Damaged(key.id.clone()))?;
        let wrapped =
            unit.wrap_data_key(&version.blob, &version.binding(&key.id), aad, data_key).map_err(|error| {
                match error.code {
                    cryptoki_sys::CKR_DATA_LEN_RANGE => {
                        Error::Field { field: "plaintext", problem: "must have 1 to 4096 bytes" }
                    }
                    _ => error.into(),
                }
            })?;
        let envelope = Ciphertext {
            version: CIPHERTEXT_VERSION.into(),
            instance: self.region.identity().instance.clone(),
            handle: key.id.clone(),
            key_version: version.id.clone(),
            ciphertext: BASE64.encode(wrapped),
        };
        let json = serde_json::to_vec(&envelope).map_err(|_| Error::Damaged(key.id.clone()))?;
        Ok(Wrapped { ciphertext: BASE64.encode(json), generated: None, key_version: version.id.clone() })
    }

    /// Keystore first: a change is seen only when it is durable. Of two at the same time one is refused.
    fn store(&self, key: RootKey, sealing: Option<&Sealing>) -> Result<Arc<RootKey>> {
        let id = key.id.clone();
        let _on_its_way = self.on_its_way.begin(&id);
        let expect = match key.record_version {
            0 => Expect::Absent,
            version => Expect::Version(version),
        };
        let write =
            Write { kind: KIND.into(), id: key.id.clone(), expect, effect: Effect::Put(key.to_body()?) };
        let committed = match sealing {
            Some(sealing) => self.region.commit_sealed(sealing, vec![write]),
            None if key.versions.is_empty() => {
                self.region.keystore().commit(vec![write, unstage(KIND, &key.id)])
            }
            None => self.region.keystore().commit(vec![write]),
        };
        let revision = match committed {
            Ok(revision) => revision,
            Err(keystore::Error::Unacknowledged) if sealing.is_some() => {
                self.held_back.fetch_max(self.region.keystore().head()?, Ordering::AcqRel);
                return Err(keystore::Error::Unacknowledged.into());
            }
            Err(keystore::Error::Unacknowledged) => {
                // It is written here: a key that was taken out of use is so at once.
                let erases = key.versions.is_empty();
                let known = key.revision;
                self.show(key, known);
                if erases {
                    self.region.keystore().erase_log()?;
                }
                return Err(keystore::Error::Unacknowledged.into());
            }
            Err(keystore::Error::Conflict { .. }) => {
                self.show_held_back()?;
                return Err(Error::Busy(key.id));
            }
            Err(other) => return Err(other.into()),
        };
        Ok(self.show(key, revision))
    }

    /// A key as it has just been stored.
    fn show(&self, mut key: RootKey, revision: u64) -> Arc<RootKey> {
        key.record_version += 1;
        key.revision = revision;
        let key = Arc::new(key);
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).take(key.clone());
        key
    }

    /// Is there new key material that waits for the other region?
    pub fn holds_back(&self) -> bool {
        self.held_back.load(Ordering::Acquire) != 0
    }

    /// Uses new key material that the other region has acknowledged by now.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn show_held_back(&self) -> Result<()> {
        let held_back = self.held_back.load(Ordering::Acquire);
        if held_back != 0 && matches!(self.region.keystore().gate().outcome(held_back), Some(Ok(()))) {
            self.refresh(false)?;
            self.held_back.compare_exchange(held_back, 0, Ordering::AcqRel, Ordering::Acquire).ok();
        }
        Ok(())
    }

    fn id<'a>(&self, key: &'a str) -> Option<&'a str> {
        if !key.starts_with("crn:") {
            return Some(key);
        }
        let id = key.rsplit(':').next()?;
        (self.region.identity().key_crn(id) == key).then_some(id)
    }

    fn now(&self) -> String {
        rfc3339(self.clock.now())
    }
}

impl Loaded {
    /// Takes a key as it is now: of two changes, the later one may come here first.
    fn take(&mut self, key: Arc<RootKey>) {
        let newest = self.keys.entry(key.id.clone()).or_insert_with(|| key.clone());
        if newest.revision <= key.revision {
            *newest = key;
        }
    }

    /// Takes on a change that somebody has made, unless this process has made a later one. The key material that is not
    /// in use any more.
    fn follow(&mut self, change: &Change) -> Vec<KeyBlob> {
        if self.keys.get(&change.id).is_some_and(|known| known.revision >= change.revision) {
            return Vec::new();
        }
        let read = change.record.as_ref().map(|record| RootKey::from_record(record, change.revision));
        let old = match read {
            Some(Ok(key)) => {
                self.damaged.remove(&change.id);
                self.keys.insert(change.id.clone(), Arc::new(key))
            }
            Some(Err(error)) => {
                tracing::error!(%error, "a root key takes no part");
                self.damaged.insert(change.id.clone());
                self.keys.remove(&change.id)
            }
            None => self.keys.remove(&change.id),
        };
        let new = self.keys.get(&change.id);
        let is_used =
            |blob: &KeyBlob| new.iter().any(|key| key.versions.iter().any(|version| version.blob == *blob));
        let old = old.iter().flat_map(|key| &key.versions).map(|version| version.blob.clone());
        old.filter(|blob| !is_used(blob)).collect()
    }

    fn read(region: &Region) -> Result<Self> {
        let generation = region.stored_keys_generation();
        let revision = region.keystore().head()?;
        let (mut keys, mut damaged) = (HashMap::new(), HashSet::new());
        for record in region.keystore().scan(KIND)? {
            match RootKey::from_record(&record, revision) {
                Ok(key) => drop(keys.insert(key.id.clone(), Arc::new(key))),
                Err(error) => {
                    tracing::error!(%error, "a root key takes no part");
                    damaged.insert(record.id);
                }
            }
        }
        Ok(Self { keys, damaged, generation, revision })
    }
}

impl RootKey {
    fn after(&self, action: Action) -> Result<State> {
        self.metadata.state.after(action).ok_or(Error::State {
            key: self.id.clone(),
            state: self.metadata.state,
            action,
        })
    }

    fn from_record(record: &Record, revision: u64) -> Result<Self> {
        let damaged = || Error::Damaged(record.id.clone());
        let stored: StoredKey = serde_json::from_slice(&record.body).map_err(|_| damaged())?;
        let versions = stored
            .versions
            .into_iter()
            .map(|version| {
                let blob = BASE64.decode(version.blob).map_err(|_| damaged())?;
                let blob = KeyBlob::parse(&blob).map_err(|_| damaged())?;
                Ok(Version { id: version.id, created: version.created, blob })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            id: record.id.clone(),
            metadata: stored.metadata,
            versions,
            record_version: record.version,
            revision,
        })
    }

    fn to_body(&self) -> Result<Vec<u8>> {
        let versions = self
            .versions
            .iter()
            .map(|version| StoredVersion {
                id: version.id.clone(),
                created: version.created.clone(),
                blob: BASE64.encode(version.blob.as_bytes()),
            })
            .collect();
        let stored = StoredKey { metadata: self.metadata.clone(), versions };
        serde_json::to_vec(&stored).map_err(|_| Error::Damaged(self.id.clone()))
    }
}

impl Version {
    fn binding(&self, key: &str) -> Vec<u8> {
        binding(key, &self.id)
    }
}

/// Is it that a unit has failed?
fn is_units(error: &Error) -> bool {
    matches!(error, Error::Unit(error) if is_of_unit(error))
}

fn new_version(sealing: &Sealing, key: &str, material: Option<&[u8]>, now: &str) -> Result<Version> {
    if material.is_some_and(|m| !matches!(m.len(), 16 | 24 | 32)) {
        return Err(Error::Field { field: "material", problem: "must have 16, 24 or 32 bytes" });
    }
    let id = uuid::Uuid::new_v4().to_string();
    let blob = sealing.unit().create_root_key(&binding(key, &id), material)?;
    Ok(Version { id, created: now.to_owned(), blob })
}

/// Sealed with the material, so that a blob moved to another key or version is refused.
fn binding(key: &str, version: &str) -> Vec<u8> {
    format!("{key}/{version}").into_bytes()
}

fn bits(material: Option<&[u8]>) -> u32 {
    material.map_or(256, |material| material.len() as u32 * 8)
}

/// Key Protect's limits: 126 strings of at most 255 bytes.
fn check_aad(aad: &[String]) -> Result<()> {
    if aad.len() > 126 || aad.iter().any(|item| item.len() > 255) {
        return Err(Error::Field {
            field: "aad",
            problem: "must be at most 126 strings of at most 255 bytes",
        });
    }
    Ok(())
}

/// A caller's text, fit for an error message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

const KIND: &str = stored_keys::ROOT_KEY;
/// Of a destroyed key whose record could not be read any more.
const DAMAGED_NAME: &str = "(damaged record)";
const CIPHERTEXT_VERSION: &str = "1";
