//! `<n>.mkpart`: a part of a master key.

use hsm_emulator::units::{KeyPart, MASTER_KEY_BYTES, MasterKey, VerificationPattern};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::protected::Protected;
use super::{Directory, Numbered};
use crate::error::{Error, Result};

/// The file.
#[derive(Serialize, Deserialize)]
pub struct KeyPartFile {
    description: String,
    #[serde(rename = "verificationPattern")]
    pattern: String,
    #[serde(flatten)]
    part: Protected,
}

impl KeyPartFile {
    /// Under a password.
    ///
    /// # Errors
    /// If the description is not for one line, or without randomness.
    pub fn new(description: &str, part: KeyPart, password: &str) -> Result<Self> {
        if description.chars().any(char::is_control) {
            return Err(Error::new("A description is one line of text."));
        }
        let sealed = Protected::seal(part.as_slice(), password)?;
        let pattern = MasterKey::new(part).verification_pattern().to_hex();
        Ok(Self { description: description.to_owned(), pattern, part: sealed })
    }

    /// What people call it.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What may be shown of it.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn verification_pattern(&self) -> Result<VerificationPattern> {
        VerificationPattern::from_hex(&self.pattern).ok_or_else(|| self.damaged())
    }

    /// The part itself.
    ///
    /// # Errors
    /// With another password.
    pub fn unlock(&self, password: &str) -> Result<KeyPart> {
        let bytes = self.part.open(password)?;
        let mut part = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        if bytes.len() != MASTER_KEY_BYTES {
            return Err(self.damaged());
        }
        part.copy_from_slice(&bytes);
        let intact = *MasterKey::new(part.clone()).verification_pattern() == self.verification_pattern()?;
        if intact { Ok(part) } else { Err(self.damaged()) }
    }

    fn damaged(&self) -> Error {
        Error::new(format!("The key part file {:?} is damaged.", self.description))
    }
}

impl Numbered for KeyPartFile {
    const EXTENSION: &'static str = "mkpart";

    fn is_intact(&self) -> bool {
        self.verification_pattern().is_ok()
    }
}

impl Directory {
    /// All key parts with their KEYNUM, but for damaged files.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn key_parts(&self) -> Result<Vec<(u64, KeyPartFile)>> {
        self.all_numbered()
    }

    /// Is there a file with this KEYNUM, damaged or not?
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn has_key_part(&self, number: u64) -> Result<bool> {
        Ok(self.numbers::<KeyPartFile>()?.contains(&number))
    }

    /// Stores one; its KEYNUM.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn add_key_part(&self, part: &KeyPartFile) -> Result<u64> {
        self.add_numbered(part)
    }

    /// Deletes one.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn remove_key_part(&self, number: u64) -> Result<()> {
        self.remove_numbered::<KeyPartFile>(number)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_part_comes_back_with_its_password_only() {
        let place = tempfile::tempdir().unwrap();
        let part = || Box::new(Zeroizing::new([0x11; MASTER_KEY_BYTES]));
        let file = KeyPartFile::new("first", part(), "password").unwrap();
        Directory::at(place.path()).add_key_part(&file).unwrap();

        let path = place.path().join("1.mkpart");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&"11".repeat(32)));
        let [(1, read)] = &Directory::at(place.path()).key_parts().unwrap()[..] else { panic!("one file") };
        assert_eq!(read.description(), "first");
        assert!(
            read.verification_pattern().unwrap().to_hex().starts_with("c2ad0a997751e04066912fa490a9976d")
        );
        assert_eq!(read.unlock("password").unwrap().as_slice(), part().as_slice());
        assert!(matches!(read.unlock(""), Err(Error::Password(_))));
        assert!(KeyPartFile::new("two\nlines", part(), "password").is_err());
    }
}
