//! Rotation of the master key: what is stored stays readable, whatever happens on the way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::operator::{Operator, adopt, load, send};
use crate::common::to_put;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hsm_emulator::keystore::{self, Effect, Expect, Write};
use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::{Error, RootKeys};
use hsm_emulator::services::region::{self, Layout, Region};
use hsm_emulator::services::storage::Sealing;
use hsm_emulator::services::tokens::{Tokens, User};
use hsm_emulator::units::command::Command;
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Attributes, VerificationPattern, vendor};

/// An instance of two operational units and a recovery unit, with one administrator.
struct Instance {
    region: Arc<Region>,
    keys: Arc<RootKeys>,
    operator: Operator,
}

impl Instance {
    fn new(dir: &Path) -> Self {
        let operator = Operator::new("operator");
        let instance = Self::open(dir, operator.clone());
        instance.region.units().iter().for_each(|installed| adopt(&installed.unit, &[&operator], 1));
        instance
    }

    fn open(dir: &Path, operator: Operator) -> Self {
        let layout = Layout { region: "us-south".into(), operational: 2, recovery: 1, master_key: true };
        let region = Arc::new(Region::open(dir, &layout).expect("open"));
        let keys = Arc::new(RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("keys"));
        Self { region, keys, operator }
    }

    /// Loads and commits these parts on all units.
    fn load_and_commit(&self, parts: &[u8]) -> VerificationPattern {
        let mut pattern = None;
        for installed in self.region.units().iter() {
            let loaded = load(&installed.unit, parts, &self.operator).expect("load");
            send(&installed.unit, Command::CommitMasterKey(loaded), &[&self.operator]).expect("commit");
            pattern = Some(loaded);
        }
        pattern.expect("units")
    }

    /// Loads and commits these parts on one unit.
    fn commit_on(&self, i: usize, parts: &[u8]) -> VerificationPattern {
        let unit = &self.region.units()[i].unit;
        let pattern = load(unit, parts, &self.operator).expect("load");
        send(unit, Command::CommitMasterKey(pattern), &[&self.operator]).expect("commit");
        pattern
    }

    /// A key and what it wrapped.
    fn key(&self) -> (String, String) {
        let key = self.keys.create("a key", None).expect("create").id.clone();
        let wrapped = self.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
        (key, wrapped)
    }

    /// Re-encrypts for this master key, and sets it.
    fn finish(&self, pattern: &VerificationPattern) {
        let progress = self.region.reencrypt(pattern, false, |_| {}).expect("re-encrypt");
        assert!(progress.complete && progress.left_out == 0, "{progress:?}");
        (0..3).for_each(|i| self.set_immediate(i));
    }

    /// What the service does after a unit has changed its current register.
    fn set_immediate(&self, i: usize) {
        send(&self.region.units()[i].unit, Command::SetImmediate, &[&self.operator]).expect("set immediate");
        self.region.finish_reencryption().expect("finish");
    }

    fn unwraps(&self, key: &str, ciphertext: &str) -> Result<(), Error> {
        let unwrapped = self.keys.unwrap(key, ciphertext, &[])?;
        assert_eq!(unwrapped.plaintext.as_slice(), DATA_KEY);
        Ok(())
    }
}

const DATA_KEY: &[u8] = b"a data key of thirty-two bytes..";

#[test]
fn keys_tokens_and_customers_blobs_come_under_the_new_master_key() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let key = instance.keys.create("a key", None).expect("create").id.clone();
    let old = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    instance.keys.rotate(&key, None).expect("rotate");
    let new = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    let tokens = Tokens::new(instance.region.clone()).expect("tokens");
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    let so = tokens.login(&serial, User::So, b"so-pin").expect("so");
    tokens.init_pin(&so, b"user-pin").expect("user PIN");
    let user = tokens.login(&serial, User::User, b"user-pin").expect("login");
    let template = Attributes::new()
        .with_bool(cryptoki_sys::CKA_TOKEN, true)
        .with_ulong(cryptoki_sys::CKA_VALUE_LEN, 32);
    let mechanism = Mechanism::plain(cryptoki_sys::CKM_AES_KEY_GEN);
    let unit = instance.region.unit().expect("unit");
    let object = unit.generate_key(&mechanism, &template).expect("AES key");
    tokens.put_objects(&serial, Some(&user), &[to_put([7; 16], &object, None)]).expect("store");
    let customers = unit.generate_key(&mechanism, &template).expect("customer's own");
    let gcm = Mechanism {
        kind: cryptoki_sys::CKM_AES_GCM,
        parameter: hsm_emulator::units::mechanism::Parameter::Gcm {
            iv: vec![1; 12],
            aad: Vec::new(),
            tag_bits: 128,
        },
    };
    let secret = unit.encrypt(&gcm, &object, b"text").expect("encrypt");
    let kept = unit.encrypt(&gcm, &customers, b"text").expect("encrypt");

    let pattern = instance.load_and_commit(&[1, 2]);
    let rewrapped = unit.rewrap(&customers).expect("RewrapKeyBlob");
    unit.decrypt(&gcm, &rewrapped, &kept).expect_err("not before the master key is set");
    let progress = instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
    assert!(progress.complete && progress.done == 3 && progress.total == 3, "{progress:?}");
    for i in 0..3 {
        instance.unwraps(&key, &old).expect("old version");
        instance.unwraps(&key, &new).expect("new version");
        instance.set_immediate(i);
    }
    for again in [None, Some(())] {
        // At once, and after a restart.
        let instance = match again {
            None => &instance,
            Some(()) => &Instance::open(dir.path(), instance.operator.clone()),
        };
        instance.unwraps(&key, &old).expect("old version");
        instance.unwraps(&key, &new).expect("new version");
        let tokens = Tokens::new(instance.region.clone()).expect("tokens");
        let user = tokens.login(&serial, User::User, b"user-pin").expect("login");
        let stored = tokens.changes(&serial, Some(&user), 0).expect("objects").stored;
        let unit = instance.region.unit().expect("unit");
        assert_eq!(unit.decrypt(&gcm, &stored[0].1, &secret).expect("decrypt").as_slice(), b"text");
        assert_eq!(unit.decrypt(&gcm, &rewrapped, &kept).expect("decrypt").as_slice(), b"text");
        let refused = unit.decrypt(&gcm, &customers, &kept).expect_err("old blob");
        assert_eq!(refused.code, vendor::CKR_IBM_WKID_MISMATCH);
        assert_eq!(unit.verification_pattern(), Some(pattern));
    }
    assert!(instance.region.keystore().scan("reencrypted").expect("scan").is_empty());
}

#[test]
fn wrapping_never_pauses_and_nothing_new_is_sealed() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let key = instance.keys.create("a key", None).expect("create").id.clone();
    let other = instance.keys.create("another", None).expect("create").id.clone();
    for i in 0..300 {
        instance.keys.create(&format!("key {i}"), None).expect("create");
    }
    let wrapped = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut calls = 0;
                    while !done.load(Ordering::Relaxed) {
                        instance.unwraps(&key, &wrapped).expect("unwrap during rotation");
                        instance.keys.wrap(&key, None, &[]).expect("wrap during rotation");
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let pattern = instance.load_and_commit(&[1, 2]);
        instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
        let refused = |outcome: Result<_, Error>| {
            let error = outcome.map(|_: Arc<_>| ()).expect_err("during rotation");
            assert!(matches!(error, Error::Keystore(keystore::Error::MasterKeyRotation)), "{error}");
        };
        refused(instance.keys.create("new", None));
        refused(instance.keys.rotate(&key, None));
        // What needs no sealing goes on; and a deleted key leaves no copy.
        instance.keys.disable(&other).expect("disable");
        instance.keys.delete(&other).expect("delete");
        let staged = instance.region.keystore().scan("reencrypted").expect("scan");
        assert!(staged.iter().all(|record| !record.id.contains(&other)));
        for i in 0..3 {
            instance.set_immediate(i);
        }
        done.store(true, Ordering::Relaxed);
        for user in users {
            assert!(user.join().expect("user") > 0);
        }
    });
    instance.keys.create("new", None).expect("create after the rotation");
    instance.keys.rotate(&key, None).expect("rotate after the rotation");
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

/// Rows of the failure table, tke.md 4.4.
#[test]
fn an_interrupted_rotation_goes_on_where_it_stopped() {
    for stop in 0..6 {
        let dir = tempfile::tempdir().expect("dir");
        let mut instance = Instance::new(dir.path());
        let key = instance.keys.create("a key", None).expect("create").id.clone();
        let wrapped = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
        let pattern = instance.load_and_commit(&[1, 2]);
        for step in 0..5 {
            if step == stop {
                let operator = instance.operator.clone();
                instance = Instance::open(dir.path(), operator);
                instance.unwraps(&key, &wrapped).expect("readable at every step");
            }
            match step {
                0 | 1 => drop(instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt")),
                _ => instance.set_immediate(step - 2),
            }
        }
        instance.unwraps(&key, &wrapped).expect("unwrap");
        assert_eq!(instance.region.unit().expect("unit").verification_pattern(), Some(pattern));
    }
}

#[test]
fn a_re_encryption_interrupted_between_two_pieces_goes_on_with_the_third() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..75).for_each(|_| drop(instance.keys.create("small", None).expect("create"))));
        }
    });
    let pattern = instance.load_and_commit(&[1, 2]);
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        instance.region.reencrypt(&pattern, false, |progress| {
            if progress.done == 1000 {
                std::panic::resume_unwind(Box::new("killed"));
            }
        })
    }));
    assert!(killed.is_err());
    let operator = instance.operator.clone();
    drop(instance);

    let instance = Instance::open(dir.path(), operator);
    let progress = instance.region.reencryption_progress().expect("progress");
    assert_eq!((progress.done, progress.total, progress.complete), (1000, 1201, false));
    instance.unwraps(&key, &wrapped).expect("unwrap");
    let staged = || {
        let records = instance.region.keystore().scan("reencrypted").expect("scan").into_iter();
        records.map(|record| (record.id, record.body)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = staged();
    let mut reports = Vec::new();
    instance.region.reencrypt(&pattern, false, |progress| reports.push(progress.done)).expect("re-encrypt");
    assert_eq!((reports.first(), reports.last()), (Some(&1000), Some(&1201)), "{reports:?}");
    let after = staged();
    assert!(before.len() == 1000 && after.len() == 1201);
    assert!(before.iter().all(|(id, body)| after.get(id) == Some(body)), "done twice");
    (0..3).for_each(|i| instance.set_immediate(i));
    instance.unwraps(&key, &wrapped).expect("unwrap");
    for stored in instance.region.keystore().ids("root-key").expect("ids") {
        instance.keys.wrap(&stored, None, &[]).expect("wrap");
    }
}

#[test]
fn a_kill_between_the_units_switch_and_the_keystores_is_mended_at_the_next_start() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let key = instance.keys.create("a key", None).expect("create").id.clone();
    let wrapped = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    let pattern = instance.load_and_commit(&[1, 2]);
    instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
    for installed in instance.region.units().iter() {
        send(&installed.unit, Command::SetImmediate, &[&instance.operator]).expect("set immediate");
    }
    // The service never got to hear of it.
    let instance = Instance::open(dir.path(), instance.operator.clone());
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

#[test]
fn setting_a_master_key_that_nothing_was_re_encrypted_for_loses_nothing_if_the_old_one_can_be_loaded() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let rotate_to = |parts: &[u8]| {
        let pattern = instance.load_and_commit(parts);
        instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
        (0..3).for_each(|i| instance.set_immediate(i));
    };
    let key = instance.keys.create("a key", None).expect("create").id.clone();
    let wrapped = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    rotate_to(&[1, 2]);
    instance.load_and_commit(&[4, 8]);
    (0..3).for_each(|i| instance.set_immediate(i));
    let Err(Error::Unit(error)) = instance.unwraps(&key, &wrapped) else { panic!("readable") };
    assert_eq!(error.code, vendor::CKR_IBM_WK_NOT_INITIALIZED);
    instance.keys.create("another", None).expect_err("nothing can be created either");
    instance.load_and_commit(&[1, 2]);
    (0..3).for_each(|i| instance.set_immediate(i));
    instance.unwraps(&key, &wrapped).expect("readable again");
}

#[test]
fn another_rotation_over_one_that_has_begun_is_refused_and_fatal_if_insisted_on() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let key = instance.keys.create("a key", None).expect("create").id.clone();
    let wrapped = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    let first = instance.load_and_commit(&[1, 2]);
    instance.region.reencrypt(&first, false, |_| {}).expect("re-encrypt");
    let second = instance.load_and_commit(&[4, 8]);
    let refused = instance.region.reencrypt(&second, false, |_| {}).expect_err("begun already");
    assert!(matches!(refused, region::Error::OtherReencryption(begun) if begun == first));
    assert!(refused.to_string().contains(&first.to_hex()), "{refused}");
    instance.unwraps(&key, &wrapped).expect("nothing lost so far");
    instance.region.reencrypt(&second, true, |_| {}).expect("insisted on");
    (0..3).for_each(|i| instance.set_immediate(i));
    instance.unwraps(&key, &wrapped).expect_err("lost, as on the real service");
    instance.keys.create("new", None).expect("the instance serves new keys");
}

#[test]
fn an_instance_delivered_in_imprint_mode_takes_its_first_master_key() {
    let dir = tempfile::tempdir().expect("dir");
    let layout = Layout { region: "us-south".into(), operational: 2, recovery: 1, master_key: false };
    let region = Arc::new(Region::open(dir.path(), &layout).expect("open"));
    let keys = Arc::new(RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("keys"));
    let instance = Instance { region, keys, operator: Operator::new("operator") };
    instance.keys.create("too early", None).expect_err("no master key");
    let never_used = |dir: &Path| {
        let region = Arc::new(Region::open(dir, &layout).expect("open"));
        let keys = Arc::new(RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("keys"));
        let instance = Instance { region, keys, operator: Operator::new("operator") };
        instance.region.units().iter().for_each(|unit| adopt(&unit.unit, &[&instance.operator], 1));
        instance.load_and_commit(&[1, 2]);
        (0..3).for_each(|i| instance.set_immediate(i));
        let next = instance.load_and_commit(&[4, 8]);
        let progress = instance.region.reencrypt(&next, false, |_| {}).expect("nothing to do is no error");
        assert!(progress.complete && progress.total == 0);
        (0..3).for_each(|i| instance.set_immediate(i));
        instance.keys.create("a key", None).expect("create");
    };
    never_used(&dir.path().join("never used"));
    instance.region.units().iter().for_each(|unit| adopt(&unit.unit, &[&instance.operator], 1));
    let first = instance.load_and_commit(&[1, 2]);
    (0..3).for_each(|i| instance.set_immediate(i));
    assert_eq!(instance.region.unit().expect("unit").verification_pattern(), Some(first));
    // Nothing is stored yet: another master key may take its place.
    let second = instance.load_and_commit(&[4, 8]);
    (0..3).for_each(|i| instance.set_immediate(i));
    assert_eq!(instance.region.unit().expect("unit").verification_pattern(), Some(second));
    let key = instance.keys.create("a key", None).expect("create").id.clone();
    let wrapped = instance.keys.wrap(&key, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    // From now on it may not.
    instance.load_and_commit(&[1, 2]);
    (0..3).for_each(|i| instance.set_immediate(i));
    instance.unwraps(&key, &wrapped).expect_err("the key is under the second master key");
    instance.keys.delete(&key).expect("delete");
    assert_eq!(instance.region.unit().expect("nothing stored again").verification_pattern(), Some(first));
}

/// Every record that failed was staged as one that stays as it is, so the new master key was set, and they were lost.
#[test]
fn a_unit_that_loses_the_new_master_key_in_the_middle_ends_the_re_encryption() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    type Interference = fn(&Instance);
    let interferences: [Interference; 3] = [
        |instance| {
            let unit = &instance.region.units()[0].unit;
            send(unit, Command::ClearNew, &[&instance.operator]).expect("mk-clrnew");
        },
        |instance| {
            load(&instance.region.units()[0].unit, &[1, 2], &instance.operator).expect("mk-load");
        },
        // What would be sealed under this one would be taken for the right one's.
        |instance| {
            instance.commit_on(0, &[4, 8]);
        },
    ];
    let pattern = instance.load_and_commit(&[1, 2]);
    for interfere in interferences {
        let mut interfered = false;
        let refused = instance.region.reencrypt(&pattern, false, |_| {
            if !interfered {
                interfere(&instance);
            }
            interfered = true;
        });
        let refused = refused.expect_err("the unit has not the new master key any more").to_string();
        assert!(refused.contains("load and commit") && refused.contains(&pattern.to_hex()), "{refused}");
        assert!(!instance.region.reencryption_progress().expect("progress").complete);
        instance.commit_on(0, &[1, 2]);
    }
    instance.finish(&pattern);
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

#[test]
fn what_is_staged_under_another_master_key_is_not_put_in_place() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let keystore = instance.region.keystore();
    let record = keystore.get("root-key", &key).expect("get").expect("record");
    let stored: serde_json::Value = serde_json::from_slice(&record.body).expect("JSON");
    let pattern = instance.load_and_commit(&[1, 2]);
    instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
    let id = format!("root-key/{key}");
    let staged = keystore.get("reencrypted", &id).expect("get").expect("staged");
    let mut forged: serde_json::Value = serde_json::from_slice(&staged.body).expect("JSON");
    for new in forged.as_object_mut().expect("object").values_mut() {
        new.clone_from(&stored["versions"][0]["blob"]);
    }
    put(&instance, "reencrypted", &id, &serde_json::to_vec(&forged).expect("JSON"));
    let progress = instance.region.reencryption_progress().expect("progress");
    assert!(!progress.complete && progress.done == 0, "{progress:?}");
    instance.finish(&pattern);
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

fn put(instance: &Instance, kind: &str, id: &str, body: &[u8]) {
    let (kind, id) = (kind.to_owned(), id.to_owned());
    let write = Write { kind, id, expect: Expect::Present, effect: Effect::Put(body.to_vec()) };
    instance.region.keystore().commit(vec![write]).expect("put");
}

/// A new master key that is nowhere any more was a dead end: the only way out gave up what had been re-encrypted.
#[test]
fn a_cancelled_re_encryption_loses_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let region = &instance.region;
    let old = region.unit().expect("unit").verification_pattern();
    let pattern = instance.load_and_commit(&[1, 2]);
    let refused = |what: &str| {
        let refused = region.cancel_reencryption(&pattern).expect_err("refused").to_string();
        assert!(refused.contains(what), "{refused}");
    };
    refused("no re-encryption");
    region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
    instance.keys.create("new", None).expect_err("during a rotation");
    // Who has seen it complete may set the new master key any moment.
    refused("clear the new master key registers first");
    for installed in region.units().iter() {
        send(&installed.unit, Command::ClearNew, &[&instance.operator]).expect("mk-clrnew");
    }
    assert_eq!(Some(region.cancel_reencryption(&pattern).expect("cancel")), old);
    assert!(region.keystore().ids("reencrypted").expect("ids").is_empty());
    let progress = region.reencryption_progress().expect("progress");
    assert_eq!((progress.pattern, progress.done, progress.complete), (None, 0, false));
    instance.unwraps(&key, &wrapped).expect("unwrap");
    instance.keys.create("new", None).expect("create");
    let again = Instance::open(dir.path(), instance.operator.clone());
    again.unwraps(&key, &wrapped).expect("unwrap after a restart");
    drop(again);

    let other = instance.load_and_commit(&[4, 8]);
    region.reencrypt(&other, false, |_| {}).expect("re-encrypt");
    refused(&other.to_hex());
    instance.set_immediate(0);
    refused("no re-encryption");
    instance.set_immediate(1);
    instance.set_immediate(2);
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

#[test]
fn a_re_encryption_that_a_unit_has_followed_too_early_cannot_be_cancelled() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let pattern = instance.load_and_commit(&[1, 2]);
    let unheard = |i: usize| {
        let unit = &instance.region.units()[i].unit;
        send(unit, Command::SetImmediate, &[&instance.operator]).expect("set immediate");
    };
    let mut reports = 0;
    let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        instance.region.reencrypt(&pattern, false, |_| {
            reports += 1;
            std::panic::resume_unwind(Box::new("killed"));
        })
    }));
    assert!(interrupted.is_err() && reports == 1);
    unheard(0);
    let refused = || instance.region.cancel_reencryption(&pattern).expect_err("refused").to_string();
    assert!(refused().contains("finish the rotation"));
    let off = instance.region.set_power(&instance.region.units()[0], false).expect("off");
    instance.region.set_power(&instance.region.units()[1], false).expect("off");
    assert!(refused().contains("no operational unit in service"));
    instance.region.set_power(&instance.region.units()[1], true).expect("on");
    for i in 1..3 {
        let unit = &instance.region.units()[i].unit;
        send(unit, Command::ClearNew, &[&instance.operator]).expect("mk-clrnew");
    }
    instance.region.cancel_reencryption(&pattern).expect("cancel");
    instance.region.set_power(&off, true).expect("on");
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

#[test]
fn damaged_records_are_left_out_counted_and_tried_again() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (whole, whole_wrapped) = instance.key();
    let (partly, old) = instance.key();
    instance.keys.rotate(&partly, None).expect("rotate");
    let new = instance.keys.wrap(&partly, Some(DATA_KEY), &[]).expect("wrap").ciphertext;
    let (unreadable, lost) = instance.key();
    let keystore = instance.region.keystore();
    let body = |key: &str| keystore.get("root-key", key).expect("get").expect("record").body;
    let (good, readable) = (body(&partly), body(&unreadable));
    let mut damaged: serde_json::Value = serde_json::from_slice(&good).expect("JSON");
    let blob = damaged["versions"][1]["blob"].as_str().expect("blob").to_owned();
    let (head, tail) = blob.split_at(blob.len() - 12);
    damaged["versions"][1]["blob"] = format!("{head}AAAA{}", &tail[4..]).into();
    put(&instance, "root-key", &partly, &serde_json::to_vec(&damaged).expect("JSON"));
    put(&instance, "root-key", &unreadable, b"no JSON");

    let first = instance.load_and_commit(&[1, 2]);
    let counts = || {
        let progress = instance.region.reencrypt(&first, false, |_| {}).expect("re-encrypt");
        assert!(progress.complete);
        (progress.done, progress.left_out, progress.total)
    };
    assert_eq!(counts(), (1, 2, 3));
    put(&instance, "root-key", &unreadable, &readable);
    assert_eq!(counts(), (2, 1, 3), "restored from a backup in time");
    (0..3).for_each(|i| instance.set_immediate(i));
    instance.unwraps(&whole, &whole_wrapped).expect("whole");
    instance.unwraps(&unreadable, &lost).expect("restored");
    instance.unwraps(&partly, &new).expect("the version that is not damaged");
    instance.unwraps(&partly, &old).expect_err("the damaged version");
}

/// A key sealed before a rotation and committed after it was under the old master key, and lost.
#[test]
fn what_was_sealed_before_a_rotation_is_not_committed_after_it() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let region = &instance.region;
    let sealing = || region.sealing(region.unit().expect("unit"));
    let commit = |sealing: &Sealing| {
        let effect = Effect::Put(b"sealed".to_vec());
        let write = Write { kind: "test".into(), id: "id".into(), expect: Expect::Absent, effect };
        region.commit_sealed(sealing, vec![write])
    };
    let refused = |outcome: keystore::Result<_>| {
        assert!(matches!(outcome.map(|_| ()), Err(keystore::Error::MasterKeyRotation)));
    };
    let before = sealing().expect("before");
    let pattern = instance.load_and_commit(&[1, 2]);
    region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
    refused(commit(&before));
    refused(sealing().map(|_| 0));
    (0..3).for_each(|i| instance.set_immediate(i));
    refused(commit(&before));
    commit(&sealing().expect("after")).expect("after");

    // A unit whose master key was set without any re-encryption seals nothing either.
    let late = sealing().expect("before");
    let other = region.units().iter().position(|installed| std::ptr::eq(&*installed.unit, late.unit()));
    let other = other.expect("installed");
    instance.commit_on(other, &[4, 8]);
    send(late.unit(), Command::SetImmediate, &[&instance.operator]).expect("set immediate");
    refused(commit(&late));
}

/// Each write to a record made the settling start over.
#[test]
fn writes_that_never_rest_do_not_keep_the_new_blobs_from_their_place() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    for i in 0..200 {
        instance.keys.create(&format!("key {i}"), None).expect("create");
    }
    let tokens = Tokens::new(instance.region.clone()).expect("tokens");
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    let pattern = instance.load_and_commit(&[1, 2]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = [(); 2].map(|()| {
            scope.spawn(|| {
                let keystore = instance.region.keystore();
                while !done.load(Ordering::Relaxed) {
                    let token = keystore.get("token", &serial).expect("get").expect("token");
                    let effect = Effect::Put(token.body);
                    let expect = Expect::Version(token.version);
                    let write = Write { kind: token.kind, id: token.id, expect, effect };
                    keystore.commit(vec![write]).ok();
                }
            })
        });
        instance.finish(&pattern);
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("writer");
        }
    });
    instance.unwraps(&key, &wrapped).expect("unwrap");
    tokens.login(&serial, User::So, b"so-pin").expect("login");
}

#[test]
fn token_objects_are_there_at_every_moment_of_a_rotation() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let tokens = Tokens::new(instance.region.clone()).expect("tokens");
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    let so = tokens.login(&serial, User::So, b"so-pin").expect("SO");
    let template = Attributes::new()
        .with_ulong(cryptoki_sys::CKA_CLASS, cryptoki_sys::CKO_DATA)
        .with_bool(cryptoki_sys::CKA_TOKEN, true)
        .with(cryptoki_sys::CKA_VALUE, *b"value");
    let object = instance.region.unit().and_then(|unit| unit.create_object(&template)).expect("object");
    tokens.put_objects(&serial, None, &[to_put([7; 16], &object, None)]).expect("store");
    tokens.init_pin(&so, b"user-pin").expect("user PIN");
    let (done, pins_set) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let setter = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match tokens.set_pin(&serial, User::User, b"user-pin", b"user-pin") {
                    Ok(()) => drop(pins_set.fetch_add(1, Ordering::Relaxed)),
                    Err(refusal) => assert!(refusal.retry, "{refusal}"),
                }
            }
        });
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let changes = tokens.changes(&serial, None, 0).expect("changes");
                assert_eq!(changes.stored.len(), 1, "left out");
                // Nobody hears of a rotation who logs in.
                tokens.login(&serial, User::So, b"so-pin").expect("login");
            }
        });
        for round in 1..40 {
            let pattern = instance.load_and_commit(&[round, 0x80]);
            instance.finish(&pattern);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("reader");
        setter.join().expect("who sets a PIN");
    });
    assert_ne!(pins_set.into_inner(), 0, "no PIN was set");
    tokens.init_pin(&so, b"user-pin").expect("logged in since before the rotations");
    let refused =
        tokens.put_objects(&serial, None, &[to_put([8; 16], &object, None)]).expect_err("an old blob");
    assert_eq!(refused.code, vendor::CKR_IBM_WKID_MISMATCH);
    let pattern = instance.load_and_commit(&[50, 0x80]);
    instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
    let later = tokens.init(None, b"so-pin", "another").expect_err("during a rotation");
    assert!(later.code == cryptoki_sys::CKR_FUNCTION_FAILED && later.retry, "{later}");
}

/// A lost copy of a key under the new master key outlived the key.
#[test]
fn a_deleted_key_leaves_no_staged_copy_however_early_it_is_deleted() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, _) = instance.key();
    let keystore = instance.region.keystore();
    // As if the re-encryption began while the deletion was on its way.
    let (kind, id) = ("reencrypted".to_owned(), format!("root-key/{key}"));
    let effect = Effect::Put(b"{}".to_vec());
    keystore.commit(vec![Write { kind, id, expect: Expect::Absent, effect }]).expect("stage");
    instance.keys.delete(&key).expect("delete");
    assert!(keystore.ids("reencrypted").expect("ids").is_empty());
}

#[test]
fn a_rotation_that_could_not_be_finished_is_when_a_key_is_used_or_a_unit_switched_on() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let unheard = |i: usize| {
        let unit = &instance.region.units()[i].unit;
        send(unit, Command::SetImmediate, &[&instance.operator]).expect("set immediate");
    };
    let first = instance.load_and_commit(&[1, 2]);
    instance.region.reencrypt(&first, false, |_| {}).expect("re-encrypt");
    (0..3).for_each(unheard);
    instance.unwraps(&key, &wrapped).expect("unwrap");

    let second = instance.load_and_commit(&[4, 8]);
    instance.region.reencrypt(&second, false, |_| {}).expect("re-encrypt");
    let off = instance.region.set_power(&instance.region.units()[0], false).expect("off");
    unheard(0);
    assert_eq!(instance.region.unit().expect("unit").verification_pattern(), Some(first));
    instance.region.set_power(&off, true).expect("on");
    assert_eq!(instance.region.unit().expect("unit").verification_pattern(), Some(second));
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

#[test]
fn every_unit_in_service_with_the_old_master_key_must_have_committed_the_new_one() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let pattern = instance.commit_on(0, &[1, 2]);
    let refused = instance.region.reencrypt(&pattern, false, |_| {}).expect_err("not on all").to_string();
    assert!(refused.contains(&instance.region.units()[1].unit.location()), "{refused}");
    assert_eq!(instance.region.reencryption_progress().expect("progress").pattern, None);
    instance.region.set_power(&instance.region.units()[1], false).expect("off");
    instance.region.reencrypt(&pattern, false, |_| {}).expect("one that is off takes no part");
    instance.set_immediate(0);
    instance.unwraps(&key, &wrapped).expect("unwrap");
}

/// It waited for the end of the re-encryption; and a rotation held up all threads that answer the network.
#[test]
fn what_cannot_wait_for_the_master_key_does_not() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let try_unwrap = || instance.keys.try_unwrap(&key, &wrapped, &[]);
    try_unwrap().expect("at once").expect("unwrap");
    let pattern = instance.load_and_commit(&[1, 2]);
    let mut reports = 0;
    let refused = instance.region.reencrypt(&pattern, false, |_| {
        reports += 1;
        try_unwrap().expect("at once: no stored key has changed").expect("unwrap");
        for i in 0..2 {
            let unit = &instance.region.units()[i].unit;
            send(unit, Command::ClearCurrent, &[&instance.operator]).expect("mk-clrcur");
        }
        assert!(try_unwrap().is_none());
        let refused = instance.region.unit().expect_err("no unit, and nothing to wait for");
        assert_eq!(refused.code, vendor::CKR_IBM_WK_NOT_INITIALIZED);
        instance.unwraps(&key, &wrapped).expect_err("no unit");
    });
    assert_eq!(reports, 1);
    refused.expect_err("nor can anything be re-encrypted");
}

#[test]
fn operational_units_take_turns_evenly() {
    let dir = tempfile::tempdir().expect("dir");
    let layout = Layout { region: "us-south".into(), operational: 2, recovery: 2, master_key: true };
    let region = Region::open(dir.path(), &layout).expect("open");
    let first = region.units()[0].unit.serial();
    let turns = (0..100).filter(|_| region.unit().expect("unit").serial() == first).count();
    assert_eq!(turns, 50);
}

/// Damages what is staged for a key, behind the wrapping key id.
fn damage_staged(region: &Region, kind: &str, id: &str) {
    let (kind, id) = ("reencrypted".to_owned(), format!("{kind}/{id}"));
    let staged = region.keystore().get(&kind, &id).expect("get").expect("staged");
    let mut json: serde_json::Value = serde_json::from_slice(&staged.body).expect("JSON");
    let value = json.as_object_mut().and_then(|values| values.values_mut().next()).expect("a value");
    let mut blob = BASE64.decode(value.as_str().expect("text")).expect("base64");
    *blob.last_mut().expect("a byte") ^= 1;
    *value = BASE64.encode(blob).into();
    let effect = Effect::Put(json.to_string().into_bytes());
    region.keystore().commit(vec![Write { kind, id, expect: Expect::Present, effect }]).expect("damage");
}

/// A staged blob took the good one's place although it was damaged.
#[test]
fn what_is_damaged_while_it_waits_for_its_place_is_re_encrypted_again() {
    let dir = tempfile::tempdir().expect("dir");
    let instance = Instance::new(dir.path());
    let (key, wrapped) = instance.key();
    let tokens = Tokens::new(instance.region.clone()).expect("tokens");
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    let template = Attributes::new()
        .with_ulong(cryptoki_sys::CKA_CLASS, cryptoki_sys::CKO_DATA)
        .with_bool(cryptoki_sys::CKA_TOKEN, true)
        .with(cryptoki_sys::CKA_VALUE, *b"value");
    let object = instance.region.unit().and_then(|unit| unit.create_object(&template)).expect("object");
    tokens.put_objects(&serial, None, &[to_put([7; 16], &object, None)]).expect("store");
    let places = [
        ("root-key", key.clone()),
        ("token", serial.clone()),
        (&format!("object/{serial}"), hex::encode([7; 16])),
    ];
    for (round, (kind, id)) in (1..).zip(&places) {
        let pattern = instance.load_and_commit(&[round, 0x80]);
        instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
        damage_staged(&instance.region, kind, id);
        assert!(!instance.region.reencryption_progress().expect("progress").complete, "{kind}");
        send(&instance.region.units()[0].unit, Command::SetImmediate, &[&instance.operator])
            .expect("set immediate");
        let refused = instance.region.finish_reencryption().expect_err("damaged").to_string();
        assert!(
            refused.contains(&format!("{kind} {id}")) && refused.contains("re-encrypt again"),
            "{refused}"
        );
        instance.unwraps(&key, &wrapped).expect("the other unit has the old master key");
        let progress = instance.region.reencrypt(&pattern, false, |_| {}).expect("again");
        assert!(progress.complete && progress.left_out == 0, "{progress:?}");
        (1..3).for_each(|i| instance.set_immediate(i));
        instance.unwraps(&key, &wrapped).expect("unwrap");
        tokens.login(&serial, User::So, b"so-pin").expect("login");
        assert_eq!(tokens.changes(&serial, None, 0).expect("changes").stored.len(), 1);
    }
}

/// Neither at once nor after a restart do the others wait for what nobody can re-encrypt any more.
#[test]
fn what_is_damaged_when_the_old_master_key_is_gone_costs_one_key() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().expect("dir");
        let instance = Instance::new(dir.path());
        let (good, bad) = (instance.key(), instance.key());
        let pattern = instance.load_and_commit(&[1, 2]);
        instance.region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
        damage_staged(&instance.region, "root-key", &bad.0);
        for installed in instance.region.units().iter() {
            send(&installed.unit, Command::SetImmediate, &[&instance.operator]).expect("set immediate");
        }
        let instance = match restart {
            false => instance,
            true => {
                let operator = instance.operator.clone();
                drop(instance);
                Instance::open(dir.path(), operator)
            }
        };
        instance.unwraps(&good.0, &good.1).expect("unwrap");
        let refused = instance.unwraps(&bad.0, &bad.1).expect_err("under a master key that is gone");
        assert!(
            matches!(&refused, Error::Unit(error) if error.code == vendor::CKR_IBM_WKID_MISMATCH && !error.retry),
            "{refused}"
        );
        instance.keys.create("another", None).expect("create");
        instance.keys.delete(&bad.0).expect("delete");
    }
}
