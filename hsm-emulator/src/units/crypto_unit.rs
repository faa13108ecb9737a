//! One crypto unit: registers, identity, and the keys it has open.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::error::Result;
use super::importer_key::{self, ImporterKey, TransportedKey};
use super::key_cache::{KeyCache, OpenObject};
use super::master_key::{Registers, VerificationPattern};
use super::random;
use super::sealed_state::{StateFile, UnitState};

/// A crypto unit. All methods may be called from any thread at once; reading the registers takes no lock.
pub struct CryptoUnit {
    serial: String,
    location: String,
    registers: ArcSwap<Registers>,
    /// Held while the registers change: what is on the disk is what is in the memory.
    changing: Mutex<()>,
    file: StateFile,
    open_objects: KeyCache,
}

impl CryptoUnit {
    /// A new unit with empty registers, in its own directory.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if the disk refuses.
    pub fn create(dir: &Path, location: &str) -> Result<Self> {
        let serial = hex::encode_upper(random::array::<4>()?);
        let unit = Self {
            serial,
            location: location.to_owned(),
            registers: ArcSwap::default(),
            changing: Mutex::new(()),
            file: StateFile::create(dir)?,
            open_objects: KeyCache::new(),
        };
        unit.change(Ok)?;
        Ok(unit)
    }

    /// An existing unit.
    ///
    /// # Errors
    /// `CKR_IBM_TRANSPORT_INVALID` if its sealed state was altered, `CKR_DEVICE_ERROR` if it cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = StateFile::open(dir)?;
        let state = file.load()?;
        Ok(Self {
            serial: state.serial,
            location: state.location,
            registers: ArcSwap::from_pointee(state.registers),
            changing: Mutex::new(()),
            file,
            open_objects: KeyCache::new(),
        })
    }

    /// Eight characters.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Such as `[us-south].[AZ1-CS1].[00].[01]`.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The verification pattern of the current master key; `None` if the register is empty.
    pub fn verification_pattern(&self) -> Option<VerificationPattern> {
        self.registers.load().current.as_ref().map(|key| *key.verification_pattern())
    }

    /// Generates a random master key in the empty current register.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if the register is not empty.
    pub fn generate_master_key(&self) -> Result<()> {
        self.change(Registers::generate)
    }

    /// Exports the current master key to the unit that made this importer key.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` if there is none.
    pub fn export_master_key(&self, importer_public_key: &[u8]) -> Result<TransportedKey> {
        importer_key::export(self.registers.load().current()?, importer_public_key)
    }

    /// A fresh key for receiving a master key.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` without randomness.
    pub fn importer_key(&self) -> Result<ImporterKey> {
        ImporterKey::generate()
    }

    /// Loads a transported master key into the new register.
    ///
    /// # Errors
    /// `CKR_IBM_TRANSPORT_INVALID` if it was altered.
    pub fn import_master_key(
        &self,
        importer: ImporterKey,
        key: &TransportedKey,
    ) -> Result<VerificationPattern> {
        let key = importer.import(key)?;
        let pattern = *key.verification_pattern();
        self.change(|registers| Ok(registers.load(key)))?;
        Ok(pattern)
    }

    /// Commits the pending master key; the caller names its verification pattern.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if it is not pending.
    pub fn commit_master_key(&self, pattern: &VerificationPattern) -> Result<()> {
        self.change(|registers| registers.commit(pattern))
    }

    /// Makes the committed master key the current one.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if none is committed.
    pub fn set_immediate(&self) -> Result<()> {
        self.change(Registers::set_immediate)
    }

    /// Seals an object under the current master key.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` without a master key.
    pub fn seal(&self, clear: &Attributes, secret: &Attributes) -> Result<KeyBlob> {
        KeyBlob::seal(self.registers.load().current()?, clear, secret)
    }

    /// Opens what [`Self::seal`] made: (clear, secret) attributes.
    ///
    /// # Errors
    /// `CKR_IBM_WKID_MISMATCH`, `CKR_IBM_BLOBKEY_CONFLICT`, `CKR_IBM_WK_NOT_INITIALIZED`.
    pub fn unseal(&self, blob: &KeyBlob) -> Result<(Attributes, Attributes)> {
        blob.open(self.registers.load().current()?)
    }

    /// Ties an object to where it is stored: a MAC of both under a key of the current master key's.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` without a master key.
    pub fn bind(&self, place: &[&[u8]], blob: &KeyBlob) -> Result<[u8; 32]> {
        let registers = self.registers.load();
        let salt = hmac::Key::new(hmac::HMAC_SHA256, registers.current()?.expose_secret());
        let key = hmac::sign(&salt, b"hsm-emulator record binding 1");
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()));
        for part in place.iter().chain([&blob.as_bytes()]) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut binding = [0; 32];
        binding.copy_from_slice(context.sign().as_ref());
        Ok(binding)
    }

    /// Closes an object that has been destroyed, if it is open.
    pub fn forget(&self, blob: &KeyBlob) {
        self.open_objects.remove(blob);
    }

    /// The object, ready for use: from the cache if this very blob has been opened before.
    pub(super) fn object(&self, blob: &KeyBlob) -> Result<Arc<OpenObject>> {
        let registers = self.registers.load();
        let master_key = registers.current()?;
        if blob.wrapping_key_id() == master_key.wrapping_key_id()
            && let Some(object) = self.open_objects.get(blob)
        {
            return Ok(object);
        }
        let generation = self.open_objects.generation();
        let (clear, secret) = blob.open(master_key)?;
        let object = Arc::new(OpenObject::new(clear, &secret)?);
        self.open_objects.insert(blob, &object, generation);
        Ok(object)
    }

    /// Disk first: the registers that other threads see are always durable.
    fn change(&self, change: impl FnOnce(Registers) -> Result<Registers>) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let registers = change(Registers::clone(&self.registers.load()))?;
        let state = UnitState { serial: self.serial.clone(), location: self.location.clone(), registers };
        self.file.store(&state)?;
        self.registers.store(Arc::new(state.registers));
        self.open_objects.wipe();
        Ok(())
    }
}

impl std::fmt::Debug for CryptoUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CryptoUnit").field("serial", &self.serial).finish_non_exhaustive()
    }
}
