//! Objects: making, copying, reading, changing, finding, destroying them (section 5.7).

use std::sync::{Arc, OnceLock};

use cryptoki_sys::*;
use hsm_emulator::units::{Attributes, Error, KeyBlob, Result, may_be_sealed, random, vendor};

use crate::backend::{Grant, ObjectId, Put};
use crate::catalogue;
use crate::handles::{HandleTable, read, write};
use crate::key_mgmt::value_not_size;
use crate::local::PublicKey;
use crate::module::Module;
use crate::operation::{Find, begin};
use crate::session::Session;
use crate::slot_token;

/// An object as this process knows it. It never changes: a changed object takes its place in the table.
pub struct Object {
    /// The slot whose token it belongs to.
    pub slot: CK_SLOT_ID,
    /// Where it lives.
    pub owner: Owner,
    /// The sealed object.
    pub blob: KeyBlob,
    /// What the blob shows in clear.
    pub attributes: Attributes,
    /// Visible to the user alone (`CKA_PRIVATE`).
    pub private: bool,
    public_key: OnceLock<PublicKey>,
}

/// Where an object lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// In the keystore.
    Token(ObjectId),
    /// In a session, and dies with it.
    Session(CK_SESSION_HANDLE),
}

impl Object {
    /// A token object from its blob.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if the blob is damaged.
    pub fn of_token(slot: CK_SLOT_ID, id: ObjectId, blob: KeyBlob) -> Result<Self> {
        Self::new(slot, Owner::Token(id), hex::encode(id), blob)
    }

    /// A session object from its blob.
    ///
    /// # Errors
    /// As [`Object::of_token`].
    pub fn of_session(
        slot: CK_SLOT_ID,
        session: CK_SESSION_HANDLE,
        unique_id: u128,
        blob: KeyBlob,
    ) -> Result<Self> {
        Self::new(slot, Owner::Session(session), format!("{unique_id:032x}"), blob)
    }

    /// The same object with another blob.
    ///
    /// # Errors
    /// As [`Object::of_token`].
    pub fn changed(&self, blob: KeyBlob) -> Result<Self> {
        Self::new(self.slot, self.owner, self.unique_id(), blob)
    }

    /// `unique_id` stays with a token object for ever, and with a session object while it lives (version 3.0 section 4.4.1).
    fn new(
        slot: CK_SLOT_ID,
        owner: Owner,
        unique_id: impl AsRef<[u8]> + Into<Vec<u8>>,
        blob: KeyBlob,
    ) -> Result<Self> {
        let mut attributes = blob.attributes()?;
        attributes.set(CKA_UNIQUE_ID, unique_id);
        let private = attributes.bool(CKA_PRIVATE).unwrap_or(false);
        Ok(Self { slot, owner, blob, attributes, private, public_key: OnceLock::new() })
    }

    /// Its `CKA_UNIQUE_ID`.
    pub fn unique_id(&self) -> &[u8] {
        self.attributes.get(CKA_UNIQUE_ID).unwrap_or_default()
    }

    /// The session that a session object belongs to.
    pub fn session(&self) -> Option<CK_SESSION_HANDLE> {
        match self.owner {
            Owner::Session(session) => Some(session),
            Owner::Token(_) => None,
        }
    }

    /// A boolean attribute, absent is false.
    pub fn is(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.attributes.bool(kind).unwrap_or(false)
    }

    /// The key type; `None` if it's no key.
    pub fn key_type(&self) -> Option<CK_KEY_TYPE> {
        match self.class()? {
            CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_SECRET_KEY => self.attributes.ulong(CKA_KEY_TYPE),
            _ => None,
        }
    }

    /// Does the key want a login before each use (`CKA_ALWAYS_AUTHENTICATE`)?
    pub fn wants_login_for_each_use(&self) -> bool {
        self.class() == Some(CKO_PRIVATE_KEY) && self.is(CKA_ALWAYS_AUTHENTICATE)
    }

    /// Does the key list the mechanisms that it may be used with?
    pub fn restricted(&self) -> bool {
        self.attributes.get(CKA_ALLOWED_MECHANISMS).is_some_and(|list| !list.is_empty())
    }

    /// The object class.
    pub fn class(&self) -> Option<CK_OBJECT_CLASS> {
        self.attributes.ulong(CKA_CLASS)
    }

    /// The public key, parsed once.
    ///
    /// # Errors
    /// `CKR_KEY_TYPE_INCONSISTENT`.
    pub fn public_key(&self) -> Result<&PublicKey> {
        match self.public_key.get() {
            Some(key) => Ok(key),
            None => {
                let key = PublicKey::parse(&self.attributes)?;
                Ok(self.public_key.get_or_init(|| key))
            }
        }
    }
}

/// What a new object will be and where it will live, settled before the HSM works on it.
pub struct Destination {
    /// For the HSM.
    pub template: Attributes,
    token: bool,
    vouching: Option<Grant>,
}

/// A template as any user may give it, and the SO's grant if he sets `CKA_TRUSTED` by it, which nobody else may.
fn without_trust(session: &Session, template: &Attributes) -> (Attributes, Option<Grant>) {
    let mut template = template.clone();
    let vouching = session.slot.so_grant().filter(|_| template.bool(CKA_TRUSTED) == Some(true));
    if vouching.is_some() {
        template.remove(CKA_TRUSTED);
    }
    (template, vouching)
}

impl Destination {
    /// Checks that the session may make an object of this template. `private_by_default`: what
    /// `CKA_PRIVATE` is if the template is silent.
    ///
    /// # Errors
    /// `CKR_SESSION_READ_ONLY`, `CKR_USER_NOT_LOGGED_IN`.
    pub fn check(session: &Session, template: &Attributes, private_by_default: bool) -> Result<Self> {
        let token = template.bool(CKA_TOKEN).unwrap_or(false);
        if token {
            session.require_rw()?;
        }
        require_login_for(session, template.bool(CKA_PRIVATE).unwrap_or(private_by_default))?;
        let (template, vouching) = without_trust(session, template);
        Ok(Self { template, token, vouching })
    }

    /// Puts the new object where it belongs, durably if on the token.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, `CKR_SESSION_CLOSED`, the backend's.
    pub fn place(&self, module: &Module, session: &Session, blob: KeyBlob) -> Result<CK_OBJECT_HANDLE> {
        let slot = &session.slot;
        if !self.token {
            let handle = HandleTable::<Object>::reserve();
            let blob = vouched(module, session, self.vouching.as_ref(), blob)?;
            let unique_id = module.session_objects.wrapping_add(handle.into());
            let object = Object::of_session(slot.id, session.handle, unique_id, blob)?;
            // With the catalogue held: a logout or the session's end comes before all of this, or after.
            let mut catalogue = write(&slot.catalogue);
            require_login_for(session, object.private)?;
            session.own(handle)?;
            catalogue.insert(&module.objects, handle, object);
            return Ok(handle);
        }
        Ok(store_new(module, session, [(self, blob)])?[0])
    }
}

/// The object with `CKA_TRUSTED`, if the SO vouches for it.
fn vouched(module: &Module, session: &Session, vouching: Option<&Grant>, blob: KeyBlob) -> Result<KeyBlob> {
    let Some(grant) = vouching else { return Ok(blob) };
    let trusted = module.backend.trust_object(grant, &blob);
    trusted.map_err(|error| session.slot.note_void_grant(Some(grant), error))
}

/// Puts the keys of a new pair where they belong: both, or neither.
///
/// # Errors
/// As [`Destination::place`].
pub fn place_pair(
    module: &Module,
    session: &Session,
    public: (&Destination, KeyBlob),
    private: (&Destination, KeyBlob),
) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    if public.0.token && private.0.token {
        return store_new(module, session, [public, private]).map(|[public, private]| (public, private));
    }
    // What is to be on the token comes last: it may be impossible to destroy.
    let swapped = public.0.token;
    let (first, last) = if swapped { (private, public) } else { (public, private) };
    let first = first.0.place(module, session, first.1)?;
    match last.0.place(module, session, last.1) {
        Ok(last) if swapped => Ok((last, first)),
        Ok(last) => Ok((first, last)),
        Err(error) => {
            // Half a key pair is of no use.
            session.disown(first);
            write(&session.slot.catalogue).remove(&module.objects, first);
            Err(error)
        }
    }
}

/// Stores new token objects durably, all or none.
fn store_new<const N: usize>(
    module: &Module,
    session: &Session,
    made: [(&Destination, KeyBlob); N],
) -> Result<[CK_OBJECT_HANDLE; N]> {
    let slot = &session.slot;
    let mut new = Vec::with_capacity(N);
    for (destination, blob) in made {
        let id = random::array()?;
        let blob = vouched(module, session, destination.vouching.as_ref(), blob)?;
        let object = Object::of_token(slot.id, id, blob)?;
        require_login_for(session, object.private)?;
        new.push((HandleTable::<Object>::reserve(), id, object));
    }
    let grant = slot.user_grant();
    // The handles are known before the objects are stored: a search that finds them first uses the same.
    let mut catalogue = write(&slot.catalogue);
    new.iter().for_each(|(handle, id, _)| catalogue.expect(*id, *handle));
    drop(catalogue);
    let puts: Vec<_> =
        new.iter().map(|(_, id, object)| Put { id: *id, object: &object.blob, replaces: None }).collect();
    let stored = module.backend.put_objects(slot.serial()?, grant.as_ref(), &puts);
    let mut catalogue = write(&slot.catalogue);
    match stored {
        Ok(revision) => {
            let mut handles = [0; N];
            for (settled, (handle, id, object)) in handles.iter_mut().zip(new) {
                *settled = catalogue.settle(&module.objects, id, handle, object, revision);
            }
            Ok(handles)
        }
        Err(error) => {
            new.iter().for_each(|(_, id, _)| catalogue.give_up(*id));
            drop(catalogue);
            Err(slot.note_void_grant(grant.as_ref(), error))
        }
    }
}

/// `C_CreateObject`.
///
/// # Errors
/// `CKR_SESSION_READ_ONLY`, `CKR_USER_NOT_LOGGED_IN`, and the template's faults.
pub fn create_object(module: &Module, session: &Session, template: &Attributes) -> Result<CK_OBJECT_HANDLE> {
    let secret = matches!(template.ulong(CKA_CLASS), Some(CKO_SECRET_KEY | CKO_PRIVATE_KEY));
    let destination = Destination::check(session, template, secret)?;
    let blob = module.backend.create_object(&destination.template).map_err(value_not_size)?;
    destination.place(module, session, blob)
}

/// `C_CopyObject`.
///
/// # Errors
/// `CKR_OBJECT_HANDLE_INVALID`, `CKR_ACTION_PROHIBITED`, and as [`create_object`].
pub fn copy_object(
    module: &Module,
    session: &Session,
    handle: CK_OBJECT_HANDLE,
    template: &Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let object = module.object(session, handle)?;
    if object.attributes.bool(CKA_COPYABLE) == Some(false) {
        return Err(Error::new(CKR_ACTION_PROHIBITED, "the object may not be copied"));
    }
    let mut wanted = Attributes::new().with_bool(CKA_TOKEN, object.is(CKA_TOKEN));
    for (kind, value) in template.iter() {
        wanted.set(kind, value);
    }
    let destination = Destination::check(session, &wanted, object.private)?;
    let blob =
        with_blob(module, &object, |blob| module.backend.change_object(blob, &destination.template, true))?;
    destination.place(module, session, blob)
}

/// `C_DestroyObject`.
///
/// # Errors
/// `CKR_OBJECT_HANDLE_INVALID`, `CKR_SESSION_READ_ONLY`, `CKR_ACTION_PROHIBITED`.
pub fn destroy_object(module: &Module, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<()> {
    let object = module.object(session, handle)?;
    if let Owner::Token(_) = object.owner {
        session.require_rw()?;
    }
    if object.attributes.bool(CKA_DESTROYABLE) == Some(false) {
        return Err(Error::new(CKR_ACTION_PROHIBITED, "the object may not be destroyed"));
    }
    match object.owner {
        Owner::Token(id) => {
            let slot = &session.slot;
            let grant = slot.user_grant();
            let revision = module
                .backend
                .delete_object(slot.serial()?, grant.as_ref(), id)
                .map_err(|error| slot.note_void_grant(grant.as_ref(), error))?;
            write(&slot.catalogue).remove_deleted(&module.objects, id, object.private, revision);
        }
        Owner::Session(owner) => {
            if let Some(owner) = module.sessions.get(owner) {
                owner.disown(handle);
            }
            write(&session.slot.catalogue).remove(&module.objects, handle);
        }
    }
    Ok(())
}

/// `C_GetObjectSize`: the bytes that the sealed object takes.
///
/// # Errors
/// `CKR_OBJECT_HANDLE_INVALID`.
pub fn object_size(module: &Module, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<CK_ULONG> {
    Ok(module.object(session, handle)?.blob.as_bytes().len() as CK_ULONG)
}

/// The value of one attribute, for `C_GetAttributeValue`.
///
/// # Errors
/// `CKR_ATTRIBUTE_SENSITIVE` and `CKR_ATTRIBUTE_TYPE_INVALID`, which concern this attribute alone; others
/// end the call.
pub fn attribute_value(module: &Module, object: &Object, kind: CK_ATTRIBUTE_TYPE) -> Result<AttributeValue> {
    if let Some(value) = object.attributes.get(kind) {
        return Ok(AttributeValue::Public(value.to_vec()));
    }
    if !may_be_sealed(kind) {
        return Err(Error::new(CKR_ATTRIBUTE_TYPE_INVALID, "the object has no such attribute"));
    }
    with_blob(module, object, |blob| module.backend.sealed_attribute(blob, kind)).map(AttributeValue::Secret)
}

/// An attribute's value on its way to the application.
pub enum AttributeValue {
    /// Anybody may see it.
    Public(Vec<u8>),
    /// Wiped when dropped.
    Secret(zeroize::Zeroizing<Vec<u8>>),
}

impl AttributeValue {
    /// The value.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Public(value) => value,
            Self::Secret(value) => value,
        }
    }
}

/// `C_SetAttributeValue`.
///
/// # Errors
/// `CKR_OBJECT_HANDLE_INVALID`, `CKR_SESSION_READ_ONLY`, `CKR_ACTION_PROHIBITED`, and the template's faults.
pub fn set_attribute_value(
    module: &Module,
    session: &Session,
    handle: CK_OBJECT_HANDLE,
    template: &Attributes,
) -> Result<()> {
    let (changes, vouching) = without_trust(session, template);
    loop {
        let object = module.object(session, handle)?;
        match change(module, session, handle, &object, &changes, vouching.as_ref()) {
            // Another process changed or destroyed it, or the master key was rotated: look at it as it is now, and change
            // that.
            Err(error)
                if matches!(object.owner, Owner::Token(_))
                    && matches!(error.code, CKR_OBJECT_HANDLE_INVALID | vendor::CKR_IBM_WKID_MISMATCH) =>
            {
                catalogue::refresh(module, &session.slot)?;
                let now = module.object(session, handle)?;
                if now.blob == object.blob {
                    return Err(error);
                }
            }
            outcome => return outcome,
        }
    }
}

/// Changes an object that is still as it is given here.
fn change(
    module: &Module,
    session: &Session,
    handle: CK_OBJECT_HANDLE,
    object: &Object,
    changes: &Attributes,
    vouching: Option<&Grant>,
) -> Result<()> {
    if let Owner::Token(_) = object.owner {
        session.require_rw()?;
    }
    if object.attributes.bool(CKA_MODIFIABLE) == Some(false) {
        return Err(Error::new(CKR_ACTION_PROHIBITED, "the object may not be changed"));
    }
    let blob = module.backend.change_object(&object.blob, changes, false)?;
    let changed = object.changed(vouched(module, session, vouching, blob)?)?;
    require_login_for(session, changed.private)?;
    let slot = &session.slot;
    let Owner::Token(id) = object.owner else {
        write(&slot.catalogue).replace(&module.objects, handle, changed);
        return Ok(());
    };
    let grant = slot.user_grant();
    let put = Put { id, object: &changed.blob, replaces: Some(&object.blob) };
    let stored = module.backend.put_objects(slot.serial()?, grant.as_ref(), &[put]);
    let revision = stored.map_err(|error| slot.note_void_grant(grant.as_ref(), error))?;
    write(&slot.catalogue).replace_stored(&module.objects, id, changed, revision);
    Ok(())
}

/// `C_FindObjectsInit`. The search is done here; `C_FindObjects` hands it out.
///
/// # Errors
/// `CKR_OPERATION_ACTIVE`, and the backend's.
pub fn find_objects_init(module: &Module, session: &Session, template: &Attributes) -> Result<()> {
    let mut operations = session.operations();
    begin(&mut operations.find, || {
        // Once more if the master key was rotated in between: what is on the token is sealed anew.
        let found = search(module, session, template, false).or_else(|error| match error.code {
            vendor::CKR_IBM_WKID_MISMATCH => search(module, session, template, true),
            _ => Err(error),
        });
        Ok(Find::new(found?))
    })
}

fn search(
    module: &Module,
    session: &Session,
    template: &Attributes,
    is_last: bool,
) -> Result<Vec<CK_OBJECT_HANDLE>> {
    catalogue::refresh(module, &session.slot)?;
    let private_too = session.slot.user_logged_in();
    read(&session.slot.catalogue).find(&module.objects, template, private_too, |object, sealed| {
        catalogue::sealed_matches(&*module.backend, object, sealed, is_last)
    })
}

/// `C_FindObjects`: the next handles, at most `max`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn find_objects(session: &Session, max: usize) -> Result<Vec<CK_OBJECT_HANDLE>> {
    let mut operations = session.operations();
    let find = operations.find.as_mut().ok_or_else(crate::operation::not_initialized)?;
    Ok(find.next(max))
}

/// `C_FindObjectsFinal`.
///
/// # Errors
/// `CKR_OPERATION_NOT_INITIALIZED`.
pub fn find_objects_final(session: &Session) -> Result<()> {
    session.operations().find.take().map(drop).ok_or_else(crate::operation::not_initialized)
}

fn require_login_for(session: &Session, private: bool) -> Result<()> {
    if private && !session.slot.user_logged_in() {
        return Err(Error::new(
            CKR_USER_NOT_LOGGED_IN,
            "private objects are the user's, who is not logged in",
        ));
    }
    Ok(())
}

/// Calls the HSM with an object as it is now: what is on the token is sealed anew when the master key is rotated.
///
/// # Errors
/// Those of `call`.
pub fn with_blob<T>(module: &Module, object: &Object, call: impl Fn(&KeyBlob) -> Result<T>) -> Result<T> {
    call(&object.blob).or_else(|error| match error.code {
        vendor::CKR_IBM_WKID_MISMATCH => call(&renewed(module, object).ok_or(error)?.blob),
        _ => Err(error),
    })
}

/// A token object as it is now, if it was sealed anew since.
pub fn renewed(module: &Module, object: &Object) -> Option<Arc<Object>> {
    let Owner::Token(id) = object.owner else { return None };
    let slot = slot_token::slot(module, object.slot).ok()?;
    catalogue::refresh(module, &slot).ok()?;
    let now = read(&slot.catalogue).token_object(&module.objects, id);
    now.filter(|now| now.blob != object.blob)
}

/// A key that an operation wants, as far as the session may see it.
///
/// # Errors
/// `CKR_KEY_HANDLE_INVALID`.
pub fn key(module: &Module, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>> {
    module
        .object(session, handle)
        .ok()
        .filter(|object| object.key_type().is_some())
        .ok_or_else(|| Error::new(CKR_KEY_HANDLE_INVALID, "no visible key has this handle"))
}
