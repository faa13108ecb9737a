//! Initialisation of an instance.
#![allow(clippy::expect_used)]

mod common;

use std::fs;
use std::sync::Arc;

use common::region;
use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Layout, Region};

#[test]
fn all_units_hold_one_master_key_and_keep_it_over_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let first = region(dir.path(), 3);
    let patterns: Vec<_> =
        first.units().iter().map(|unit| unit.verification_pattern().expect("valid")).collect();
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
    hsm_emulator::units::CryptoUnit::create(&units.join("00"), "x").expect("unit");
    fs::create_dir_all(units.join("01")).expect("dir");
    let region = region(dir.path(), 2);
    assert!(region.units().iter().all(|unit| unit.verification_pattern().is_some()));
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
    let stranger =
        hsm_emulator::units::CryptoUnit::create(&second, "[us-south].[AZ2-CS2].[00].[01]").expect("unit");
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
    let refused = Region::open(dir.path(), &Layout { region: "us-south".into(), units: 2 });
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
            assert_eq!(region.units().len(), 1);
            region.unit().expect("the other one serves");
        }
    }
    let refused = Region::open(dir.path(), &Layout { region: "us-south".into(), units: 2 });
    let message = refused.err().expect("refused").to_string();
    assert!(message.contains("/state") && message.contains("CKR_IBM_TRANSPORT_INVALID"), "{message}");
}
