//! Root keys: life cycle, wrapping, refusals.

use std::path::Path;
use std::sync::Arc;

use crate::common::region;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::lifecycle::{Action, State};
use hsm_emulator::services::kms::root_keys::{Error, RootKeys};
use hsm_emulator::units::{CryptoUnit, KeyBlob};

fn keys(dir: &Path) -> RootKeys {
    RootKeys::open(region(dir, 2), Arc::new(SystemClock)).expect("open")
}

fn aad(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// What format version 1 wrapped must unwrap for ever: the unit, the sealed root key and the wrapped data key
/// are files that this version wrote.
#[test]
fn golden_data_key_of_version_1_unwraps() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let unit = CryptoUnit::open(&golden.join("unit-v1")).expect("open");
    let read = |name: &str| {
        hex::decode(std::fs::read_to_string(golden.join(name)).expect("read").trim()).expect("hex")
    };
    let root_key = KeyBlob::parse(&read("root-key-v1.hex")).expect("blob");
    let data_key = unit
        .unwrap_data_key(&root_key, b"key/version", &aad(&["bucket", "crn"]), &read("data-key-v1.hex"))
        .expect("unwrap");
    assert_eq!(data_key.as_slice(), b"a data key of 25 bytes ok");
}

#[test]
fn a_data_key_comes_back_with_the_same_aad_only() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = keys(dir.path());
    let (key, other) = (keys.create("one", None).expect("create"), keys.create("two", None).expect("create"));
    for len in [1, 7, 8, 9, 16, 31, 32, 4096] {
        let data_key = vec![0xa5; len];
        let wrapped = keys.wrap(&key.id, Some(&data_key), &aad(&["a", "b"])).expect("wrap");
        let unwrapped = keys.unwrap(&key.id, &wrapped.ciphertext, &aad(&["a", "b"])).expect("unwrap");
        assert_eq!(*unwrapped.plaintext, data_key);
        assert!(unwrapped.rewrapped.is_none());
        for wrong in [aad(&[]), aad(&["a"]), aad(&["ab"]), aad(&["b", "a"]), aad(&["a", "b", ""])] {
            assert!(matches!(keys.unwrap(&key.id, &wrapped.ciphertext, &wrong), Err(Error::Ciphertext(_))));
        }
        assert!(matches!(
            keys.unwrap(&other.id, &wrapped.ciphertext, &aad(&["a", "b"])),
            Err(Error::Ciphertext(_))
        ));
    }
    assert!(matches!(
        keys.wrap(&key.id, Some(&[0; 4097]), &[]),
        Err(Error::Field { field: "plaintext", .. })
    ));
    let generated = keys.wrap(&key.id, None, &[]).expect("generate");
    let data_key = generated.generated.expect("the data key");
    assert_eq!(data_key.len(), 32);
    assert_eq!(keys.unwrap(&key.id, &generated.ciphertext, &[]).expect("unwrap").plaintext, data_key);
}

#[test]
fn every_changed_byte_of_a_ciphertext_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = keys(dir.path());
    let key = keys.create("one", None).expect("create");
    let wrapped = keys.wrap(&key.id, Some(b"0123456789abcdef"), &[]).expect("wrap");
    let json = BASE64.decode(&wrapped.ciphertext).expect("base64");
    for position in 0..json.len() {
        for flip in [0x01, 0x08, 0x20, 0x80, 0xff] {
            let mut altered = json.clone();
            altered[position] ^= flip;
            let outcome = keys
                .unwrap(&key.id, &BASE64.encode(&altered), &[])
                .map(|unwrapped| unwrapped.plaintext.len());
            assert!(matches!(outcome, Err(Error::Ciphertext(_))), "byte {position}, {flip:#x}: {outcome:?}");
        }
    }
    // RFC 5649's integrity value over nothing: eight bytes that need no key to make.
    let mut forged: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    forged["ciphertext"] = "pllZpgAAAAA=".into();
    let forged = BASE64.encode(forged.to_string());
    assert!(matches!(keys.unwrap(&key.id, &forged, &[]).map(|_| ()), Err(Error::Ciphertext(_))));
    for text in ["", "x", "e30=", "bnVsbA==", "\u{0}", &wrapped.ciphertext[1..]] {
        assert!(matches!(keys.unwrap(&key.id, text, &[]), Err(Error::Ciphertext(_))));
    }
}

#[test]
fn rotation_keeps_old_ciphertexts_and_rewraps_them() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = keys(dir.path());
    let key = keys.create("one", None).expect("create");
    let old = keys.wrap(&key.id, Some(b"data key"), &[]).expect("wrap");
    let rotated = keys.rotate(&key.id, None).expect("rotate");
    assert_eq!(rotated.versions.len(), 2);
    let unwrapped = keys.unwrap(&key.id, &old.ciphertext, &[]).expect("unwrap");
    assert_eq!(
        (unwrapped.plaintext.as_slice(), &unwrapped.key_version),
        (b"data key".as_slice(), &old.key_version)
    );
    let rewrapped = unwrapped.rewrapped.expect("rewrapped");
    assert_eq!(rewrapped.key_version, rotated.versions[0].id);
    let again = keys.unwrap(&key.id, &rewrapped.ciphertext, &[]).expect("unwrap");
    assert!(again.rewrapped.is_none());
}

#[test]
fn imported_keys_take_material_and_generated_ones_refuse_it() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = keys(dir.path());
    for len in [16, 24, 32] {
        let key = keys.create("imported", Some(&vec![7; len])).expect("import");
        assert_eq!(key.metadata.bits as usize, len * 8);
        assert!(matches!(keys.rotate(&key.id, None), Err(Error::MaterialRequired(_))));
        keys.rotate(&key.id, Some(&[8; 32])).expect("rotate");
    }
    assert!(matches!(keys.create("imported", Some(&[7; 20])), Err(Error::Field { field: "material", .. })));
    let generated = keys.create("generated", None).expect("create");
    assert!(matches!(keys.rotate(&generated.id, Some(&[8; 32])), Err(Error::Field { .. })));
    for name in ["", "x", &"x".repeat(91), "a\nb"] {
        assert!(matches!(keys.create(name, None), Err(Error::Field { field: "name", .. })));
    }
}

#[test]
fn the_state_is_checked_at_every_use_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let key = {
        let keys = keys(dir.path());
        let key = keys.create("one", None).expect("create").id.clone();
        let wrapped = keys.wrap(&key, Some(b"data key"), &[]).expect("wrap");
        keys.disable(&key).expect("disable");
        let refused = keys.unwrap(&key, &wrapped.ciphertext, &[]);
        assert!(matches!(refused, Err(Error::State { state: State::Suspended, action: Action::Unwrap, .. })));
        assert!(matches!(keys.wrap(&key, None, &[]), Err(Error::State { .. })));
        keys.enable(&key).expect("enable");
        keys.unwrap(&key, &wrapped.ciphertext, &[]).expect("unwrap again");
        keys.disable(&key).expect("disable");
        key
    };
    let again = keys(dir.path());
    assert_eq!(again.get(&key).expect("there").metadata.state, State::Suspended);
    let destroyed = again.delete(&key).expect("delete");
    assert!(destroyed.versions.is_empty());
    assert!(matches!(again.enable(&key), Err(Error::State { state: State::Destroyed, .. })));
    assert!(again.list(false).is_empty());
    assert_eq!(again.list(true).len(), 1);
}

#[test]
fn a_destroyed_key_leaves_no_blob_on_the_disk() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = keys(dir.path());
    let key = keys.create("one", None).expect("create");
    // The stored record holds the blob as base64; its version's id stands right beside it.
    let trace = key.versions[0].id.clone();
    let on_disk = || {
        std::fs::read_dir(dir.path()).expect("dir").any(|entry| {
            let path = entry.expect("entry").path();
            path.is_file()
                && std::fs::read(path).expect("read").windows(trace.len()).any(|w| w == trace.as_bytes())
        })
    };
    assert!(on_disk());
    keys.delete(&key.id).expect("delete");
    assert!(!on_disk());
}

/// As if one row of the keystore had been damaged: that key is refused by name, the others serve.
#[test]
fn a_damaged_record_costs_one_key() {
    let dir = tempfile::tempdir().expect("dir");
    let region = region(dir.path(), 1);
    let keys = RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("open");
    let (good, bad) = (keys.create("good", None).expect("create"), keys.create("bad", None).expect("create"));
    let write = hsm_emulator::keystore::Write {
        kind: "root-key".into(),
        id: bad.id.clone(),
        expect: hsm_emulator::keystore::Expect::Present,
        effect: hsm_emulator::keystore::Effect::Put(b"{".to_vec()),
    };
    region.keystore().commit(vec![write]).expect("damage");
    let keys = RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("open again");
    keys.wrap(&good.id, None, &[]).expect("the good key serves");
    assert!(matches!(keys.wrap(&bad.id, None, &[]), Err(Error::Damaged(id)) if id == bad.id));
    // It can be deleted, and is then like any other that was.
    assert_eq!(keys.delete(&bad.id).expect("delete").metadata.state, State::Destroyed);
    let refused = |keys: &RootKeys| {
        let state = State::Destroyed;
        assert!(
            matches!(keys.wrap(&bad.id, None, &[]), Err(Error::State { state: found, .. }) if found == state)
        );
    };
    refused(&keys);
    assert!(matches!(keys.delete(&bad.id), Err(Error::State { .. })));
    refused(&RootKeys::open(region, Arc::new(SystemClock)).expect("open once more"));
    keys.wrap(&good.id, None, &[]).expect("the good key serves");
}

/// What is left of its record stays.
#[test]
fn a_key_with_a_damaged_blob_can_be_deleted() {
    let dir = tempfile::tempdir().expect("dir");
    let region = region(dir.path(), 1);
    let bad = RootKeys::open(region.clone(), Arc::new(SystemClock))
        .expect("open")
        .create("bad", None)
        .expect("create");
    let record = region.keystore().get("root-key", &bad.id).expect("get").expect("record");
    let mut json: serde_json::Value = serde_json::from_slice(&record.body).expect("JSON");
    json["versions"][0]["blob"] = "AAAA".into();
    let write = hsm_emulator::keystore::Write {
        kind: record.kind,
        id: record.id,
        expect: hsm_emulator::keystore::Expect::Present,
        effect: hsm_emulator::keystore::Effect::Put(json.to_string().into_bytes()),
    };
    region.keystore().commit(vec![write]).expect("damage");
    let keys = RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("open again");
    assert!(matches!(keys.get(&bad.id), Err(Error::Damaged(_))));
    let deleted = keys.delete(&region.identity().key_crn(&bad.id)).expect("delete");
    assert_eq!((deleted.metadata.name.as_str(), deleted.versions.len()), ("bad", 0));
    assert_eq!(keys.list(true).len(), 1);
}

#[test]
fn a_crn_names_a_key_of_this_instance_only() {
    let dir = tempfile::tempdir().expect("dir");
    let region = region(dir.path(), 2);
    let keys = RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("open");
    let key = keys.create("one", None).expect("create");
    let crn = region.identity().key_crn(&key.id);
    assert_eq!(keys.get(&crn).expect("by crn").id, key.id);
    for wrong in [crn.replace("us-south", "us-east"), crn.replace("hs-crypto", "kms"), format!("{crn}x")] {
        assert!(matches!(keys.get(&wrong), Err(Error::NotFound(_))));
    }
}

#[test]
fn of_changes_at_the_same_time_none_is_lost() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = keys(dir.path());
    let key = keys.create("one", None).expect("create").id.clone();
    let done: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..20).filter(|_| keys.rotate(&key, None).is_ok()).count()))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).sum()
    });
    assert!(done > 0);
    assert_eq!(keys.get(&key).expect("there").versions.len(), done + 1);
}
