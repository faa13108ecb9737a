//! Initialisation of an instance.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::operator::{Operator, adopt, load, send};
use crate::common::region;
use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Error, InstalledUnit, Layout, Region};
use hsm_emulator::units::command::{Command, UnitType};

#[test]
fn all_units_hold_one_master_key_and_keep_it_over_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let first = region(dir.path(), 3);
    let patterns: Vec<_> =
        first.units().iter().map(|installed| installed.unit.verification_pattern().expect("valid")).collect();
    assert_eq!(patterns.len(), 3);
    assert!(patterns.iter().all(|pattern| *pattern == patterns[0]));
    let identity = first.identity().clone();
    drop(first);
    let again = region(dir.path(), 2);
    assert_eq!(again.identity(), &identity);
    assert_eq!(again.units().len(), 3);
}

#[test]
fn processes_that_start_at_the_same_time_share_one_instance() {
    let dir = tempfile::tempdir().expect("dir");
    let regions: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| region(dir.path(), 1))).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert!(regions.iter().all(|region| region.identity() == regions[0].identity()));
}

#[test]
fn an_initialisation_that_was_killed_is_done_anew() {
    let dir = tempfile::tempdir().expect("dir");
    // What a kill leaves: the marker, a unit without a master key, half a unit, no instance in the keystore.
    fs::write(dir.path().join("initialising"), "").expect("marker");
    let units = dir.path().join("units");
    hsm_emulator::units::CryptoUnit::create(&units.join("00"), "x", UnitType::Operational, &[])
        .expect("unit");
    fs::create_dir_all(units.join("01")).expect("dir");
    let region = region(dir.path(), 2);
    assert!(region.units().iter().all(|installed| installed.unit.verification_pattern().is_some()));
}

#[test]
fn a_unit_with_another_master_key_takes_no_part_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("dir");
    let first = region(dir.path(), 2);
    let keys = RootKeys::open(first.clone(), Arc::new(SystemClock)).expect("keys");
    let key = keys.create("orders", None).expect("create");
    let wrapped = keys.wrap(&key.id, Some(b"data key"), &[]).expect("wrap");
    drop((keys, first));
    // The second unit is replaced by one that holds another master key.
    let second = dir.path().join("units/01");
    fs::remove_dir_all(&second).expect("remove");
    let stranger = hsm_emulator::units::CryptoUnit::create(
        &second,
        "[us-south].[AZ2-CS2].[00].[01]",
        UnitType::Operational,
        &[],
    )
    .expect("unit");
    stranger.generate_master_key().expect("key");
    drop(stranger);
    let again = region(dir.path(), 2);
    let keys = RootKeys::open(again, Arc::new(SystemClock)).expect("keys");
    for _ in 0..8 {
        assert_eq!(
            keys.unwrap(&key.id, &wrapped.ciphertext, &[]).expect("unwrap").plaintext.as_slice(),
            b"data key"
        );
    }
}

/// A keystore that was lost must not cost the master key too: it may come back from a backup.
#[test]
fn units_without_their_keystore_are_left_alone() {
    let dir = tempfile::tempdir().expect("dir");
    drop(region(dir.path(), 2));
    let saved = dir.path().join("saved");
    for name in ["keystore.sqlite", "keystore.sqlite-wal", "keystore.sqlite-shm"] {
        if dir.path().join(name).exists() {
            fs::create_dir_all(&saved).expect("dir");
            fs::rename(dir.path().join(name), saved.join(name)).expect("move away");
        }
    }
    let before = fs::read(dir.path().join("units/00/state")).expect("state");
    let refused = Region::open(
        dir.path(),
        &Layout { region: "us-south".into(), operational: 2, recovery: 0, master_key: true },
    );
    let message = refused.err().expect("refused").to_string();
    assert!(message.contains("backup"), "{message}");
    assert_eq!(fs::read(dir.path().join("units/00/state")).expect("state"), before);
    for entry in fs::read_dir(dir.path()).expect("dir").map(|entry| entry.expect("entry").path()) {
        if entry.to_string_lossy().contains("keystore.sqlite") {
            fs::remove_file(entry).expect("remove");
        }
    }
    for entry in fs::read_dir(&saved).expect("dir").map(|entry| entry.expect("entry")) {
        fs::rename(entry.path(), dir.path().join(entry.file_name())).expect("move back");
    }
    region(dir.path(), 2);
}

#[test]
fn an_altered_unit_takes_no_part_and_the_last_one_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("dir");
    drop(region(dir.path(), 2));
    for unit in ["01", "00"] {
        let state = dir.path().join("units").join(unit).join("state");
        let mut bytes = fs::read(&state).expect("read");
        bytes[60] ^= 1;
        fs::write(&state, bytes).expect("write");
        if unit == "01" {
            let region = region(dir.path(), 2);
            let states: Vec<&str> =
                region.units().iter().map(|installed| region.state_of(installed)).collect();
            assert_eq!(states, ["running", "damaged"]);
            region.unit().expect("the other one serves");
            let good = region.units()[0].clone();
            let refused = region.remove_unit(&good).expect_err("the last one in order");
            assert!(matches!(refused, Error::UnitLimit(_)), "{refused}");
        }
    }
    let refused = Region::open(
        dir.path(),
        &Layout { region: "us-south".into(), operational: 2, recovery: 0, master_key: true },
    );
    let message = refused.err().expect("refused").to_string();
    assert!(message.contains("/state") && message.contains("CKR_IBM_TRANSPORT_INVALID"), "{message}");
}

fn open(dir: &Path, operational: usize, recovery: usize) -> Region {
    let layout = Layout { region: "us-south".into(), operational, recovery, master_key: true };
    Region::open(dir, &layout).expect("open")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("units")).expect("units");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_instance_has_three_operational_and_two_recovery_units_at_most() {
    let dir = tempfile::tempdir().expect("dir");
    let region = open(dir.path(), 2, 1);
    for unit_type in [UnitType::Operational, UnitType::Recovery] {
        region.add_unit(unit_type, false).expect("one more");
        let refused = region.add_unit(unit_type, false).expect_err("too many");
        assert!(matches!(refused, Error::UnitLimit(_)), "{refused}");
    }
    assert_eq!(names(dir.path()), ["00", "01", "02", "03", "04"]);
    drop(region);
    assert_eq!(open(dir.path(), 2, 1).units().len(), 5);
}

/// The master key must not leave with the last unit that holds it, nor the service with the last that serves.
#[test]
fn the_last_unit_with_the_master_key_stays() {
    let dir = tempfile::tempdir().expect("dir");
    let region = open(dir.path(), 2, 1);
    let unit = |i: usize| -> InstalledUnit { region.units()[i].clone() };
    let refused = |i: usize| {
        let refused = region.remove_unit(&unit(i)).expect_err("refused");
        assert!(refused.to_string().contains("master key"), "{refused}");
    };
    // The other operational unit is powered off: the recovery unit has the key, but does not serve.
    region.set_power(&unit(1), false).expect("stop");
    refused(0);
    region.set_power(&unit(1), true).expect("start");
    region.remove_unit(&unit(0)).expect("another one serves");
    refused(0);
    let added = region.add_unit(UnitType::Operational, false).expect("add");
    assert_eq!(region.state_of(&added), "no master key");
    refused(0);
    region.remove_unit(&added).expect("it holds nothing");
    // Nobody serves once the operational unit is cleared: then the recovery unit is the last to hold the key.
    let operator = Operator::new("a");
    adopt(&unit(0).unit, &[&operator], 1);
    send(&unit(0).unit, Command::ClearCurrent, &[&operator]).expect("clear");
    assert!(!region.is_served());
    refused(1);
    region.remove_unit(&unit(0)).expect("an empty one");
    assert!(region.remove_unit(&unit(0)).is_err(), "the last one of all");
}

#[test]
fn a_removed_unit_leaves_nothing_and_what_a_kill_left_is_swept() {
    let dir = tempfile::tempdir().expect("dir");
    let region = open(dir.path(), 3, 0);
    region.remove_unit(&region.units()[1].clone()).expect("remove");
    assert_eq!(names(dir.path()), ["00", "02"]);
    drop(region);
    // Killed while a unit was being made, and while another was being erased.
    let units = dir.path().join("units");
    fs::create_dir(units.join("new-1")).expect("dir");
    fs::write(units.join("new-1/device-secret"), [7; 32]).expect("half a unit");
    fs::rename(units.join("02"), units.join("removed-1")).expect("rename");
    fs::remove_file(units.join("removed-1/state")).expect("half erased");
    let region = open(dir.path(), 3, 0);
    assert_eq!(names(dir.path()), ["00"]);
    assert_eq!(region.units().len(), 1);
    region.add_unit(UnitType::Operational, false).expect("its place is free");
    assert_eq!(names(dir.path()), ["00", "01"]);
}

#[test]
fn units_say_how_they_are() {
    let dir = tempfile::tempdir().expect("dir");
    let region = open(dir.path(), 2, 1);
    let states =
        || -> Vec<&str> { region.units().iter().map(|installed| region.state_of(installed)).collect() };
    assert_eq!(states(), ["running", "running", "running"]);
    let keys = {
        let region = Arc::new(open(dir.path(), 2, 1));
        RootKeys::open(region, Arc::new(SystemClock)).expect("keys").create("orders", None).expect("create")
    };
    assert!(!keys.id.is_empty());
    let operator = Operator::new("a");
    let unit = region.units()[1].unit.clone();
    adopt(&unit, &[&operator], 1);
    let pattern = load(&unit, &[1, 2], &operator).expect("load");
    send(&unit, Command::CommitMasterKey(pattern), &[&operator]).expect("commit");
    send(&unit, Command::SetImmediate, &[&operator]).expect("set immediate");
    region.set_power(&region.units()[2].clone(), false).expect("stop");
    assert_eq!(states(), ["running", "other master key", "stopped"]);
    assert!(region.is_served());
    region.set_power(&region.units()[0].clone(), false).expect("stop");
    assert!(!region.is_served());
    assert!(region.unit().is_err());
}

fn damage(dir: &Path, unit: &str) {
    let state = dir.join("units").join(unit).join("state");
    let mut bytes = fs::read(&state).expect("read");
    bytes[60] ^= 1;
    fs::write(&state, bytes).expect("write");
}

/// It vanished, and the units behind it changed their numbers.
#[test]
fn a_damaged_unit_keeps_its_place_and_name_until_it_is_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let names_of = |region: &Region| -> Vec<_> {
        let units = region.units();
        units.iter().map(|unit| (unit.hsm_id.clone(), unit.unit.serial(), unit.unit_type())).collect()
    };
    let before = {
        let region = open(dir.path(), 2, 2);
        region.add_unit(UnitType::Operational, false).expect("add");
        names_of(&region)
    };
    for unit in ["00", "02"] {
        damage(dir.path(), unit);
    }
    let region = open(dir.path(), 2, 2);
    assert_eq!(names_of(&region), before);
    let states: Vec<&str> = region.units().iter().map(|installed| region.state_of(installed)).collect();
    assert_eq!(states, ["damaged", "running", "no master key", "damaged", "running"]);
    assert!(region.add_unit(UnitType::Operational, false).is_err(), "it has its place still");
    let damaged = region.units()[0].clone();
    let refused = damaged.unit.generate_master_key().expect_err("damaged");
    assert_eq!(refused.code, hsm_emulator::units::vendor::CKR_IBM_TRANSPORT_INVALID);
    region.set_power(&damaged, true).expect("of no use");
    region.remove_unit(&damaged).expect("remove");
    assert_eq!(names_of(&region), before[1..]);
    assert_eq!(names(dir.path()), ["01", "02", "03", "04"]);
    region.add_unit(UnitType::Operational, false).expect("its successor");
}

#[test]
fn a_damaged_unit_without_a_nameplate_is_known_by_its_place() {
    let dir = tempfile::tempdir().expect("dir");
    drop(open(dir.path(), 3, 0));
    let units = dir.path().join("units");
    let plate = |unit: &str| units.join(unit).join("nameplate.json");
    fs::remove_dir_all(units.join("00")).expect("remove");
    fs::create_dir(units.join("00")).expect("nothing is left");
    damage(dir.path(), "01");
    // It must not pass for the unit that is in order.
    fs::copy(plate("02"), plate("01")).expect("copy");
    fs::create_dir(units.join("lost+found")).expect("no unit");
    let region = open(dir.path(), 3, 0);
    let found: Vec<_> = region
        .units()
        .iter()
        .map(|unit| (unit.unit.serial(), unit.unit.location(), unit.unit_type()))
        .collect();
    let good = region.unit().expect("unit").serial();
    let operational = Some(UnitType::Operational);
    assert_eq!(found[0], (good, "[us-south].[AZ3-CS3].[00].[02]".to_owned(), operational));
    let unknown = |location: &str| ("unknown".to_owned(), location.to_owned(), None);
    assert_eq!(
        found[1..],
        [unknown("[us-south].[AZ1-CS1].[00].[00]"), unknown("[us-south].[AZ2-CS2].[00].[01]")]
    );
    region.remove_unit(&region.units()[1].clone()).expect("remove");
    assert_eq!(names(dir.path()), ["01", "02", "lost+found"]);
}

/// Units of instances from before there were nameplates get theirs when they are opened.
#[test]
fn a_unit_without_a_nameplate_gets_one() {
    let dir = tempfile::tempdir().expect("dir");
    drop(open(dir.path(), 2, 0));
    let plate = dir.path().join("units/01/nameplate.json");
    let before = fs::read(&plate).expect("plate");
    fs::remove_file(&plate).expect("remove");
    drop(open(dir.path(), 2, 0));
    assert_eq!(fs::read(&plate).expect("plate"), before);
}
