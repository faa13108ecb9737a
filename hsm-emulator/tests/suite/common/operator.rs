//! Administrators in front of a crypto unit.

use der::Decode;
use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{
    Command, CommandBlock, DomainAttributes, Request, Signature, UnitStatus, UnitType, read_answer,
    read_first_answer,
};
use hsm_emulator::units::{
    Administrator, CryptoUnit, KeyPart, Refusal, SubjectKeyIdentifier, TransportedKey, VerificationPattern,
    generate_signature_key,
};
use p521::ecdsa::signature::Signer;
use p521::ecdsa::{DerSignature, SigningKey};

/// An administrator with a key.
#[derive(Clone)]
pub struct Operator {
    pub administrator: Administrator,
    key: SigningKey,
}

impl Operator {
    pub fn new(name: &str) -> Self {
        let key = generate_signature_key().expect("key");
        let administrator = Administrator::new(name, key.verifying_key()).expect("administrator");
        Self { administrator, key }
    }

    pub fn id(&self) -> SubjectKeyIdentifier {
        self.administrator.subject_key_identifier()
    }

    /// The uncompressed public point.
    pub fn point(&self) -> Vec<u8> {
        self.key.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }

    pub fn sign(&self, block: &[u8]) -> Signature {
        let signature: DerSignature = self.key.sign(block);
        Signature::new(&self.id(), signature.as_bytes().to_vec()).expect("signature")
    }
}

pub fn status(unit: &CryptoUnit) -> UnitStatus {
    let block = CommandBlock { command: Command::Query, serial: unit.serial(), counter: 7 };
    let request = Request::new(block.to_der().expect("block"), Vec::new()).expect("request");
    let request = der::Encode::to_der(&request).expect("DER");
    let response = unit.execute(&request).expect("execute").response;
    read_first_answer(&unit.serial(), &request, &response).expect("answer").0
}

/// Sends a command with this counter, signed by these.
pub fn send_at(
    unit: &CryptoUnit,
    counter: u64,
    command: Command,
    signers: &[&Operator],
) -> Result<Vec<u8>, Refusal> {
    let block = CommandBlock { command, serial: unit.serial(), counter }.to_der().expect("block");
    let signatures = signers.iter().map(|signer| signer.sign(&block)).collect();
    let request = der::Encode::to_der(&Request::new(block, signatures).expect("request")).expect("DER");
    let response = unit.execute(&request).expect("execute").response;
    let module_key = status(unit).module_key().expect("module key");
    read_answer(&module_key, &unit.serial(), &request, &response).expect("answer")
}

/// Sends a command with the right counter.
pub fn send(unit: &CryptoUnit, command: Command, signers: &[&Operator]) -> Result<Vec<u8>, Refusal> {
    send_at(unit, status(unit).counter + 1, command, signers)
}

/// The permissions that the TKE gives a unit when it leaves imprint mode.
pub fn permissions(unit: &CryptoUnit) -> u32 {
    let both = permission::IMPORT | permission::SINGLE_PART | permission::ZEROIZE_WITH_ONE;
    let own = match unit.unit_type() {
        UnitType::Recovery => permission::EXPORT | permission::RANDOM,
        _ => 0,
    };
    status(unit).permissions | both | own
}

/// Installs administrators and leaves imprint mode.
pub fn adopt(unit: &CryptoUnit, operators: &[&Operator], threshold: u32) {
    for operator in operators {
        send(unit, Command::AddAdministrator(operator.administrator.clone()), &[]).expect("add");
    }
    let attributes = DomainAttributes {
        signature_threshold: Some(threshold),
        revocation_threshold: Some(threshold),
        permissions: Some(permissions(unit)),
    };
    send(unit, Command::SetAttributes(attributes), operators).expect("thresholds");
}

pub fn part(byte: u8) -> KeyPart {
    Box::new(zeroize::Zeroizing::new([byte; 32]))
}

/// Loads key parts into the new register.
pub fn load(unit: &CryptoUnit, parts: &[u8], signer: &Operator) -> Result<VerificationPattern, Refusal> {
    let importer = send(unit, Command::GenerateImporterKey, &[signer])?;
    let parts =
        parts.iter().map(|byte| TransportedKey::wrap(&part(*byte), &importer).expect("wrap")).collect();
    let pattern = send(unit, Command::ImportMasterKey(parts), &[signer])?;
    Ok(VerificationPattern::from_bytes(&pattern).expect("pattern"))
}

/// Moves a master key out of a recovery unit into another unit's new register.
pub fn transfer(
    source: &CryptoUnit,
    target: &CryptoUnit,
    export: impl FnOnce(Vec<u8>) -> Command,
    signers: &[&Operator],
) -> Result<VerificationPattern, Refusal> {
    let importer = send(target, Command::GenerateImporterKey, signers)?;
    let transported = send(source, export(importer), signers)?;
    let transported = TransportedKey::from_der(&transported).expect("transported key");
    let pattern = send(target, Command::ImportMasterKey(vec![transported]), signers)?;
    Ok(VerificationPattern::from_bytes(&pattern).expect("pattern"))
}
