//! `DOMAINS`: the crypto units and which of them are selected. `CRYPTOMODULES`: the keys that sign their answers.

use serde::{Deserialize, Serialize};

use super::Directory;
use crate::error::{Error, Result};

/// A crypto unit, as the workstation knows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// CRYPTO UNIT NUM.
    #[serde(rename = "domain_num")]
    pub number: u64,
    /// UUID.
    pub hsm_id: String,
    /// Its service instance.
    #[serde(rename = "crypto_instance_id")]
    pub instance: String,
    /// Such as `[us-south].[AZ1-CS1].[00].[01]`.
    pub location: String,
    /// Eight characters.
    #[serde(rename = "serial_num")]
    pub serial: String,
    /// Of the module: an uncompressed point in hexadecimal digits, empty before the first contact.
    pub public_key: String,
    /// `operational`, `recovery` or `failover`.
    #[serde(rename = "type")]
    pub unit_type: String,
    /// Do commands go to it?
    pub selected: bool,
}

/// A module whose answers have been seen.
#[derive(Clone, Serialize, Deserialize)]
pub struct CryptoModule {
    /// Eight characters.
    #[serde(rename = "serial_num")]
    pub serial: String,
    /// As in [`Domain`].
    pub public_key: String,
}

impl Directory {
    /// Changes what is known of crypto units, of all instances. Two commands at once do not undo each other's changes.
    ///
    /// # Errors
    /// If the file cannot be read or the disk refuses, or those of `change`; then nothing changes.
    pub fn update_domains<T>(&self, change: impl FnOnce(&mut Vec<Domain>) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let before: Vec<Domain> = self.read(DOMAINS)?.unwrap_or_default();
        let mut domains = before.clone();
        let result = change(&mut domains)?;
        if domains != before {
            self.write(DOMAINS, &domains)?;
        }
        Ok(result)
    }

    /// All modules that have answered.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn crypto_modules(&self) -> Result<Vec<CryptoModule>> {
        Ok(self.read(CRYPTO_MODULES)?.unwrap_or_default())
    }

    /// Remembers the key of a module that answers for the first time.
    ///
    /// # Errors
    /// If another command has just seen another key, or the disk refuses.
    pub fn remember_module(&self, module: CryptoModule) -> Result<()> {
        let _lock = self.lock()?;
        let mut modules = self.crypto_modules()?;
        match modules.iter().find(|known| known.serial == module.serial) {
            Some(known) if known.public_key == module.public_key => Ok(()),
            Some(_) => Err(Error::new(format!("Crypto module {} answers with two keys.", module.serial))),
            None => {
                modules.push(module);
                self.write(CRYPTO_MODULES, &modules)
            }
        }
    }
}

const DOMAINS: &str = "DOMAINS";
const CRYPTO_MODULES: &str = "CRYPTOMODULES";
