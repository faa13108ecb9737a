//! Which master key the stored keys are under, and who may seal what will be stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY, CKR_DEVICE_REMOVED, CKR_FUNCTION_FAILED, CKR_TOKEN_WRITE_PROTECTED,
};
use parking_lot::MutexGuard;
use serde::{Deserialize, Serialize};

use super::region::{Error, Identity, Region};
use crate::keystore::{self, Effect, Expect, Record, Transaction, Write};
use crate::units::{CryptoUnit, Error as UnitError, VerificationPattern, vendor};

/// Under which master key the stored keys are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Storage {
    /// `None` while no unit has had a master key.
    pub pattern: Option<VerificationPattern>,
    /// A re-encryption under this one has begun.
    pub reencrypting_to: Option<VerificationPattern>,
    /// Another one whenever stored blobs have been replaced.
    pub generation: u64,
    /// Of the instance's record; 0 before there is one.
    pub version: u64,
}

/// The instance's record in the keystore.
#[derive(Serialize, Deserialize)]
struct StoredInstance {
    #[serde(flatten)]
    identity: Identity,
    /// Of the master key that the stored keys are sealed under: 64 hexadecimal digits; empty as long as the
    /// instance has had no master key.
    verification_pattern: String,
    /// The same of the master key under which they are being re-encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reencrypting_to: Option<String>,
    #[serde(default)]
    generation: u64,
}

/// Held by whoever brings the stored keys under another master key.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;

/// Leave to seal what will be stored, taken before it is sealed and shown when it is committed: in between, the
/// master key may have been rotated.
pub struct Sealing {
    unit: Arc<CryptoUnit>,
    pattern: VerificationPattern,
    version: u64,
}

impl Sealing {
    /// The unit that seals.
    pub fn unit(&self) -> &CryptoUnit {
        &self.unit
    }

    /// Has the unit another master key since? One that has none, has sealed before it lost it.
    fn has_moved_on(&self) -> bool {
        self.unit.verification_pattern().is_some_and(|pattern| pattern != self.pattern)
    }
}

/// Waits for units and stored keys that go over to another master key.
pub struct Patience<'a> {
    region: &'a Region,
    generation: u64,
    deadline: Instant,
}

impl Patience<'_> {
    /// A unit and a blob did not fit together. Is it that they are just going over to another master key? Then
    /// this comes back after a moment, and the next try may find both changed.
    pub fn wait(&mut self) -> bool {
        // Looked at first: what has just settled shows in the generation.
        let settles = self.region.settles();
        let generation = self.region.stored_keys_generation();
        let changing = settles || generation != self.generation;
        if !changing || Instant::now() > self.deadline {
            return false;
        }
        self.generation = generation;
        thread::sleep(PAUSE);
        true
    }
}

impl Region {
    /// An operational unit that holds the instance's master key; they take turns.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` if none does.
    pub fn unit(&self) -> Result<Arc<CryptoUnit>, UnitError> {
        if let Some(unit) = self.serving_unit() {
            return Ok(unit);
        }
        // The instance has just got its first master key, or a rotation waits to be finished, or the right one is
        // nowhere. Whoever is changing the master key already is not waited for.
        if let Some(changing) = self.changing_master_key.try_lock() {
            self.settle(&changing).and_then(|_| self.adopt_master_key(&changing)).map_err(
                |error| match error {
                    Error::Unit(error) => error,
                    other => UnitError::new(CKR_DEVICE_ERROR, other.to_string()),
                },
            )?;
        }
        self.serving_unit().ok_or_else(|| {
            let units = self.units.load();
            if units.iter().any(|installed| installed.is_operational() && !installed.unit.is_well()) {
                let message = "no crypto unit with the instance's master key is in order: see 'hsm-emulator unit list'";
                return UnitError::passing(CKR_DEVICE_REMOVED, message);
            }
            let message = match self.storage().pattern {
                Some(pattern) => format!(
                    "no crypto unit holds the instance's master key (verification pattern {}): load it again, or \
                     delete what is stored under it",
                    pattern.to_hex()
                ),
                None => "no crypto unit holds a master key: load one".to_owned(),
            };
            UnitError::new(vendor::CKR_IBM_WK_NOT_INITIALIZED, message)
        })
    }

    /// The same without ever waiting; `None` also if the instance's master key may be about to be found.
    pub fn serving_unit(&self) -> Option<Arc<CryptoUnit>> {
        let units = self.units.load();
        let pattern = self.storage.load().pattern?;
        let serving = || units.iter().filter(|installed| installed.serves(&pattern));
        let quick = || serving().filter(|installed| !installed.unit.is_slow());
        let turn = match quick().count() {
            0 | 1 => 0,
            count => self.next_unit.fetch_add(1, Ordering::Relaxed) % count,
        };
        // One may have lost its master key since they were counted; and a slow unit is better than none.
        let chosen = quick().nth(turn).or_else(|| quick().next()).or_else(|| serving().next());
        chosen.map(|installed| installed.unit.clone())
    }

    /// Makes a call again if its unit fails, as long as another one serves: what failed takes no part any more. A call
    /// that fails so has changed nothing.
    ///
    /// # Errors
    /// Those of `call`; `is_failure` says which of them are a unit's.
    pub fn with_another_unit<T, E>(
        &self,
        is_failure: impl Fn(&E) -> bool,
        mut call: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut units = self.units.load().len();
        loop {
            match call() {
                Err(error) if is_failure(&error) && units > 1 && self.is_served() => units -= 1,
                outcome => return outcome,
            }
        }
    }

    /// A serving unit that re-encrypts what its caller keeps: under the new master key of the re-encryption that has
    /// begun, or else under the one that all serving units have committed.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` if there is no such unit, or they disagree.
    pub fn rewrapping_unit(&self) -> Result<Arc<CryptoUnit>, UnitError> {
        let storage = self.storage();
        let units = self.units.load();
        let serving = units.iter().filter(|installed| storage.pattern.is_some_and(|p| installed.serves(&p)));
        let committed: Vec<_> =
            serving.map(|installed| (installed.unit.committed_pattern(), &installed.unit)).collect();
        let first = committed.first().and_then(|(pattern, _)| *pattern);
        let to = storage.reencrypting_to.or_else(|| {
            first.filter(|first| committed.iter().all(|(pattern, _)| pattern.as_ref() == Some(first)))
        });
        let found = committed.iter().find(|(pattern, _)| to.is_some() && *pattern == to);
        found.map(|(_, unit)| Arc::clone(unit)).ok_or_else(|| {
            UnitError::new(
                vendor::CKR_IBM_WK_NOT_INITIALIZED,
                "the crypto units in service have not all committed the same new master key",
            )
        })
    }

    /// Leave to seal in this unit.
    ///
    /// # Errors
    /// [`keystore::Error::MasterKeyRotation`] while the master key is being rotated.
    pub fn sealing(&self, unit: Arc<CryptoUnit>) -> keystore::Result<Sealing> {
        let storage = **self.storage.load();
        match unit.verification_pattern() {
            Some(pattern) if storage.pattern == Some(pattern) && storage.reencrypting_to.is_none() => {
                Ok(Sealing { unit, pattern, version: storage.version })
            }
            _ => Err(refused()),
        }
    }

    /// Commits what holds blobs that were sealed just now: refused if the master key has been rotated since, or is
    /// being, because the blobs may be under one that is about to go.
    ///
    /// # Errors
    /// [`keystore::Error::MasterKeyRotation`], and the keystore's own.
    pub fn commit_sealed(&self, sealing: &Sealing, mut writes: Vec<Write>) -> keystore::Result<u64> {
        if sealing.has_moved_on() {
            return Err(refused());
        }
        let expect = Expect::Version(sealing.version);
        writes.insert(0, Write { kind: INSTANCE.into(), id: INSTANCE.into(), expect, effect: Effect::Keep });
        match self.keystore().commit(writes) {
            Err(keystore::Error::Conflict { kind, .. }) if kind == INSTANCE => {
                // Another process may have changed it.
                if let Err(error) = self.read_storage() {
                    tracing::error!(%error, "the record of the instance cannot be read again");
                }
                Err(refused())
            }
            outcome => outcome,
        }
    }

    /// Runs a call that seals what its caller will keep: refused if the master key is being rotated, or has been when
    /// the call is done, because what is sealed under the old one would be lost with it.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED`, to be tried again, and those of `work`.
    pub fn seal_for_caller<T>(
        &self,
        mut work: impl FnMut(&CryptoUnit) -> Result<T, UnitError>,
    ) -> Result<T, UnitError> {
        self.with_another_unit(is_of_unit, || self.seal_in(self.unit()?, &mut work))
    }

    /// The same, in this unit and no other.
    ///
    /// # Errors
    /// As [`Self::seal_for_caller`].
    pub fn seal_in<T>(
        &self,
        unit: Arc<CryptoUnit>,
        work: impl FnOnce(&CryptoUnit) -> Result<T, UnitError>,
    ) -> Result<T, UnitError> {
        let sealing = self.sealing(unit).map_err(from_keystore)?;
        let sealed = work(sealing.unit())?;
        if sealing.has_moved_on() || self.storage().version != sealing.version {
            return Err(from_keystore(refused()));
        }
        Ok(sealed)
    }

    /// Another one whenever the stored keys have come under another master key: what was read before is to be
    /// read again.
    pub fn stored_keys_generation(&self) -> u64 {
        self.storage.load().generation
    }

    /// For a call that uses stored keys, from before it looks for them.
    pub fn patience(&self) -> Patience<'_> {
        Patience {
            region: self,
            generation: self.stored_keys_generation(),
            deadline: Instant::now() + MASTER_KEY_CHANGE,
        }
    }

    /// Runs a call that uses stored keys, again and again while units and keys go over to another master key.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn patiently<T>(&self, mut work: impl FnMut() -> Result<T, UnitError>) -> Result<T, UnitError> {
        let mut patience = self.patience();
        loop {
            match work() {
                Err(error) if is_about_master_key(&error) && patience.wait() => {}
                outcome => return outcome,
            }
        }
    }

    pub(super) fn storage(&self) -> Storage {
        **self.storage.load()
    }

    /// Does it follow a primary region, which alone decides about the stored keys?
    pub(super) fn follows(&self) -> bool {
        self.keystore().gate().mode() == keystore::Mode::Closed
    }

    pub(super) fn changing_master_key(&self) -> Changing<'_> {
        self.changing_master_key.lock()
    }

    /// As long as nothing is stored, the instance's master key is the one that most operational units hold.
    pub(super) fn adopt_master_key(&self, _: &Changing<'_>) -> Result<(), Error> {
        if self.follows() {
            return Ok(());
        }
        let held: Vec<VerificationPattern> = self
            .units
            .load()
            .iter()
            .filter(|installed| installed.is_in_service())
            .filter_map(|installed| installed.unit.verification_pattern())
            .collect();
        let storage = self.storage();
        let votes = |pattern: &VerificationPattern| held.iter().filter(|other| *other == pattern).count();
        let Some(pattern) = held.iter().copied().max_by_key(votes) else { return Ok(()) };
        let taken = || -> Result<bool, Error> { Ok(storage.pattern.is_some() && self.stores_keys()?) };
        if storage.reencrypting_to.is_some()
            || held.iter().any(|held| storage.pattern == Some(*held))
            || taken()?
        {
            return Ok(());
        }
        let adopted = self.change_storage(Storage { pattern: Some(pattern), ..storage }, |_| {
            // Somebody may have stored the first key since.
            let (kind, id) = (INSTANCE.to_owned(), INSTANCE.to_owned());
            if taken()? { Err(keystore::Error::Conflict { kind, id }.into()) } else { Ok(()) }
        });
        match adopted {
            Err(Error::Keystore(keystore::Error::Conflict { .. })) => return Ok(()),
            outcome => outcome?,
        }
        tracing::info!(pattern = pattern.to_hex(), "the instance has a master key");
        self.report_units();
        Ok(())
    }

    /// Changes the instance's record, and what `work` writes, in one transaction.
    pub(super) fn change_storage(
        &self,
        storage: Storage,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let write = write(self.identity(), &storage)?;
        let written = self.keystore().transaction(|transaction| {
            transaction.write(&write)?;
            work(transaction)
        });
        // If another process has changed it, what it says counts.
        self.read_storage()?;
        written
    }

    pub(super) fn read_storage(&self) -> Result<(), Error> {
        let record = self.keystore().get(INSTANCE, INSTANCE)?.ok_or(Error::Identity)?;
        let read = Arc::new(parse(&record)?.1);
        // Somebody else may have read it later and come here first.
        self.storage.rcu(|known| if known.version < read.version { read.clone() } else { known.clone() });
        Ok(())
    }

    /// Reads the instance's record again, after the partner has changed it.
    pub(super) fn reload_storage(&self) -> Result<(), Error> {
        if let Some(record) = self.keystore().get(INSTANCE, INSTANCE)? {
            self.storage.store(Arc::new(parse(&record)?.1));
        }
        Ok(())
    }

    /// Does an operational unit have this current master key?
    pub(super) fn is_held(&self, pattern: &VerificationPattern) -> bool {
        self.units.load().iter().any(|installed| installed.serves(pattern))
    }
}

/// What the instance's record says.
pub(super) fn parse(record: &Record) -> Result<(Identity, Storage), Error> {
    let StoredInstance { identity, verification_pattern, reencrypting_to, generation } =
        serde_json::from_slice(&record.body).map_err(|_| Error::Identity)?;
    let parse = |digits: &str| VerificationPattern::from_hex(digits).ok_or(Error::Identity);
    let pattern = match verification_pattern.as_str() {
        "" => None,
        digits => Some(parse(digits)?),
    };
    let reencrypting_to = reencrypting_to.as_deref().map(parse).transpose()?;
    Ok((identity, Storage { pattern, reencrypting_to, generation, version: record.version }))
}

/// Puts the instance's record in the place of the version that `storage` came from.
pub(super) fn write(identity: &Identity, storage: &Storage) -> Result<Write, Error> {
    let instance = StoredInstance {
        identity: identity.clone(),
        verification_pattern: storage.pattern.map(|pattern| pattern.to_hex()).unwrap_or_default(),
        reencrypting_to: storage.reencrypting_to.map(|pattern| pattern.to_hex()),
        generation: storage.generation,
    };
    Ok(Write {
        kind: INSTANCE.into(),
        id: INSTANCE.into(),
        expect: if storage.version == 0 { Expect::Absent } else { Expect::Version(storage.version) },
        effect: Effect::Put(serde_json::to_vec(&instance).map_err(|_| Error::Identity)?),
    })
}

/// Is it that the unit has not the blob's master key?
pub fn is_about_master_key(error: &UnitError) -> bool {
    matches!(error.code, vendor::CKR_IBM_WKID_MISMATCH | vendor::CKR_IBM_WK_NOT_INITIALIZED)
}

/// Is it that the unit has failed, and another one may do it?
pub fn is_of_unit(error: &UnitError) -> bool {
    matches!(error.code, CKR_DEVICE_REMOVED | vendor::CKR_IBM_WK_NOT_INITIALIZED)
}

/// The keystore's error in the words of PKCS #11.
pub(super) fn from_keystore(error: keystore::Error) -> UnitError {
    match error {
        keystore::Error::MasterKeyRotation | keystore::Error::PartnerLost => {
            UnitError::passing(CKR_FUNCTION_FAILED, error.to_string())
        }
        // Nothing was done, and another region of the pair can do it.
        keystore::Error::NotPrimary => UnitError::new(CKR_TOKEN_WRITE_PROTECTED, error.to_string()),
        keystore::Error::Full(_) => UnitError::new(CKR_DEVICE_MEMORY, error.to_string()),
        _ => UnitError::new(CKR_DEVICE_ERROR, error.to_string()),
    }
}

fn refused() -> keystore::Error {
    tracing::warn!("refused to store what is sealed under a master key that is being rotated");
    keystore::Error::MasterKeyRotation
}

/// Kind and id of the instance's record.
pub(super) const INSTANCE: &str = "instance";
/// How long a use of a key waits for units that go over to another master key.
const MASTER_KEY_CHANGE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);
