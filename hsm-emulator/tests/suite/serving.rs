//! What a running instance says of itself: its health, and how each unit is.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::server::Server;
use hsm_proto::{kms, tke};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Within a few seconds: the server looks once a second.
fn wait_for(server: &Server, service: &str, expected: ServingStatus) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let request = HealthCheckRequest { service: service.to_owned() };
        let found = server.block_on(HealthClient::new(server.channel()).check(request));
        if found.expect("health").into_inner().status() == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{service} does not become {expected:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn health_follows_the_units_that_serve() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(&dir.path().join("hsm"), &[]);
    let services = ["hsm.kms.v1.Kms", "hsm.tokens.v1.Tokens"];
    services.iter().for_each(|service| wait_for(&server, service, ServingStatus::Serving));
    let operational: Vec<String> =
        server.list_units().units.iter().take(2).map(|unit| unit.hsm_id.clone()).collect();
    for hsm_id in &operational {
        let one = tke::UnitRequest { hsm_id: hsm_id.clone() };
        server.block_on(server.support().stop_unit(one)).expect("stop");
    }
    services.iter().for_each(|service| wait_for(&server, service, ServingStatus::NotServing));
    wait_for(&server, "hsm.tke.v1.Tke", ServingStatus::Serving);
    let one = tke::UnitRequest { hsm_id: operational[0].clone() };
    server.block_on(server.support().start_unit(one)).expect("start");
    services.iter().for_each(|service| wait_for(&server, service, ServingStatus::Serving));
}

#[test]
fn units_without_the_master_key_are_named_in_the_list() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("hsm");
    let server = Server::start(&state, &[]);
    let add = tke::AddUnitRequest { r#type: tke::UnitType::Operational.into(), old_firmware: false };
    let added = server.block_on(server.support().add_unit(add)).expect("add").into_inner();
    let stop = tke::UnitRequest { hsm_id: server.list_units().units[0].hsm_id.clone() };
    server.block_on(server.support().stop_unit(stop)).expect("stop");
    assert_eq!(added.state, "no master key");
    let listed: Vec<String> = server.list_units().units.iter().map(|unit| unit.state.clone()).collect();
    assert_eq!(listed, ["stopped", "running", "no master key", "running", "running"]);
    let mut list = Command::new(env!("CARGO_BIN_EXE_hsm-emulator"));
    let output = list.args(["unit", "list", "--state"]).arg(&state).output().expect("hsm-emulator");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let line = printed.lines().find(|line| line.contains(&added.serial_number)).expect("the unit's line");
    assert!(line.contains("   no master key      "), "{printed}");
}

#[test]
fn a_damaged_unit_is_listed_and_answers_nothing_until_it_is_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("hsm");
    let before = {
        let server = Server::start(&state, &[]);
        server.list_units()
    };
    let path = state.join("units/00/state");
    let mut bytes = fs::read(&path).expect("state");
    bytes[60] ^= 1;
    fs::write(&path, bytes).expect("damage");
    let server = Server::start(&state, &[]);
    let mut expected = before.clone();
    expected.units[0].state = "damaged".to_owned();
    assert_eq!(server.list_units(), expected);
    assert!(server.log().contains("A CRYPTO UNIT IS DAMAGED"), "{}", server.log());
    let hsm_id = before.units[0].hsm_id.clone();
    let submit = tke::SubmitRequest { hsm_id: hsm_id.clone(), request: b"anything".to_vec() };
    let refused = server.block_on(server.tke().submit(submit)).expect_err("damaged");
    assert_eq!(refused.code(), tonic::Code::DataLoss);
    assert!(refused.message().contains(&format!("crypto unit {hsm_id} is damaged")), "{refused}");
    let create = kms::CreateRootKeyRequest { name: "orders".into(), material: Vec::new() };
    server.block_on(server.kms().create_root_key(create)).expect("the other one serves");
    let removed = server.block_on(server.support().remove_unit(tke::UnitRequest { hsm_id })).expect("remove");
    assert_eq!(removed.into_inner().serial_number, before.units[0].serial_number);
    assert_eq!(server.list_units().units, before.units[1..]);
}
