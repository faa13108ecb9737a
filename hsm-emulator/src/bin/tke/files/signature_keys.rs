//! `<n>.sigkey`: an administrator's P-521 key. `SIGKEYS`: which of them sign.

use der::pem::{self, LineEnding};
use hsm_emulator::units::{Administrator, SubjectKeyIdentifier};
use p521::SecretKey;
use p521::ecdsa::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::protected::Protected;
use super::{Directory, Numbered};
use crate::error::{Error, Result};

/// The file.
#[derive(Serialize, Deserialize)]
pub struct SignatureKeyFile {
    name: String,
    ski: String,
    #[serde(rename = "keyType")]
    key_type: String,
    #[serde(flatten)]
    key: Protected,
}

impl SignatureKeyFile {
    /// For this administrator, under a password.
    ///
    /// # Errors
    /// If the name is not fit for an administrator.
    pub fn new(name: &str, key: &SigningKey, password: &str) -> Result<Self> {
        let administrator = Administrator::new(name, key.verifying_key())?;
        let sec1 =
            SecretKey::from(key).to_sec1_der().map_err(|_| Error::new("The key cannot be encoded."))?;
        let text = pem::encode_string(PEM_LABEL, LineEnding::LF, &sec1).map(Zeroizing::new);
        let text = text.map_err(|_| Error::new("The key cannot be encoded."))?;
        Ok(Self {
            name: administrator.name().to_owned(),
            ski: administrator.subject_key_identifier().to_hex(),
            key_type: KEY_TYPE.to_owned(),
            key: Protected::seal(text.as_bytes(), password)?,
        })
    }

    /// The administrator's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose key it is.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn subject_key_identifier(&self) -> Result<SubjectKeyIdentifier> {
        let bytes = hex::decode(&self.ski).ok();
        bytes.and_then(|bytes| SubjectKeyIdentifier::from_bytes(&bytes)).ok_or_else(|| self.damaged())
    }

    /// The key itself.
    ///
    /// # Errors
    /// With another password, or if it is of a kind that no unit takes.
    pub fn unlock(&self, password: &str) -> Result<SigningKey> {
        if self.key_type != KEY_TYPE {
            return Err(Error::new(format!(
                "The signature key of {} is of type {}; crypto units take {KEY_TYPE} only. Use sigkey-add.",
                self.name, self.key_type
            )));
        }
        let text = self.key.open(password)?;
        let (label, sec1) = pem::decode_vec(&text).map_err(|_| self.damaged())?;
        let sec1 = Zeroizing::new(sec1);
        let key = SecretKey::from_sec1_der(&sec1).map_err(|_| self.damaged())?;
        let key = SigningKey::from(&key);
        let intact = label == PEM_LABEL
            && SubjectKeyIdentifier::of(key.verifying_key()) == self.subject_key_identifier()?;
        if intact { Ok(key) } else { Err(self.damaged()) }
    }

    fn damaged(&self) -> Error {
        Error::new(format!("The signature key file of {} is damaged.", self.name))
    }
}

impl Numbered for SignatureKeyFile {
    const EXTENSION: &'static str = "sigkey";

    fn is_intact(&self) -> bool {
        self.subject_key_identifier().is_ok()
    }
}

impl Directory {
    /// All signature keys with their KEYNUM, but for damaged files.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn signature_keys(&self) -> Result<Vec<(u64, SignatureKeyFile)>> {
        self.all_numbered()
    }

    /// Is there a file with this KEYNUM, damaged or not?
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn has_signature_key(&self, number: u64) -> Result<bool> {
        Ok(self.numbers::<SignatureKeyFile>()?.contains(&number))
    }

    /// Stores one; its KEYNUM.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn add_signature_key(&self, key: &SignatureKeyFile) -> Result<u64> {
        self.add_numbered(key)
    }

    /// Deletes one.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn remove_signature_key(&self, number: u64) -> Result<()> {
        self.remove_numbered::<SignatureKeyFile>(number)
    }

    /// Those that sign: subject key identifiers, in the order of their selection.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn selected_signature_keys(&self) -> Result<Vec<String>> {
        Ok(self.read(SELECTED)?.unwrap_or_default())
    }

    /// Selects others.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn select_signature_keys(&self, identifiers: &[SubjectKeyIdentifier]) -> Result<()> {
        self.write(SELECTED, &identifiers.iter().map(SubjectKeyIdentifier::to_hex).collect::<Vec<_>>())
    }
}

const SELECTED: &str = "SIGKEYS";
const KEY_TYPE: &str = "p521ec";
const PEM_LABEL: &str = "PRIVATE KEY";

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_emulator::units::generate_signature_key;

    #[test]
    fn a_key_comes_back_with_its_password_only() {
        let place = tempfile::tempdir().unwrap();
        let key = generate_signature_key().unwrap();
        let file = SignatureKeyFile::new("ann", &key, "password").unwrap();
        assert_eq!(Directory::at(place.path()).add_signature_key(&file).unwrap(), 1);
        assert_eq!(Directory::at(place.path()).add_signature_key(&file).unwrap(), 2);
        Directory::at(place.path()).remove_signature_key(1).unwrap();

        let files = Directory::at(place.path()).signature_keys().unwrap();
        let [(2, read)] = files.as_slice() else { panic!("one file") };
        assert_eq!(read.name(), "ann");
        assert_eq!(read.unlock("password").unwrap(), key);
        assert!(matches!(read.unlock("Password"), Err(Error::Password(_))));
    }

    #[test]
    fn a_damaged_file_is_named_and_blocks_no_other() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::at(place.path());
        let key = generate_signature_key().unwrap();
        let file = SignatureKeyFile::new("ann", &key, "password").unwrap();
        directory.add_signature_key(&file).unwrap();
        std::fs::write(place.path().join("2.sigkey"), "{").unwrap();
        let bad = SignatureKeyFile { ski: "no".to_owned(), ..file };
        directory.add_signature_key(&bad).unwrap();
        std::fs::write(place.path().join("1.mkpart"), "").unwrap();

        assert_eq!(directory.signature_keys().unwrap().len(), 1);
        let damaged = directory.damaged().unwrap();
        assert_eq!(damaged.len(), 3, "{damaged:?}");
        assert!(damaged[0].contains("2.sigkey is damaged") && damaged[1].contains("3.sigkey is damaged"));
        assert!(directory.has_signature_key(2).unwrap());
        directory.remove_signature_key(2).unwrap();
        assert!(!directory.has_signature_key(2).unwrap());
    }

    #[test]
    fn a_file_has_the_fields_of_ibms() {
        let key = generate_signature_key().unwrap();
        let file = serde_json::to_value(SignatureKeyFile::new("ann", &key, "password").unwrap()).unwrap();
        let mut names: Vec<&str> = file.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["enckey", "keyType", "name", "seaSalt", "ski"]);
        assert!(file.as_object().unwrap().values().all(serde_json::Value::is_string));
    }
}
