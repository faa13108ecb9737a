//! The operator's files, in the directory that CLOUDTKEFILES names. Each is written whole or not at all, mode 0600.

mod key_parts;
mod protected;
mod selection;
mod signature_keys;
mod signing_service_keys;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hsm_emulator::durable_file;
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use key_parts::KeyPartFile;
pub use selection::{CryptoModule, Domain};
pub use signature_keys::SignatureKeyFile;
pub use signing_service_keys::SigningServiceKey;

use super::error::{Error, Result};

/// The directory.
pub struct Directory(PathBuf);

impl Directory {
    /// As the environment says.
    ///
    /// # Errors
    /// If CLOUDTKEFILES is not set, or names no directory.
    pub fn open() -> Result<Self> {
        let Some(path) = std::env::var_os("CLOUDTKEFILES").filter(|path| !path.is_empty()) else {
            return Err(Error::new(
                "Environment variable CLOUDTKEFILES is not defined.\nSet it to the directory that holds your signature \
                 keys and master key parts.",
            ));
        };
        let path = PathBuf::from(path);
        if fs::read_dir(&path).is_err() {
            return Err(Error::new(format!(
                "The directory that environment variable CLOUDTKEFILES names cannot be accessed: {}\nCreate it, or \
                 correct the variable.",
                path.display()
            )));
        }
        Ok(Self(path))
    }

    #[cfg(test)]
    fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A file's content; `None` if there is no such file.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content)
                .map(Some)
                .map_err(|error| Error::new(format!("{} is damaged: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, &error)),
        }
    }

    fn write<T: Serialize>(&self, name: &str, content: &T) -> Result<()> {
        let path = self.0.join(name);
        let text = serde_json::to_vec_pretty(content).map_err(|error| Error::new(error.to_string()))?;
        durable_file::replace(&path, &text).map_err(|error| at(&path, &error))
    }

    /// Keeps other commands from changing files until it is dropped.
    fn lock(&self) -> Result<File> {
        let directory = File::open(&self.0).map_err(|error| at(&self.0, &error))?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
        Ok(directory)
    }

    /// Why some key files are left out.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn damaged(&self) -> Result<Vec<String>> {
        Ok([self.damaged_of::<SignatureKeyFile>()?, self.damaged_of::<KeyPartFile>()?].concat())
    }

    fn damaged_of<T: Numbered>(&self) -> Result<Vec<String>> {
        let numbers = self.numbers::<T>()?;
        Ok(numbers
            .into_iter()
            .filter_map(|number| Some(self.numbered::<T>(number).err()?.to_string()))
            .collect())
    }

    /// All `<n>.EXTENSION` that are intact, in ascending order.
    fn all_numbered<T: Numbered>(&self) -> Result<Vec<(u64, T)>> {
        let numbers = self.numbers::<T>()?;
        Ok(numbers.into_iter().filter_map(|number| Some((number, self.numbered(number).ok()?))).collect())
    }

    fn numbered<T: Numbered>(&self, number: u64) -> Result<T> {
        let name = format!("{number}.{}", T::EXTENSION);
        let content: Option<T> = self.read(&name)?;
        content
            .filter(T::is_intact)
            .ok_or_else(|| Error::new(format!("{} is damaged", self.0.join(name).display())))
    }

    /// Writes `<n>.EXTENSION` with the lowest number that is free. Two commands at once do not take the same.
    fn add_numbered<T: Numbered>(&self, content: &T) -> Result<u64> {
        let _lock = self.lock()?;
        let numbers = self.numbers::<T>()?;
        let number = (1..).find(|number| !numbers.contains(number)).unwrap_or(u64::MAX);
        self.write(&format!("{number}.{}", T::EXTENSION), content)?;
        Ok(number)
    }

    fn remove_numbered<T: Numbered>(&self, number: u64) -> Result<()> {
        let path = self.0.join(format!("{number}.{}", T::EXTENSION));
        fs::remove_file(&path).map_err(|error| at(&path, &error))?;
        File::open(&self.0).and_then(|directory| directory.sync_all()).map_err(|error| at(&self.0, &error))
    }

    /// KEYNUM values, also of damaged files.
    fn numbers<T: Numbered>(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(|error| at(&self.0, &error))? {
            let name = entry.map_err(|error| at(&self.0, &error))?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(T::EXTENSION)?.strip_suffix('.'));
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The content of files that have a KEYNUM.
trait Numbered: Serialize + DeserializeOwned {
    /// Of their names.
    const EXTENSION: &'static str;

    /// Does everything in it make sense, as far as is seen without the password?
    fn is_intact(&self) -> bool;
}

fn at(path: &Path, error: &io::Error) -> Error {
    Error::new(format!("{}: {error}", path.display()))
}
