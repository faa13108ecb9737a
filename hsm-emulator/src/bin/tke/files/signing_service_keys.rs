//! `SIGNSERVKEYS`: the keys of a signing service that sign.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::Directory;
use crate::error::Result;

/// An entry.
#[derive(Deserialize)]
pub struct SigningServiceKey {
    /// The key's name.
    pub key: String,
    /// Asked for if it is not there.
    pub token: Option<Zeroizing<String>>,
}

impl Directory {
    /// All of them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn signing_service_keys(&self) -> Result<Vec<SigningServiceKey>> {
        Ok(self.read("SIGNSERVKEYS")?.unwrap_or_default())
    }
}
