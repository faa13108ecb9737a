//! A unit's state on disk: its registers and identity, sealed under the device secret.
//!
//! The device secret stands for the tamper-protected memory of a card. In software it is a file beside the
//! state, and whoever can read both has the master key: `SECURITY.md` says so too.
//!
//! `state`: 8 bytes magic and version, 32 bytes salt, then AES-256-GCM of the fields under
//! HKDF-SHA256(device secret, salt), everything before the ciphertext authenticated with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::error::{Error, Result, vendor};
use super::master_key::{MASTER_KEY_BYTES, MasterKey, NewRegister, Registers};
use super::random;
use crate::durable_file;

/// Where a unit keeps itself.
pub(super) struct StateFile {
    state: PathBuf,
    device_secret: Zeroizing<[u8; 32]>,
}

/// What a unit keeps.
pub(super) struct UnitState {
    pub serial: String,
    pub location: String,
    pub registers: Registers,
}

impl StateFile {
    /// Makes the directory and a device secret for a new unit.
    pub fn create(dir: &Path) -> Result<Self> {
        durable_file::create_dir(dir).map_err(|e| disk("create", dir, &e))?;
        let secret = Zeroizing::new(random::array::<32>()?);
        let path = dir.join(DEVICE_SECRET);
        durable_file::replace(&path, secret.as_slice()).map_err(|e| disk("write", &path, &e))?;
        Ok(Self { state: dir.join(STATE), device_secret: secret })
    }

    /// Finds the device secret of an existing unit.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(DEVICE_SECRET);
        let bytes = Zeroizing::new(fs::read(&path).map_err(|e| disk("read", &path, &e))?);
        let secret: [u8; 32] = bytes.as_slice().try_into().map_err(|_| altered(&path))?;
        Ok(Self { state: dir.join(STATE), device_secret: Zeroizing::new(secret) })
    }

    /// Writes the state durably.
    pub fn store(&self, state: &UnitState) -> Result<()> {
        let mut fields =
            Attributes::new().with(SERIAL, state.serial.as_bytes()).with(LOCATION, state.location.as_bytes());
        if let Some(key) = &state.registers.current {
            fields.set(CURRENT, key.expose_secret().as_slice());
        }
        match &state.registers.new {
            NewRegister::Empty => {}
            NewRegister::FullUncommitted(key) => fields.set(NEW_UNCOMMITTED, key.expose_secret().as_slice()),
            NewRegister::FullCommitted(key) => fields.set(NEW_COMMITTED, key.expose_secret().as_slice()),
        }
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&random::array::<SALT_BYTES>()?);
        let key = self.sealing_key(&header[MAGIC.len()..])?;
        let mut sealed = fields.encode();
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(&header),
                &mut sealed,
            )
            .map_err(|_| Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "sealing the unit's state failed"))?;
        header.extend_from_slice(&sealed);
        header.extend_from_slice(tag.as_ref());
        durable_file::replace(&self.state, &header).map_err(|e| disk("write", &self.state, &e))
    }

    /// Reads the state.
    ///
    /// # Errors
    /// `CKR_IBM_TRANSPORT_INVALID` if a single byte of it was changed.
    pub fn load(&self) -> Result<UnitState> {
        let bytes = fs::read(&self.state).map_err(|e| disk("read", &self.state, &e))?;
        let header_bytes = MAGIC.len() + SALT_BYTES;
        if bytes.len() < header_bytes || !bytes.starts_with(MAGIC) {
            return Err(altered(&self.state));
        }
        let (header, sealed) = bytes.split_at(header_bytes);
        let key = self.sealing_key(&header[MAGIC.len()..])?;
        let mut plaintext = Zeroizing::new(sealed.to_vec());
        let fields = key
            .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(header), &mut plaintext)
            .map_err(|_| altered(&self.state))?;
        let fields = Attributes::decode(fields)?;
        let text = |kind| {
            let bytes = fields.get(kind).ok_or_else(|| altered(&self.state))?;
            String::from_utf8(bytes.to_vec()).map_err(|_| altered(&self.state))
        };
        let key = |kind| -> Result<Option<MasterKey>> {
            fields.get(kind).map(|bytes| master_key(bytes).ok_or_else(|| altered(&self.state))).transpose()
        };
        let new = match (key(NEW_UNCOMMITTED)?, key(NEW_COMMITTED)?) {
            (None, None) => NewRegister::Empty,
            (Some(key), None) => NewRegister::FullUncommitted(key),
            (None, Some(key)) => NewRegister::FullCommitted(key),
            (Some(_), Some(_)) => return Err(altered(&self.state)),
        };
        Ok(UnitState {
            serial: text(SERIAL)?,
            location: text(LOCATION)?,
            registers: Registers { current: key(CURRENT)?, new },
        })
    }

    fn sealing_key(&self, salt: &[u8]) -> Result<LessSafeKey> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.device_secret.as_slice());
        let okm = prk
            .expand(&[b"hsm-emulator unit state 1"], &AES_256_GCM)
            .map_err(|_| Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "deriving a sealing key failed"))?;
        Ok(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

fn master_key(bytes: &[u8]) -> Option<MasterKey> {
    let mut key = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
    (bytes.len() == MASTER_KEY_BYTES).then(|| key.copy_from_slice(bytes))?;
    Some(MasterKey::new(key))
}

fn altered(path: &Path) -> Error {
    Error::new(
        vendor::CKR_IBM_TRANSPORT_INVALID,
        format!(
            "{}: the unit's sealed state was altered or cut short; restore it from a backup",
            path.display()
        ),
    )
}

fn disk(action: &str, path: &Path, error: &io::Error) -> Error {
    Error::new(cryptoki_sys::CKR_DEVICE_ERROR, format!("cannot {action} {}: {error}", path.display()))
}

const DEVICE_SECRET: &str = "device-secret";
const STATE: &str = "state";
const MAGIC: &[u8; 8] = b"HSMUNIT\x01";
const SALT_BYTES: usize = 32;

// Field numbers of the sealed part. Never reuse one.
const SERIAL: u64 = 1;
const LOCATION: u64 = 2;
const CURRENT: u64 = 3;
const NEW_UNCOMMITTED: u64 = 4;
const NEW_COMMITTED: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::CryptoUnit;

    /// The state of a unit that format version 1 wrote: master key 11 11 .. 11 current, 22 22 .. 22 pending.
    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/unit-v1")
    }

    #[test]
    fn golden_state_of_version_1_loads() {
        let state = StateFile::open(&golden()).and_then(|file| file.load()).expect("load");
        assert_eq!(
            (state.serial.as_str(), state.location.as_str()),
            ("0BADCAFE", "[us-south].[AZ1-CS1].[00].[00]")
        );
        let current = state.registers.current().expect("valid").verification_pattern().to_hex();
        assert!(current.starts_with("c2ad0a997751e04066912fa490a9976d"));
        let NewRegister::FullUncommitted(pending) = state.registers.new else { panic!("nothing pending") };
        assert!(pending.verification_pattern().to_hex().starts_with("5c1b924542fecd099a9568826bce5018"));
    }

    #[test]
    fn every_changed_byte_of_state_and_device_secret_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        for name in [STATE, DEVICE_SECRET] {
            fs::copy(golden().join(name), dir.path().join(name)).expect("copy");
        }
        for name in [STATE, DEVICE_SECRET] {
            let path = dir.path().join(name);
            let original = fs::read(&path).expect("read");
            for position in 0..original.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut altered = original.clone();
                    altered[position] ^= flip;
                    fs::write(&path, &altered).expect("write");
                    let error = CryptoUnit::open(dir.path()).expect_err("altered");
                    assert_eq!(error.code, vendor::CKR_IBM_TRANSPORT_INVALID, "{name}, byte {position}");
                    assert!(error.message.contains("state"), "{error}");
                }
                fs::write(&path, &original[..position]).expect("write");
                let error = CryptoUnit::open(dir.path()).expect_err("cut short");
                assert_eq!(error.code, vendor::CKR_IBM_TRANSPORT_INVALID, "{name}, cut at {position}");
            }
            fs::write(&path, &original).expect("restore");
        }
        CryptoUnit::open(dir.path()).expect("restored");
    }

    #[test]
    fn the_master_key_is_not_on_the_disk_in_clear() {
        let dir = tempfile::tempdir().expect("dir");
        let state = StateFile::open(&golden()).and_then(|file| file.load()).expect("load");
        StateFile::create(dir.path()).and_then(|file| file.store(&state)).expect("store");
        for name in [STATE, DEVICE_SECRET] {
            let bytes = fs::read(dir.path().join(name)).expect("read");
            assert!(!bytes.windows(8).any(|w| w == [0x11; 8] || w == [0x22; 8]));
        }
    }
}
