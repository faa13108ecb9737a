//! Re-encryption of everything stored, when the master key is rotated.
//!
//! The new blobs are staged beside the old ones, which serve until the first operational unit has set the new
//! master key; then one transaction puts all new ones in place. So a kill at any moment leaves either the old
//! state, with some of the work done, or the new one; and wrapping and unwrapping never pause.
//!
//! From its beginning to its end nothing new can be sealed ([`Region::sealing`]): it would be sealed under a master
//! key that is about to go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::keystore::{self, Effect, Expect, Record, Transaction, Write};
use crate::services::region::{Error, Region};
use crate::services::storage::{Changing, Storage};
use crate::services::stored_keys::{self, Replacements};
use crate::units::{CryptoUnit, Rotation, VerificationPattern, Verifier};

/// How far a re-encryption is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records whose new blobs are staged.
    pub done: u64,
    /// Records that hold blobs.
    pub total: u64,
    /// Records of which something stays as it is, since it is damaged or under none of the two master keys: the
    /// log names them. They are tried again whenever the re-encryption is.
    pub left_out: u64,
    /// The units may set the new master key.
    pub complete: bool,
    /// The new master key's, if a re-encryption has begun.
    pub pattern: Option<VerificationPattern>,
}

/// What has become of a record so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    LeftOut,
    Done,
}

/// A record with sealed values, and what will replace them.
struct Staged {
    record: Record,
    replacements: Replacements,
}

impl Region {
    /// Stages new blobs under the committed master key `to` for everything stored, going on where an earlier call
    /// stopped. `report` is told of every piece.
    ///
    /// # Errors
    /// [`Error::Reencryption`] unless every unit in service that has the stored keys' master key has `to` as its
    /// committed one, from the beginning to the end; [`Error::OtherReencryption`] if another one has begun, unless
    /// `abandon_other`: what that one has done is lost then.
    pub fn reencrypt(
        &self,
        to: &VerificationPattern,
        abandon_other: bool,
        mut report: impl FnMut(&Progress),
    ) -> Result<Progress, Error> {
        let changing = self.changing_master_key();
        // An instance that has not been used yet may not have settled on its first master key.
        self.adopt_master_key(&changing)?;
        let unit = self.rotating_unit(to)?;
        let storage = self.storage();
        match storage.reencrypting_to {
            Some(other) if other != *to => {
                if !abandon_other {
                    return Err(Error::OtherReencryption(other));
                }
                self.abandon(&other, to)?;
            }
            Some(_) => {}
            None => self.change_storage(Storage { reencrypting_to: Some(*to), ..storage }, |_| Ok(()))?,
        }
        let mut progress = self.reencryption_progress()?;
        report(&progress);
        // What was left out is tried again.
        progress.left_out = 0;
        for piece in self.sealed_ids()?.chunks(RECORDS_AT_ONCE) {
            let rotation = self.rotation(&unit, to)?;
            let verifier = unit.verifier(to);
            self.keystore().transaction(|transaction| {
                for (kind, id) in piece {
                    let get = |kind: &str, id: &str| transaction.get(kind, id);
                    let Some(staged) = self.staged(kind, id, to, verifier.as_ref(), get)? else { continue };
                    if staged.stage() == Stage::Done {
                        continue;
                    }
                    let replacements = stored_keys::reencrypt(&rotation, &staged.record)?;
                    transaction.write(&put(kind, id, &replacements)?)?;
                    match (Staged { replacements, ..staged }).stage() {
                        Stage::Done => progress.done += 1,
                        Stage::LeftOut => progress.left_out += 1,
                        Stage::Waiting => {}
                    }
                }
                Ok::<_, Error>(())
            })?;
            report(&progress);
        }
        let progress = self.reencryption_progress()?;
        self.reencrypted.store(progress.complete, Ordering::Release);
        // A unit may have been given the new master key, or switched on with it, meanwhile.
        self.settle(&changing)?;
        Ok(progress)
    }

    /// Gives up the re-encryption under `to`: what is staged is erased, and what is stored stays as it is. The master
    /// key that the stored keys are under.
    ///
    /// # Errors
    /// [`Error::Reencryption`] if none has begun, if a unit may still go over to `to` or has done so, or if none in
    /// service holds the stored keys' master key: then what is staged may be all that can be opened.
    /// [`Error::OtherReencryption`] if it is under another master key.
    pub fn cancel_reencryption(&self, to: &VerificationPattern) -> Result<VerificationPattern, Error> {
        let changing = self.changing_master_key();
        self.settle(&changing)?;
        let storage = self.storage();
        match storage.reencrypting_to {
            None => {
                return Err(Error::Reencryption("no re-encryption of the stored keys has begun".to_owned()));
            }
            Some(other) if other != *to => return Err(Error::OtherReencryption(other)),
            Some(_) => {}
        }
        if self.is_held(to) {
            return Err(Error::Reencryption(
                "a crypto unit in service has the new master key as its current one already: finish the rotation"
                    .to_owned(),
            ));
        }
        let pattern = storage.pattern.filter(|pattern| self.is_held(pattern)).ok_or_else(no_unit)?;
        // Whoever has seen the re-encryption complete may set it there any moment.
        if let Some(installed) = self.units().iter().find(|u| u.unit.committed_pattern().as_ref() == Some(to))
        {
            return Err(Error::Reencryption(format!(
                "the crypto unit at {} has the new master key committed: clear the new master key registers first",
                installed.unit.location()
            )));
        }
        self.change_storage(Storage { reencrypting_to: None, ..storage }, |transaction| {
            self.unstage_all(transaction)
        })?;
        self.reencrypted.store(false, Ordering::Release);
        tracing::warn!(
            pattern = to.to_hex(),
            "a re-encryption was cancelled: the stored keys stay as they are"
        );
        Ok(pattern)
    }

    /// How far the re-encryption is.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn reencryption_progress(&self) -> Result<Progress, Error> {
        let verifier = self.storage().reencrypting_to.and_then(|to| self.verifier(&to));
        self.progress(verifier.as_ref())
    }

    fn progress(&self, verifier: Option<&Verifier>) -> Result<Progress, Error> {
        let pattern = self.storage().reencrypting_to;
        let mut progress = Progress { pattern, ..Progress::default() };
        for (kind, id) in self.sealed_ids()? {
            let get = |kind: &str, id: &str| self.keystore().get(kind, id);
            let stage = match &pattern {
                Some(to) => self.staged(&kind, &id, to, verifier, get)?.map(|staged| staged.stage()),
                None => get(&kind, &id)?.filter(holds_keys).map(|_| Stage::Waiting),
            };
            progress.total += u64::from(stage.is_some());
            progress.done += u64::from(stage == Some(Stage::Done));
            progress.left_out += u64::from(stage == Some(Stage::LeftOut));
        }
        progress.complete = pattern.is_some() && progress.done + progress.left_out == progress.total;
        Ok(progress)
    }

    /// Puts the staged blobs in place once an operational unit has the new master key. Called whenever a unit's
    /// registers may have changed, and at every start. Did it happen?
    ///
    /// # Errors
    /// [`Error::Keystore`]; [`Error::Reencryption`] if something staged is damaged and can be staged again.
    pub fn finish_reencryption(&self) -> Result<bool, Error> {
        self.settle(&self.changing_master_key())
    }

    /// At the start of the service: is there a re-encryption, and how far had it come?
    pub(super) fn resume_reencryption(&self) -> Result<(), Error> {
        let storage = self.storage();
        let Some(to) = storage.reencrypting_to else { return Ok(()) };
        // Without a unit that has the old master key, nothing can be staged again.
        let can_go_on = storage.pattern.is_some_and(|from| self.is_held(&from));
        let verifier = self.verifier(&to).filter(|_| can_go_on);
        self.reencrypted.store(self.progress(verifier.as_ref())?.complete, Ordering::Release);
        self.finish_reencryption().map(drop)
    }

    /// Is everything staged, and an operational unit has the new master key already?
    pub fn settles(&self) -> bool {
        self.reencrypted.load(Ordering::Acquire)
            && self.storage().reencrypting_to.is_some_and(|to| self.is_held(&to))
    }

    pub(super) fn settle(&self, _: &Changing<'_>) -> Result<bool, Error> {
        let storage = self.storage();
        let Some(to) = storage.reencrypting_to.filter(|_| self.settles() && !self.follows()) else {
            return Ok(false);
        };
        let generation = storage.generation + 1;
        let settled = Storage { pattern: Some(to), reencrypting_to: None, generation, ..storage };
        // What is damaged is staged again, as long as there is a unit for that; after that the others must not wait.
        let can_go_on = storage.pattern.is_some_and(|from| self.is_held(&from));
        let verifier = self.verifier(&to);
        self.change_storage(settled, |transaction| {
            for (kind, id) in self.sealed_ids()? {
                let get = |kind: &str, id: &str| transaction.get(kind, id);
                let staged = self.staged(&kind, &id, &to, verifier.as_ref(), get)?;
                let Some(mut staged) = staged else { continue };
                if staged.stage() == Stage::Waiting && !can_go_on {
                    tracing::error!(
                        kind,
                        id,
                        "what was re-encrypted is damaged: the stored key is left as it is"
                    );
                    stored_keys::keep_others(&staged.record, &mut staged.replacements);
                }
                transaction.write(&staged.put_in_place()?)?;
            }
            self.unstage_all(transaction)
        })?;
        self.reencrypted.store(false, Ordering::Release);
        tracing::warn!(pattern = to.to_hex(), "the stored keys are under the new master key now");
        Ok(true)
    }

    /// The real service re-encrypts in place: what has come under a new master key that is then given up cannot
    /// be opened any more. Here that happens only after a warning, and to what was staged.
    fn abandon(&self, given_up: &VerificationPattern, to: &VerificationPattern) -> Result<(), Error> {
        self.reencrypted.store(false, Ordering::Release);
        let mut keys = 0;
        let storage = self.storage();
        let generation = storage.generation + 1;
        self.change_storage(Storage { reencrypting_to: Some(*to), generation, ..storage }, |transaction| {
            for (kind, id) in self.sealed_ids()? {
                let staged = self.staged(&kind, &id, given_up, None, |kind, id| transaction.get(kind, id))?;
                if let Some(staged) = staged.filter(|staged| staged.stage() != Stage::Waiting) {
                    transaction.write(&staged.put_in_place()?)?;
                    keys += 1;
                }
            }
            self.unstage_all(transaction)
        })?;
        tracing::error!(keys, pattern = given_up.to_hex(), "a re-encryption was given up: its keys are lost");
        Ok(())
    }

    /// A unit that re-encrypts.
    fn rotating_unit(&self, to: &VerificationPattern) -> Result<Arc<CryptoUnit>, Error> {
        let Some(pattern) = self.storage().pattern else { return Err(no_unit()) };
        let mut found = None;
        for installed in self.units().iter().filter(|installed| installed.is_operational()) {
            let unit = &installed.unit;
            if !installed.serves(&pattern) {
                tracing::warn!(
                    serial = unit.serial(),
                    location = unit.location(),
                    stopped = installed.stopped,
                    "the unit does not hold the stored keys' master key and takes no part in the re-encryption"
                );
                continue;
            }
            self.rotation(unit, to)?;
            found.get_or_insert_with(|| unit.clone());
        }
        found.ok_or_else(no_unit)
    }

    /// Both master keys out of the unit's registers, if they are the right ones.
    fn rotation(&self, unit: &CryptoUnit, to: &VerificationPattern) -> Result<Rotation, Error> {
        let from = self.storage().pattern;
        let rotation = unit.rotation().ok();
        rotation.filter(|rotation| Some(*rotation.from()) == from && rotation.to() == to).ok_or_else(|| {
            Error::Reencryption(format!(
                "crypto unit {} does not hold the stored keys' master key {} and, committed, the new one {}: load and \
                 commit that one, and re-encrypt again, or cancel the re-encryption",
                unit.location(),
                from.map(|from| from.to_hex()).unwrap_or_default(),
                to.to_hex()
            ))
        })
    }

    /// From a unit in service that has this master key, current or committed.
    fn verifier(&self, pattern: &VerificationPattern) -> Option<Verifier> {
        self.units().iter().filter(|unit| unit.is_in_service()).find_map(|unit| unit.unit.verifier(pattern))
    }

    /// A record and what is staged for it under `to`, without what `verifier` finds damaged; `None` if it holds nothing
    /// sealed.
    fn staged(
        &self,
        kind: &str,
        id: &str,
        to: &VerificationPattern,
        verifier: Option<&Verifier>,
        mut get: impl FnMut(&str, &str) -> keystore::Result<Option<Record>>,
    ) -> Result<Option<Staged>, Error> {
        let Some(record) = get(kind, id)?.filter(holds_keys) else { return Ok(None) };
        let staged = get(STAGED, &staged_id(kind, id))?;
        let mut replacements: Replacements =
            staged.and_then(|staged| serde_json::from_slice(&staged.body).ok()).unwrap_or_default();
        replacements.retain(|_, new| {
            new.as_deref().is_none_or(|new| stored_keys::is_good(to, verifier, &record, new))
        });
        Ok(Some(Staged { record, replacements }))
    }

    fn unstage_all(&self, transaction: &mut Transaction<'_>) -> Result<(), Error> {
        for id in self.keystore().ids(STAGED)? {
            let (kind, expect) = (STAGED.into(), Expect::Any);
            transaction.write(&Write { kind, id, expect, effect: Effect::Delete })?;
        }
        Ok(())
    }

    /// Kind and id of all records that may hold sealed values.
    fn sealed_ids(&self) -> Result<Vec<(String, String)>, Error> {
        let mut found = Vec::new();
        for kind in self.keystore().kinds()?.into_iter().filter(|kind| stored_keys::is_sealed(kind)) {
            found.extend(self.keystore().ids(&kind)?.into_iter().map(|id| (kind.clone(), id)));
        }
        Ok(found)
    }

    /// Is anything stored under the master key?
    pub(super) fn stores_keys(&self) -> Result<bool, Error> {
        for kind in self.keystore().kinds()?.iter().filter(|kind| stored_keys::is_sealed(kind)) {
            if self.keystore().any(kind, holds_keys)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Staged {
    fn stage(&self) -> Stage {
        match stored_keys::replace(&self.record, &self.replacements) {
            None => Stage::Waiting,
            Some(_) if self.replacements.values().any(Option::is_none) => Stage::LeftOut,
            Some(_) => Stage::Done,
        }
    }

    fn put_in_place(self) -> Result<Write, Error> {
        let body = stored_keys::replace(&self.record, &self.replacements).ok_or_else(|| {
            Error::Reencryption(format!(
                "{} {} has not been re-encrypted, or what was is damaged: re-encrypt again",
                self.record.kind, self.record.id
            ))
        })?;
        let Record { kind, id, version, .. } = self.record;
        Ok(Write { kind, id, expect: Expect::Version(version), effect: Effect::Put(body) })
    }
}

/// To be committed with whatever erases a record or its blobs: no staged copy may outlive them.
pub fn unstage(kind: &str, id: &str) -> Write {
    let (kind, id) = (STAGED.into(), staged_id(kind, id));
    Write { kind, id, expect: Expect::Any, effect: Effect::Delete }
}

fn no_unit() -> Error {
    Error::Reencryption(
        "no operational unit in service holds the stored keys' master key: load and set that one first"
            .to_owned(),
    )
}

fn put(kind: &str, id: &str, replacements: &Replacements) -> Result<Write, Error> {
    let body = serde_json::to_vec(replacements).map_err(|_| Error::Identity)?;
    let (kind, id) = (STAGED.into(), staged_id(kind, id));
    Ok(Write { kind, id, expect: Expect::Any, effect: Effect::Put(body) })
}

fn staged_id(kind: &str, id: &str) -> String {
    format!("{kind}/{id}")
}

fn holds_keys(record: &Record) -> bool {
    !stored_keys::sealed_values(record).is_empty()
}

const STAGED: &str = "reencrypted";
const RECORDS_AT_ONCE: usize = 500;
