//! Administrators who initialise crypto units through a region.

use der::Encode;
use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{
    Command, CommandBlock, DomainAttributes, Request, UnitStatus, read_answer, read_first_answer,
};
use hsm_emulator::units::{TransportedKey, VerificationPattern};
use hsm_proto::tke;
use hsm_proto::tke::support_client::SupportClient;
use hsm_proto::tke::tke_client::TkeClient;

use crate::client::Authorized;
use crate::operator::{Operator, part};

/// The key parts of the master key that all units share.
pub const PARTS: [u8; 2] = [0x11, 0x22];
/// Of another one.
pub const OTHER_PARTS: [u8; 2] = [0x33, 0x44];

/// Two administrators at a region.
pub struct Desk {
    tke: TkeClient<Authorized>,
    support: SupportClient<Authorized>,
    operators: [Operator; 2],
}

impl Desk {
    /// New administrators.
    pub fn new(channel: Authorized) -> Self {
        Self::of([Operator::new("a"), Operator::new("b")], channel)
    }

    /// The same ones at another region.
    pub fn at(&self, channel: Authorized) -> Self {
        Self::of(self.operators.clone(), channel)
    }

    fn of(operators: [Operator; 2], channel: Authorized) -> Self {
        Self { tke: TkeClient::new(channel.clone()), support: SupportClient::new(channel), operators }
    }

    /// As a support case does it.
    pub async fn assign_failover_unit(&self) -> Result<(), String> {
        let request = tke::AddUnitRequest { r#type: tke::UnitType::Failover.into(), old_firmware: false };
        self.support.clone().add_unit(request).await.map_err(text)?;
        Ok(())
    }

    /// The units of the instance of one type, in both regions.
    pub async fn units(&self, unit_type: tke::UnitType) -> Result<Vec<tke::Unit>, String> {
        let list = self.tke.clone().list_units(tke::ListUnitsRequest {}).await.map_err(text)?.into_inner();
        Ok(list.units.into_iter().filter(|unit| unit.r#type() == unit_type).collect())
    }

    /// Out of imprint mode, with the master key of [`PARTS`].
    pub async fn initialise(&self, unit: &tke::Unit) -> Result<(), String> {
        let [a, b] = &self.operators;
        for operator in [a, b] {
            self.send(unit, Command::AddAdministrator(operator.administrator.clone()), &[]).await?;
        }
        let attributes = DomainAttributes {
            signature_threshold: Some(2),
            revocation_threshold: Some(1),
            permissions: Some(self.status(unit).await?.permissions | permission::IMPORT),
        };
        self.send(unit, Command::SetAttributes(attributes), &[a, b]).await?;
        self.load_master_key(unit, PARTS).await
    }

    /// In the place of the one that it has.
    pub async fn load_master_key(&self, unit: &tke::Unit, parts: [u8; 2]) -> Result<(), String> {
        self.commit_master_key(unit, parts).await?;
        self.set_immediate(unit).await
    }

    /// The committed new master key becomes the current one.
    pub async fn set_immediate(&self, unit: &tke::Unit) -> Result<(), String> {
        self.send(unit, Command::SetImmediate, &[&self.operators[0]]).await.map(drop)
    }

    /// All stored keys, under the new master key that all units have committed.
    pub async fn reencrypt(&self, pattern: &VerificationPattern) -> Result<u64, String> {
        let request = tke::ReencryptRequest { verification_pattern: pattern.to_hex(), abandon_other: false };
        let mut progress = self.tke.clone().reencrypt(request).await.map_err(text)?.into_inner();
        let mut last = tke::ReencryptProgress::default();
        while let Some(message) = progress.message().await.map_err(text)? {
            last = message;
        }
        if last.complete {
            Ok(last.total)
        } else {
            Err(format!("the re-encryption is not complete: {last:?}"))
        }
    }

    /// In the new register.
    pub async fn commit_master_key(
        &self,
        unit: &tke::Unit,
        parts: [u8; 2],
    ) -> Result<VerificationPattern, String> {
        let [a, b] = &self.operators;
        let importer = self.send(unit, Command::GenerateImporterKey, &[a]).await?;
        let parts = parts.iter().map(|byte| TransportedKey::wrap(&part(*byte), &importer));
        let parts = parts.collect::<Result<_, _>>().map_err(text)?;
        let pattern = self.send(unit, Command::ImportMasterKey(parts), &[b]).await?;
        let pattern = VerificationPattern::from_bytes(&pattern).ok_or("no verification pattern came back")?;
        self.send(unit, Command::CommitMasterKey(pattern), &[a, b]).await?;
        Ok(pattern)
    }

    async fn status(&self, unit: &tke::Unit) -> Result<UnitStatus, String> {
        let request = request(unit, Command::Query, 1, &[])?;
        let response = self.submit(unit, request.clone()).await?;
        Ok(read_first_answer(&unit.serial_number, &request, &response).map_err(text)?.0)
    }

    async fn send(
        &self,
        unit: &tke::Unit,
        command: Command,
        signers: &[&Operator],
    ) -> Result<Vec<u8>, String> {
        let status = self.status(unit).await?;
        let request = request(unit, command, status.counter + 1, signers)?;
        let response = self.submit(unit, request.clone()).await?;
        let module_key = status.module_key().ok_or("the unit has no module key")?;
        let answer = read_answer(&module_key, &unit.serial_number, &request, &response).map_err(text)?;
        answer.map_err(|refusal| format!("{} refuses: {refusal:?}", unit.location))
    }

    async fn submit(&self, unit: &tke::Unit, request: Vec<u8>) -> Result<Vec<u8>, String> {
        let request = tke::SubmitRequest { hsm_id: unit.hsm_id.clone(), request };
        Ok(self.tke.clone().submit(request).await.map_err(text)?.into_inner().response)
    }
}

fn request(
    unit: &tke::Unit,
    command: Command,
    counter: u64,
    signers: &[&Operator],
) -> Result<Vec<u8>, String> {
    let block = CommandBlock { command, serial: unit.serial_number.clone(), counter };
    let block = block.to_der().map_err(text)?;
    let signatures = signers.iter().map(|signer| signer.sign(&block)).collect();
    Request::new(block, signatures).and_then(|request| request.to_der()).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
