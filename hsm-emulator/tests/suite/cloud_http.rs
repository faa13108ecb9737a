//! The cloud's HTTP interface to crypto units, with a plain HTTP client.

use crate::common::operator::{Operator, part};
use crate::common::server::{Door, Server};
use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{Command, DomainAttributes, RegisterState, UnitStatus};
use hsm_emulator::units::{Refusal, TransportedKey, VerificationPattern};
use hsm_proto::tke;
use serde_json::{Value, json};

fn start() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(&dir.path().join("hsm"), &["--imprint"]);
    (dir, server)
}

#[test]
fn units_are_listed_as_the_cloud_lists_them() {
    let (_dir, server) = start();
    let listed = server.list_units();
    let path = format!("/v1/tke/{}/hsms", listed.instance);
    let (status, answer) = server.http("GET", &path, Some(&server.api_key()), "");
    assert_eq!(status, 200);
    assert_eq!(answer["metadata"][0]["collectionTotal"], 4);
    assert_eq!(answer.get("failover_hsms"), None);
    let entries: Vec<&Value> =
        ["hsms", "source_hsms"].iter().flat_map(|list| answer[list].as_array().expect("list")).collect();
    assert_eq!(entries.len(), listed.units.len());
    for (entry, unit) in entries.iter().zip(&listed.units) {
        let expected = json!({
            "hsm_id": unit.hsm_id, "location": unit.location, "state": "no master key", "version": 1,
            "serial_number": unit.serial_number,
        });
        assert_eq!(**entry, expected);
        assert_eq!(unit.state, "no master key");
    }
    assert_eq!(server.h2c(&path), (200, answer));
}

/// From imprint mode to a master key that serves, and every answer verified with the module's key. After each step
/// gRPC tells the same of the unit.
#[test]
fn a_unit_is_brought_into_service_over_http_alone() {
    let (_dir, server) = start();
    let unit = server.unit(0, Door::Http);
    let by_grpc = server.unit(0, Door::Grpc);
    let same = || -> UnitStatus {
        let status = unit.status();
        assert_eq!(status, by_grpc.status());
        status
    };
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    assert!(same().in_imprint_mode());
    assert_eq!(unit.send(Command::GenerateImporterKey, &[]), Err(Refusal::IMPRINT_MODE));
    for operator in [&a, &b] {
        unit.send(Command::AddAdministrator(operator.administrator.clone()), &[]).expect("add");
    }
    assert_eq!(same().administrators.len(), 2);
    let attributes = DomainAttributes {
        signature_threshold: Some(2),
        revocation_threshold: Some(1),
        permissions: Some(same().permissions | permission::IMPORT),
    };
    assert_eq!(unit.send(Command::SetAttributes(attributes), &[&a]), Err(Refusal::TOO_FEW_SIGNATURES));
    unit.send(Command::SetAttributes(attributes), &[&a, &b]).expect("thresholds");
    assert_eq!((same().signature_threshold, same().revocation_threshold), (2, 1));

    let importer = unit.send(Command::GenerateImporterKey, &[&a]).expect("importer key");
    let parts = [0x11, 0x22]
        .iter()
        .map(|byte| TransportedKey::wrap(&part(*byte), &importer).expect("wrap"))
        .collect();
    let pattern = unit.send(Command::ImportMasterKey(parts), &[&b]).expect("load");
    let pattern = VerificationPattern::from_bytes(&pattern).expect("pattern");
    assert_eq!(same().new_register.state, RegisterState::FullUncommitted);
    unit.send(Command::CommitMasterKey(pattern), &[&a, &b]).expect("commit");
    assert_eq!(same().new_register.state, RegisterState::FullCommitted);
    let set = unit.send(Command::SetImmediate, &[&a]).expect("set immediate");
    assert_eq!(VerificationPattern::from_bytes(&set), Some(pattern));
    let status = same();
    assert_eq!(status.current_register.state, RegisterState::Valid);
    assert!(pattern.to_hex().starts_with("40910b8c96ef4c8fcc342a1c45a4135f"));
    let (_, list) =
        server.http("GET", &format!("/v1/tke/{}/hsms", unit.instance), Some(&server.api_key()), "");
    assert_eq!(
        (&list["hsms"][0]["state"], &list["hsms"][1]["state"]),
        (&json!("running"), &json!("no master key"))
    );
}

#[test]
fn errors_have_a_status_and_say_what_is_wrong() {
    let (_dir, server) = start();
    let unit = server.unit(0, Door::Http);
    let key = server.api_key();
    let list = format!("/v1/tke/{}/hsms", unit.instance);
    let expect = |method: &str, path: &str, token: Option<&str>, body: String, status: u16, text: &str| {
        let (found, answer) = server.http(method, path, token, body);
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert_eq!(answer["statusCode"], status, "{answer}");
        let message = answer["message"].as_str().expect("message");
        assert!(message.contains(text), "{message}");
    };
    let query = json!({ "request": hex::encode(unit.request(Command::Query, 1, &[])) }).to_string();
    for token in [None, Some(""), Some("Bearer"), Some("Bearer wrong"), Some("wrong"), Some("Basic abc")] {
        expect("GET", &list, token, String::new(), 401, "Unauthorized");
        expect("POST", &unit.path(), token, query.clone(), 401, "Unauthorized");
    }
    let bearer = format!("bearer {key}");
    assert_eq!(server.http("GET", &list, Some(&bearer), "").0, 200);
    assert_eq!(server.http("POST", &unit.path(), Some(&key), query.clone()).0, 200);

    let key = Some(key.as_str());
    let elsewhere = "00000000-0000-4000-8000-000000000000";
    expect("GET", &format!("/v1/tke/{elsewhere}/hsms"), key, String::new(), 404, "no such service instance");
    let path = format!("/v1/tke/{elsewhere}/hsms/{}", unit.hsm_id);
    expect("POST", &path, key, query.clone(), 404, "no such service instance");
    expect("POST", &format!("{list}/{elsewhere}"), key, query.clone(), 404, "there is no crypto unit");

    let post = |body: String, text: &str| expect("POST", &unit.path(), key, body, 400, text);
    post(String::new(), "the body is not");
    post("{\"request\": 7}".to_owned(), "the body is not");
    post(json!({ "request": "abc" }).to_string(), "not hexadecimal");
    post(json!({ "request": "zz" }).to_string(), "not hexadecimal");
    post(json!({ "request": "" }).to_string(), "no administrative command");
    post(json!({ "request": "3003020101" }).to_string(), "no administrative command");
    post(json!({ "request": "00".repeat((64 << 10) + 1) }).to_string(), "at most 65536");
    post(json!({ "request": "00".repeat(1 << 20) }).to_string(), "length limit");

    server
        .block_on(server.support().stop_unit(tke::UnitRequest { hsm_id: unit.hsm_id.clone() }))
        .expect("stop");
    expect("POST", &unit.path(), key, query, 503, "powered off");
    let (_, listed) = server.http("GET", &list, key, "");
    assert_eq!(listed["hsms"][0]["state"], "stopped");
}
