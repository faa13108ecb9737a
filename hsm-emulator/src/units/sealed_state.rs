//! A unit's state on disk: its registers, administration and identity, sealed under the device secret.
//!
//! The device secret stands for the tamper-protected memory of a card. In software it is a file beside the
//! state, and whoever can read both has the master key: `SECURITY.md` says so too.
//!
//! `state`: 8 bytes magic and version, 32 bytes salt, then AES-256-GCM of the fields under
//! HKDF-SHA256(device secret, salt), everything before the ciphertext authenticated with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use der::{Decode, Encode};
use p521::ecdsa::SigningKey;
use zeroize::Zeroizing;

use super::administration::{Administration, control_point};
use super::attributes::Attributes;
use super::command::UnitType;
use super::error::{Error, Result, vendor};
use super::master_key::{MASTER_KEY_BYTES, MasterKey, NewRegister, Registers};
use super::random;
use crate::durable_file;

/// Where a unit keeps itself.
pub(super) struct StateFile {
    state: PathBuf,
    device_secret: Zeroizing<[u8; 32]>,
    /// A write failed when the new state had its name already: nobody knows which one a power loss would leave.
    uncertain: AtomicBool,
}

/// What a unit keeps.
#[derive(Clone)]
pub(super) struct UnitState {
    pub serial: String,
    pub location: String,
    pub unit_type: UnitType,
    /// Signs the unit's answers to administrators. Made with the first of them.
    pub module_key: Option<SigningKey>,
    pub administration: Administration,
    pub registers: Registers,
}

impl StateFile {
    /// Makes the directory and a device secret for a new unit.
    pub fn create(dir: &Path) -> Result<Self> {
        durable_file::create_dir(dir).map_err(|e| disk("create", dir, &e))?;
        let secret = Zeroizing::new(random::array::<32>()?);
        let path = dir.join(DEVICE_SECRET);
        durable_file::replace(&path, secret.as_slice()).map_err(|e| disk("write", &path, &e))?;
        Ok(Self { state: dir.join(STATE), device_secret: secret, uncertain: AtomicBool::new(false) })
    }

    /// Finds the device secret of an existing unit.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(DEVICE_SECRET);
        let bytes = Zeroizing::new(fs::read(&path).map_err(|e| disk("read", &path, &e))?);
        let secret: [u8; 32] = bytes.as_slice().try_into().map_err(|_| altered(&path))?;
        let device_secret = Zeroizing::new(secret);
        Ok(Self { state: dir.join(STATE), device_secret, uncertain: AtomicBool::new(false) })
    }

    /// Writes the state durably.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`; the old state is then still there, or else nothing is written any more.
    pub fn store(&self, state: &UnitState) -> Result<()> {
        if self.uncertain.load(Ordering::Relaxed) {
            return Err(Error::new(
                cryptoki_sys::CKR_DEVICE_ERROR,
                format!(
                    "{}: the disk failed, and the unit's state there may be newer than the one in use: mend the disk \
                     and start the service again before the unit is changed",
                    self.state.display()
                ),
            ));
        }
        let administration = &state.administration;
        let administrators = administration.administrators.to_der().map_err(|_| unsealable())?;
        let mut fields = Attributes::new()
            .with(SERIAL, state.serial.as_bytes())
            .with(LOCATION, state.location.as_bytes())
            .with_ulong(UNIT_TYPE, state.unit_type as u64)
            .with(ADMINISTRATORS, administrators)
            .with_ulong(SIGNATURE_THRESHOLD, administration.signature_threshold.into())
            .with_ulong(REVOCATION_THRESHOLD, administration.revocation_threshold.into())
            .with_ulong(PERMISSIONS, administration.permissions.into())
            .with(CONTROL_POINTS, administration.control_points.to_der().map_err(|_| unsealable())?)
            .with_ulong(COUNTER, administration.counter);
        if let Some(key) = &state.module_key {
            fields.set(MODULE_KEY, Zeroizing::new(key.to_bytes()).as_slice());
        }
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
            .map_err(|_| unsealable())?;
        header.extend_from_slice(&sealed);
        header.extend_from_slice(tag.as_ref());
        durable_file::replace(&self.state, &header).map_err(|error| {
            self.uncertain.fetch_or(durable_file::is_uncertain(&error), Ordering::Relaxed);
            disk("write", &self.state, &error)
        })
    }

    /// Reads the state.
    ///
    /// # Errors
    /// `CKR_IBM_TRANSPORT_INVALID` if a single byte of it was changed.
    pub fn load(&self) -> Result<UnitState> {
        let bytes = fs::read(&self.state).map_err(|e| disk("read", &self.state, &e))?;
        let header_bytes = MAGIC.len() + SALT_BYTES;
        let version = bytes.get(MAGIC.len() - 1).copied().unwrap_or(0);
        if bytes.len() < header_bytes
            || version > MAGIC[MAGIC.len() - 1]
            || bytes[..MAGIC.len() - 1] != MAGIC[..MAGIC.len() - 1]
        {
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
        let administration = match version {
            // Before there were administrators.
            1 => Administration::imprint(control_point::ALL.map(|(number, _)| number).to_vec()),
            _ => self.administration(&fields)?,
        };
        let unit_type = match fields.ulong(UNIT_TYPE) {
            None if version == 1 => UnitType::Operational,
            number => unit_type(number).ok_or_else(|| altered(&self.state))?,
        };
        let module_key = fields
            .get(MODULE_KEY)
            .map(|bytes| SigningKey::from_slice(bytes).map_err(|_| altered(&self.state)))
            .transpose()?;
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
            unit_type,
            module_key,
            administration,
            registers: Registers { current: key(CURRENT)?, new },
        })
    }

    fn administration(&self, fields: &Attributes) -> Result<Administration> {
        let altered = || altered(&self.state);
        let number =
            |kind| fields.ulong(kind).and_then(|number| u32::try_from(number).ok()).ok_or_else(altered);
        let bytes = |kind| fields.get(kind).ok_or_else(altered);
        Ok(Administration {
            administrators: Vec::from_der(bytes(ADMINISTRATORS)?).map_err(|_| altered())?,
            signature_threshold: number(SIGNATURE_THRESHOLD)?,
            revocation_threshold: number(REVOCATION_THRESHOLD)?,
            permissions: number(PERMISSIONS)?,
            control_points: Vec::from_der(bytes(CONTROL_POINTS)?).map_err(|_| altered())?,
            counter: fields.ulong(COUNTER).ok_or_else(altered)?,
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

fn unit_type(number: Option<u64>) -> Option<UnitType> {
    [UnitType::Operational, UnitType::Recovery, UnitType::Failover]
        .into_iter()
        .find(|unit_type| Some(*unit_type as u64) == number)
}

fn unsealable() -> Error {
    Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "sealing the unit's state failed")
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
/// The last byte is the format version. Version 1 had registers and identity only, and is still read.
const MAGIC: &[u8; 8] = b"HSMUNIT\x02";
const SALT_BYTES: usize = 32;

// Field numbers of the sealed part. Never reuse one.
const SERIAL: u64 = 1;
const LOCATION: u64 = 2;
const CURRENT: u64 = 3;
const NEW_UNCOMMITTED: u64 = 4;
const NEW_COMMITTED: u64 = 5;
const UNIT_TYPE: u64 = 6;
const MODULE_KEY: u64 = 7;
const ADMINISTRATORS: u64 = 8;
const SIGNATURE_THRESHOLD: u64 = 9;
const REVOCATION_THRESHOLD: u64 = 10;
const PERMISSIONS: u64 = 11;
const CONTROL_POINTS: u64 = 12;
const COUNTER: u64 = 13;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Administrator, CryptoUnit};

    /// The state of a unit that this format version wrote: master key 11 11 .. 11 current, 22 22 .. 22 pending.
    fn golden(version: u32) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/unit-v{version}"))
    }

    fn load(version: u32) -> UnitState {
        StateFile::open(&golden(version)).and_then(|file| file.load()).expect("load")
    }

    fn key(byte: u8) -> SigningKey {
        let mut scalar = [byte; 66];
        scalar[0] = 0;
        SigningKey::from_slice(&scalar).expect("a scalar")
    }

    /// What stands in the golden state of version 2.
    fn version_2() -> UnitState {
        let administrators = [("first", 1), ("second", 2)]
            .map(|(name, byte)| Administrator::new(name, key(byte).verifying_key()).expect("administrator"));
        UnitState {
            unit_type: UnitType::Recovery,
            module_key: Some(key(3)),
            administration: Administration {
                administrators: administrators.to_vec(),
                signature_threshold: 2,
                revocation_threshold: 1,
                permissions: 0x0030_205f,
                control_points: vec![55, 66],
                counter: 0x1122_3344_5566,
            },
            ..load(1)
        }
    }

    #[test]
    fn golden_state_of_version_2_loads() {
        let (state, expected) = (load(2), version_2());
        assert_eq!((&state.serial, &state.location), (&expected.serial, &expected.location));
        assert_eq!((state.unit_type, state.module_key), (expected.unit_type, expected.module_key));
        assert_eq!(state.administration, expected.administration);
        let patterns = |registers: &Registers| {
            (
                registers.current.as_ref().map(|key| *key.verification_pattern()),
                registers.committed().is_some(),
            )
        };
        assert_eq!(patterns(&state.registers), patterns(&expected.registers));
        assert_eq!(
            state.registers.pending().map(|key| *key.verification_pattern()),
            expected.registers.pending().map(|key| *key.verification_pattern())
        );
    }

    #[test]
    fn golden_state_of_version_1_loads() {
        let state = load(1);
        assert!(state.administration.in_imprint_mode());
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
            fs::copy(golden(2).join(name), dir.path().join(name)).expect("copy");
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
        let state = load(2);
        StateFile::create(dir.path()).and_then(|file| file.store(&state)).expect("store");
        for name in [STATE, DEVICE_SECRET] {
            let bytes = fs::read(dir.path().join(name)).expect("read");
            assert!(!bytes.windows(8).any(|w| w == [0x11; 8] || w == [0x22; 8]));
        }
    }

    #[test]
    fn nothing_more_is_written_over_a_state_that_may_be_there() {
        let dir = tempfile::tempdir().expect("dir");
        let file = StateFile::create(dir.path()).expect("create");
        file.store(&version_2()).expect("the first");
        file.uncertain.store(true, Ordering::Relaxed);
        let refused = file.store(&version_2()).expect_err("until it is opened again");
        assert!(refused.message.contains("start the service again"), "{refused}");
        StateFile::open(dir.path()).and_then(|file| file.store(&version_2())).expect("opened again");
    }
}
