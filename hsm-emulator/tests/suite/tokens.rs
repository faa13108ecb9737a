//! Tokens: PINs, and who may see which object.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::common::operator::{Operator, adopt, load, send};
use crate::common::{region, to_put};
use cryptoki_sys::*;
use hsm_emulator::keystore::{Effect, Expect, Write};
use hsm_emulator::services::tokens::{MAX_PIN_FAILURES, Tokens, User};
use hsm_emulator::units::command::Command;
use hsm_emulator::units::{Attributes, Error, KeyBlob, vendor};

struct Fixture {
    _dir: tempfile::TempDir,
    region: Arc<hsm_emulator::services::region::Region>,
    tokens: Tokens,
    serial: String,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("dir");
    let region = region(dir.path(), 1);
    let tokens = Tokens::new(region.clone()).expect("tokens");
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    let so = tokens.login(&serial, User::So, b"so-pin").expect("SO");
    tokens.init_pin(&so, b"user-pin").expect("init PIN");
    Fixture { _dir: dir, region, tokens, serial }
}

fn data(region: &hsm_emulator::services::region::Region, private: bool) -> KeyBlob {
    let template = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_DATA)
        .with_bool(CKA_TOKEN, true)
        .with_bool(CKA_PRIVATE, private)
        .with(CKA_VALUE, *b"value");
    region.unit().and_then(|unit| unit.create_object(&template)).expect("data object")
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> u64 {
    outcome.expect_err("must be refused").code
}

#[test]
fn private_objects_need_the_users_login() {
    let f = fixture();
    let user = f.tokens.login(&f.serial, User::User, b"user-pin").expect("user");
    let so = f.tokens.login(&f.serial, User::So, b"so-pin").expect("SO");
    let (public, private) = (data(&f.region, false), data(&f.region, true));
    f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &public, None)]).expect("public");
    for grant in [None, Some(&so)] {
        assert_eq!(
            code(f.tokens.put_objects(&f.serial, grant, &[to_put([2; 16], &private, None)])),
            CKR_USER_NOT_LOGGED_IN
        );
    }
    f.tokens.put_objects(&f.serial, Some(&user), &[to_put([2; 16], &private, None)]).expect("private");
    let ids = |grant| {
        let changes = f.tokens.changes(&f.serial, grant, 0).expect("changes");
        changes.stored.iter().map(|(id, _)| id[0]).collect::<Vec<_>>()
    };
    assert_eq!(ids(None), [1]);
    assert_eq!(ids(Some(&so)), [1]);
    assert_eq!(ids(Some(&user)), [1, 2]);
    assert_eq!(code(f.tokens.delete_object(&f.serial, None, [2; 16])), CKR_USER_NOT_LOGGED_IN);
    // A private object cannot be made public by storing another in its place.
    assert_eq!(
        code(f.tokens.put_objects(&f.serial, None, &[to_put([2; 16], &public, Some(&private))])),
        CKR_USER_NOT_LOGGED_IN
    );
    let revision = f.tokens.changes(&f.serial, Some(&user), 0).expect("changes").revision;
    f.tokens.delete_object(&f.serial, Some(&user), [2; 16]).expect("delete");
    let changes = f.tokens.changes(&f.serial, Some(&user), revision).expect("changes");
    assert_eq!((changes.deleted.as_slice(), changes.stored.len()), ([[2; 16]].as_slice(), 0));
    assert_eq!(code(f.tokens.delete_object(&f.serial, Some(&user), [2; 16])), CKR_OBJECT_HANDLE_INVALID);
    assert_eq!(
        code(f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &public, None)])),
        CKR_OBJECT_HANDLE_INVALID,
        "an id is used once"
    );
}

#[test]
fn a_grant_ends_with_the_pin_and_belongs_to_one_token() {
    let f = fixture();
    let other = f.tokens.init(None, b"so-pin", "other").expect("init").serial;
    let user = f.tokens.login(&f.serial, User::User, b"user-pin").expect("user");
    let private = data(&f.region, true);
    assert_eq!(
        code(f.tokens.put_objects(&other, Some(&user), &[to_put([1; 16], &private, None)])),
        CKR_USER_NOT_LOGGED_IN
    );
    assert_eq!(code(f.tokens.init_pin(&user, b"1234")), CKR_USER_NOT_LOGGED_IN);
    assert_eq!(code(f.tokens.set_pin(&f.serial, User::User, b"wrong", b"new-pin")), CKR_PIN_INCORRECT);
    assert_eq!(code(f.tokens.set_pin(&f.serial, User::User, b"user-pin", b"123")), CKR_PIN_LEN_RANGE);
    f.tokens.set_pin(&f.serial, User::User, b"user-pin", b"new-pin").expect("set PIN");
    assert_eq!(code(f.tokens.changes(&f.serial, Some(&user), 0)), CKR_USER_NOT_LOGGED_IN);
    assert_eq!(code(f.tokens.login(&f.serial, User::User, b"user-pin")), CKR_PIN_INCORRECT);
    f.tokens.login(&f.serial, User::User, b"new-pin").expect("new PIN");
}

#[test]
fn wrong_pins_are_counted_and_lock_and_the_so_unlocks() {
    let f = fixture();
    for _ in 1..MAX_PIN_FAILURES {
        assert_eq!(code(f.tokens.login(&f.serial, User::User, b"wrong")), CKR_PIN_INCORRECT);
    }
    assert_eq!(f.tokens.list().expect("list")[0].user_pin_failures, MAX_PIN_FAILURES - 1);
    f.tokens.login(&f.serial, User::User, b"user-pin").expect("the right one resets the count");
    assert_eq!(f.tokens.list().expect("list")[0].user_pin_failures, 0);
    for _ in 1..MAX_PIN_FAILURES {
        assert_eq!(code(f.tokens.login(&f.serial, User::User, b"wrong")), CKR_PIN_INCORRECT);
    }
    assert_eq!(code(f.tokens.login(&f.serial, User::User, b"wrong")), CKR_PIN_LOCKED);
    // Locked for the right PIN too, though this process has recognised it before; also after a restart.
    assert_eq!(code(f.tokens.login(&f.serial, User::User, b"user-pin")), CKR_PIN_LOCKED);
    let restarted = Tokens::new(f.region.clone()).expect("tokens");
    assert_eq!(code(restarted.login(&f.serial, User::User, b"user-pin")), CKR_PIN_LOCKED);
    let so = restarted.login(&f.serial, User::So, b"so-pin").expect("SO");
    restarted.init_pin(&so, b"fresh-pin").expect("unlock");
    restarted.login(&f.serial, User::User, b"fresh-pin").expect("unlocked");
}

#[test]
fn guesses_at_the_same_time_are_no_more_than_allowed() {
    let f = fixture();
    let compared = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let before = f.tokens.login(&f.serial, User::User, b"wrong").expect_err("wrong");
                // "the PIN is wrong" is said after a comparison only.
                if before.message.contains("is wrong") {
                    compared.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(compared.load(Ordering::Relaxed), MAX_PIN_FAILURES as usize);
}

/// Workers that start at the same time and all know the PIN are no attack.
#[test]
fn right_pins_at_the_same_time_lock_nothing() {
    let f = fixture();
    std::thread::scope(|scope| {
        for _ in 0..24 {
            // Each like a process of its own: it recognises nothing yet.
            let tokens = Tokens::new(f.region.clone()).expect("tokens");
            let serial = &f.serial;
            scope.spawn(move || tokens.login(serial, User::User, b"user-pin").expect("the right PIN"));
        }
    });
    assert_eq!(f.tokens.list().expect("list")[0].user_pin_failures, 0);
}

/// Two processes change an object; the one that looked before the other wrote must look again.
#[test]
fn a_change_from_an_old_state_is_refused() {
    let f = fixture();
    let unit = f.region.unit().expect("unit");
    let first = data(&f.region, false);
    f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &first, None)]).expect("put");
    let label = |label: &[u8]| Attributes::new().with(CKA_LABEL, label);
    let (one, two) =
        [b"one", b"two"].map(|l| unit.change_object(&first, &label(l), false).expect("change")).into();
    f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &one, Some(&first))]).expect("the first change");
    let outcome = f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &two, Some(&first))]);
    assert_eq!(code(outcome), CKR_OBJECT_HANDLE_INVALID);
}

/// Whatever order they come in, nothing of before is there after the erasure.
#[test]
fn no_object_outlives_the_erasure_of_its_token() {
    let f = fixture();
    let user = f.tokens.login(&f.serial, User::User, b"user-pin").expect("user");
    let private = data(&f.region, true);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (f, user, private) = (&f, &user, &private);
            scope.spawn(move || {
                for i in 0..100u8 {
                    let mut id = [thread; 16];
                    id[1] = i;
                    if f.tokens.put_objects(&f.serial, Some(user), &[to_put(id, private, None)]).is_err() {
                        break;
                    }
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        f.tokens.init(Some(&f.serial), b"so-pin", "erased").expect("erase");
    });
    let so = f.tokens.login(&f.serial, User::So, b"so-pin").expect("SO");
    f.tokens.init_pin(&so, b"next-user").expect("init PIN");
    let next = f.tokens.login(&f.serial, User::User, b"next-user").expect("next user");
    assert!(f.tokens.changes(&f.serial, Some(&next), 0).expect("changes").stored.is_empty());
}

/// Somebody who can write to the keystore puts a record of their own in the place of another.
#[test]
fn records_that_were_moved_are_refused() {
    let f = fixture();
    let user = f.tokens.login(&f.serial, User::User, b"user-pin").expect("user");
    let (public, private) = (data(&f.region, false), data(&f.region, true));
    f.tokens.put_objects(&f.serial, Some(&user), &[to_put([1; 16], &public, None)]).expect("put");
    f.tokens.put_objects(&f.serial, Some(&user), &[to_put([2; 16], &private, None)]).expect("put");
    let kind = format!("object/{}", f.serial);
    let keystore = f.region.keystore();
    let body = keystore.get(&kind, &"01".repeat(16)).expect("read").expect("there").body;
    let overwrite = |kind: &str, id: &str, body: Vec<u8>| {
        let (kind, id) = (kind.to_owned(), id.to_owned());
        keystore
            .commit(vec![Write { kind, id, expect: Expect::Present, effect: Effect::Put(body) }])
            .expect("write");
    };
    overwrite(&kind, &"02".repeat(16), body);
    let stored = f.tokens.changes(&f.serial, Some(&user), 0).expect("changes").stored;
    assert_eq!(stored.iter().map(|(id, _)| id[0]).collect::<Vec<_>>(), [1]);

    let mine = f.tokens.init(None, b"my-so-pin", "mine").expect("init").serial;
    let mine = keystore.get("token", &mine).expect("read").expect("there").body;
    overwrite("token", &f.serial, mine);
    assert_eq!(code(f.tokens.login(&f.serial, User::So, b"my-so-pin")), CKR_DEVICE_ERROR);
}

#[test]
fn what_is_no_object_is_not_stored() {
    let f = fixture();
    let unit = f.region.unit().expect("unit");
    let root_key = unit.create_root_key(b"id", None).expect("root key");
    let grant = f.tokens.login(&f.serial, User::User, b"user-pin").expect("user");
    let token = f.region.keystore().get("token", &f.serial).expect("read").expect("there");
    let token: serde_json::Value = serde_json::from_slice(&token.body).expect("JSON");
    let pin = BASE64.decode(token["user"]["record"].as_str().expect("a PIN record")).expect("Base64");
    for blob in [root_key, KeyBlob::parse(&pin).expect("blob")] {
        let outcome = f.tokens.put_objects(&f.serial, Some(&grant), &[to_put([1; 16], &blob, None)]);
        assert_eq!(code(outcome), CKR_OBJECT_HANDLE_INVALID);
    }
}

#[test]
fn a_token_is_erased_by_its_so_only() {
    let f = fixture();
    let public = data(&f.region, false);
    f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &public, None)]).expect("put");
    assert_eq!(code(f.tokens.init(Some(&f.serial), b"wrong", "again")), CKR_PIN_INCORRECT);
    let token = f.tokens.init(Some(&f.serial), b"so-pin", "again").expect("init again");
    assert_eq!((token.label.as_str(), token.user_pin_initialized), ("again", false));
    assert!(f.tokens.changes(&f.serial, None, 0).expect("changes").stored.is_empty());
    assert_eq!(code(f.tokens.login(&f.serial, User::User, b"user-pin")), CKR_USER_PIN_NOT_INITIALIZED);
    assert_eq!(code(f.tokens.login("0000000000000000", User::So, b"so-pin")), CKR_TOKEN_NOT_PRESENT);
    assert_eq!(code(f.tokens.init(None, b"123", "short PIN")), CKR_PIN_LEN_RANGE);
    assert_eq!(code(f.tokens.init(None, b"so-pin", &"x".repeat(33))), CKR_ARGUMENTS_BAD);
}

/// As if the process had been killed between the two commits of an erasure.
#[test]
fn an_erasure_that_was_cut_off_shows_nothing_of_before() {
    let f = fixture();
    f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &data(&f.region, false), None)]).expect("put");
    let keystore = f.region.keystore();
    let record = keystore.get("token", &f.serial).expect("read").expect("there");
    let body = String::from_utf8(record.body).expect("JSON").replace("\"erasing\":false", "\"erasing\":true");
    assert!(body.contains("\"erasing\":true"), "{body}");
    let (kind, id, expect) = (record.kind, record.id, Expect::Version(record.version));
    keystore
        .commit(vec![Write { kind, id, expect, effect: Effect::Put(body.into_bytes()) }])
        .expect("commit");
    assert!(f.tokens.changes(&f.serial, None, 0).expect("changes").stored.is_empty());
}

#[test]
fn objects_are_stored_together_or_not_at_all() {
    let f = fixture();
    let (one, other) = (data(&f.region, false), data(&f.region, false));
    f.tokens.put_objects(&f.serial, None, &[to_put([2; 16], &one, None)]).expect("put");
    let both = [to_put([1; 16], &one, None), to_put([2; 16], &other, None)];
    assert_eq!(code(f.tokens.put_objects(&f.serial, None, &both)), CKR_OBJECT_HANDLE_INVALID, "one is taken");
    let stored = f.tokens.changes(&f.serial, None, 0).expect("changes").stored;
    assert_eq!(stored, [([2; 16], one)]);
}

#[test]
fn an_altered_object_is_not_stored() {
    let f = fixture();
    let mut bytes = data(&f.region, false).as_bytes().to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    let altered = KeyBlob::parse(&bytes).expect("structure is whole");
    let outcome = f.tokens.put_objects(&f.serial, None, &[to_put([1; 16], &altered, None)]);
    assert_eq!(code(outcome), vendor::CKR_IBM_BLOBKEY_CONFLICT);
}

/// A right PIN that the unit could not compare was counted as a wrong one.
#[test]
fn a_pin_that_no_unit_could_compare_is_no_guess() {
    let dir = tempfile::tempdir().expect("dir");
    let region = region(dir.path(), 1);
    let unit = region.units()[0].unit.clone();
    let operator = Operator::new("operator");
    adopt(&unit, &[&operator], 1);
    let tokens = Tokens::new(region).expect("tokens");
    let set = |parts: &[u8]| {
        let pattern = load(&unit, parts, &operator).expect("load");
        send(&unit, Command::CommitMasterKey(pattern), &[&operator]).expect("commit");
        send(&unit, Command::SetImmediate, &[&operator]).expect("set immediate");
    };
    set(&[1, 2]);
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    send(&unit, Command::ClearCurrent, &[&operator]).expect("clear");
    for _ in 0..=MAX_PIN_FAILURES {
        assert_eq!(code(tokens.login(&serial, User::So, b"so-pin")), vendor::CKR_IBM_WK_NOT_INITIALIZED);
    }
    set(&[1, 2]);
    assert_eq!(tokens.list().expect("list")[0].so_pin_failures, 0);
    tokens.login(&serial, User::So, b"so-pin").expect("not locked");
}

/// Nothing could be stored any more, since the token was under a master key that is nowhere, and its deletion took
/// that very master key.
#[test]
fn a_token_under_a_lost_master_key_is_deleted_without_a_unit() {
    let dir = tempfile::tempdir().expect("dir");
    let region = region(dir.path(), 1);
    let unit = region.units()[0].unit.clone();
    let operator = Operator::new("operator");
    adopt(&unit, &[&operator], 1);
    let tokens = Tokens::new(region.clone()).expect("tokens");
    let lost = unit.verification_pattern().expect("valid").to_hex();
    let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
    tokens.put_objects(&serial, None, &[to_put([1; 16], &data(&region, false), None)]).expect("store");
    let staged = |kind: &str, id: &str| {
        let (kind, id) = ("reencrypted".to_owned(), format!("{kind}/{id}"));
        Write { kind, id, expect: Expect::Absent, effect: Effect::Put(b"{}".to_vec()) }
    };
    let objects = format!("object/{serial}");
    let copies = vec![staged("token", &serial), staged(&objects, &hex::encode([1; 16]))];
    region.keystore().commit(copies).expect("stage");
    send(&unit, Command::ClearCurrent, &[&operator]).expect("clear");
    let pattern = load(&unit, &[1, 2], &operator).expect("load");
    send(&unit, Command::CommitMasterKey(pattern), &[&operator]).expect("commit");
    send(&unit, Command::SetImmediate, &[&operator]).expect("set immediate");

    let refused = tokens.init(None, b"so-pin", "another").expect_err("the right master key is nowhere");
    assert_eq!(refused.code, vendor::CKR_IBM_WK_NOT_INITIALIZED);
    assert!(refused.message.contains(&lost) && refused.message.contains("delete"), "{refused}");
    assert_eq!(tokens.list().expect("list").len(), 1);
    assert_eq!(region.delete_token("0123456789abcdef").expect("no such token"), None);
    assert_eq!(region.delete_token(&serial).expect("delete"), Some(1));
    assert_eq!(region.delete_token(&serial).expect("once"), None);
    for kind in ["token", &objects, "reencrypted"] {
        assert!(region.keystore().ids(kind).expect("ids").is_empty(), "{kind}");
    }
    let serial = tokens.init(None, b"so-pin", "another").expect("under the new master key").serial;
    tokens.login(&serial, User::So, b"so-pin").expect("login");
}

#[test]
fn a_restored_token_is_what_it_was() {
    let f = fixture();
    let key = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_AES)
        .with_bool(CKA_TOKEN, true)
        .with_bool(CKA_PRIVATE, true)
        .with_bool(CKA_SENSITIVE, true)
        .with(CKA_VALUE, [7; 32])
        .with_bool(CKA_LOCAL, true)
        .with_ulong(CKA_KEY_GEN_MECHANISM, CKM_AES_KEY_GEN)
        .with_bool(CKA_ALWAYS_SENSITIVE, true)
        .with_bool(CKA_NEVER_EXTRACTABLE, true)
        .with_bool(CKA_TRUSTED, true);
    let serial = "00000000deadbeef";
    let mut restoration =
        f.tokens.restoration(serial, "old", b"so-of-old", Some(b"user-of-old")).expect("begun");
    restoration.add(&key).expect("added");
    let contradiction = key.clone().with_bool(CKA_EXTRACTABLE, true);
    assert_eq!(code(restoration.add(&contradiction)), CKR_ATTRIBUTE_VALUE_INVALID);
    let not_for_data = Attributes::new().with_ulong(CKA_CLASS, CKO_DATA).with_bool(CKA_LOCAL, true);
    assert_eq!(code(restoration.add(&not_for_data)), CKR_ATTRIBUTE_VALUE_INVALID);
    assert_eq!(f.tokens.list().expect("listed").len(), 1, "nothing before the end");
    let token = restoration.commit().expect("stored");
    assert_eq!((token.serial.as_str(), token.label.as_str()), (serial, "old"));
    f.tokens.login(serial, User::So, b"so-of-old").expect("SO");
    let user = f.tokens.login(serial, User::User, b"user-of-old").expect("user");
    let objects = f.tokens.changes(serial, Some(&user), 0).expect("changes").stored;
    let [(_, blob)] = &objects[..] else { panic!("not one object: {}", objects.len()) };
    let attributes = blob.attributes().expect("clear");
    for kind in [CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_TRUSTED] {
        assert_eq!(attributes.bool(kind), Some(true), "{kind:#x}");
    }
    assert_eq!(attributes.ulong(CKA_KEY_GEN_MECHANISM), Some(CKM_AES_KEY_GEN));
    let again = f.tokens.restoration(serial, "new", b"so-of-new", None).expect("begun");
    assert_eq!(code(again.commit()), CKR_TOKEN_WRITE_PROTECTED);
    for wrong in ["", "00000000DEADBEEF", "00000000deadbee", "../../../../../etc"] {
        assert_eq!(code(f.tokens.restoration(wrong, "new", b"so-pin", None).map(drop)), CKR_ARGUMENTS_BAD);
    }
}
