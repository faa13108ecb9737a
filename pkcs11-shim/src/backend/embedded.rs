//! In this process: the services on a state directory, no server.

use std::path::Path;
use std::sync::Arc;

use cryptoki_sys::{CKR_DEVICE_ERROR, CKR_TOKEN_NOT_PRESENT};
use hsm_emulator::services::region::{self, Layout, Region};
use hsm_emulator::services::tokens::Tokens;
use hsm_emulator::services::tokens::restore::Restoration;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Attributes, Error, KeyBlob, Result, random};
use zeroize::Zeroizing;

use super::{Backend, Changes, Grant, ObjectId, Put, Token, User};

/// A region with one crypto unit. Several processes may have the same directory open.
pub struct EmbeddedBackend {
    region: Arc<Region>,
    tokens: Tokens,
}

impl EmbeddedBackend {
    /// Opens the directory; an empty one is initialised.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`, and the unit's.
    pub fn open(state: &Path) -> Result<Self> {
        let layout = Layout { region: "local".to_owned(), operational: 1, recovery: 0, master_key: true };
        let region = Arc::new(Region::open(state, &layout).map_err(from_region)?);
        let tokens = Tokens::new(region.clone())?;
        Ok(Self { region, tokens })
    }

    /// Begins with a token that comes from another HSM.
    ///
    /// # Errors
    /// As [`Tokens::restoration`].
    pub fn restoration(
        &self,
        serial: &str,
        label: &str,
        so_pin: &[u8],
        user_pin: Option<&[u8]>,
    ) -> Result<Restoration<'_>> {
        self.tokens.restoration(serial, label, so_pin, user_pin)
    }

    /// Deletes a token with all its objects, without its PINs: who may write to the state directory may do so.
    ///
    /// # Errors
    /// `CKR_TOKEN_NOT_PRESENT`; `CKR_DEVICE_ERROR` if the keystore cannot be written.
    pub fn delete_token(&self, serial: &str) -> Result<()> {
        match self.region.delete_token(serial) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::new(CKR_TOKEN_NOT_PRESENT, "no such token")),
            Err(error) => Err(from_region(error)),
        }
    }
}

fn from_region(error: region::Error) -> Error {
    match error {
        region::Error::Unit(error) => error,
        other => Error::new(CKR_DEVICE_ERROR, other.to_string()),
    }
}

impl Backend for EmbeddedBackend {
    fn random(&self, out: &mut [u8]) -> Result<()> {
        random::fill(out)
    }

    fn generate_key(&self, mechanism: &Mechanism, template: &Attributes) -> Result<KeyBlob> {
        self.region.seal_for_caller(|unit| unit.generate_key(mechanism, template))
    }

    fn generate_key_pair(
        &self,
        mechanism: &Mechanism,
        public: &Attributes,
        private: &Attributes,
    ) -> Result<(KeyBlob, KeyBlob)> {
        self.region.seal_for_caller(|unit| unit.generate_key_pair(mechanism, public, private))
    }

    fn create_object(&self, template: &Attributes) -> Result<KeyBlob> {
        self.region.seal_for_caller(|unit| unit.create_object(template))
    }

    fn change_object(&self, object: &KeyBlob, changes: &Attributes, copy: bool) -> Result<KeyBlob> {
        self.region.seal_for_caller(|unit| unit.change_object(object, changes, copy))
    }

    fn sealed_attribute(&self, object: &KeyBlob, kind: u64) -> Result<Zeroizing<Vec<u8>>> {
        self.region.unit()?.attribute(object, kind)
    }

    fn encrypt(&self, mechanism: &Mechanism, key: &KeyBlob, plaintext: &[u8]) -> Result<Vec<u8>> {
        self.region.unit()?.encrypt(mechanism, key, plaintext)
    }

    fn decrypt(&self, mechanism: &Mechanism, key: &KeyBlob, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.region.unit()?.decrypt(mechanism, key, ciphertext)
    }

    fn sign(&self, mechanism: &Mechanism, key: &KeyBlob, data: &[u8]) -> Result<Vec<u8>> {
        self.region.unit()?.sign(mechanism, key, data)
    }

    fn verify(&self, mechanism: &Mechanism, key: &KeyBlob, data: &[u8], signature: &[u8]) -> Result<()> {
        self.region.unit()?.verify(mechanism, key, data, signature)
    }

    fn wrap_key(&self, mechanism: &Mechanism, wrapping_key: &KeyBlob, key: &KeyBlob) -> Result<Vec<u8>> {
        self.region.unit()?.wrap_key(mechanism, wrapping_key, key)
    }

    fn unwrap_key(
        &self,
        mechanism: &Mechanism,
        unwrapping_key: &KeyBlob,
        wrapped: &[u8],
        template: &Attributes,
    ) -> Result<KeyBlob> {
        self.region.seal_for_caller(|unit| unit.unwrap_key(mechanism, unwrapping_key, wrapped, template))
    }

    fn derive_key(&self, mechanism: &Mechanism, base: &KeyBlob, template: &Attributes) -> Result<KeyBlob> {
        self.region.seal_for_caller(|unit| unit.derive_key(mechanism, base, template))
    }

    fn encapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        template: &Attributes,
    ) -> Result<(Vec<u8>, KeyBlob)> {
        self.region.seal_for_caller(|unit| unit.encapsulate_key(mechanism, key, template))
    }

    fn decapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        encapsulated: &[u8],
        template: &Attributes,
    ) -> Result<KeyBlob> {
        self.region.seal_for_caller(|unit| unit.decapsulate_key(mechanism, key, encapsulated, template))
    }

    fn tokens(&self) -> Result<Vec<Token>> {
        self.tokens.list()
    }

    fn init_token(&self, serial: Option<&str>, so_pin: &[u8], label: &str) -> Result<Token> {
        self.tokens.init(serial, so_pin, label)
    }

    fn login(&self, serial: &str, user: User, pin: &[u8]) -> Result<Grant> {
        self.tokens.login(serial, user, pin)
    }

    fn init_pin(&self, grant: &Grant, pin: &[u8]) -> Result<()> {
        self.tokens.init_pin(grant, pin)
    }

    fn trust_object(&self, grant: &Grant, object: &KeyBlob) -> Result<KeyBlob> {
        self.tokens.trust_object(grant, object)
    }

    fn set_pin(&self, serial: &str, user: User, old: &[u8], new: &[u8]) -> Result<()> {
        self.tokens.set_pin(serial, user, old, new)
    }

    fn put_objects(&self, serial: &str, grant: Option<&Grant>, objects: &[Put<'_>]) -> Result<u64> {
        self.tokens.put_objects(serial, grant, objects)
    }

    fn delete_object(&self, serial: &str, grant: Option<&Grant>, id: ObjectId) -> Result<u64> {
        self.tokens.delete_object(serial, grant, id)
    }

    fn changes(&self, serial: &str, grant: Option<&Grant>, since: u64) -> Result<Changes> {
        self.tokens.changes(serial, grant, since)
    }

    fn before_fork(&self) -> Box<dyn std::any::Any> {
        Box::new(self.region.keystore().suspend())
    }
}
