//! Tokens that come from another HSM: with their serial number, their PINs and their objects, as a whole or not at all.

use cryptoki_sys::*;

use super::{StoredPin, StoredToken, Token, Tokens, User, check_label, write};
use crate::keystore::{self, Effect, Expect, Write};
use crate::services::storage::{Sealing, from_keystore};
use crate::services::stored_keys::{TOKEN, objects_of};
use crate::units::{Attributes, Error, Result, random};

/// A token on its way in. Nothing of it is there before [`Self::commit`].
pub struct Restoration<'a> {
    tokens: &'a Tokens,
    sealing: Sealing,
    serial: String,
    token: StoredToken,
    objects: Vec<Write>,
}

impl Tokens {
    /// Begins with a token of this serial number, which nobody has yet. Without a user PIN, the SO will set it.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` for a serial number that is not 16 hexadecimal digits, or a label over 32 bytes;
    /// `CKR_PIN_LEN_RANGE`, `CKR_DEVICE_MEMORY`.
    pub fn restoration(
        &self,
        serial: &str,
        label: &str,
        so_pin: &[u8],
        user_pin: Option<&[u8]>,
    ) -> Result<Restoration<'_>> {
        check_label(label)?;
        if serial.len() != 16 || !serial.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "a serial number has 16 hexadecimal digits"));
        }
        let order = self.next_order()?;
        let sealing = self.sealing()?;
        let seal =
            |user, pin| self.seal_pin(&sealing, serial, user, pin).map(|record| StoredPin::new(&record));
        let so = seal(User::So, so_pin)?;
        let user = user_pin.map(|pin| seal(User::User, pin)).transpose()?;
        let token = StoredToken { order, label: label.to_owned(), so, user, erasing: false };
        Ok(Restoration { tokens: self, sealing, serial: serial.to_owned(), token, objects: Vec::new() })
    }
}

impl Restoration<'_> {
    /// Adds an object, with its history ([`crate::units::CryptoUnit::restore_object`]).
    ///
    /// # Errors
    /// Those of the unit; the token can still come without the object.
    pub fn add(&mut self, object: &Attributes) -> Result<()> {
        let unit = self.sealing.unit();
        let blob = unit.restore_object(object)?;
        let id = random::array::<16>()?;
        let mut body = blob.as_bytes().to_vec();
        body.extend_from_slice(&unit.bind(&[self.serial.as_bytes(), &id], &blob)?);
        self.objects.push(Write {
            kind: objects_of(&self.serial),
            id: hex::encode(id),
            expect: Expect::Absent,
            effect: Effect::Put(body),
        });
        Ok(())
    }

    /// Stores token and objects.
    ///
    /// # Errors
    /// `CKR_TOKEN_WRITE_PROTECTED` if a token has the serial number; `CKR_DEVICE_ERROR` if the keystore cannot be written.
    pub fn commit(self) -> Result<Token> {
        let mut writes = vec![write(&self.serial, Expect::Absent, &self.token)?];
        writes.extend(self.objects);
        let objects = writes.len() - 1;
        match self.tokens.region.commit_sealed(&self.sealing, writes) {
            Err(keystore::Error::Conflict { kind, .. }) if kind == TOKEN => Err(Error::new(
                CKR_TOKEN_WRITE_PROTECTED,
                format!("there is a token with the serial number {} already", self.serial),
            )),
            outcome => {
                outcome.map_err(from_keystore)?;
                tracing::info!(serial = self.serial, label = self.token.label, objects, "token restored");
                Ok(self.token.public(self.serial))
            }
        }
    }
}
