//! Administrative commands against one crypto unit: quorum, imprint mode, registers, counter.

use crate::common::operator::{Operator, adopt, load, send, send_at, status, transfer};
use hsm_emulator::units::administration::{control_point, permission};
use hsm_emulator::units::command::{Command, DomainAttributes, RegisterState, UnitType};
use hsm_emulator::units::{Attributes, CryptoUnit, Refusal, TransportedKey, VerificationPattern, vendor};
use proptest::prelude::*;

fn new_unit(unit_type: UnitType) -> (tempfile::TempDir, CryptoUnit) {
    let dir = tempfile::tempdir().expect("dir");
    let unit = CryptoUnit::create(&dir.path().join("unit"), "[us-south].[AZ1-CS1].[00].[00]", unit_type, &[])
        .expect("unit");
    (dir, unit)
}

fn thresholds(signature: u32, revocation: u32) -> Command {
    Command::SetAttributes(DomainAttributes {
        signature_threshold: Some(signature),
        revocation_threshold: Some(revocation),
        permissions: None,
    })
}

#[test]
fn imprint_mode_takes_administrators_and_refuses_master_keys() {
    let (_dir, unit) = new_unit(UnitType::Recovery);
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    for command in [
        Command::GenerateImporterKey,
        Command::GenerateMasterKey,
        Command::ImportMasterKey(Vec::new()),
        Command::SetImmediate,
        Command::ClearNew,
        Command::ClearCurrent,
        Command::ExportCurrent(Vec::new()),
        Command::ExportPending(Vec::new()),
        Command::SetControlPoints(vec![control_point::BTC]),
    ] {
        assert_eq!(send(&unit, command.clone(), &[]), Err(Refusal::IMPRINT_MODE), "{command:?}");
    }
    assert_eq!(send(&unit, thresholds(1, 1), &[]), Err(Refusal::THRESHOLD_ABOVE_ADMINISTRATORS));
    let add = |who: &Operator| Command::AddAdministrator(who.administrator.clone());
    send(&unit, add(&a), &[]).expect("add");
    assert_eq!(send(&unit, add(&a), &[]), Err(Refusal::ADMINISTRATOR_INSTALLED));
    send(&unit, Command::RemoveAdministrator(a.id()), &[]).expect("remove");
    assert_eq!(send(&unit, Command::RemoveAdministrator(a.id()), &[]), Err(Refusal::UNKNOWN_ADMINISTRATOR));
    send(&unit, add(&a), &[]).expect("add");
    send(&unit, add(&b), &[]).expect("add");
    assert_eq!(send(&unit, thresholds(0, 1), &[&a]), Err(Refusal::THRESHOLD_ZERO));
    assert_eq!(send(&unit, thresholds(1, 0), &[&a]), Err(Refusal::LEAVING_WITH_REVOCATION_ZERO));
    let signature_alone = Command::SetAttributes(DomainAttributes {
        signature_threshold: Some(1),
        ..DomainAttributes::default()
    });
    assert_eq!(send(&unit, signature_alone, &[&a]), Err(Refusal::REVOCATION_THRESHOLD_MISSING));
    assert_eq!(send(&unit, thresholds(2, 3), &[&a, &b]), Err(Refusal::REVOCATION_ABOVE_ADMINISTRATORS));
    // Leaving needs as many signatures as the new threshold, and one administrator counts once.
    assert_eq!(send(&unit, thresholds(2, 1), &[&a]), Err(Refusal::TOO_FEW_SIGNATURES));
    assert_eq!(send(&unit, thresholds(2, 1), &[&a, &a]), Err(Refusal::TOO_FEW_SIGNATURES));
    assert!(status(&unit).in_imprint_mode());
    send(&unit, thresholds(2, 1), &[&a, &b]).expect("leave imprint mode");
    assert!(!status(&unit).in_imprint_mode());
}

#[test]
fn later_changes_need_the_thresholds_that_are_set() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let (a, b, c) = (Operator::new("a"), Operator::new("b"), Operator::new("c"));
    adopt(&unit, &[&a, &b], 1);
    // 1 to 2 takes one signature, 2 to 1 takes two.
    send(&unit, thresholds(2, 2), &[&a]).expect("raise");
    assert_eq!(send(&unit, thresholds(1, 1), &[&a]), Err(Refusal::TOO_FEW_SIGNATURES));
    assert_eq!(send(&unit, thresholds(3, 2), &[&a, &b]), Err(Refusal::THRESHOLD_ABOVE_ADMINISTRATORS));
    assert_eq!(send(&unit, thresholds(0, 1), &[&a, &b]), Err(Refusal::THRESHOLD_ZERO));
    assert_eq!(send(&unit, thresholds(1, 0), &[&a, &b]), Err(Refusal::REVOCATION_ZERO));
    assert_eq!(send(&unit, Command::RemoveAdministrator(b.id()), &[&a, &b]), Err(Refusal::BELOW_THRESHOLD));
    assert_eq!(
        send(&unit, Command::AddAdministrator(c.administrator.clone()), &[&c]),
        Err(Refusal::UNKNOWN_SIGNER)
    );
    send(&unit, Command::AddAdministrator(c.administrator.clone()), &[&a, &b]).expect("add");
    send(&unit, thresholds(1, 1), &[&b, &c]).expect("lower");
    send(&unit, Command::RemoveAdministrator(a.id()), &[&b]).expect("remove");
    send(&unit, Command::RemoveAdministrator(b.id()), &[&c]).expect("remove");
    assert_eq!(send(&unit, Command::RemoveAdministrator(c.id()), &[&c]), Err(Refusal::LAST_ADMINISTRATOR));
    for i in 1..8 {
        let more = Operator::new(&format!("more {i}"));
        send(&unit, Command::AddAdministrator(more.administrator), &[&c]).expect("add");
    }
    let ninth = Operator::new("ninth").administrator;
    assert_eq!(send(&unit, Command::AddAdministrator(ninth), &[&c]), Err(Refusal::TOO_MANY_ADMINISTRATORS));
}

#[test]
fn permissions_are_kept() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    let set = |permissions: u32| {
        Command::SetAttributes(DomainAttributes {
            permissions: Some(permissions),
            ..DomainAttributes::default()
        })
    };
    let now = status(&unit).permissions;
    // An operational unit never gives its master key away, whoever signs.
    for forbidden in [permission::EXPORT, permission::RANDOM] {
        assert_eq!(send(&unit, set(now | forbidden), &[&a]), Err(Refusal::ATTRIBUTE_NOT_PERMITTED));
    }
    assert_eq!(send(&unit, Command::GenerateMasterKey, &[&a]), Err(Refusal::RANDOM_NOT_PERMITTED));
    assert_eq!(send(&unit, set(now & !permission::THRESHOLD_OF_ONE), &[&a]), Err(Refusal::ONE_NOT_PERMITTED));
    send(&unit, set(now & !permission::SINGLE_PART), &[&a]).expect("set");
    assert_eq!(load(&unit, &[1], &a), Err(Refusal::SINGLE_PART_NOT_PERMITTED));
    send(&unit, set(now & !permission::IMPORT), &[&a]).expect("set");
    assert_eq!(load(&unit, &[1, 2], &a), Err(Refusal::IMPORT_NOT_PERMITTED));
    send(&unit, set(now & !permission::CHANGE_SIGNATURE_THRESHOLD), &[&a]).expect("set");
    let b = Operator::new("b");
    send(&unit, Command::AddAdministrator(b.administrator.clone()), &[&a]).expect("add");
    assert_eq!(send(&unit, thresholds(2, 1), &[&a]), Err(Refusal::THRESHOLD_LOCKED));
}

#[test]
fn what_was_signed_is_good_for_one_attempt() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    adopt(&unit, &[&a, &b], 1);
    let counter = status(&unit).counter;
    // Two administrators at the same time: the later one gets the counter error, and can try again.
    send_at(&unit, counter + 1, Command::GenerateImporterKey, &[&a]).expect("first");
    assert_eq!(send_at(&unit, counter + 1, Command::ClearNew, &[&b]), Err(Refusal::COUNTER));
    send_at(&unit, counter + 2, Command::ClearNew, &[&b]).expect("again");
    // Refused because of the unit's state, but rightly signed: it must not become good later.
    assert_eq!(send_at(&unit, counter + 3, Command::SetImmediate, &[&a]), Err(Refusal::NO_PENDING_KEY));
    assert_eq!(send_at(&unit, counter + 3, Command::SetImmediate, &[&a]), Err(Refusal::COUNTER));
    // Not rightly signed: nothing happens.
    assert_eq!(send_at(&unit, counter + 4, Command::SetImmediate, &[]), Err(Refusal::TOO_FEW_SIGNATURES));
    assert_eq!(status(&unit).counter, counter + 3);
    send(&unit, Command::Zeroize, &[&a]).expect("zeroize");
    assert_eq!(status(&unit).counter, counter + 4);
}

#[test]
fn key_parts_make_a_master_key_that_survives_a_restart() {
    let (dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    assert_eq!(send(&unit, Command::ImportMasterKey(Vec::new()), &[&a]), Err(Refusal::PARTS_INVALID));
    assert_eq!(load(&unit, &[1, 1], &a), Err(Refusal::PARTS_INVALID));
    assert_eq!(load(&unit, &[1, 2, 3, 4], &a), Err(Refusal::PARTS_INVALID));
    let pattern = load(&unit, &[0x11, 0x22], &a).expect("load");
    assert!(pattern.to_hex().starts_with("40910b8c96ef4c8fcc342a1c45a4135f"));
    assert_eq!(status(&unit).new_register.state, RegisterState::FullUncommitted);
    let other = load(&unit, &[0x11, 0x33], &a).expect("load over it");
    assert_eq!(send(&unit, Command::CommitMasterKey(pattern), &[&a]), Err(Refusal::PATTERN_MISMATCH));
    send(&unit, Command::CommitMasterKey(other), &[&a]).expect("commit");
    drop(unit);
    let unit = CryptoUnit::open(&dir.path().join("unit")).expect("open");
    assert_eq!(status(&unit).new_register.state, RegisterState::FullCommitted);
    send(&unit, Command::SetImmediate, &[&a]).expect("set");
    assert_eq!(unit.verification_pattern(), Some(other));
    assert_eq!(load(&unit, &[0x11, 0x33], &a), Err(Refusal::SAME_KEY));
    let blob = unit.seal(&Attributes::new(), &Attributes::new()).expect("seal");
    send(&unit, Command::ClearCurrent, &[&a]).expect("clear");
    assert_eq!(unit.unseal(&blob).expect_err("no key").code, vendor::CKR_IBM_WK_NOT_INITIALIZED);
    // The same parts are the same key.
    let again = load(&unit, &[0x33, 0x11], &a).expect("load");
    send(&unit, Command::CommitMasterKey(again), &[&a]).expect("commit");
    send(&unit, Command::SetImmediate, &[&a]).expect("set");
    unit.unseal(&blob).expect("readable again");
}

#[test]
fn a_recovery_unit_makes_a_master_key_and_gives_it_to_others() {
    let (_dirs, recovery) = new_unit(UnitType::Recovery);
    let (_dir, unit) = new_unit(UnitType::Operational);
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    adopt(&recovery, &[&a, &b], 2);
    adopt(&unit, &[&a, &b], 2);
    assert_eq!(transfer(&recovery, &unit, Command::ExportCurrent, &[&a, &b]), Err(Refusal::NO_CURRENT_KEY));
    send(&recovery, Command::GenerateMasterKey, &[&a]).expect("random");
    assert_eq!(status(&recovery).current_register.state, RegisterState::Valid);
    // Exporting takes the signature threshold.
    assert_eq!(transfer(&recovery, &unit, Command::ExportCurrent, &[&a]), Err(Refusal::TOO_FEW_SIGNATURES));
    let pattern = transfer(&recovery, &unit, Command::ExportCurrent, &[&a, &b]).expect("transfer");
    send(&unit, Command::CommitMasterKey(pattern), &[&a, &b]).expect("commit");
    send(&unit, Command::SetImmediate, &[&a]).expect("set");
    assert_eq!(unit.verification_pattern(), recovery.verification_pattern());
    assert_eq!(
        transfer(&unit, &recovery, Command::ExportCurrent, &[&a, &b]),
        Err(Refusal::EXPORT_NOT_PERMITTED)
    );
    // With a current key, the next random one is pending.
    send(&recovery, Command::GenerateMasterKey, &[&a]).expect("random");
    assert_eq!(status(&recovery).new_register.state, RegisterState::FullUncommitted);
    assert_eq!(send(&recovery, Command::GenerateMasterKey, &[&a]), Err(Refusal::BOTH_REGISTERS_FULL));
    transfer(&recovery, &unit, Command::ExportPending, &[&a, &b]).expect("transfer");
}

#[test]
fn altered_commands_and_answers_are_not_believed() {
    use der::Encode;
    use hsm_emulator::units::command::{AnswerError, CommandBlock, Request, read_answer};
    let (_dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    let counter = status(&unit).counter + 1;
    let block = CommandBlock { command: Command::ClearNew, serial: unit.serial(), counter };
    let block = block.to_der().expect("block");
    let signature = a.sign(&block);
    let request = Request::new(block, vec![signature]).expect("request").to_der().expect("DER");
    let module_key = status(&unit).module_key().expect("key");
    // A changed command is never carried out: refused, or not a command at all.
    for position in 0..request.len() {
        let mut altered = request.clone();
        altered[position] ^= 1;
        if let Ok(executed) = unit.execute(&altered) {
            let refused =
                read_answer(&module_key, &unit.serial(), &altered, &executed.response).expect("answer");
            assert!(refused.is_err(), "byte {position}");
        }
        assert_eq!(status(&unit).counter, counter - 1, "byte {position}");
    }
    let response = unit.execute(&request).expect("execute").response;
    for position in 0..response.len() {
        let mut altered = response.clone();
        altered[position] ^= 1;
        read_answer(&module_key, &unit.serial(), &request, &altered).expect_err("altered");
    }
    let other = read_answer(&module_key, &unit.serial(), b"another request", &response);
    assert_eq!(other, Err(AnswerError::Signature));
    assert_eq!(read_answer(&module_key, "OTHERONE", &request, &response), Err(AnswerError::Serial));
    read_answer(&module_key, &unit.serial(), &request, &response).expect("answer").expect("done");
}

fn attributes(permissions: u32) -> Command {
    Command::SetAttributes(DomainAttributes { permissions: Some(permissions), ..DomainAttributes::default() })
}

#[test]
fn what_is_locked_stays_locked_until_the_unit_is_zeroized() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    adopt(&unit, &[&a, &b], 1);
    let open = status(&unit).permissions;
    for lock in [
        permission::CHANGE_SIGNATURE_THRESHOLD,
        permission::CHANGE_REVOCATION_THRESHOLD,
        permission::CHANGE_MODULE_ADMINISTRATORS,
    ] {
        let now = status(&unit).permissions;
        send(&unit, attributes(now & !lock), &[&a]).expect("lock");
        assert_eq!(send(&unit, attributes(now), &[&a]), Err(Refusal::ATTRIBUTE_NOT_PERMITTED));
        assert_eq!(send(&unit, attributes(open), &[&a]), Err(Refusal::ATTRIBUTE_NOT_PERMITTED));
        assert_eq!(status(&unit).permissions, now & !lock);
    }
    assert_eq!(send(&unit, thresholds(2, 1), &[&a]), Err(Refusal::THRESHOLD_LOCKED));
    assert_eq!(send(&unit, thresholds(1, 2), &[&a]), Err(Refusal::THRESHOLD_LOCKED));
    // Whether module administrators count cannot be changed any more either, in neither direction.
    let now = status(&unit).permissions;
    let flipped = now ^ permission::WITHOUT_MODULE_ADMINISTRATORS;
    assert_eq!(send(&unit, attributes(flipped), &[&a]), Err(Refusal::ATTRIBUTE_NOT_PERMITTED));
    send(&unit, Command::Zeroize, &[&a]).expect("zeroize");
    adopt(&unit, &[&a, &b], 1);
    assert_eq!(status(&unit).permissions, open);
    // While it is not locked, it may be.
    send(&unit, attributes(open ^ permission::WITHOUT_MODULE_ADMINISTRATORS), &[&a]).expect("change");
    send(&unit, attributes(open), &[&a]).expect("and back");
}

#[test]
fn a_single_administrator_is_not_left_where_one_signature_is_not_permitted() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let (a, b) = (Operator::new("a"), Operator::new("b"));
    adopt(&unit, &[&a, &b], 2);
    let permissions = status(&unit).permissions & !permission::THRESHOLD_OF_ONE;
    send(&unit, attributes(permissions), &[&a, &b]).expect("forbid");
    let remove = Command::RemoveAdministrator(b.id());
    assert_eq!(send(&unit, remove, &[&a, &b]), Err(Refusal::SECOND_LAST_ADMINISTRATOR));
    assert_eq!(send(&unit, thresholds(1, 2), &[&a, &b]), Err(Refusal::THRESHOLD_OF_ONE));
    assert_eq!(send(&unit, thresholds(2, 1), &[&a, &b]), Err(Refusal::REVOCATION_OF_ONE));
}

#[test]
fn control_points_are_set_and_never_reset() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    let (eddsa, btc, other) = (control_point::ALG_EC_25519, control_point::BTC, control_point::ECDSA_OTHER);
    let points = || status(&unit).control_points;
    send(&unit, Command::SetControlPoints(vec![btc, btc]), &[&a]).expect("add");
    assert_eq!(points(), [btc]);
    for unknown in [Command::SetControlPoints(vec![btc, 1]), Command::ReplaceControlPoints(vec![btc, 1])] {
        assert_eq!(send(&unit, unknown, &[&a]), Err(Refusal::CONTROL_POINT_NOT_SETTABLE));
    }
    send(&unit, Command::ReplaceControlPoints(vec![other, btc]), &[&a]).expect("the whole list");
    assert_eq!(points(), [btc, other]);
    for resetting in [
        Command::ReplaceControlPoints(vec![eddsa, btc]),
        Command::DeleteControlPoints(vec![btc]),
        Command::DeleteControlPoints(vec![eddsa]),
    ] {
        assert_eq!(send(&unit, resetting, &[&a]), Err(Refusal::CONTROL_POINT_NOT_RESETTABLE));
    }
    for odd in [vec![], vec![btc; 129]] {
        assert_eq!(send(&unit, Command::SetControlPoints(odd), &[&a]), Err(Refusal::MALFORMED));
    }
    assert_eq!(points(), [btc, other]);
    // The firmware has them still.
    send(&unit, Command::Zeroize, &[&a]).expect("zeroize");
    assert_eq!(points(), [btc, other]);
}

/// EP11's block, of which the library encodes only what it would send itself.
#[derive(der::Sequence)]
struct RawBlock {
    function: u32,
    serial: String,
    counter: u64,
    payload: der::asn1::OctetString,
}

#[derive(der::Sequence)]
struct RawAttribute {
    index: u32,
    value: u32,
}

#[test]
fn attributes_that_follow_from_what_the_unit_is_cannot_be_set() {
    use der::Encode;
    let (_dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    let before = status(&unit);
    let cases = [
        (4, Refusal::ATTRIBUTE_NOT_PERMITTED),
        (5, Refusal::ATTRIBUTE_NOT_PERMITTED),
        (0, Refusal::MALFORMED),
        (6, Refusal::MALFORMED),
    ];
    for (index, refusal) in cases {
        let payload = vec![RawAttribute { index: 1, value: 1 }, RawAttribute { index, value: 1 }];
        let payload = der::asn1::OctetString::new(payload.to_der().expect("DER")).expect("octets");
        let block = RawBlock { function: 8, serial: unit.serial(), counter: before.counter + 1, payload };
        let block = block.to_der().expect("DER");
        let signature = a.sign(&block);
        assert_eq!(submit(&unit, block, vec![signature]), Err(refusal), "attribute {index}");
    }
    assert_eq!(status(&unit), before);
}

#[test]
fn a_unit_takes_no_oversized_names_and_no_more_signatures_than_administrators() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    // The library makes no such administrator; its DER is put together by hand.
    for name in [format!("{}a", " ".repeat(100_000)), "x".repeat(31), " ".repeat(5), "a\nb".to_owned()] {
        let payload = der::Encode::to_der(&RawAdministrator {
            name: name.clone(),
            public_key: der::asn1::OctetString::new(Operator::new("b").point()).expect("octets"),
        });
        let counter = status(&unit).counter + 1;
        let payload = der::asn1::OctetString::new(payload.expect("DER")).expect("octets");
        let block = RawBlock { function: 2, serial: unit.serial(), counter, payload };
        let block = der::Encode::to_der(&block).expect("DER");
        let signature = a.sign(&block);
        assert_eq!(submit(&unit, block, vec![signature]), Err(Refusal::MALFORMED), "{} chars", name.len());
    }
    assert_eq!(status(&unit).administrators.len(), 1);
    send(&unit, Command::ClearNew, &[&a; 8]).expect("eight signatures");
    assert_eq!(send(&unit, Command::ClearNew, &[&a; 9]), Err(Refusal::MALFORMED));
}

#[derive(der::Sequence)]
struct RawAdministrator {
    name: String,
    public_key: der::asn1::OctetString,
}

fn submit(
    unit: &CryptoUnit,
    block: Vec<u8>,
    signatures: Vec<hsm_emulator::units::command::Signature>,
) -> Result<Vec<u8>, Refusal> {
    use hsm_emulator::units::command::{Request, read_answer};
    let request = Request::new(block, signatures).expect("request");
    let request = der::Encode::to_der(&request).expect("DER");
    let response = unit.execute(&request).expect("execute").response;
    let module_key = status(unit).module_key().expect("module key");
    read_answer(&module_key, &unit.serial(), &request, &response).expect("answer")
}

/// Every command, in imprint mode and after, with one signature too few and with enough: the table of tke.md 1.5.
/// The thresholds are 3 and 2, so that no two rows of the table look alike.
#[test]
fn every_command_takes_the_signatures_that_the_table_says() {
    let people: Vec<Operator> = (0..4).map(|i| Operator::new(&format!("person {i}"))).collect();
    let stranger = Operator::new("stranger");
    let importer = {
        let (_dir, other) = new_unit(UnitType::Operational);
        adopt(&other, &[&stranger], 1);
        send(&other, Command::GenerateImporterKey, &[&stranger]).expect("importer key")
    };
    let leave = Command::SetAttributes(DomainAttributes {
        signature_threshold: Some(3),
        revocation_threshold: Some(2),
        permissions: None,
    });
    // What it needs in imprint mode (`None`: refused), and after; what the unit says to enough signatures.
    type Row = (Command, Option<usize>, usize, Result<(), Refusal>);
    let rows = |zeroize: usize| -> Vec<Row> {
        let pattern = pattern_of(0);
        vec![
            (Command::AddAdministrator(stranger.administrator.clone()), Some(0), 3, Ok(())),
            (Command::RemoveAdministrator(people[3].id()), Some(0), 2, Ok(())),
            (leave.clone(), Some(3), 3, Ok(())),
            (Command::GenerateImporterKey, None, 1, Ok(())),
            (Command::GenerateMasterKey, None, 1, Ok(())),
            (Command::ExportCurrent(importer.clone()), None, 3, Err(Refusal::NO_CURRENT_KEY)),
            (Command::ExportPending(importer.clone()), None, 3, Err(Refusal::NO_PENDING_KEY)),
            (Command::ImportMasterKey(Vec::new()), None, 1, Err(Refusal::PARTS_INVALID)),
            (Command::CommitMasterKey(pattern), None, 3, Err(Refusal::NO_PENDING_KEY)),
            (Command::SetImmediate, None, 1, Err(Refusal::NO_PENDING_KEY)),
            (Command::ClearNew, None, 1, Ok(())),
            (Command::ClearCurrent, None, 1, Ok(())),
            (Command::SetControlPoints(vec![control_point::BTC]), None, 3, Ok(())),
            (Command::ReplaceControlPoints(vec![control_point::BTC]), None, 3, Ok(())),
            (
                Command::DeleteControlPoints(vec![control_point::BTC]),
                None,
                3,
                Err(Refusal::CONTROL_POINT_NOT_RESETTABLE),
            ),
            (Command::Zeroize, Some(0), zeroize, Ok(())),
        ]
    };
    for zeroize_with_one in [false, true] {
        for imprint in [true, false] {
            for (command, in_imprint, after, outcome) in rows(if zeroize_with_one { 1 } else { 3 }) {
                let Some(needed) = (if imprint { in_imprint } else { Some(after) }) else {
                    let unit = prepared(&people, &leave, imprint, zeroize_with_one);
                    let all: Vec<&Operator> = people.iter().collect();
                    assert_eq!(send(&unit.1, command, &all), Err(Refusal::IMPRINT_MODE));
                    continue;
                };
                for count in needed.saturating_sub(1)..=needed {
                    let unit = prepared(&people, &leave, imprint, zeroize_with_one);
                    let before = status(&unit.1);
                    let signers: Vec<&Operator> = people.iter().take(count).collect();
                    let found = send(&unit.1, command.clone(), &signers).map(drop);
                    if count < needed {
                        assert_eq!(found, Err(Refusal::TOO_FEW_SIGNATURES), "{command:?} by {count}");
                        assert_eq!(status(&unit.1), before);
                    } else {
                        assert_eq!(found, outcome, "{command:?} by {count}, imprint: {imprint}");
                    }
                }
            }
        }
    }
}

/// A recovery unit with these administrators, in imprint mode or after.
fn prepared(
    people: &[Operator],
    leave: &Command,
    imprint: bool,
    zeroize_with_one: bool,
) -> (tempfile::TempDir, CryptoUnit) {
    let (dir, unit) = new_unit(UnitType::Recovery);
    for person in people {
        send(&unit, Command::AddAdministrator(person.administrator.clone()), &[]).expect("add");
    }
    if !imprint {
        let Command::SetAttributes(attributes) = leave else { panic!("no thresholds") };
        let mut wanted = crate::common::operator::permissions(&unit);
        if !zeroize_with_one {
            wanted &= !permission::ZEROIZE_WITH_ONE;
        }
        let command = Command::SetAttributes(DomainAttributes { permissions: Some(wanted), ..*attributes });
        send(&unit, command, &people.iter().collect::<Vec<_>>()).expect("leave imprint mode");
    }
    (dir, unit)
}

#[test]
fn zeroizing_empties_every_state_of_the_registers() {
    for current in [false, true] {
        for new in 0..3 {
            let (dir, unit) = new_unit(UnitType::Operational);
            let a = Operator::new("a");
            adopt(&unit, &[&a], 1);
            if current {
                let pattern = load(&unit, &[1, 2], &a).expect("load");
                send(&unit, Command::CommitMasterKey(pattern), &[&a]).expect("commit");
                send(&unit, Command::SetImmediate, &[&a]).expect("set");
            }
            if new > 0 {
                let pattern = load(&unit, &[1, 4], &a).expect("load");
                if new > 1 {
                    send(&unit, Command::CommitMasterKey(pattern), &[&a]).expect("commit");
                }
            }
            let sealed = unit.seal(&Attributes::new(), &Attributes::new());
            assert_eq!(sealed.is_ok(), current);
            send(&unit, Command::Zeroize, &[&a]).expect("zeroize");
            let check = |unit: &CryptoUnit| {
                let now = status(unit);
                assert!(now.in_imprint_mode() && now.administrators.is_empty());
                assert_eq!((now.signature_threshold, now.revocation_threshold), (0, 0));
                assert_eq!(now.current_register.state, RegisterState::Empty);
                assert_eq!(now.new_register.state, RegisterState::Empty);
                if let Ok(blob) = &sealed {
                    assert_eq!(
                        unit.unseal(blob).expect_err("no key").code,
                        vendor::CKR_IBM_WK_NOT_INITIALIZED
                    );
                }
            };
            check(&unit);
            drop(unit);
            check(&CryptoUnit::open(&dir.path().join("unit")).expect("open"));
        }
    }
}

#[test]
fn a_load_takes_an_importer_key_of_its_own() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let a = Operator::new("a");
    adopt(&unit, &[&a], 1);
    let importer = send(&unit, Command::GenerateImporterKey, &[&a]).expect("importer key");
    let parts: Vec<_> = [1, 2]
        .iter()
        .map(|byte| TransportedKey::wrap(&crate::common::operator::part(*byte), &importer).expect("wrap"))
        .collect();
    send(&unit, Command::ImportMasterKey(parts.clone()), &[&a]).expect("load");
    // The importer key is used up.
    assert_eq!(send(&unit, Command::ImportMasterKey(parts.clone()), &[&a]), Err(Refusal::NO_IMPORTER_KEY));
    // Another one does not open what was wrapped for the first.
    send(&unit, Command::GenerateImporterKey, &[&a]).expect("importer key");
    assert_eq!(send(&unit, Command::ImportMasterKey(parts), &[&a]), Err(Refusal::PARTS_INVALID));
}

#[test]
fn only_a_recovery_unit_exports_and_generates() {
    for unit_type in [UnitType::Operational, UnitType::Recovery, UnitType::Failover] {
        let (_dir, unit) = new_unit(unit_type);
        let (_target_dir, target) = new_unit(UnitType::Operational);
        let a = Operator::new("a");
        adopt(&unit, &[&a], 1);
        adopt(&target, &[&a], 1);
        let pattern = load(&unit, &[1, 2], &a).expect("load");
        let pending = transfer(&unit, &target, Command::ExportPending, &[&a]);
        send(&unit, Command::CommitMasterKey(pattern), &[&a]).expect("commit");
        send(&unit, Command::SetImmediate, &[&a]).expect("set");
        let current = transfer(&unit, &target, Command::ExportCurrent, &[&a]);
        let random = send(&unit, Command::GenerateMasterKey, &[&a]).map(drop);
        if unit_type == UnitType::Recovery {
            assert_eq!((pending, current, random), (Ok(pattern), Ok(pattern), Ok(())));
        } else {
            assert_eq!(pending, Err(Refusal::EXPORT_NOT_PERMITTED));
            assert_eq!(current, Err(Refusal::EXPORT_NOT_PERMITTED));
            assert_eq!(random, Err(Refusal::RANDOM_NOT_PERMITTED));
            let granted = status(&unit).permissions | permission::EXPORT;
            assert_eq!(send(&unit, attributes(granted), &[&a]), Err(Refusal::ATTRIBUTE_NOT_PERMITTED));
        }
        let no_key = Command::ExportCurrent(b"no importer key".to_vec());
        let refused =
            if unit_type == UnitType::Recovery { Refusal::MALFORMED } else { Refusal::EXPORT_NOT_PERMITTED };
        assert_eq!(send(&unit, no_key, &[&a]), Err(refused));
    }
}

/// Two sessions sign for the same counter, a hundred times: one wins, the other is told, and succeeds when it asks
/// for the counter again.
#[test]
fn of_two_administrators_at_once_one_wins_and_the_other_tries_again() {
    let (_dir, unit) = new_unit(UnitType::Operational);
    let operators = [Operator::new("a"), Operator::new("b")];
    adopt(&unit, &operators.iter().collect::<Vec<_>>(), 1);
    let start = std::sync::Barrier::new(2);
    let first = status(&unit).counter;
    const ROUNDS: u64 = 50;
    let lost: u64 = std::thread::scope(|scope| {
        let sessions: Vec<_> = operators
            .iter()
            .map(|operator| {
                let (unit, start) = (&unit, &start);
                scope.spawn(move || {
                    let mut lost = 0;
                    for round in 0..ROUNDS {
                        let counter = status(unit).counter + 1;
                        assert_eq!(counter, first + 2 * round + 1);
                        start.wait();
                        match send_at(unit, counter, Command::ClearNew, &[operator]) {
                            Ok(_) => {}
                            Err(refusal) => {
                                assert_eq!(refusal, Refusal::COUNTER);
                                assert_eq!((refusal.return_code, refusal.reason_code), (163, 19));
                                lost += 1;
                                send(unit, Command::ClearNew, &[operator]).expect("again");
                            }
                        }
                        start.wait();
                    }
                    lost
                })
            })
            .collect();
        sessions.into_iter().map(|session| session.join().expect("session")).sum()
    });
    assert_eq!(lost, ROUNDS, "exactly one loses each round");
    assert_eq!(status(&unit).counter, first + 2 * ROUNDS);
}

/// What an administrator might do next.
#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    Remove(usize),
    Thresholds { signature: u32, revocation: u32, zeroize_with_one: bool },
    Importer,
    Load(usize),
    Commit(usize),
    CommitPending,
    SetImmediate,
    Random,
    ExportCurrent,
    ExportPending,
    SetControlPoints(usize),
    ReplaceControlPoints(usize),
    DeleteControlPoints(usize),
    ClearNew,
    ClearCurrent,
    Zeroize,
    Replay,
    Restart,
}

/// Who signs.
#[derive(Clone, Debug)]
enum Signers {
    /// Only those of them who are administrators at that time.
    Administrators(Vec<usize>),
    Anybody(Vec<usize>),
}

/// Random steps; in most runs after the ones that bring a unit out of imprint mode, so that they get somewhere.
fn steps() -> impl Strategy<Value = Vec<(Step, Signers)>> {
    let thresholds = Step::Thresholds { signature: 2, revocation: 1, zeroize_with_one: true };
    let mut begun: Vec<_> = (0..3).map(|who| (Step::Add(who), Signers::Anybody(Vec::new()))).collect();
    begun.push((thresholds, Signers::Anybody(vec![0, 1])));
    let begin = prop_oneof![3 => Just(begun), 1 => Just(Vec::new())];
    (begin, proptest::collection::vec(step(), 1..60)).prop_map(|(begin, then)| [begin, then].concat())
}

fn step() -> impl Strategy<Value = (Step, Signers)> {
    let thresholds =
        (0..4u32, 0..4u32, any::<bool>()).prop_map(|(signature, revocation, zeroize_with_one)| {
            Step::Thresholds { signature, revocation, zeroize_with_one }
        });
    let step = prop_oneof![
        3 => (0..4usize).prop_map(Step::Add),
        1 => (0..4usize).prop_map(Step::Remove),
        4 => thresholds,
        1 => Just(Step::Importer),
        4 => (0..3usize).prop_map(Step::Load),
        2 => (0..3usize).prop_map(Step::Commit),
        5 => Just(Step::CommitPending),
        4 => Just(Step::SetImmediate),
        2 => Just(Step::Random),
        1 => Just(Step::ExportCurrent),
        1 => Just(Step::ExportPending),
        1 => (1..8usize).prop_map(Step::SetControlPoints),
        1 => (1..8usize).prop_map(Step::ReplaceControlPoints),
        1 => (1..8usize).prop_map(Step::DeleteControlPoints),
        1 => Just(Step::ClearNew),
        1 => Just(Step::ClearCurrent),
        1 => Just(Step::Zeroize),
        1 => Just(Step::Replay),
        1 => Just(Step::Restart),
    ];
    let who = || proptest::collection::vec(0..4usize, 0..4);
    let signers = prop_oneof![
        3 => who().prop_map(Signers::Administrators),
        1 => who().prop_map(Signers::Anybody),
    ];
    (step, signers)
}

/// What the unit must be like, told in the simplest way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    recovery: bool,
    administrators: Vec<usize>,
    signature: u32,
    revocation: u32,
    zeroize_with_one: bool,
    /// One bit each.
    control_points: usize,
    /// Which key.
    current: Option<usize>,
    /// Which key; committed?
    new: Option<(usize, bool)>,
    /// How many keys the unit has made itself.
    made: usize,
}

impl Model {
    /// How many signatures the step needs; `None` if imprint mode forbids it.
    fn needed(&self, step: &Step) -> Option<u32> {
        if self.signature == 0 {
            return match step {
                Step::Add(_) | Step::Remove(_) | Step::Zeroize => Some(0),
                Step::Thresholds { signature, .. } => Some(*signature),
                _ => None,
            };
        }
        Some(match step {
            Step::Add(_)
            | Step::Thresholds { .. }
            | Step::Commit(_)
            | Step::CommitPending
            | Step::ExportCurrent
            | Step::ExportPending
            | Step::SetControlPoints(_)
            | Step::ReplaceControlPoints(_)
            | Step::DeleteControlPoints(_) => self.signature,
            Step::Remove(_) => self.revocation,
            Step::Zeroize if !self.zeroize_with_one => self.signature,
            _ => 1,
        })
    }

    /// What becomes of a step by so many administrators; `None` if a stranger is among the signers.
    fn outcome(&self, step: &Step, signers: Option<u32>) -> Result<Self, Refusal> {
        let signers = signers.ok_or(Refusal::UNKNOWN_SIGNER)?;
        let needed = self.needed(step).ok_or(Refusal::IMPRINT_MODE)?;
        let after = self.after(step);
        // The one command that is looked at before its signatures are counted.
        let looked_at_first = self.signature == 0 && matches!(step, Step::Thresholds { .. });
        match after {
            Err(refusal) if looked_at_first => Err(refusal),
            _ if signers < needed => Err(Refusal::TOO_FEW_SIGNATURES),
            after => after,
        }
    }

    /// The state after a step that has signatures enough.
    fn after(&self, step: &Step) -> Result<Self, Refusal> {
        let mut next = self.clone();
        let no = |refused: bool, refusal: Refusal| if refused { Err(refusal) } else { Ok(()) };
        match step {
            Step::Add(who) => {
                no(self.administrators.contains(who), Refusal::ADMINISTRATOR_INSTALLED)?;
                next.administrators.push(*who);
            }
            Step::Remove(who) => {
                let position = self.administrators.iter().position(|a| a == who);
                next.administrators.remove(position.ok_or(Refusal::UNKNOWN_ADMINISTRATOR)?);
                let left = next.administrators.len() as u32;
                let outside = self.signature > 0;
                no(outside && left == 0, Refusal::LAST_ADMINISTRATOR)?;
                no(outside && left < self.signature.max(self.revocation), Refusal::BELOW_THRESHOLD)?;
            }
            Step::Thresholds { signature, revocation, zeroize_with_one } => {
                let installed = self.administrators.len() as u32;
                let leaving = self.signature == 0;
                no(leaving && *revocation == 0, Refusal::LEAVING_WITH_REVOCATION_ZERO)?;
                no(*signature == 0, Refusal::THRESHOLD_ZERO)?;
                no(*revocation == 0, Refusal::REVOCATION_ZERO)?;
                no(*signature > installed, Refusal::THRESHOLD_ABOVE_ADMINISTRATORS)?;
                no(*revocation > installed, Refusal::REVOCATION_ABOVE_ADMINISTRATORS)?;
                (next.signature, next.revocation) = (*signature, *revocation);
                next.zeroize_with_one = *zeroize_with_one;
            }
            Step::Load(key) => {
                no(self.current == Some(*key), Refusal::SAME_KEY)?;
                next.new = Some((*key, false));
            }
            Step::Commit(key) => match self.new {
                Some((pending, false)) => {
                    no(pending != *key, Refusal::PATTERN_MISMATCH)?;
                    next.new = Some((pending, true));
                }
                _ => return Err(Refusal::NO_PENDING_KEY),
            },
            Step::CommitPending => return self.after(&Step::Commit(self.new.map_or(0, |(key, _)| key))),
            Step::SetImmediate => {
                let (key, committed) = self.new.ok_or(Refusal::NO_PENDING_KEY)?;
                no(!committed, Refusal::NO_COMMITTED_KEY)?;
                (next.current, next.new) = (Some(key), None);
            }
            Step::Random => {
                no(!self.recovery, Refusal::RANDOM_NOT_PERMITTED)?;
                let key = PARTS.len() + self.made;
                if self.current.is_none() {
                    next.current = Some(key);
                } else {
                    no(self.new.is_some(), Refusal::BOTH_REGISTERS_FULL)?;
                    next.new = Some((key, false));
                }
                next.made += 1;
            }
            Step::ExportCurrent => {
                no(!self.recovery, Refusal::EXPORT_NOT_PERMITTED)?;
                no(self.current.is_none(), Refusal::NO_CURRENT_KEY)?;
            }
            Step::ExportPending => {
                no(!self.recovery, Refusal::EXPORT_NOT_PERMITTED)?;
                no(self.new.is_none(), Refusal::NO_PENDING_KEY)?;
            }
            Step::SetControlPoints(points) => next.control_points |= points,
            Step::ReplaceControlPoints(points) => {
                no(self.control_points & !points != 0, Refusal::CONTROL_POINT_NOT_RESETTABLE)?;
                next.control_points = *points;
            }
            Step::DeleteControlPoints(_) => return Err(Refusal::CONTROL_POINT_NOT_RESETTABLE),
            Step::ClearNew => next.new = None,
            Step::ClearCurrent => next.current = None,
            Step::Zeroize => {
                next = Self {
                    recovery: self.recovery,
                    control_points: self.control_points,
                    made: self.made,
                    ..Self::default()
                }
            }
            Step::Importer | Step::Replay | Step::Restart => {}
        }
        Ok(next)
    }
}

const PARTS: [[u8; 2]; 3] = [[1, 2], [1, 4], [2, 5]];

fn points(bits: usize) -> Vec<u32> {
    let numbers = control_point::ALL.iter().enumerate();
    numbers.filter(|(i, _)| bits & (1 << i) != 0).map(|(_, (number, _))| *number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Random commands from four people against one unit and a simple model beside it. After each step: the
    /// unit says and is what the model says (so quorum is never bypassed, and no register goes where the table does
    /// not lead), the counter never comes back, and what a lost key had sealed cannot be opened.
    #[test]
    fn a_unit_does_what_the_model_does(
        recovery in any::<bool>(),
        steps in steps(),
    ) {
        let people: Vec<_> = (0..4).map(|i| Operator::new(&format!("person {i}"))).collect();
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("unit");
        let unit_type = if recovery { UnitType::Recovery } else { UnitType::Operational };
        let mut unit = CryptoUnit::create(&path, "here", unit_type, &[]).expect("unit");
        // Where exported keys go, to be looked at.
        let (_vault_dir, vault) = new_unit(UnitType::Operational);
        adopt(&vault, &[&people[0]], 1);
        let mut patterns: Vec<VerificationPattern> = (0..PARTS.len()).map(pattern_of).collect();
        let mut model = Model { recovery, ..Model::default() };
        let mut sealed = Vec::new();
        let mut last_counter = 0;
        for (step, signers) in steps {
            let signers = match signers {
                Signers::Anybody(who) => who,
                Signers::Administrators(mut who) => {
                    who.retain(|who| model.administrators.contains(who));
                    who
                }
            };
            let count = {
                let mut distinct = signers.clone();
                distinct.sort_unstable();
                distinct.dedup();
                let known = distinct.iter().all(|who| model.administrators.contains(who));
                known.then_some(distinct.len() as u32)
            };
            let signers: Vec<&Operator> = signers.iter().map(|i| &people[*i]).collect();
            let commit = |key: usize| Command::CommitMasterKey(patterns[key]);
            let vault_key = || send(&vault, Command::GenerateImporterKey, &[&people[0]]).expect("importer key");
            let command = match &step {
                Step::Restart => {
                    drop(unit);
                    unit = CryptoUnit::open(&path).expect("open");
                    continue;
                }
                Step::Replay => {
                    let refused = send_at(&unit, last_counter, Command::ClearNew, &signers);
                    prop_assert_eq!(refused, Err(Refusal::COUNTER));
                    continue;
                }
                Step::Add(who) => Command::AddAdministrator(people[*who].administrator.clone()),
                Step::Remove(who) => Command::RemoveAdministrator(people[*who].id()),
                Step::Thresholds { signature, revocation, zeroize_with_one } => {
                    let mut wanted = crate::common::operator::permissions(&unit);
                    if !zeroize_with_one {
                        wanted &= !permission::ZEROIZE_WITH_ONE;
                    }
                    Command::SetAttributes(DomainAttributes {
                        signature_threshold: Some(*signature),
                        revocation_threshold: Some(*revocation),
                        permissions: Some(wanted),
                    })
                }
                Step::Importer => Command::GenerateImporterKey,
                Step::Load(key) => {
                    // The importer key first; the load itself is what the model follows.
                    let enough = count.is_some_and(|count| count >= 1) && model.signature > 0;
                    if !enough { continue; }
                    let importer = send(&unit, Command::GenerateImporterKey, &signers).expect("importer key");
                    let parts = PARTS[*key].iter().map(|byte| {
                        TransportedKey::wrap(&crate::common::operator::part(*byte), &importer).expect("wrap")
                    });
                    Command::ImportMasterKey(parts.collect())
                }
                Step::Commit(key) => commit(*key),
                Step::CommitPending => commit(model.new.map_or(0, |(key, _)| key)),
                Step::SetImmediate => Command::SetImmediate,
                Step::Random => Command::GenerateMasterKey,
                Step::ExportCurrent => Command::ExportCurrent(vault_key()),
                Step::ExportPending => Command::ExportPending(vault_key()),
                Step::SetControlPoints(bits) => Command::SetControlPoints(points(*bits)),
                Step::ReplaceControlPoints(bits) => Command::ReplaceControlPoints(points(*bits)),
                Step::DeleteControlPoints(bits) => Command::DeleteControlPoints(points(*bits)),
                Step::ClearNew => Command::ClearNew,
                Step::ClearCurrent => Command::ClearCurrent,
                Step::Zeroize => Command::Zeroize,
            };
            let expected = model.outcome(&step, count);
            let outcome = send(&unit, command, &signers);
            let refusals = (outcome.as_ref().err(), expected.as_ref().err());
            prop_assert_eq!(refusals.0, refusals.1, "{:?} by {:?}", step, count);
            if let Ok(answer) = &outcome {
                match &step {
                    Step::Random => patterns.push(VerificationPattern::from_bytes(answer).expect("pattern")),
                    Step::ExportCurrent | Step::ExportPending => {
                        let transported = der::Decode::from_der(answer).expect("transported key");
                        let load = Command::ImportMasterKey(vec![transported]);
                        let found = send(&vault, load, &[&people[0]]).expect("load");
                        let key = match step {
                            Step::ExportCurrent => model.current,
                            _ => model.new.map(|(key, _)| key),
                        };
                        let key = key.expect("the model has one");
                        prop_assert_eq!(VerificationPattern::from_bytes(&found), Some(patterns[key]));
                    }
                    _ => {}
                }
            }
            model = expected.unwrap_or(model);

            let now = status(&unit);
            prop_assert!(now.counter >= last_counter);
            last_counter = now.counter;
            let names: Vec<_> = model.administrators.iter().map(|i| people[*i].administrator.clone()).collect();
            prop_assert_eq!(&now.administrators, &names);
            prop_assert_eq!((now.signature_threshold, now.revocation_threshold), (model.signature, model.revocation));
            prop_assert_eq!(&now.control_points, &points(model.control_points));
            prop_assert_eq!(unit.verification_pattern(), model.current.map(|key| patterns[key]));
            prop_assert_eq!(
                now.new_register.verification_pattern(),
                model.new.map(|(key, _)| patterns[key])
            );
            let new_state = match model.new {
                None => RegisterState::Empty,
                Some((_, false)) => RegisterState::FullUncommitted,
                Some((_, true)) => RegisterState::FullCommitted,
            };
            prop_assert_eq!(now.new_register.state, new_state);
            for (key, blob) in &sealed {
                prop_assert_eq!(unit.unseal(blob).is_ok(), model.current == Some(*key));
            }
            if let Some(key) = model.current {
                sealed.push((key, unit.seal(&Attributes::new(), &Attributes::new()).expect("seal")));
            }
        }
    }
}

fn pattern_of(key: usize) -> VerificationPattern {
    let parts = PARTS[key].map(crate::common::operator::part);
    *hsm_emulator::units::MasterKey::from_parts(&parts).expect("parts").verification_pattern()
}
