//! Token objects in the keystore.

use cryptoki_sys::*;
use subtle::ConstantTimeEq;

use super::{Grant, Tokens, User};
use crate::keystore::{self, Effect, Expect, Record, Write};
use crate::services::reencryption::unstage;
use crate::services::storage::{Sealing, from_keystore, is_about_master_key};
use crate::services::stored_keys::{TOKEN, objects_of};
use crate::units::{Attributes, CryptoUnit, Error, KeyBlob, Result, vendor};

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

impl Tokens {
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
        if self.is_unchanged(since) {
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

    /// Has nothing changed after a revision, for sure? Then neither has a PIN: whoever was let see the rest sees no more.
    pub fn is_unchanged(&self, since: u64) -> bool {
        since > 0
            && self.region.storage().pattern.is_some_and(|pattern| self.region.is_held(&pattern))
            && self.region.keystore().head().is_ok_and(|head| head == since)
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
                Ok((id, object)) => {
                    if private || object.attributes()?.bool(CKA_PRIVATE) != Some(true) {
                        changes.stored.push((id, object));
                    }
                }
                Err(error) if is_about_master_key(&error) && !leave_out_foreign => return Err(error),
                Err(error) => tracing::error!(serial, object = record.id, %error, "an object takes no part"),
            }
        }
        Ok(changes)
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
        let (_, object) = stored_object(&*self.region.unit()?, serial, &record)?;
        let attributes = object.attributes()?;
        self.permit(serial, grant, &attributes)?;
        Ok((record, attributes))
    }

    /// Closes a destroyed object in the units.
    pub(super) fn forget(&self, record: &Record) {
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
}

/// A stored object, if it is what was stored there.
fn stored_object(unit: &CryptoUnit, serial: &str, record: &Record) -> Result<(ObjectId, KeyBlob)> {
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
    Ok((id, object))
}

fn object_id(id: &str) -> Result<ObjectId> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(id, &mut bytes)
        .map_err(|_| Error::new(CKR_DEVICE_ERROR, "the id of a stored object is damaged"))?;
    Ok(bytes)
}

fn gone() -> Error {
    Error::new(
        CKR_OBJECT_HANDLE_INVALID,
        "the object does not exist any more, was changed, or exists already",
    )
}
