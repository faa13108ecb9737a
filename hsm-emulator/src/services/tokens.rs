//! PKCS #11 tokens: PINs, and objects in the keystore.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cryptoki_sys::*;
use serde::{Deserialize, Serialize};

use super::pins::{self, Recognised};
use super::region::Region;
use crate::keystore::{self, Expect, Record, Write};
use crate::units::{Attributes, Error, KeyBlob, Result, random};

/// The tokens of an instance.
pub struct Tokens {
    region: Arc<Region>,
    recognised: Recognised,
    /// Fingerprints of PINs that were right.
    right: RwLock<HashSet<[u8; 32]>>,
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
}

/// The stored form of a token.
#[derive(Clone, Serialize, Deserialize)]
struct StoredToken {
    /// Position among the tokens, by time of creation.
    order: u64,
    label: String,
    so: StoredPin,
    user: Option<StoredPin>,
}

#[derive(Clone, Serialize, Deserialize)]
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
        Ok(Self { region, recognised: Recognised::new()?, right: RwLock::default() })
    }

    /// All tokens, in the order of their creation.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if the keystore cannot be read.
    pub fn list(&self) -> Result<Vec<Token>> {
        let mut tokens = self
            .region
            .keystore()
            .scan(TOKEN)
            .map_err(from_keystore)?
            .iter()
            .map(|record| Ok((parse(record)?, record.id.clone())))
            .collect::<Result<Vec<_>>>()?;
        tokens.sort_by_key(|(token, _)| token.order);
        Ok(tokens.into_iter().map(|(token, serial)| token.public(serial)).collect())
    }

    /// Makes a token; or, if `serial` names one, erases and renames it, which needs its SO PIN.
    ///
    /// # Errors
    /// `CKR_PIN_LEN_RANGE`, `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`, `CKR_ARGUMENTS_BAD` for a label over 32 bytes.
    pub fn init(&self, serial: Option<&str>, so_pin: &[u8], label: &str) -> Result<Token> {
        if label.len() > LABEL_BYTES {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "a token label has at most 32 bytes"));
        }
        let Some(serial) = serial else { return self.create(so_pin, label) };
        self.check_pin(serial, User::So, so_pin)?;
        let (mut token, version) = self.read(serial)?;
        label.clone_into(&mut token.label);
        token.so.failures = 0;
        token.user = None;
        let mut writes = vec![write(serial, Expect::Version(version), &token)?];
        let kind = objects_of(serial);
        for record in self.region.keystore().scan(&kind).map_err(from_keystore)? {
            let expect = Expect::Version(record.version);
            writes.push(Write { kind: kind.clone(), id: record.id, expect, body: None });
        }
        self.region.keystore().commit(writes).map_err(from_keystore)?;
        self.region.keystore().erase_log().map_err(from_keystore)?;
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
        let record = pins::seal(self.region.unit()?, pin)?;
        self.update(&serial, |token| {
            token.user = Some(StoredPin::new(&record));
            Ok(())
        })
    }

    /// Changes a PIN.
    ///
    /// # Errors
    /// As [`Self::login`], and `CKR_PIN_LEN_RANGE`.
    pub fn set_pin(&self, serial: &str, user: User, old: &[u8], new: &[u8]) -> Result<()> {
        let record = pins::seal(self.region.unit()?, new)?;
        let checked = StoredPin::new(&self.check_pin(serial, user, old)?).record;
        self.update(serial, |token| {
            let pin = token.pin_mut(user)?;
            if pin.record != checked {
                return Err(Error::new(CKR_PIN_INCORRECT, "the PIN was changed at the same time"));
            }
            *pin = StoredPin::new(&record);
            Ok(())
        })
    }

    /// Stores an object durably; `create`: it must not exist yet, else it must. Private objects need the user's
    /// grant.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, `CKR_OBJECT_HANDLE_INVALID`, `CKR_TOKEN_NOT_PRESENT`.
    pub fn put_object(
        &self,
        serial: &str,
        grant: Option<&Grant>,
        id: ObjectId,
        object: &KeyBlob,
        create: bool,
    ) -> Result<u64> {
        // Only what a unit sealed is stored: an altered blob is refused here, not when it is needed.
        let (attributes, _) = self.region.unit()?.unseal(object)?;
        let kind = objects_of(serial);
        let id = hex::encode(id);
        if create {
            self.permit(serial, grant, &attributes)?;
        } else {
            self.permit_stored(serial, grant, &kind, &id)?;
            self.permit(serial, grant, &attributes)?;
        }
        let expect = if create { Expect::Absent } else { Expect::Present };
        let writes = vec![Write { kind, id, expect, body: Some(object.as_bytes().to_vec()) }];
        self.commit_object(serial, writes)
    }

    /// Destroys an object durably.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`, `CKR_OBJECT_HANDLE_INVALID`, `CKR_ACTION_PROHIBITED` if it is not destroyable.
    pub fn delete_object(&self, serial: &str, grant: Option<&Grant>, id: ObjectId) -> Result<u64> {
        let kind = objects_of(serial);
        let id = hex::encode(id);
        let attributes = self.permit_stored(serial, grant, &kind, &id)?;
        if attributes.bool(CKA_DESTROYABLE) == Some(false) {
            return Err(Error::new(CKR_ACTION_PROHIBITED, "the object is not destroyable"));
        }
        self.commit_object(serial, vec![Write { kind, id, expect: Expect::Present, body: None }])
    }

    /// What changed after a revision (0: everything). Private objects only with the user's grant.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN` for a grant that is void, `CKR_DEVICE_ERROR` if the keystore cannot be read.
    pub fn changes(&self, serial: &str, grant: Option<&Grant>, since: u64) -> Result<Changes> {
        let private = self.is_user(serial, grant)?;
        let (log, revision) =
            self.region.keystore().changes(&objects_of(serial), since).map_err(from_keystore)?;
        let mut changes = Changes { revision, ..Changes::default() };
        for change in log {
            let id = object_id(&change.id)?;
            match change.record {
                Some(record) => {
                    let object = KeyBlob::parse(&record.body)?;
                    if private || object.attributes()?.bool(CKA_PRIVATE) != Some(true) {
                        changes.stored.push((id, object));
                    }
                }
                None => changes.deleted.push(id),
            }
        }
        Ok(changes)
    }

    fn create(&self, so_pin: &[u8], label: &str) -> Result<Token> {
        let so = StoredPin::new(&pins::seal(self.region.unit()?, so_pin)?);
        let serial = hex::encode(random::array::<8>()?);
        let last = self.region.keystore().scan(TOKEN).map_err(from_keystore)?;
        let orders = last.iter().map(|record| Ok(parse(record)?.order)).collect::<Result<Vec<_>>>()?;
        let order = orders.into_iter().max().map_or(0, |order| order + 1);
        let token = StoredToken { order, label: label.to_owned(), so, user: None };
        let writes = vec![write(&serial, Expect::Absent, &token)?];
        self.region.keystore().commit(writes).map_err(from_keystore)?;
        Ok(token.public(serial))
    }

    /// Checks a PIN; its sealed record. The attempt is counted durably before the comparison, so neither a kill
    /// nor guesses at the same time give one guess more than allowed.
    fn check_pin(&self, serial: &str, user: User, pin: &[u8]) -> Result<KeyBlob> {
        let (token, _) = self.read(serial)?;
        let stored = token.pin(user)?;
        let record = stored.blob()?;
        let fingerprint = self.recognised.fingerprint(&record, pin);
        let known = self.right.read().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint);
        if known && stored.failures == 0 {
            return Ok(record);
        }
        let mut counted = 0;
        self.update(serial, |token| {
            let stored = token.pin_mut(user)?;
            if stored.failures >= MAX_PIN_FAILURES {
                return Err(Error::new(CKR_PIN_LOCKED, "the PIN is locked after too many wrong ones"));
            }
            if stored.blob()? != record {
                return Err(Error::new(CKR_PIN_INCORRECT, "the PIN was changed at the same time"));
            }
            stored.failures += 1;
            counted = stored.failures;
            Ok(())
        })?;
        if !pins::verify(self.region.unit()?, &record, pin)? {
            let code = if counted >= MAX_PIN_FAILURES { CKR_PIN_LOCKED } else { CKR_PIN_INCORRECT };
            return Err(Error::new(code, "the PIN is wrong"));
        }
        self.update(serial, |token| {
            token.pin_mut(user)?.failures = 0;
            Ok(())
        })?;
        let mut right = self.right.write().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MAX_RECOGNISED {
            right.clear();
        }
        right.insert(fingerprint);
        Ok(record)
    }

    /// Whose grant it is, if it is still good.
    fn open_grant(&self, grant: &Grant) -> Result<(String, User)> {
        let void =
            || Error::new(CKR_USER_NOT_LOGGED_IN, "the login is void: the PIN was changed; log in again");
        let blob = KeyBlob::parse(&grant.0).map_err(|_| void())?;
        let (clear, fields) = self.region.unit()?.unseal(&blob)?;
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

    fn permit_stored(&self, serial: &str, grant: Option<&Grant>, kind: &str, id: &str) -> Result<Attributes> {
        let record = self.region.keystore().get(kind, id).map_err(from_keystore)?.ok_or_else(gone)?;
        let attributes = KeyBlob::parse(&record.body)?.attributes()?;
        self.permit(serial, grant, &attributes)?;
        Ok(attributes)
    }

    fn commit_object(&self, serial: &str, writes: Vec<Write>) -> Result<u64> {
        // A token that was erased and made anew keeps its serial; one that never was has no objects.
        self.read(serial)?;
        self.region.keystore().commit(writes).map_err(|error| match error {
            keystore::Error::Conflict { .. } => gone(),
            other => from_keystore(other),
        })
    }

    fn read(&self, serial: &str) -> Result<(StoredToken, u64)> {
        let record = self
            .region
            .keystore()
            .get(TOKEN, serial)
            .map_err(from_keystore)?
            .ok_or_else(|| Error::new(CKR_TOKEN_NOT_PRESENT, "no such token"))?;
        Ok((parse(&record)?, record.version))
    }

    /// Changes a token's record; again if somebody else changed it meanwhile.
    fn update(&self, serial: &str, mut change: impl FnMut(&mut StoredToken) -> Result<()>) -> Result<()> {
        loop {
            let (mut token, version) = self.read(serial)?;
            change(&mut token)?;
            match self.region.keystore().commit(vec![write(serial, Expect::Version(version), &token)?]) {
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

fn parse(record: &Record) -> Result<StoredToken> {
    serde_json::from_slice(&record.body).map_err(|_| {
        Error::new(CKR_DEVICE_ERROR, format!("token {}: its stored record is damaged", record.id))
    })
}

fn write(serial: &str, expect: Expect, token: &StoredToken) -> Result<Write> {
    let body = serde_json::to_vec(token)
        .map_err(|_| Error::new(CKR_DEVICE_ERROR, "the token's record cannot be written"))?;
    Ok(Write { kind: TOKEN.into(), id: serial.to_owned(), expect, body: Some(body) })
}

fn object_id(id: &str) -> Result<ObjectId> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(id, &mut bytes)
        .map_err(|_| Error::new(CKR_DEVICE_ERROR, "the id of a stored object is damaged"))?;
    Ok(bytes)
}

/// The kind under which a token's objects are stored.
fn objects_of(serial: &str) -> String {
    format!("object/{serial}")
}

fn no_user_pin() -> Error {
    Error::new(CKR_USER_PIN_NOT_INITIALIZED, "the user has no PIN yet: the SO must set it")
}

fn gone() -> Error {
    Error::new(CKR_OBJECT_HANDLE_INVALID, "the object does not exist any more, or exists already")
}

fn from_keystore(error: keystore::Error) -> Error {
    Error::new(CKR_DEVICE_ERROR, error.to_string())
}

/// The longest label, in bytes.
pub const LABEL_BYTES: usize = 32;
/// Wrong PINs in a row at which a PIN is locked.
pub const MAX_PIN_FAILURES: u32 = 10;
const MAX_RECOGNISED: usize = 1024;
const TOKEN: &str = "token";

// Field numbers of a grant.
const GRANT: u64 = CKA_VENDOR_DEFINED | 0x4853_0003;
const GRANT_SERIAL: u64 = 1;
const GRANT_USER: u64 = 2;
const GRANT_PIN: u64 = 3;
