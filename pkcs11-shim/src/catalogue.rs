//! The objects of a token that this process knows, found by their attributes without a walk over all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cryptoki_sys::*;
use hsm_emulator::units::{Attributes, Result, may_be_sealed, vendor};

use crate::backend::{Backend, Changes, ObjectId};
use crate::handle_set::HandleSet;
use crate::handles::{HandleTable, read, write};
use crate::module::Module;
use crate::object::{Object, Owner};
use crate::slot_token::Slot;

/// Token objects, as of some revision of the keystore, and session objects.
#[derive(Default)]
pub struct Catalogue {
    all: HandleSet,
    indexes: [HashMap<Vec<u8>, HandleSet>; INDEXED.len()],
    /// Of token objects, also of those that are about to be stored.
    handles: HashMap<ObjectId, CK_OBJECT_HANDLE>,
    /// Of token objects that this process has stored or deleted: the revision since when they are so. Changes that were
    /// asked for before, and come later, do not know of it.
    own_changes: HashMap<ObjectId, u64>,
    /// Searches that have asked for changes, or are about to.
    refreshes: Arc<AtomicUsize>,
    seen: Seen,
}

/// How far the keystore's changes were followed. Private objects show only to the user, so they have a
/// revision of their own.
#[derive(Clone, Copy, Default)]
struct Seen {
    public: u64,
    private: u64,
}

impl Catalogue {
    /// Enters an object, or a new state of it.
    pub fn insert(
        &mut self,
        objects: &HandleTable<Object>,
        handle: CK_OBJECT_HANDLE,
        object: impl Into<Arc<Object>>,
    ) {
        let object = object.into();
        self.unindex(objects, handle);
        for (index, kind) in self.indexes.iter_mut().zip(INDEXED) {
            let Some(value) = indexed_value(&object.attributes, kind) else { continue };
            match index.get_mut(value) {
                Some(handles) => handles.insert(handle),
                None => drop(index.insert(value.to_vec(), HandleSet::One(handle))),
            }
        }
        if let Owner::Token(id) = object.owner {
            self.handles.insert(id, handle);
        }
        self.all.insert(handle);
        objects.put(handle, object);
    }

    /// Enters a new state of a session object, if that is still here.
    pub fn replace(&mut self, objects: &HandleTable<Object>, handle: CK_OBJECT_HANDLE, changed: Object) {
        if self.all.contains(handle) {
            self.insert(objects, handle, changed);
        }
    }

    /// Enters the state that a token object has since this revision, under the handle that it has now: a logout may have
    /// given it another one.
    pub fn replace_stored(
        &mut self,
        objects: &HandleTable<Object>,
        id: ObjectId,
        changed: Object,
        revision: u64,
    ) {
        if self.note(id, changed.private, revision)
            && let Some(handle) = self.handles.get(&id).copied()
        {
            self.replace(objects, handle, changed);
        }
    }

    /// Takes a token object out that is deleted since this revision.
    pub fn remove_deleted(
        &mut self,
        objects: &HandleTable<Object>,
        id: ObjectId,
        private: bool,
        revision: u64,
    ) {
        // Whatever came in between: it is gone for good.
        self.note(id, private, revision);
        if let Some(handle) = self.handles.get(&id).copied() {
            self.remove(objects, handle);
        }
    }

    /// Remembers a change by this process. Is it the last one, as far as is known?
    fn note(&mut self, id: ObjectId, private: bool, revision: u64) -> bool {
        let seen = if private { self.seen.private } else { self.seen.public };
        let known = self.own_changes.entry(id).or_default();
        let is_last = revision > seen.max(*known);
        *known = revision.max(*known);
        if self.own_changes.len() > MAX_OWN_CHANGES && self.refreshes.load(Ordering::SeqCst) == 0 {
            // Whoever asks for changes from now on is told of these, too.
            self.own_changes.clear();
        }
        is_last
    }

    /// Takes an object out.
    pub fn remove(&mut self, objects: &HandleTable<Object>, handle: CK_OBJECT_HANDLE) {
        if let Some(Owner::Token(id)) = objects.get(handle).map(|object| object.owner) {
            self.handles.remove(&id);
        }
        self.unindex(objects, handle);
        objects.remove(handle);
    }

    /// Gives private token objects new handles: those from before a logout stay invalid (section 5.6, `C_Logout`).
    pub fn renew_private(&mut self, objects: &HandleTable<Object>) {
        let is_private = |object: &Object| object.private && matches!(object.owner, Owner::Token(_));
        let private: Vec<_> = self
            .all
            .iter()
            .filter_map(|handle| Some((handle, objects.get(handle).filter(|object| is_private(object))?)))
            .collect();
        for (handle, object) in private {
            self.remove(objects, handle);
            self.insert(objects, HandleTable::<Object>::reserve(), object);
        }
    }

    /// Takes everything out.
    pub fn forget_all(&mut self, objects: &HandleTable<Object>) {
        for handle in self.all.iter() {
            objects.remove(handle);
        }
        *self = Self::default();
    }

    /// The handles of objects that have these attributes, oldest first. Values that an object does not show
    /// in clear are compared by `sealed_matches`.
    ///
    /// # Errors
    /// Those of `sealed_matches`.
    pub fn find(
        &self,
        objects: &HandleTable<Object>,
        template: &Attributes,
        private_too: bool,
        sealed_matches: impl Fn(&Object, &Attributes) -> Result<bool>,
    ) -> Result<Vec<CK_OBJECT_HANDLE>> {
        let by_index = self
            .indexes
            .iter()
            .zip(INDEXED)
            .filter_map(|(index, kind)| Some(index.get(indexed_value(template, kind)?)));
        let candidates = match by_index.min_by_key(|handles| handles.map_or(0, HandleSet::len)) {
            Some(None) => return Ok(Vec::new()),
            Some(Some(handles)) => handles,
            None => &self.all,
        };
        let matches = |object: &Object| {
            if object.private && !private_too {
                return Ok(false);
            }
            let mut sealed = Attributes::new();
            let clear = template.iter().all(|(kind, value)| match object.attributes.get(kind) {
                Some(own) => own == value,
                None => {
                    sealed.set(kind, value);
                    true
                }
            });
            Ok(clear && (sealed.is_empty() || sealed_matches(object, &sealed)?))
        };
        let mut found = Vec::new();
        for handle in candidates.iter() {
            if let Some(object) = objects.get(handle)
                && matches(&object)?
            {
                found.push(handle);
            }
        }
        Ok(found)
    }

    /// Is the object, in whatever state, still here?
    pub fn has(&self, object: &Object) -> bool {
        let [.., by_unique_id] = &self.indexes;
        by_unique_id.contains_key(object.unique_id())
    }

    /// Takes in what changed in the keystore.
    fn apply(
        &mut self,
        objects: &HandleTable<Object>,
        slot: CK_SLOT_ID,
        changes: Changes,
        private_too: bool,
    ) {
        let behind = if private_too { self.seen.private } else { self.seen.public };
        if changes.revision < behind {
            // Another thread asked later and was faster.
            return;
        }
        let own_changes = std::mem::take(&mut self.own_changes);
        let is_older = |id: &ObjectId| own_changes.get(id).is_some_and(|own| *own > changes.revision);
        for id in changes.deleted {
            if let Some(handle) = self.handles.get(&id).copied() {
                self.remove(objects, handle);
            }
        }
        for (id, blob) in changes.stored {
            if is_older(&id) {
                continue;
            }
            let known = self.handles.get(&id).copied();
            if known.and_then(|handle| objects.get(handle)).is_some_and(|object| object.blob == blob) {
                continue;
            }
            // An object that can't be read is not shown; the others are.
            let Ok(object) = Object::of_token(slot, id, blob) else { continue };
            let handle = known.unwrap_or_else(HandleTable::<Object>::reserve);
            self.insert(objects, handle, object);
        }
        self.seen.public = self.seen.public.max(changes.revision);
        if private_too {
            self.seen.private = changes.revision;
        }
        // Nobody takes in changes from before that any more.
        let seen = self.seen.public.min(self.seen.private);
        self.own_changes = own_changes;
        self.own_changes.retain(|_, own| *own > seen);
    }

    /// The handle that an object will have which is about to be stored.
    pub fn expect(&mut self, id: ObjectId, handle: CK_OBJECT_HANDLE) {
        self.handles.insert(id, handle);
    }

    /// It was stored: the handle that it has. A search may have found it before, and a logout given it a new one.
    pub fn settle(
        &mut self,
        objects: &HandleTable<Object>,
        id: ObjectId,
        expected: CK_OBJECT_HANDLE,
        object: Object,
        revision: u64,
    ) -> CK_OBJECT_HANDLE {
        if self.note(id, object.private, revision) && self.handles.get(&id) == Some(&expected) {
            self.insert(objects, expected, object);
        }
        self.handles.get(&id).copied().unwrap_or(expected)
    }

    /// It was not stored, as far as is known; but a search may have found it.
    pub fn give_up(&mut self, id: ObjectId) {
        if self.handles.get(&id).is_some_and(|handle| !self.all.contains(*handle)) {
            self.handles.remove(&id);
        }
    }

    /// A token object as it is now.
    pub fn token_object(&self, objects: &HandleTable<Object>, id: ObjectId) -> Option<Arc<Object>> {
        objects.get(*self.handles.get(&id)?)
    }

    /// The token objects that are here now, by id.
    fn token_objects(&self, objects: &HandleTable<Object>) -> Vec<(ObjectId, CK_OBJECT_HANDLE)> {
        let here = |handle| match objects.get(handle)?.owner {
            Owner::Token(id) => Some((id, handle)),
            Owner::Session(_) => None,
        };
        self.all.iter().filter_map(here).collect()
    }

    fn unindex(&mut self, objects: &HandleTable<Object>, handle: CK_OBJECT_HANDLE) {
        if !self.all.remove(handle) {
            return;
        }
        let Some(object) = objects.get(handle) else { return };
        for (index, kind) in self.indexes.iter_mut().zip(INDEXED) {
            let Some(value) = indexed_value(&object.attributes, kind) else { continue };
            if let Some(handles) = index.get_mut(value)
                && handles.remove(handle)
                && handles.is_empty()
            {
                index.remove(value);
            }
        }
    }
}

/// A search that takes in changes.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Brings a token's objects up to date with the keystore, where other processes write too.
///
/// # Errors
/// The backend's.
pub fn refresh(module: &Module, slot: &Slot) -> Result<()> {
    let grant = slot.user_grant();
    let private_too = grant.is_some();
    let (_under_way, mut since) = {
        let catalogue = read(&slot.catalogue);
        let since = if private_too { catalogue.seen.private } else { catalogue.seen.public };
        (UnderWay::new(&catalogue.refreshes), since)
    };
    // Who asks for everything is not told what is gone: what was here before and does not come is gone.
    let mut missing: HashMap<ObjectId, CK_OBJECT_HANDLE> = match since {
        0 => read(&slot.catalogue).token_objects(&module.objects).into_iter().collect(),
        _ => HashMap::new(),
    };
    loop {
        let changes = module
            .backend
            .changes(slot.serial()?, grant.as_ref(), since)
            .map_err(|error| slot.note_void_grant(grant.as_ref(), error))?;
        let more = changes.more;
        let unchanged = changes.revision == since && changes.stored.is_empty() && changes.deleted.is_empty();
        since = changes.revision;
        if !missing.is_empty() {
            for (id, _) in &changes.stored {
                missing.remove(id);
            }
        }
        if !unchanged {
            write(&slot.catalogue).apply(&module.objects, slot.id, changes, private_too);
        }
        if !more {
            break;
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut catalogue = write(&slot.catalogue);
    for handle in missing.into_values() {
        // Without a login, private objects do not come either.
        if private_too || module.objects.get(handle).is_some_and(|object| !object.private) {
            catalogue.remove(&module.objects, handle);
        }
    }
    Ok(())
}

/// Does the object hold these values, sealed but readable? One that stays sealed under a past master key (`stays_stale`, or a
/// session object) does not.
///
/// # Errors
/// `CKR_IBM_WKID_MISMATCH` if it is not known whether the object stays so; the backend's, if it cannot look.
pub fn sealed_matches(
    backend: &dyn Backend,
    object: &Object,
    wanted: &Attributes,
    stays_stale: bool,
) -> Result<bool> {
    for (kind, value) in wanted.iter() {
        if !may_be_sealed(kind) {
            return Ok(false);
        }
        match backend.sealed_attribute(&object.blob, kind) {
            Ok(own) if own.as_slice() == value => {}
            Ok(_) => return Ok(false),
            Err(error) => match error.code {
                CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID => return Ok(false),
                vendor::CKR_IBM_WKID_MISMATCH if stays_stale || object.session().is_some() => {
                    return Ok(false);
                }
                _ => return Err(error),
            },
        }
    }
    Ok(true)
}

/// More are forgotten as soon as nobody needs them.
const MAX_OWN_CHANGES: usize = 1024;

/// An attribute by which objects are found. Nothing is what many objects have, and nobody looks for.
fn indexed_value(attributes: &Attributes, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
    attributes.get(kind).filter(|value| !value.is_empty())
}

/// What applications search by.
const INDEXED: [CK_ATTRIBUTE_TYPE; 12] = [
    CKA_CLASS,
    CKA_KEY_TYPE,
    CKA_LABEL,
    CKA_ID,
    CKA_APPLICATION,
    CKA_OBJECT_ID,
    CKA_SUBJECT,
    CKA_ISSUER,
    CKA_SERIAL_NUMBER,
    CKA_MODULUS,
    CKA_EC_POINT,
    CKA_UNIQUE_ID,
];
