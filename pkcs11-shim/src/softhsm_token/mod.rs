//! Tokens of a SoftHSM (version 2), read from its token directory in order to take them over.
//!
//! A token is a directory. It holds an object file for each object and `token.object` for the token itself
//! ([`object_file`]), or all of that in one database ([`database`]). Whatever is there may have been written by a stranger.

mod database;
mod object_file;
mod token_key;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use cryptoki_sys::*;
use hsm_emulator::units::Attributes;
use zeroize::Zeroizing;

pub use object_file::parse as parse_object_file;
pub use token_key::TokenKey;

/// A token as its directory has it.
pub struct SoftHsmToken {
    /// Its directory.
    pub directory: PathBuf,
    /// Without the blanks at its end.
    pub label: String,
    /// 16 hexadecimal digits.
    pub serial: String,
    token: StoredObject,
}

/// An object in the clear, for the HSM that takes it over.
pub struct OpenedObject {
    /// Where it comes from, and what it is called: for messages.
    pub name: String,
    /// All its attributes that say something.
    pub attributes: Attributes,
}

/// Why a token cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or is not what SoftHSM writes.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// There is no such PIN, or it is another.
    #[error("the PIN of the {0} is wrong")]
    WrongPin(&'static str),
}

/// What is wrong with what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl SoftHsmToken {
    /// The tokens of a token directory, or the one token whose directory this is, in the order of their serial numbers.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn list(directory: &Path) -> Result<Vec<Self>, Error> {
        if let Some(token) = Self::read(directory)? {
            return Ok(vec![token]);
        }
        let mut tokens = Vec::new();
        for entry in entries(directory)? {
            if entry.is_dir() {
                tokens.extend(Self::read(&entry)?);
            }
        }
        tokens.sort_by(|one, other| one.serial.cmp(&other.serial));
        Ok(tokens)
    }

    /// Has the user a PIN?
    pub fn has_user_pin(&self) -> bool {
        self.token.bytes(OS_USER_PIN).is_some()
    }

    /// Checks the PINs, and opens all objects. The user's PIN counts only if the token has one.
    ///
    /// # Errors
    /// [`Error::WrongPin`]; [`Error::File`] for an object that cannot be read.
    pub fn open(&self, so_pin: &[u8], user_pin: &[u8]) -> Result<Vec<OpenedObject>, Error> {
        let key = self.open_key(OS_SO_PIN, so_pin, "security officer")?;
        if self.has_user_pin() {
            self.open_key(OS_USER_PIN, user_pin, "user")?;
        }
        let database = self.directory.join(DATABASE);
        let mut opened = Vec::new();
        if database.exists() {
            for (number, object) in &read_database(&database)? {
                if *number != TOKEN_ROW {
                    opened.push(object.open(&key, &format!("object {number}"), &database)?);
                }
            }
            return Ok(opened);
        }
        let mut total_bytes = 0;
        for path in entries(&self.directory)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(OBJECT_FILE) && name != TOKEN_FILE {
                let content = read_file(&path)?;
                total_bytes += content.len() as u64;
                if opened.len() == MAX_OBJECTS || total_bytes > MAX_TOKEN_BYTES {
                    return Err(refused(&self.directory, "the token is too large"));
                }
                opened.push(parse_file(&content, &path)?.open(&key, &name, &path)?);
            }
        }
        Ok(opened)
    }

    /// The token in a directory, if there is one.
    fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let (file, database) = (directory.join(TOKEN_FILE), directory.join(DATABASE));
        let (token, path) = if file.exists() {
            (parse_file(&read_file(&file)?, &file)?, file)
        } else if database.exists() {
            let token = read_database(&database)?
                .remove(&TOKEN_ROW)
                .ok_or_else(|| refused(&database, "it holds no token"))?;
            (token, database)
        } else {
            return Ok(None);
        };
        let text = |kind, what| {
            let bytes =
                token.bytes(kind).ok_or_else(|| refused(&path, format!("the token has no {what}")))?;
            let text =
                std::str::from_utf8(bytes).map_err(|_| refused(&path, format!("the {what} is not UTF-8")))?;
            Ok::<_, Error>(text.trim_end_matches([' ', '\0']).to_owned())
        };
        let (label, serial) = (text(OS_LABEL, "label")?, text(OS_SERIAL, "serial number")?);
        Ok(Some(Self { directory: directory.to_owned(), label, serial, token }))
    }

    fn open_key(&self, record: CK_ATTRIBUTE_TYPE, pin: &[u8], user: &'static str) -> Result<TokenKey, Error> {
        let record = self.token.bytes(record).ok_or(Error::WrongPin(user))?;
        TokenKey::open(record, pin)
            .map_err(|Malformed(reason)| refused(&self.directory, reason))?
            .ok_or(Error::WrongPin(user))
    }
}

/// An object as it is stored: the byte strings of a private one are encrypted.
#[derive(Default)]
pub struct StoredObject(BTreeMap<CK_ATTRIBUTE_TYPE, Value>);

/// A stored value.
pub enum Value {
    /// `CK_BBOOL`.
    Bool(bool),
    /// `CK_ULONG`.
    Ulong(u64),
    /// Bytes.
    Bytes(Zeroizing<Vec<u8>>),
    /// A list of mechanisms.
    Mechanisms(Vec<CK_MECHANISM_TYPE>),
    /// A template within the object.
    Template {
        /// Does it ask for nothing?
        empty: bool,
    },
}

impl StoredObject {
    /// A boolean value.
    pub fn bool(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        match self.0.get(&kind)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A number.
    pub fn ulong(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<u64> {
        match self.0.get(&kind)? {
            Value::Ulong(value) => Some(*value),
            _ => None,
        }
    }

    /// Bytes, as they are stored.
    pub fn bytes(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        match self.0.get(&kind)? {
            Value::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The last of equal types counts, as in SoftHSM.
    fn set(&mut self, kind: CK_ATTRIBUTE_TYPE, value: Value) -> Result<(), Malformed> {
        self.0.insert(kind, value);
        if self.0.len() > MAX_ATTRIBUTES {
            return Err(Malformed("an object has too many attributes"));
        }
        Ok(())
    }

    /// The attributes in the clear. SoftHSM writes each attribute that a class has: empty ones say nothing, and some follow
    /// from others.
    ///
    /// # Errors
    /// What does not decrypt, and what cannot be kept.
    pub fn attributes(&self, key: &TokenKey) -> Result<Attributes, Malformed> {
        let private = self.bool(CKA_PRIVATE).unwrap_or(true);
        let certificate = self.ulong(CKA_CLASS) == Some(CKO_CERTIFICATE);
        let mut attributes = Attributes::new();
        for (kind, value) in &self.0 {
            match value {
                _ if FOLLOWS.contains(kind) && !certificate => {}
                Value::Bool(value) => attributes.set_bool(*kind, *value),
                Value::Ulong(0) if *kind == CKA_JAVA_MIDP_SECURITY_DOMAIN => {}
                Value::Ulong(value) => attributes.set_ulong(*kind, *value),
                Value::Bytes(value) if value.is_empty() => {}
                Value::Bytes(value) if private => attributes.set(*kind, key.decrypt(value)?.as_slice()),
                Value::Bytes(value) => attributes.set(*kind, value.as_slice()),
                Value::Mechanisms(list) if list.is_empty() => {}
                Value::Mechanisms(list) => {
                    attributes
                        .set(*kind, list.iter().flat_map(|item| item.to_le_bytes()).collect::<Vec<_>>());
                }
                Value::Template { empty: true } => {}
                Value::Template { .. } => {
                    return Err(Malformed(
                        "it has a template for wrapping, unwrapping or deriving, which cannot be kept",
                    ));
                }
            }
        }
        Ok(attributes)
    }

    fn open(&self, key: &TokenKey, place: &str, path: &Path) -> Result<OpenedObject, Error> {
        let attributes = self.attributes(key).map_err(|Malformed(reason)| refused(path, reason))?;
        let label = String::from_utf8_lossy(attributes.get(CKA_LABEL).unwrap_or_default()).into_owned();
        Ok(OpenedObject { name: format!("{place} ({label:?})"), attributes })
    }
}

fn read_database(path: &Path) -> Result<BTreeMap<i64, StoredObject>, Error> {
    check_file(path, MAX_TOKEN_BYTES)?;
    database::read(path).map_err(|reason| refused(path, reason))
}

fn parse_file(content: &[u8], path: &Path) -> Result<StoredObject, Error> {
    object_file::parse(content).map_err(|Malformed(reason)| refused(path, reason))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let len = check_file(path, MAX_FILE_BYTES)?;
    // More room than is ever read, so that it is never reallocated.
    let mut content = Zeroizing::new(Vec::with_capacity(len as usize + 64));
    File::open(path)
        .and_then(|file| file.take(len).read_to_end(&mut content))
        .map_err(|error| refused(path, error.to_string()))?;
    Ok(content)
}

/// The length of a file that may be read. Opening a pipe would wait for somebody who writes.
fn check_file(path: &Path, max_bytes: u64) -> Result<u64, Error> {
    let metadata = fs::metadata(path).map_err(|error| refused(path, error.to_string()))?;
    if !metadata.is_file() || metadata.len() > max_bytes {
        return Err(refused(path, format!("it is no file, or one of more than {max_bytes} bytes")));
    }
    Ok(metadata.len())
}

/// What is in a directory, by name.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error: std::io::Error| refused(directory, error.to_string());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        if paths.len() == MAX_ENTRIES {
            return Err(refused(directory, format!("there are more than {MAX_ENTRIES} files")));
        }
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), reason: reason.into() }
}

const TOKEN_FILE: &str = "token.object";
const OBJECT_FILE: &str = ".object";
const DATABASE: &str = "sqlite3.db";
const TOKEN_ROW: i64 = 1;
const MAX_OBJECTS: usize = 100_000;
const MAX_ATTRIBUTES: usize = 200;
/// As the units have it, and what encryption adds.
const MAX_VALUE_BYTES: usize = (1 << 20) + 32;
const MAX_FILE_BYTES: u64 = 4 << 20;
const MAX_TOKEN_BYTES: u64 = 1 << 30;
/// An object has a lock file besides its own.
const MAX_ENTRIES: usize = 2 * MAX_OBJECTS + 10;
/// What the HSM computes from the rest of a key, and does not let anybody say.
const FOLLOWS: [CK_ATTRIBUTE_TYPE; 4] =
    [CKA_MODULUS_BITS, CKA_VALUE_LEN, CKA_CHECK_VALUE, CKA_PUBLIC_KEY_INFO];
// Attributes of the token itself.
const OS_LABEL: CK_ATTRIBUTE_TYPE = CKA_VENDOR_DEFINED + 0x5349;
const OS_SERIAL: CK_ATTRIBUTE_TYPE = CKA_VENDOR_DEFINED + 0x534a;
const OS_SO_PIN: CK_ATTRIBUTE_TYPE = CKA_VENDOR_DEFINED + 0x534c;
const OS_USER_PIN: CK_ATTRIBUTE_TYPE = CKA_VENDOR_DEFINED + 0x534d;
