//! One crypto unit: registers, identity, and the keys it has open.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use der::Encode;
use der::asn1::OctetString;

use super::administration::{self, Administration, Verified, permission};
use super::administrator::generate_signature_key;
use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::command::{
    self, Command, CommandBlock, RegisterState, RegisterStatus, Request, UnitStatus, UnitType,
};
use super::error::{Error, Result, vendor};
use super::fault::{Fault, Health};
use super::importer_key::{ImporterKey, TransportedKey};
use super::key_cache::{KeyCache, OpenObject};
use super::master_key::{KeyPart, MasterKey, NewRegister, Registers, VerificationPattern};
use super::random;
use super::refusal::Refusal;
use super::rotation::{Rotation, Verifier};
use super::sealed_state::{StateFile, UnitState};

/// A crypto unit. All methods may be called from any thread at once; reading the registers takes no lock.
pub struct CryptoUnit {
    state: ArcSwap<UnitState>,
    /// Held while the state changes: what is on the disk is what is in the memory. Inside, the importer key of
    /// the load that is under way.
    changing: Mutex<Option<ImporterKey>>,
    /// `None` if the unit is damaged: then nothing of it can be read, and nothing written.
    file: Option<StateFile>,
    open_objects: KeyCache,
    health: Health,
}

impl CryptoUnit {
    /// A new unit in its own directory: in imprint mode, with empty registers and these control points.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if the disk refuses.
    pub fn create(dir: &Path, location: &str, unit_type: UnitType, control_points: &[u32]) -> Result<Self> {
        let state = UnitState {
            serial: hex::encode_upper(random::array::<4>()?),
            location: location.to_owned(),
            unit_type,
            module_key: None,
            administration: Administration::imprint(control_points.to_vec()),
            registers: Registers::default(),
        };
        let file = StateFile::create(dir)?;
        file.store(&state)?;
        Ok(Self::with(state, Some(file)))
    }

    /// A unit whose state does not open, known by what stands on its outside. It holds nothing and obeys nobody.
    pub fn damaged(serial: String, location: String, unit_type: UnitType) -> Self {
        let administration = Administration::imprint(Vec::new());
        let registers = Registers::default();
        let state = UnitState { serial, location, unit_type, module_key: None, administration, registers };
        Self::with(state, None)
    }

    /// Is it one whose state does not open?
    pub fn is_damaged(&self) -> bool {
        self.file.is_none()
    }

    /// An existing unit.
    ///
    /// # Errors
    /// `CKR_IBM_TRANSPORT_INVALID` if its sealed state was altered, `CKR_DEVICE_ERROR` if it cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = StateFile::open(dir)?;
        Ok(Self::with(file.load()?, Some(file)))
    }

    fn with(state: UnitState, file: Option<StateFile>) -> Self {
        Self {
            state: ArcSwap::from_pointee(state),
            changing: Mutex::new(None),
            file,
            open_objects: KeyCache::new(),
            health: Health::default(),
        }
    }

    /// Eight characters.
    pub fn serial(&self) -> String {
        self.state.load().serial.clone()
    }

    /// Such as `[us-south].[AZ1-CS1].[00].[01]`.
    pub fn location(&self) -> String {
        self.state.load().location.clone()
    }

    /// What the unit is for.
    pub fn unit_type(&self) -> UnitType {
        self.state.load().unit_type
    }

    /// The verification pattern of the current master key; `None` if the register is empty.
    pub fn verification_pattern(&self) -> Option<VerificationPattern> {
        self.state.load().registers.current.as_ref().map(|key| *key.verification_pattern())
    }

    /// The verification pattern of the committed master key in the new register, if there is one.
    pub fn committed_pattern(&self) -> Option<VerificationPattern> {
        self.state.load().registers.committed().map(|key| *key.verification_pattern())
    }

    /// Everything about the unit that may be seen.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if it cannot be encoded.
    pub fn status(&self) -> Result<UnitStatus> {
        let failed = |_| Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "the unit's status cannot be encoded");
        self.state.load().status().map_err(failed)
    }

    /// At the factory, before there are administrators: a random master key in the empty current register.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` once the unit has left imprint mode or has a key.
    pub fn generate_master_key(&self) -> Result<()> {
        self.equip(MasterKey::generate()?)
    }

    /// At the factory: takes over the current master key of another unit, by an importer key of its own.
    ///
    /// # Errors
    /// As [`Self::generate_master_key`]; `CKR_IBM_WK_NOT_INITIALIZED` if the other unit has no master key.
    pub fn receive_master_key(&self, source: &Self) -> Result<()> {
        let importer = ImporterKey::generate()?;
        let transported = {
            let state = source.state.load();
            TransportedKey::wrap(&state.registers.current()?.to_part(), &importer.public_key())?
        };
        self.equip(MasterKey::new(importer.import(&transported)?))
    }

    fn equip(&self, key: MasterKey) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = UnitState::clone(&self.state.load());
        if !state.administration.in_imprint_mode() || state.registers.current.is_some() {
            return Err(Error::new(
                cryptoki_sys::CKR_ACTION_PROHIBITED,
                "the unit has administrators or a master key already",
            ));
        }
        state.registers.current = Some(key);
        self.store(state)
    }

    /// Carries out an administrative command, if its signatures are right and enough. The answer, a refusal
    /// too, is signed by the module key.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` for bytes that are no command, `CKR_DEVICE_ERROR` if the disk refuses.
    pub fn execute(&self, request: &[u8]) -> Result<Executed> {
        self.health.enter()?;
        let (parsed, block) = Request::parse(request).ok_or_else(|| {
            Error::new(cryptoki_sys::CKR_ARGUMENTS_BAD, "the request is no administrative command")
        })?;
        let mut importer = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.load().module_key.is_none() {
            let mut state = UnitState::clone(&self.state.load());
            state.module_key = Some(generate_signature_key()?);
            self.store(state)?;
        }
        let outcome = match &block {
            Ok(block) if block.serial == self.state.load().serial => {
                self.execute_block(&parsed, block, &mut importer)?
            }
            Ok(_) => Err(Refusal::MALFORMED),
            Err(refusal) => Err(*refusal),
        };
        let state = self.state.load();
        let failed = |_| Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "the unit's answer cannot be encoded");
        match &state.module_key {
            Some(key) => {
                let response = command::answer(key, &state.serial, request, &outcome).map_err(failed)?;
                Ok(Executed { response, outcome })
            }
            None => Err(Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "the unit has no module key")),
        }
    }

    /// Outside, failures of the machine; inside, the unit's decision and what it answers.
    fn execute_block(
        &self,
        request: &Request,
        block: &CommandBlock,
        importer: &mut Option<ImporterKey>,
    ) -> Result<Result<Vec<u8>, Refusal>> {
        let before = self.state.load_full();
        if block.command == Command::Query {
            return Ok(before.status().and_then(|status| status.to_der()).map_err(|_| Refusal::INTERNAL));
        }
        self.check(&before)?;
        let verified = match before.administration.verify(request, block) {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let outcome = carry_out(&before, &verified, importer)?;
        let (mut state, answer) = match outcome {
            Ok((state, answer)) => (state, Ok(answer)),
            Err(refusal) => (UnitState::clone(&before), Err(refusal)),
        };
        state.administration.counter = block.counter;
        self.store(state)?;
        Ok(answer)
    }

    /// Disk first: the registers that other threads see are always durable.
    fn store(&self, state: UnitState) -> Result<()> {
        self.check(&state)?;
        let file = self.file.as_ref().ok_or_else(|| {
            Error::new(
                vendor::CKR_IBM_TRANSPORT_INVALID,
                "the unit is damaged: its sealed state does not open",
            )
        })?;
        file.store(&state)?;
        let before = self.state.swap(Arc::new(state));
        let after = self.verification_pattern();
        if before.registers.current.as_ref().map(|key| *key.verification_pattern()) != after {
            self.open_objects.wipe();
        }
        Ok(())
    }

    fn registers(&self) -> Result<Guard<Arc<UnitState>>> {
        self.health.enter()?;
        Ok(self.state.load())
    }

    /// The same for what would be lost, or go wrong silently, with a damaged master key.
    fn intact_registers(&self) -> Result<Guard<Arc<UnitState>>> {
        let state = self.registers()?;
        self.check(&state)?;
        Ok(state)
    }

    /// Finds out whether the master keys have changed by themselves; then the unit is out of order.
    fn check(&self, state: &UnitState) -> Result<()> {
        let mut held = [state.registers.current.as_ref(), state.registers.committed()].into_iter().flatten();
        if held.all(MasterKey::is_intact) { Ok(()) } else { Err(self.health.fail()) }
    }

    /// Sets a fault; without one, the unit is as its sealed state has it.
    ///
    /// # Errors
    /// As [`Self::open`], if the state is needed and cannot be read.
    pub fn set_fault(&self, fault: Option<Fault>) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.health.fault() == Some(Fault::Corrupt)
            && let Some(file) = &self.file
        {
            self.state.store(Arc::new(file.load()?));
        }
        self.health.set(fault);
        if fault == Some(Fault::Corrupt) {
            let mut state = UnitState::clone(&self.state.load());
            state.registers.current = state.registers.current.as_ref().map(MasterKey::corrupted);
            self.state.store(Arc::new(state));
        }
        Ok(())
    }

    /// Erases registers and administrators, as a unit does that somebody tampers with.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if the disk refuses.
    pub fn tamper(&self) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = UnitState::clone(&self.state.load());
        state.registers = Registers::default();
        state.administration = state.administration.zeroized();
        self.store(state)
    }

    /// The fault that was set.
    pub fn fault(&self) -> Option<Fault> {
        self.health.fault()
    }

    /// Does it answer, and has it found nothing wrong with itself?
    pub fn is_well(&self) -> bool {
        self.health.is_well()
    }

    /// Has it kept somebody waiting?
    pub fn is_slow(&self) -> bool {
        self.health.is_slow()
    }

    /// Re-encrypts a blob under the committed master key of the new register. The new blob opens once that key has
    /// become the current one, the old one until then.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` without both keys, `CKR_IBM_WKID_MISMATCH` and `CKR_IBM_BLOBKEY_CONFLICT` for
    /// a blob that the current key does not open.
    pub fn rewrap(&self, blob: &KeyBlob) -> Result<KeyBlob> {
        self.rotation()?.rewrap(blob)
    }

    /// The current master key and the committed one that is to follow it.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` without both.
    pub fn rotation(&self) -> Result<Rotation> {
        let state = self.intact_registers()?;
        let committed = state.registers.committed().ok_or_else(|| {
            Error::new(vendor::CKR_IBM_WK_NOT_INITIALIZED, "the unit has no committed new master key")
        })?;
        Ok(Rotation::new(state.registers.current()?.clone(), committed.clone()))
    }

    /// For blobs under the master key with this pattern, if it is the current one or the committed one.
    pub fn verifier(&self, pattern: &VerificationPattern) -> Option<Verifier> {
        let state = self.intact_registers().ok()?;
        let held = [state.registers.current.as_ref(), state.registers.committed()];
        let key = held.into_iter().flatten().find(|key| key.verification_pattern() == pattern)?;
        Some(Verifier::new(key.clone()))
    }

    /// Is this control point set?
    pub(super) fn has_control_point(&self, point: u32) -> bool {
        self.state.load().administration.control_points.contains(&point)
    }

    /// Seals an object under the current master key.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` without a master key.
    pub fn seal(&self, clear: &Attributes, secret: &Attributes) -> Result<KeyBlob> {
        KeyBlob::seal(self.intact_registers()?.registers.current()?, clear, secret)
    }

    /// Opens what [`Self::seal`] made: (clear, secret) attributes.
    ///
    /// # Errors
    /// `CKR_IBM_WKID_MISMATCH`, `CKR_IBM_BLOBKEY_CONFLICT`, `CKR_IBM_WK_NOT_INITIALIZED`.
    pub fn unseal(&self, blob: &KeyBlob) -> Result<(Attributes, Attributes)> {
        let state = self.registers()?;
        blob.open(state.registers.current()?).map_err(|error| self.check(&state).err().unwrap_or(error))
    }

    /// Ties an object to where it is stored: a MAC of both under a key of the current master key's.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` without a master key.
    pub fn bind(&self, place: &[&[u8]], blob: &KeyBlob) -> Result<[u8; 32]> {
        Ok(blob.binding(self.intact_registers()?.registers.current()?, place))
    }

    /// Closes an object that has been destroyed, if it is open.
    pub fn forget(&self, blob: &KeyBlob) {
        self.open_objects.remove(blob);
    }

    /// The object, ready for use: from the cache if this very blob has been opened before.
    pub(super) fn object(&self, blob: &KeyBlob) -> Result<Arc<OpenObject>> {
        // Before the registers: whatever they lose from here on is not kept open.
        let generation = self.open_objects.generation();
        let state = self.registers()?;
        let master_key = state.registers.current()?;
        if blob.wrapping_key_id() == master_key.wrapping_key_id()
            && let Some(object) = self.open_objects.get(blob)
        {
            return Ok(object);
        }
        // A blob that does not open may be in order, and the unit not.
        let opened = blob.open(master_key).map_err(|error| self.check(&state).err().unwrap_or(error));
        let (clear, secret) = opened?;
        let object = Arc::new(OpenObject::new(blob, clear, &secret)?);
        self.open_objects.insert(&object, generation);
        Ok(object)
    }
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Executed {
    /// DER of the signed answer, for the administrator.
    pub response: Vec<u8>,
    /// What the answer says.
    pub outcome: Result<Vec<u8>, Refusal>,
}

/// What a verified command does to the unit: its new state and what it answers.
fn carry_out(
    before: &UnitState,
    verified: &Verified<'_>,
    importer: &mut Option<ImporterKey>,
) -> Result<Result<(UnitState, Vec<u8>), Refusal>> {
    let mut state = before.clone();
    let administration = &before.administration;
    let registers = before.registers.clone();
    let mut answer = Vec::new();
    let step = || -> Result<(), Refused> {
        match verified.command() {
            Command::Query => {}
            Command::AddAdministrator(new) => {
                state.administration = administration.with_administrator(new)?
            }
            Command::RemoveAdministrator(id) => {
                state.administration = administration.without_administrator(id)?;
            }
            Command::SetAttributes(attributes) => {
                state.administration = administration.with_attributes(attributes)?;
                if !administration::fits(before.unit_type, state.administration.permissions) {
                    return Err(Refusal::ATTRIBUTE_NOT_PERMITTED.into());
                }
            }
            Command::SetControlPoints(points) => {
                state.administration = administration.with_control_points(points)?;
            }
            Command::ReplaceControlPoints(points) => {
                state.administration = administration.with_all_control_points(points)?;
            }
            Command::DeleteControlPoints(_) => return Err(Refusal::CONTROL_POINT_NOT_RESETTABLE.into()),
            Command::GenerateImporterKey => {
                let key = ImporterKey::generate()?;
                answer = key.public_key();
                *importer = Some(key);
            }
            Command::GenerateMasterKey => {
                if !administration.permits(permission::RANDOM) {
                    return Err(Refusal::RANDOM_NOT_PERMITTED.into());
                }
                let key = MasterKey::generate()?;
                answer = key.verification_pattern().as_bytes().to_vec();
                state.registers = registers.generate(key)?;
            }
            Command::ExportCurrent(target) => {
                let key = registers.current.as_ref().ok_or(Refusal::NO_CURRENT_KEY);
                answer = export(administration, key, target)?;
            }
            Command::ExportPending(target) => {
                answer = export(administration, registers.pending().ok_or(Refusal::NO_PENDING_KEY), target)?;
            }
            Command::ImportMasterKey(parts) => {
                let key = import(administration, importer, parts)?;
                answer = key.verification_pattern().as_bytes().to_vec();
                state.registers = registers.load(key)?;
            }
            Command::CommitMasterKey(pattern) => state.registers = registers.commit(pattern)?,
            Command::SetImmediate => {
                state.registers = registers.set_immediate()?;
                let current = state.registers.current.as_ref();
                answer = current.map_or(Vec::new(), |key| key.verification_pattern().as_bytes().to_vec());
            }
            Command::ClearNew => state.registers = registers.clear_new(),
            Command::ClearCurrent => state.registers = registers.clear_current(),
            Command::Zeroize => {
                state.administration = administration.zeroized();
                state.registers = Registers::default();
                *importer = None;
            }
        }
        Ok(())
    };
    match step() {
        Ok(()) => Ok(Ok((state, answer))),
        Err(Refused::ByUnit(refusal)) => Ok(Err(refusal)),
        Err(Refused::ByMachine(error)) => Err(error),
    }
}

/// The unit's own decision, or a failure underneath.
enum Refused {
    ByUnit(Refusal),
    ByMachine(Error),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::ByUnit(refusal)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::ByMachine(error)
    }
}

fn export(
    administration: &Administration,
    key: Result<&MasterKey, Refusal>,
    target: &[u8],
) -> Result<Vec<u8>, Refused> {
    if !administration.permits(permission::EXPORT) {
        return Err(Refusal::EXPORT_NOT_PERMITTED.into());
    }
    let transported = TransportedKey::wrap(&key?.to_part(), target).map_err(|_| Refusal::MALFORMED)?;
    Ok(transported.to_der().map_err(|_| Refusal::INTERNAL)?)
}

fn import(
    administration: &Administration,
    importer: &mut Option<ImporterKey>,
    parts: &[TransportedKey],
) -> Result<MasterKey, Refusal> {
    if !administration.permits(permission::IMPORT) {
        return Err(Refusal::IMPORT_NOT_PERMITTED);
    }
    if parts.len() == 1 && !administration.permits(permission::SINGLE_PART) {
        return Err(Refusal::SINGLE_PART_NOT_PERMITTED);
    }
    if !(1..=MAX_KEY_PARTS).contains(&parts.len()) {
        return Err(Refusal::PARTS_INVALID);
    }
    // One importer key, one load: whatever becomes of it.
    let importer = importer.take().ok_or(Refusal::NO_IMPORTER_KEY)?;
    let parts: Vec<KeyPart> = parts
        .iter()
        .map(|part| importer.import(part))
        .collect::<Result<_>>()
        .map_err(|_| Refusal::PARTS_INVALID)?;
    MasterKey::from_parts(&parts).ok_or(Refusal::PARTS_INVALID)
}

impl UnitState {
    fn status(&self) -> der::Result<UnitStatus> {
        let register = |state, key: Option<&MasterKey>| -> der::Result<_> {
            let pattern = key.map_or([0; 32], |key| *key.verification_pattern().as_bytes());
            Ok(RegisterStatus { state, pattern: OctetString::new(pattern.as_slice())? })
        };
        let current = self.registers.current.as_ref();
        let new = match self.registers.new {
            NewRegister::Empty => RegisterState::Empty,
            NewRegister::FullUncommitted(_) => RegisterState::FullUncommitted,
            NewRegister::FullCommitted(_) => RegisterState::FullCommitted,
        };
        let module_key = self.module_key.as_ref().map(|key| key.verifying_key().to_sec1_point(false));
        Ok(UnitStatus {
            serial: self.serial.clone(),
            location: self.location.clone(),
            unit_type: self.unit_type,
            counter: self.administration.counter,
            administrators: self.administration.administrators.clone(),
            signature_threshold: self.administration.signature_threshold,
            revocation_threshold: self.administration.revocation_threshold,
            permissions: self.administration.permissions,
            control_points: self.administration.control_points.clone(),
            new_register: register(new, self.registers.pending())?,
            current_register: register(
                if current.is_some() { RegisterState::Valid } else { RegisterState::Empty },
                current,
            )?,
            module_key: OctetString::new(module_key.as_ref().map_or(&[][..], |point| point.as_bytes()))?,
        })
    }
}

impl std::fmt::Debug for CryptoUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CryptoUnit").field("serial", &self.serial()).finish_non_exhaustive()
    }
}

/// The most parts in which one master key is loaded.
pub const MAX_KEY_PARTS: usize = 3;
