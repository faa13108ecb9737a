//! The audit log of a running instance: what is in it, and what happens when it is not in order.

use std::fs;

use crate::common::operator::{Operator, part};
use crate::common::server::{Door, Server, Unit};
use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{Command, DomainAttributes};
use hsm_emulator::units::{TransportedKey, VerificationPattern};
use hsm_proto::{kms, tke, tokens};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Every call that would change something is refused like this, and nothing has changed.
fn assert_closed(server: &Server, text: &str) {
    let before = server.list_units();
    let refused = |status: Status| {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains(text), "{}", status.message());
    };
    let hsm_id = before.units[1].hsm_id.clone();
    let one = || tke::UnitRequest { hsm_id: hsm_id.clone() };
    refused(server.block_on(server.support().stop_unit(one())).expect_err("stop"));
    refused(server.block_on(server.support().start_unit(one())).expect_err("start"));
    refused(server.block_on(server.support().remove_unit(one())).expect_err("remove"));
    let add = tke::AddUnitRequest { r#type: tke::UnitType::Operational.into(), old_firmware: false };
    refused(server.block_on(server.support().add_unit(add)).expect_err("add"));
    let delete = tke::DeleteTokenRequest { serial: "0123456789abcdef".into() };
    refused(server.block_on(server.support().delete_token(delete)).expect_err("delete a token"));
    for abandon_other in [false, true] {
        let request = tke::ReencryptRequest { verification_pattern: "11".repeat(32), abandon_other };
        let outcome = server.block_on(async {
            server.tke().reencrypt(request).await.expect("stream").into_inner().message().await
        });
        refused(outcome.expect_err("re-encrypt"));
    }
    for door in [Door::Grpc, Door::Http] {
        let unit = server.unit(1, door);
        let status = unit.status();
        let add = Command::AddAdministrator(Operator::new("a").administrator);
        for command in [add, Command::Zeroize] {
            let request = unit.request(command, status.counter + 1, &[]);
            let error = unit.submit(&request).expect_err("submit");
            let expected = if door == Door::Grpc { "Unavailable" } else { "503" };
            assert!(error.starts_with(expected) && error.contains(text), "{error}");
        }
        assert_eq!(unit.status(), status);
    }
    assert_eq!(server.list_units(), before);
}

#[test]
fn a_damaged_log_closes_administration_and_nothing_else() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("hsm");
    let server = Server::start(&state, &[]);
    let hsm_id = server.list_units().units[1].hsm_id.clone();
    let one = || tke::UnitRequest { hsm_id: hsm_id.clone() };
    server.block_on(server.support().stop_unit(one())).expect("stop");
    server.block_on(server.support().start_unit(one())).expect("start");
    let create = kms::CreateRootKeyRequest { name: "orders".into(), material: Vec::new() };
    let key = server.block_on(server.kms().create_root_key(create)).expect("create").into_inner().id;
    drop(server);

    let path = state.join("audit/log.jsonl");
    let original = fs::read(&path).expect("log");
    let second = original.iter().position(|byte| *byte == b'\n').expect("a record") + 10;
    let mut altered = original.clone();
    altered[second] ^= 1;
    fs::write(&path, &altered).expect("write");

    let server = Server::start(&state, &[]);
    assert_closed(&server, "record 2 of the audit log");
    assert_closed(&server, "hsm-emulator audit verify");
    assert!(server.log().contains("record 2 of the audit log"), "{}", server.log());
    let verified = server.audit("verify");
    assert!(!verified.status.success());
    assert!(String::from_utf8_lossy(&verified.stderr).contains("record 2 of the audit log"));
    let wrap = kms::WrapRequest { key, plaintext: vec![7; 32], aad: Vec::new() };
    server.block_on(server.kms().wrap(wrap)).expect("wrap");
    let list =
        tokens::Request { call: Some(tokens::request::Call::ListTokens(tokens::ListTokensRequest {})) };
    let answer = server.block_on(async {
        let calls = tokio_stream::once(list);
        server.tokens().operate(calls).await.expect("operate").into_inner().message().await
    });
    let answer = answer.expect("answer").expect("one").answer;
    assert!(matches!(answer, Some(tokens::response::Answer::ListTokens(_))), "{answer:?}");
    assert_eq!(fs::read(&path).expect("log"), altered, "the evidence stays");
    drop(server);

    fs::write(&path, original).expect("write");
    let server = Server::start(&state, &[]);
    server.block_on(server.support().stop_unit(one())).expect("stop");
}

#[test]
fn without_a_log_that_can_be_written_nothing_is_administered() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("hsm");
    let server = Server::start(&state, &[]);
    let head = state.join("audit/head.json");
    fs::remove_file(&head).expect("remove");
    fs::create_dir(&head).expect("a directory in its place");
    assert_closed(&server, "audit log");
    drop(server);
    // Nor after a restart.
    let server = Server::start(&state, &[]);
    assert_closed(&server, "audit log");
}

/// The nine events of the Activity Tracker, with their fields, as `audit show` prints them.
#[test]
fn every_event_of_the_activity_tracker_is_in_the_log() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(&dir.path().join("hsm"), &["--imprint"]);
    let unit = server.unit(0, Door::Grpc);
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    for operator in [&a, &b] {
        unit.send(Command::AddAdministrator(operator.administrator.clone()), &[]).expect("add");
    }
    let attributes = DomainAttributes {
        signature_threshold: Some(2),
        revocation_threshold: Some(1),
        permissions: Some(unit.status().permissions | permission::IMPORT | permission::ZEROIZE_WITH_ONE),
    };
    unit.send(Command::SetAttributes(attributes), &[&a, &b]).expect("thresholds");
    let first = load(&unit, [0x11, 0x22], &a);
    unit.send(Command::CommitMasterKey(first), &[&b]).expect_err("too few signatures");
    unit.send(Command::CommitMasterKey(first), &[&a, &b]).expect("commit");
    unit.send(Command::SetImmediate, &[&a]).expect("set immediate");
    load(&unit, [0x11, 0x33], &a);
    unit.send(Command::ClearNew, &[&a]).expect("clear");
    unit.send(Command::ClearCurrent, &[&b]).expect("clear");
    unit.send(Command::SetImmediate, &[&b]).expect_err("nothing to set");
    let lower = DomainAttributes { signature_threshold: Some(1), ..DomainAttributes::default() };
    unit.send(Command::SetAttributes(lower), &[&a, &b]).expect("lower");
    unit.send(Command::RemoveAdministrator(b.id()), &[&a]).expect("remove");
    unit.send(Command::Zeroize, &[&a]).expect("zeroize");

    let events = server.events();
    let location = unit.status().location;
    // Each call is told of twice: before, and with its outcome.
    for pair in events.chunks(2) {
        assert_eq!(pair[0]["outcome"], "pending");
        assert_ne!(pair[1]["outcome"], "pending");
        for field in ["action", "target", "requestData"] {
            assert_eq!(pair[0][field], pair[1][field]);
        }
        for event in pair {
            assert_eq!(event["severity"], "critical");
            assert_eq!(event["requestData"]["location"], *location);
            assert_eq!(event["target"]["name"], *location);
        }
    }
    let (id_a, id_b) = (a.id().to_hex(), b.id().to_hex());
    let pattern = first.to_hex();
    let find = |name: &str, outcome: &str| -> &Value {
        let action = format!("hs-crypto.tke-cryptounit{name}");
        let mut found =
            events.iter().filter(|event| event["action"] == *action && event["outcome"] == outcome);
        found.next().unwrap_or_else(|| panic!("no {outcome} of {action}"))
    };
    let expect = |name: &str, request: Value, response: Value| {
        let event = find(name, "success");
        assert_eq!(event["reason"], json!({ "reasonCode": 200, "reasonType": "OK" }));
        for (field, value) in request.as_object().expect("fields") {
            assert_eq!(event["requestData"][field], *value, "{name}: {field}");
        }
        assert_eq!(event.get("responseData").unwrap_or(&Value::Null), &response, "{name}");
    };
    expect("-admin.add", json!({ "adminId": id_a, "adminIds": [] }), Value::Null);
    expect("-admin.remove", json!({ "adminId": id_b, "adminIds": [id_a] }), Value::Null);
    let thresholds = json!({
        "signatureThreshold": 2, "revocationSignatureThreshold": 1, "adminIds": [id_a, id_b],
    });
    expect("-threshold.set", thresholds, Value::Null);
    let told = json!({ "verificationPattern": pattern });
    expect("-master-key-register.add", json!({ "adminIds": [id_a] }), told.clone());
    let ids = find("-master-key-register.add", "success")["requestData"]["masterKeyIds"].clone();
    let ids: Vec<String> = serde_json::from_value(ids).expect("identifiers");
    assert!(ids.len() == 2 && ids.iter().all(|id| id.len() == 64) && ids[0] != ids[1], "{ids:?}");
    expect("-master-key-register.commit", told.clone(), Value::Null);
    expect("-master-key-register.activate", told.clone(), told);
    expect("-new-master-key-register.clear", json!({ "adminIds": [id_a] }), Value::Null);
    expect("-current-master-key-register.clear", json!({ "adminIds": [id_b] }), Value::Null);
    expect(".reset", json!({ "adminIds": [id_a] }), Value::Null);
    let refused = find("-master-key-register.commit", "failure");
    assert_eq!(refused["reason"]["reasonCode"], 403);
    assert_eq!(refused["reason"]["ep11"], json!({ "returnCode": 208, "reasonCode": 21 }));
    let refused = find("-master-key-register.activate", "failure");
    assert_eq!(refused["reason"]["reasonCode"], 400);
}

#[test]
fn support_and_reencryption_are_on_record() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(&dir.path().join("hsm"), &[]);
    let add = tke::AddUnitRequest { r#type: tke::UnitType::Operational.into(), old_firmware: false };
    let added = server.block_on(server.support().add_unit(add)).expect("add").into_inner();
    let one = || tke::UnitRequest { hsm_id: added.hsm_id.clone() };
    server.block_on(server.support().stop_unit(one())).expect("stop");
    server.block_on(server.support().start_unit(one())).expect("start");
    server.block_on(server.support().remove_unit(one())).expect("remove");
    let request = tke::ReencryptRequest { verification_pattern: "11".repeat(32), abandon_other: true };
    let outcome = server.block_on(async {
        server.tke().reencrypt(request).await.expect("stream").into_inner().message().await
    });
    assert_eq!(outcome.expect_err("no such key").code(), Code::FailedPrecondition);
    let cancel = tke::CancelReencryptionRequest { verification_pattern: "11".repeat(32) };
    let outcome = server.block_on(server.tke().cancel_reencryption(cancel));
    assert_eq!(outcome.expect_err("none has begun").code(), Code::FailedPrecondition);
    let events: Vec<(Value, Value)> = server
        .events()
        .into_iter()
        .map(|event| (event["action"].clone(), event["outcome"].clone()))
        .collect();
    let support = |verb: &str| json!(format!("hs-crypto.tke-cryptounit-support.{verb}"));
    let mut expected = Vec::new();
    for verb in ["add", "stop", "start", "remove"] {
        expected.push((support(verb), json!("pending")));
        expected.push((support(verb), json!("success")));
    }
    expected.push((json!("hs-crypto.tke-key-storage.reencrypt"), json!("pending")));
    expected.push((json!("hs-crypto.tke-key-storage.reencrypt"), json!("failure")));
    expected.push((json!("hs-crypto.tke-key-storage.cancel"), json!("pending")));
    expected.push((json!("hs-crypto.tke-key-storage.cancel"), json!("failure")));
    assert_eq!(events, expected);
    let reencryption = &server.events()[8];
    assert_eq!(reencryption["requestData"]["abandonOther"], true);
}

fn load(unit: &Unit<'_>, parts: [u8; 2], signer: &Operator) -> VerificationPattern {
    let importer = unit.send(Command::GenerateImporterKey, &[signer]).expect("importer key");
    let parts = parts.map(|byte| TransportedKey::wrap(&part(byte), &importer).expect("wrap"));
    let pattern = unit.send(Command::ImportMasterKey(parts.to_vec()), &[signer]).expect("load");
    VerificationPattern::from_bytes(&pattern).expect("pattern")
}
