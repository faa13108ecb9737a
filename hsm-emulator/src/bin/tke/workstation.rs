//! The operator's side of the crypto units: numbers and selection, commands on their way, answers checked.

use der::Encode;
use hsm_emulator::units::command::{
    Command, CommandBlock, Request, UnitStatus, UnitType, read_answer, read_first_answer,
};
use hsm_emulator::units::{SubjectKeyIdentifier, VerificationPattern, random};
use hsm_proto::tke;
use p521::ecdsa::VerifyingKey;
use tonic::Status;

use super::cli::Remote;
use super::connection::Connection;
use super::error::{Error, Result};
use super::files::{CryptoModule, Directory, Domain};
use super::output::Output;
use super::prompt::Prompt;
use super::quorum;
use super::signer::{SignatureKey, Signers};

/// What every command has: the operator and the files.
pub struct Desk {
    /// Its name.
    pub command: String,
    /// What is printed.
    pub output: Output,
    /// What is asked.
    pub prompt: Prompt,
    /// CLOUDTKEFILES.
    pub files: Directory,
}

/// A desk with a connection to an instance.
pub struct Workstation {
    /// The desk.
    pub desk: Desk,
    /// The connection.
    pub connection: Connection,
    /// UUID.
    pub instance: String,
    /// 32 digits.
    pub account: String,
    /// Such as `us-south`.
    pub region: String,
    /// Those of the instance, in the order of their numbers.
    pub units: Vec<Domain>,
    signers: Option<Signers>,
}

/// A unit and its state.
#[derive(Clone)]
pub struct Queried {
    /// Its place in [`Workstation::units`].
    pub at: usize,
    /// CRYPTO UNIT NUM.
    pub number: u64,
    /// The state.
    pub status: UnitStatus,
}

impl Workstation {
    /// Connects and lists the units. What is known of them already, stays known.
    ///
    /// # Errors
    /// If the instance cannot be reached, or a unit has another serial number than before.
    pub fn open(desk: Desk, remote: &Remote) -> Result<Self> {
        let mut connection = Connection::open(remote)?;
        let list = connection.list_units()?;
        if list.units.is_empty() {
            return Err(Error::new("No service instances were found for the current resource group."));
        }
        let units = desk.files.update_domains(|known| merge(known, &list))?;
        let (instance, account, region) = (list.instance, list.account, list.region);
        Ok(Self { desk, connection, instance, account, region, units, signers: None })
    }

    /// Lists the units again, after some have been added.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn relist(&mut self) -> Result<()> {
        let list = self.connection.list_units()?;
        self.units = self.desk.files.update_domains(|known| merge(known, &list))?;
        Ok(())
    }

    /// The selected units and their states.
    ///
    /// # Errors
    /// If none is selected, or one does not answer.
    pub fn selected(&mut self) -> Result<Vec<Queried>> {
        let selected: Vec<usize> = (0..self.units.len()).filter(|at| self.units[*at].selected).collect();
        if selected.is_empty() {
            return Err(Error::new("No crypto units are selected.\nSelect some with 'tke cryptounit-add'."));
        }
        self.query_all(&selected)
    }

    /// All units of the instance and their states.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn query_every(&mut self) -> Result<Vec<Queried>> {
        self.query_all(&(0..self.units.len()).collect::<Vec<_>>())
    }

    /// Puts units into the selection or takes them out. What another command selects meanwhile, stays.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn select(&mut self, units: &[usize], selected: bool) -> Result<()> {
        let ids: Vec<String> = units.iter().map(|at| self.units[*at].hsm_id.clone()).collect();
        let known = self.desk.files.update_domains(|known| {
            known
                .iter_mut()
                .filter(|unit| ids.contains(&unit.hsm_id))
                .for_each(|unit| unit.selected = selected);
            Ok(known.clone())
        })?;
        for unit in &mut self.units {
            unit.selected = known.iter().any(|known| known.hsm_id == unit.hsm_id && known.selected);
        }
        Ok(())
    }

    /// Selects all units of the instance.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn select_every(&mut self) -> Result<()> {
        self.select(&(0..self.units.len()).collect::<Vec<_>>(), true)
    }

    /// These units and their states.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn query_all(&mut self, units: &[usize]) -> Result<Vec<Queried>> {
        units
            .iter()
            .map(|at| Ok(Queried { at: *at, number: self.units[*at].number, status: self.query(*at)? }))
            .collect()
    }

    /// A unit's state.
    ///
    /// # Errors
    /// If it does not answer, or the answer is not to be believed.
    pub fn query(&mut self, at: usize) -> Result<UnitStatus> {
        let Domain { number, serial, .. } = self.units[at].clone();
        let counter = u64::from_be_bytes(random::array()?) >> 1;
        let block = CommandBlock { command: Command::Query, serial: serial.clone(), counter };
        let request = Request::new(block.to_der()?, Vec::new())?.to_der()?;
        let response = self.submit(at, request.clone())?;
        let untrusted = |error| Error::Answer(error, number);
        if let Some(module_key) = self.module_key(at)? {
            let answer = read_answer(&module_key, &serial, &request, &response).map_err(untrusted)?;
            let payload = answer.map_err(|refusal| Error::Refused { unit: number, refusal })?;
            return Ok(der::Decode::from_der(&payload)?);
        }
        let (status, module_key) = read_first_answer(&serial, &request, &response).map_err(untrusted)?;
        self.remember(at, &module_key)?;
        Ok(status)
    }

    /// Asks for the passwords that `needed` signatures for these units take.
    ///
    /// # Errors
    /// If the selected signature keys are not enough, or a password is wrong.
    pub fn unlock(&mut self, units: &[Queried], needed: impl Fn(&UnitStatus) -> usize) -> Result<()> {
        for unit in units {
            let needed = needed(&unit.status);
            if needed > 0 {
                self.signers()?;
            }
            if let Some(signers) = &mut self.signers {
                signers.unlock(unit.number, &unit.status, needed, &mut self.desk.prompt)?;
            }
        }
        Ok(())
    }

    /// The selected signature keys.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn signers(&mut self) -> Result<&mut Signers> {
        if self.signers.is_none() {
            self.signers = Some(Signers::selected(&self.desk.files, &mut self.desk.prompt)?);
        }
        self.signers.as_mut().ok_or_else(|| Error::new("There are no signature keys."))
    }

    /// Sends a command, signed by as many of those whose passwords have been given as it needs; the payload of
    /// the answer.
    ///
    /// # Errors
    /// [`Error::Refused`], or whatever happens on the way.
    pub fn execute(&mut self, at: usize, command: Command) -> Result<Vec<u8>> {
        let status = self.query(at)?;
        self.execute_at(at, &status, command)
    }

    /// Makes the committed master key the current one, if it is still this one: another operator may have put another
    /// in its place. What the unit says of it and the transaction counter come from the same answer.
    ///
    /// # Errors
    /// As [`Workstation::execute`].
    pub fn set_immediate(&mut self, at: usize, pattern: &VerificationPattern) -> Result<()> {
        let status = self.query(at)?;
        let pending = status.new_register.verification_pattern();
        if pending.is_some_and(|pending| pending != *pattern) {
            return Err(Error::new(format!(
                "The new master key register of crypto unit {} holds another master key than before: somebody else is at \
                 work.\nSee 'tke cryptounit-mk'.",
                self.units[at].number
            )));
        }
        self.execute_at(at, &status, Command::SetImmediate).map(drop)
    }

    fn execute_at(&mut self, at: usize, status: &UnitStatus, command: Command) -> Result<Vec<u8>> {
        let needed = quorum::signatures(status, &command);
        let Domain { number, serial, .. } = self.units[at].clone();
        // The unit refuses a counter that is not the next.
        let counter = status.counter.wrapping_add(1);
        let block = CommandBlock { command, serial: serial.clone(), counter }.to_der()?;
        let signatures = match &self.signers {
            Some(signers) => signers.sign(status, needed, &block)?,
            None => Vec::new(),
        };
        let request = Request::new(block, signatures)?.to_der()?;
        let response = self.submit(at, request.clone())?;
        let module_key =
            self.module_key(at)?.ok_or_else(|| Error::new(format!("Crypto unit {number} is unknown.")))?;
        read_answer(&module_key, &serial, &request, &response)
            .map_err(|error| Error::Answer(error, number))?
            .map_err(|refusal| Error::Refused { unit: number, refusal })
    }

    /// These sign, in place of the selected ones.
    pub fn sign_with(&mut self, keys: Vec<(SubjectKeyIdentifier, SignatureKey)>) {
        self.signers = Some(Signers::of(keys));
    }

    fn submit(&mut self, at: usize, request: Vec<u8>) -> Result<Vec<u8>> {
        let Domain { hsm_id, number, .. } = &self.units[at];
        self.connection.submit(hsm_id, request).map_err(|status| {
            // The operator knows the unit by its number.
            let message = status.message().replace(hsm_id, &number.to_string());
            Error::Unreachable { unit: *number, status: Box::new(Status::new(status.code(), message)) }
        })
    }

    /// The key that signs a unit's answers, if it has answered before.
    fn module_key(&self, at: usize) -> Result<Option<VerifyingKey>> {
        let Domain { number, serial, public_key, .. } = &self.units[at];
        let modules = self.desk.files.crypto_modules()?;
        let remembered =
            modules.iter().find(|module| module.serial == *serial).map(|module| &module.public_key);
        let Some(digits) = remembered else { return Ok(None) };
        if !public_key.is_empty() && public_key != digits {
            return Err(Error::new(format!(
                "DOMAINS and CRYPTOMODULES name different keys of crypto unit {number}.\nIf its module was replaced, \
                 remove its entries from both files, and select the crypto unit again."
            )));
        }
        let point = hex::decode(digits).ok().and_then(|point| VerifyingKey::from_sec1_bytes(&point).ok());
        point.map(Some).ok_or_else(|| Error::new(format!("CRYPTOMODULES: the key of {serial} is damaged.")))
    }

    fn remember(&mut self, at: usize, module_key: &VerifyingKey) -> Result<()> {
        let public_key = hex::encode(module_key.to_sec1_point(false).as_bytes());
        let Domain { serial, hsm_id, .. } = self.units[at].clone();
        self.desk.files.remember_module(CryptoModule { serial, public_key: public_key.clone() })?;
        self.desk.files.update_domains(|known| {
            let unit = known.iter_mut().find(|unit| unit.hsm_id == hsm_id);
            unit.into_iter().for_each(|unit| unit.public_key.clone_from(&public_key));
            Ok(())
        })?;
        self.units[at].public_key = public_key;
        Ok(())
    }
}

/// Puts the instance's units in place of those that were known of it; what is known of a unit already, stays known.
/// Units of other instances are left alone.
fn merge(known: &mut Vec<Domain>, list: &tke::ListUnitsResponse) -> Result<Vec<Domain>> {
    let mut units = Vec::new();
    for (number, unit) in (1..).zip(&list.units) {
        let before = known.iter().find(|domain| domain.hsm_id == unit.hsm_id);
        if let Some(domain) = before.filter(|domain| domain.serial != unit.serial_number) {
            return Err(Error::new(format!(
                "Serial number mismatch detected\nCrypto unit {number} was {}, now it is {}. If its module was \
                 replaced, remove its entry from DOMAINS, and select the crypto unit again.",
                domain.serial, unit.serial_number
            )));
        }
        units.push(Domain {
            number,
            hsm_id: unit.hsm_id.clone(),
            instance: list.instance.clone(),
            location: unit.location.clone(),
            serial: unit.serial_number.clone(),
            public_key: before.map(|domain| domain.public_key.clone()).unwrap_or_default(),
            unit_type: type_name(unit.r#type()).to_owned(),
            selected: before.is_some_and(|domain| domain.selected),
        });
    }
    let place = known.iter().position(|domain| domain.instance == list.instance).unwrap_or(known.len());
    known.retain(|domain| domain.instance != list.instance);
    known.splice(place..place, units.iter().cloned());
    Ok(units)
}

/// The name of a recovery unit's type in DOMAINS.
pub const RECOVERY: &str = "recovery";

fn type_name(unit_type: tke::UnitType) -> &'static str {
    match unit_type {
        tke::UnitType::Recovery => RECOVERY,
        tke::UnitType::Failover => "failover",
        tke::UnitType::Operational => "operational",
        // So damaged that it does not say.
        tke::UnitType::Unspecified => "unknown",
    }
}

/// In which order units set a new master key: those that serve, those that will, those that keep the backup.
pub fn activation_order(unit: &Queried) -> u8 {
    match unit.status.unit_type {
        UnitType::Operational => 0,
        UnitType::Failover => 1,
        UnitType::Recovery => 2,
    }
}
