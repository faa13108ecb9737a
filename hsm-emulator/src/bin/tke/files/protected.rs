//! Secrets in files, under a password: PBKDF2-HMAC-SHA256 with 4096 rounds and a 32-byte salt, AES-256-GCM with its
//! nonce in front. The parameters are those of IBM's files.

use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::pbkdf2;
use hsm_emulator::units::random;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Part of a file.
#[derive(Serialize, Deserialize)]
pub struct Protected {
    #[serde(rename = "seaSalt", with = "hex")]
    salt: Vec<u8>,
    #[serde(rename = "enckey", with = "hex")]
    sealed: Vec<u8>,
}

impl Protected {
    /// Seals a secret.
    ///
    /// # Errors
    /// Without randomness.
    pub fn seal(secret: &[u8], password: &str) -> Result<Self> {
        let salt = random::array::<SALT_BYTES>()?;
        let nonce = random::array::<NONCE_LEN>()?;
        // The secret itself is in the buffer only until it is encrypted in place.
        let mut content = Zeroizing::new(Vec::with_capacity(secret.len() + AES_256_GCM.tag_len()));
        content.extend_from_slice(secret);
        file_key(password, &salt)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut *content)
            .map_err(|_| Error::new("The key cannot be encrypted."))?;
        Ok(Self { salt: salt.to_vec(), sealed: [nonce.as_slice(), content.as_slice()].concat() })
    }

    /// Opens it again.
    ///
    /// # Errors
    /// With another password.
    pub fn open(&self, password: &str) -> Result<Zeroizing<Vec<u8>>> {
        let wrong = || Error::Password(String::new());
        let (nonce, content) = self.sealed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let mut content = Zeroizing::new(content.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let key = file_key(password, &self.salt)?;
        let length = key.open_in_place(nonce, Aad::empty(), &mut content).map_err(|_| wrong())?.len();
        content.truncate(length);
        Ok(content)
    }
}

fn file_key(password: &str, salt: &[u8]) -> Result<LessSafeKey> {
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, password.as_bytes(), key.as_mut_slice());
    UnboundKey::new(&AES_256_GCM, key.as_slice())
        .map(LessSafeKey::new)
        .map_err(|_| Error::new("The file's key cannot be derived."))
}

const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);
const SALT_BYTES: usize = 32;
