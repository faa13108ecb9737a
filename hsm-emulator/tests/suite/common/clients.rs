//! What an operator and a client do with a server, in the tests of several servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{Command, DomainAttributes};
use hsm_emulator::units::{TransportedKey, VerificationPattern};
use hsm_proto::{kms, tke};

use super::operator::{Operator, part};
use super::server::{Door, Server, Unit};

/// Sets it at the end of a scope, also if an assertion fails there: threads that look at it end then.
pub struct SetAtTheEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The same administrators and the same master key for every unit of a type.
pub fn initialise(server: &Server, operators: &[Operator; 2], unit_type: tke::UnitType) {
    let [a, b] = operators;
    for (i, listed) in server.list_units().units.iter().enumerate() {
        if listed.r#type() != unit_type {
            continue;
        }
        let unit = server.unit(i, Door::Grpc);
        for operator in operators {
            unit.send(Command::AddAdministrator(operator.administrator.clone()), &[]).expect("add");
        }
        let attributes = DomainAttributes {
            signature_threshold: Some(2),
            revocation_threshold: Some(1),
            permissions: Some(unit.status().permissions | permission::IMPORT),
        };
        unit.send(Command::SetAttributes(attributes), &[a, b]).expect("thresholds");
        load(&unit, operators, [0x11, 0x22]);
        unit.send(Command::SetImmediate, &[a]).expect("set immediate");
    }
}

/// These key parts become the committed master key of a unit; its pattern.
pub fn load(unit: &Unit<'_>, [a, b]: &[Operator; 2], parts: [u8; 2]) -> VerificationPattern {
    let importer = unit.send(Command::GenerateImporterKey, &[a]).expect("importer key");
    let parts =
        parts.iter().map(|byte| TransportedKey::wrap(&part(*byte), &importer).expect("wrap")).collect();
    let pattern = unit.send(Command::ImportMasterKey(parts), &[b]).expect("load");
    let pattern = VerificationPattern::from_bytes(&pattern).expect("pattern");
    unit.send(Command::CommitMasterKey(pattern), &[a, b]).expect("commit");
    pattern
}

/// Everything stored, under the new master key of this pattern: how it has ended.
pub fn reencrypt(server: &Server, pattern: &VerificationPattern) -> tke::ReencryptProgress {
    let request = tke::ReencryptRequest { verification_pattern: pattern.to_hex(), abandon_other: false };
    server.block_on(async {
        let mut progress = server.tke().reencrypt(request).await.expect("re-encrypt").into_inner();
        let mut last = None;
        while let Some(message) = progress.message().await.expect("progress") {
            last = Some(message);
        }
        last.expect("progress")
    })
}

pub fn create(server: &Server, name: &str) -> Result<String, tonic::Status> {
    let request = kms::CreateRootKeyRequest { name: name.to_owned(), material: Vec::new() };
    Ok(server.block_on(server.kms().create_root_key(request))?.into_inner().id)
}

pub fn wrap(server: &Server, key: &str) -> String {
    wrapped(server, key).ciphertext
}

pub fn wrapped(server: &Server, key: &str) -> kms::WrapResponse {
    let request = kms::WrapRequest { key: key.to_owned(), plaintext: vec![7; 32], aad: Vec::new() };
    server.block_on(server.kms().wrap(request)).expect("wrap").into_inner()
}

pub fn unwrap(server: &Server, key: &str, ciphertext: &str) -> Result<Vec<u8>, tonic::Status> {
    let request =
        kms::UnwrapRequest { key: key.to_owned(), ciphertext: ciphertext.to_owned(), aad: Vec::new() };
    Ok(server.block_on(server.kms().unwrap(request))?.into_inner().plaintext)
}

pub fn delete(server: &Server, key: &str) -> Result<(), tonic::Status> {
    server.block_on(server.kms().delete(kms::DeleteRequest { key: key.to_owned() })).map(drop)
}

pub fn ids(server: &Server) -> Vec<String> {
    let request = kms::ListRootKeysRequest { limit: 5000, offset: 0, include_destroyed: false };
    let list = server.block_on(server.kms().list_root_keys(request)).expect("list").into_inner();
    list.keys.into_iter().map(|key| key.id).collect()
}
