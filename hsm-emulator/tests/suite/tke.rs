//! `tke` against a served instance whose units are in imprint mode.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::desk::{Desk, SigningServer, openssl, point, subject_key_identifier};
use serde_json::Value;

/// `VP(A xor B)` with A = 0x11 x 32, B = 0x22 x 32.
const A_XOR_B: &str = "40910b8c96ef4c8fcc342a1c45a4135f7a9376fa4b34890991d4e27d00000000";

fn desk_with_administrators(thresholds: [&str; 2]) -> Desk {
    let desk = Desk::new();
    desk.ok(&["cryptounit-add", "--units", "1 2 3 4"], &[]);
    desk.ok(&["sigkey-add", "--name", "ann"], &["pw1"]);
    desk.ok(&["sigkey-add", "--name", "ben"], &["pw2"]);
    desk.ok(&["sigkey-sel", "--keynum", "1 2"], &["pw1", "pw2"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "2"], &["pw2"]);
    let signers = thresholds[0].parse().expect("a number");
    desk.ok(&set_thresholds(thresholds), &["pw1", "pw2"][..signers]);
    desk
}

/// Ann and Ben, with thresholds to be added.
const AUTO_INIT: [&str; 8] =
    ["auto-init", "--administrators", "2", "--name", "ann", "--name", "ben", "--yes"];

fn set_thresholds([signature, revocation]: [&str; 2]) -> [&str; 5] {
    ["cryptounit-thrhld-set", "--signature-threshold", signature, "--revocation-threshold", revocation]
}

fn add_parts(desk: &Desk, bytes: &[&str]) {
    for byte in bytes {
        let value = desk.file("value", &byte.repeat(32));
        desk.ok(&["mk-add", "--value-file", &value, "--description", byte], &["part"]);
        fs::remove_file(value).expect("the file can be removed");
    }
}

/// Load, commit, set immediate, with these parts.
fn load(desk: &Desk, parts: &str) {
    desk.ok(&["cryptounit-mk-load", "--keynum", parts], &["pw1", "part", "part"]);
    desk.ok(&["cryptounit-mk-commit"], &["pw1", "pw2"]);
    desk.ok(&["cryptounit-mk-setimm", "--yes"], &["pw1"]);
}

fn initialised() -> Desk {
    let desk = desk_with_administrators(["2", "2"]);
    add_parts(&desk, &["11", "22"]);
    load(&desk, "1 2");
    desk
}

fn select_only(desk: &Desk, units: &str) {
    desk.ok(&["cryptounit-rm", "--units", "1 2 3 4"], &[]);
    desk.ok(&["cryptounit-add", "--units", units], &[]);
}

fn patterns(desk: &Desk) -> Vec<String> {
    let registers = desk.json(&["cryptounit-mk"]);
    let current = registers["current_master_key_register"].as_array().expect("an array");
    current.iter().map(|row| row["verification_pattern"].as_str().expect("a string").to_owned()).collect()
}

fn assert_same(desk: &Desk, same: bool) {
    let verdict = if same {
        "==> All crypto units are configured the same. <=="
    } else {
        "==> WARNING: Crypto units are configured differently. <=="
    };
    assert_eq!(desk.ok(&["cryptounit-compare"], &[]).lines().last(), Some(verdict));
    assert_eq!(desk.json(&["cryptounit-compare"])["same"], same);
}

#[test]
fn an_instance_is_initialised_by_key_files() {
    let desk = Desk::new();
    let units = desk.json(&["cryptounits"]);
    let units = units["crypto_units"].as_array().unwrap();
    let types: Vec<&str> = units.iter().map(|unit| unit["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["OPERATIONAL", "OPERATIONAL", "RECOVERY", "RECOVERY"]);
    assert!(units.iter().all(|unit| unit["selected"] == false));
    assert!(desk.ok(&["sigkeys"], &[]).starts_with("No files containing a signature key were found."));
    assert!(desk.ok(&["mks"], &[]).starts_with("No files containing an EP11 master key part were found."));

    let desk = initialised();
    assert_same(&desk, true);
    assert_eq!(patterns(&desk), [A_XOR_B; 4]);
    let state = desk.json(&["cryptounit-mk"]);
    let rows = |name: &str| state[name].as_array().unwrap().clone();
    assert!(rows("new_master_key_register").iter().all(|row| row["status"] == "Empty"));
    assert!(rows("current_master_key_register").iter().all(|row| row["status"] == "Valid"));
    let thresholds = desk.json(&["cryptounit-thrhlds"]);
    assert_eq!(thresholds["signature_thresholds"][3]["signature_threshold"], 2);
    let administrators = desk.json(&["cryptounit-admins"]);
    assert_eq!(administrators["crypto_unit_administrators"].as_array().unwrap().len(), 8);

    for file in fs::read_dir(desk.files()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains(&"11".repeat(32)) && !text.contains("PRIVATE KEY"));
        serde_json::from_str::<Value>(&text).expect("JSON");
    }
}

#[test]
fn quorums_follow_the_thresholds() {
    let desk = desk_with_administrators(["1", "1"]);
    desk.ok(&set_thresholds(["2", "1"]), &["pw1"]);
    add_parts(&desk, &["11", "22"]);
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 2"], &["pw1", "part", "part"]);
    let failed = desk.fails(&["cryptounit-mk-commit"], &["pw1"]);
    assert!(failed.contains("Enter the password for the signature key identified by:\nben ("), "{failed}");
    desk.ok(&["cryptounit-mk-commit"], &["pw1", "pw2"]);

    let refused = desk.fails(&set_thresholds(["3", "1"]), &["pw1", "pw2"]);
    assert!(refused.starts_with("FAILED\nError reported by EP11 crypto module.\n"), "{refused}");
    assert!(refused.contains("Return code: 209\nReason code: 57\nError message: "), "{refused}");
    let ann = desk.json(&["sigkeys"])["signature_keys"][0]["subject_key_identifier"].clone();
    let remove = ["cryptounit-admin-rm", "--ski", ann.as_str().unwrap()];
    let refused = desk.fails(&remove, &["pw1"]);
    assert!(refused.contains("Return code: 209\nReason code: 66"), "{refused}");
    let thresholds = desk.json(&["cryptounit-thrhlds"]);
    assert_eq!(thresholds["signature_thresholds"][0]["signature_threshold"], 2);

    desk.ok(&set_thresholds(["1", "1"]), &["pw1", "pw2"]);
    desk.ok(&remove, &["pw1"]);
    let left = desk.json(&["cryptounit-admins"]);
    assert_eq!(left["crypto_unit_administrators"][0]["admin_name"], "ben");
}

#[test]
fn imprint_mode_ends_with_thresholds_that_the_administrators_reach() {
    let desk = Desk::new();
    desk.ok(&["cryptounit-add", "--units", "1"], &[]);
    desk.ok(&["sigkey-add", "--name", "ann"], &["pw1"]);
    desk.ok(&["sigkey-sel", "--keynum", "1"], &["pw1"]);
    let none = desk.ok(&["cryptounit-admins"], &[]);
    assert!(none.trim_start().starts_with("No crypto unit administrators for service instance "), "{none}");
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]);
    assert!(desk.fails(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]).contains("Return code: 256"));
    for (thresholds, reason) in [(["2", "1"], 57), (["1", "2"], 58), (["0", "1"], 76), (["1", "0"], 36)] {
        let refused = desk.fails(&set_thresholds(thresholds), &["pw1"]);
        assert!(refused.contains(&format!("Return code: 209\nReason code: {reason}")), "{refused}");
    }
    add_parts(&desk, &["11", "22"]);
    let refused = desk.fails(&["cryptounit-mk-load", "--keynum", "1 2"], &["part", "part"]);
    assert!(refused.contains("Return code: 179\nReason code: 34"), "{refused}");
}

#[test]
fn a_zeroized_instance_gets_the_same_master_key_from_the_same_parts() {
    let desk = initialised();
    assert!(desk.fails(&["cryptounit-zeroize"], &[]).contains("--yes"));
    desk.ok(&["cryptounit-zeroize", "--yes"], &["pw1"]);
    assert_eq!(patterns(&desk), ["0".repeat(64), "0".repeat(64), "0".repeat(64), "0".repeat(64)]);
    assert_same(&desk, true);
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "2"], &["pw2"]);
    desk.ok(&set_thresholds(["2", "2"]), &["pw1", "pw2"]);
    load(&desk, "2 1");
    assert_eq!(patterns(&desk), [A_XOR_B; 4]);
}

#[test]
fn a_cleared_or_wrong_master_key_is_seen_and_mended() {
    let desk = initialised();
    select_only(&desk, "2");
    desk.ok(&["cryptounit-mk-clrcur", "--yes"], &["pw1"]);
    select_only(&desk, "1 2 3 4");
    assert_same(&desk, false);
    desk.ok(&["auto-recover", "--source", "3", "--units", "2"], &["pw1", "pw2"]);
    assert_same(&desk, true);

    add_parts(&desk, &["33"]);
    select_only(&desk, "2");
    load(&desk, "1 3");
    select_only(&desk, "1 2 3 4");
    assert_same(&desk, false);
    assert_ne!(patterns(&desk)[1], A_XOR_B);
    select_only(&desk, "2");
    load(&desk, "1 2");
    select_only(&desk, "1 2 3 4");
    assert_same(&desk, true);
    // The unit refuses to load what it has.
    let refused = desk.fails(&["cryptounit-mk-load", "--keynum", "1 2"], &["pw1", "part", "part"]);
    assert!(refused.contains("the same as the current master key"), "{refused}");
    desk.ok(&["mk-rm", "--keynum", "3", "--yes"], &[]);
    desk.ok(&["sigkey-rm", "--keynum", "2", "--yes"], &[]);
    assert_eq!(desk.json(&["sigkeys"])["selected"], serde_json::json!([1]));
    let failed = desk.fails(&["cryptounit-mk-commit"], &["pw1"]);
    assert!(failed.contains("is empty"), "{failed}");
    let failed = desk.fails(&["cryptounit-cp-btc"], &["pw1"]);
    assert!(failed.contains("needs 2 signature(s), but only 1 of the selected"), "{failed}");
}

#[test]
fn a_recovery_unit_makes_moves_and_rotates_master_keys() {
    let desk = Desk::new();
    let thresholds = ["--signature-threshold", "2", "--revocation-threshold", "1"];
    let init =
        [&["auto-init", "--administrators", "2", "--name", "ann", "--name", "ben", "--yes"], &thresholds[..]];
    let said = desk.ok(&init.concat(), &["pw1", "pw2"]);
    assert!(said.contains("Installing 1 of 2 administrators....\n"), "{said}");
    assert!(said.contains("Transferring the master key value to 3 of 3 crypto units....\nOK\n"), "{said}");
    assert_same(&desk, true);
    let before = patterns(&desk);
    let again = desk.fails(&init.concat(), &["pw1", "pw2"]);
    assert!(again.contains("Crypto unit 1 is not in imprint mode."), "{again}");
    desk.create_root_key();

    let said = desk.ok(&["auto-mk-rotate", "--delay", "0", "--yes"], &["pw1", "pw2"]);
    let delay = said.find("Delaying 0 seconds to allow server to discover new master key values\n");
    let rewrapped = said.find("KMS CRK rewrap successful, waiting on cryptounit-mk-setimm\n");
    assert!(delay.unwrap() < rewrapped.unwrap());
    let rotated = patterns(&desk);
    assert_ne!(rotated, before);
    assert_same(&desk, true);

    let failed = desk.fails(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert!(failed.contains("the new master key register of crypto unit 1 is not committed"), "{failed}");
    add_parts(&desk, &["11", "22"]);
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 2"], &["pw1", "part", "part"]);
    desk.ok(&["cryptounit-mk-commit"], &["pw1", "pw2"]);
    desk.ok(&["cryptounit-rm", "--units", "4"], &[]);
    let failed = desk.fails(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert!(failed.contains("crypto unit 4 is not selected"), "{failed}");
    desk.ok(&["cryptounit-add", "--units", "4"], &[]);
    desk.ok(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert_eq!(patterns(&desk), [A_XOR_B; 4]);
}

#[test]
fn errors_say_what_to_do() {
    let desk = Desk::new();
    assert!(desk.fails(&["cryptounit-mk"], &[]).contains("No crypto units are selected.\n"));
    desk.ok(&["sigkey-add", "--name", "ann"], &["pw1"]);
    let failed = desk.fails(&["sigkey-sel", "--keynum", "1"], &["pw2"]);
    assert_eq!(failed, "FAILED\nInvalid password.\nKEYNUM 1, the signature key of ann\n");
    assert!(
        desk.fails(&["sigkey-sel", "--keynum", "2"], &["pw1"]).contains("no signature key with KEYNUM 2")
    );
    assert!(desk.fails(&["sigkey-add", "--name", &"x".repeat(31)], &["pw1"]).contains("1 to 30 characters"));
    desk.ok(&["cryptounit-exit-impr"], &[]);

    let unauthorized = desk.with_api_key("no such API key, but as long as one").fails(&["cryptounits"], &[]);
    let expected = "FAILED\nError querying service instances.\nStatus code: 401\nMessage: Unauthorized\n";
    assert!(unauthorized.starts_with(expected), "{unauthorized}");

    let failed = desk.with_files(None).fails(&["sigkeys"], &[]);
    assert!(failed.contains("Environment variable CLOUDTKEFILES is not defined."), "{failed}");
    let failed = desk.with_files(Some("/nowhere")).fails(&["sigkeys"], &[]);
    assert!(failed.contains("cannot be accessed: /nowhere\n"), "{failed}");
}

#[test]
fn units_are_known_by_serial_number_and_module_key() {
    let desk = Desk::new();
    desk.ok(&["cryptounit-add", "--units", "1 2"], &[]);
    desk.ok(&["cryptounit-mk"], &[]);
    let modules = desk.files().join("CRYPTOMODULES");
    let mut known: Value = serde_json::from_slice(&fs::read(&modules).unwrap()).unwrap();
    let domains = desk.files().join("DOMAINS");
    let before = fs::read_to_string(&domains).unwrap();

    known[0]["public_key"] = known[1]["public_key"].clone();
    fs::write(&modules, known.to_string()).unwrap();
    let failed = desk.fails(&["cryptounit-mk"], &[]);
    assert!(failed.contains("name different keys of crypto unit 1"), "{failed}");
    let mut seen: Value = serde_json::from_str(&before).unwrap();
    seen[0]["public_key"] = "".into();
    fs::write(&domains, seen.to_string()).unwrap();
    let failed = desk.fails(&["cryptounit-mk"], &[]);
    assert!(failed.contains("not signed by its module key"), "{failed}");

    seen[0]["serial_num"] = "00000000".into();
    fs::write(&domains, seen.to_string()).unwrap();
    assert!(desk.fails(&["cryptounits"], &[]).contains("\nSerial number mismatch detected\n"));
}

#[test]
fn a_signing_service_signs_in_place_of_key_files() {
    let service = SigningServer::start(&["ann-1", "ben-1"]);
    let desk = Desk::new().with_signing_service(&service.url());
    desk.ok(&["cryptounit-add", "--units", "1"], &[]);
    let named = r#"[{"key": "ann-1", "token": "token of ann-1"}, {"key": "ben-1"}]"#;
    fs::write(desk.files().join("SIGNSERVKEYS"), named).unwrap();
    assert!(desk.ok(&["sigkeys"], &[]).contains("TKE_SIGNSERV_URL is set"));
    let known = desk.json(&["sigkeys"])["signing_service_keys"].clone();
    assert_eq!(
        known,
        serde_json::json!([{ "key": "ann-1", "has_token": true }, { "key": "ben-1", "has_token": false }])
    );
    let add = |key: &'static str, name: &'static str| ["cryptounit-admin-add", "--key", key, "--name", name];
    let failed = desk.fails(&add("ann-1", "ann"), &["wrong"]);
    assert!(failed.contains("status 401"), "{failed}");
    let wrong = desk.fails(&["cryptounit-admin-add", "--keynum", "1"], &[]);
    assert!(wrong.starts_with("error: --keynum: TKE_SIGNSERV_URL is set"), "{wrong}");
    desk.ok(&add("ann-1", "ann"), &["token of ann-1"]);
    desk.ok(&add("ben-1", "ben"), &["token of ben-1"]);
    desk.ok(&set_thresholds(["2", "1"]), &["token of ben-1"]);
    desk.ok(&["cryptounit-cp-eddsa"], &["token of ben-1"]);
    let administrators = desk.json(&["cryptounit-admins"])["crypto_unit_administrators"].clone();
    for (row, (name, key)) in [("ann", "ann-1"), ("ben", "ben-1")].iter().enumerate() {
        assert_eq!(administrators[row]["admin_name"], *name);
        assert_eq!(administrators[row]["subject_key_identifier"], service.subject_key_identifier(key));
    }

    fs::write(desk.files().join("SIGNSERVKEYS"), r#"[{"key": "ben-1", "token": "token of ben-1"}]"#).unwrap();
    let failed = desk.fails(&["cryptounit-cp-btc"], &[]);
    assert!(failed.contains("Name the keys of its administrators in SIGNSERVKEYS."), "{failed}");
    assert!(desk.fails(&add("no such key", "eve"), &["token"]).contains("letters, digits and - . _ ~ only"));
}

#[test]
fn auto_init_works_with_a_signing_service() {
    let service = SigningServer::start(&["ann-1", "ben-1"]);
    let desk = Desk::new().with_signing_service(&service.url());
    let init = [
        &["auto-init", "--administrators", "2", "--name", "ann", "--name", "ben", "--yes"],
        &set_thresholds(["2", "2"])[1..],
    ]
    .concat();
    assert!(desk.fails(&init, &[]).contains("SIGNSERVKEYS names 0."));
    let named = r#"[{"key": "ann-1"}, {"key": "ben-1", "token": "token of ben-1"}]"#;
    fs::write(desk.files().join("SIGNSERVKEYS"), named).unwrap();
    desk.ok(&init, &["token of ann-1"]);
    assert_same(&desk, true);
    assert!(patterns(&desk).iter().all(|pattern| *pattern != "0".repeat(64)));
    assert!(!desk.files().join("1.sigkey").exists());
}

/// The documented format, undone with other code: PBKDF2-HMAC-SHA256 (4096 rounds), AES-256-GCM with the nonce first.
#[test]
fn openssl_reads_a_signature_key_file() {
    let desk = Desk::new();
    assert_eq!(desk.json_with(&["sigkey-add", "--name", "ann"], &["password"])["keynum"], 1);
    let file: Value = serde_json::from_slice(&fs::read(desk.files().join("1.sigkey")).unwrap()).unwrap();
    let bytes = |field: &str| hex::decode(file[field].as_str().unwrap()).unwrap();
    let salt = bytes("seaSalt");
    let mut key = [0; 32];
    let sha256 = openssl::hash::MessageDigest::sha256();
    openssl::pkcs5::pbkdf2_hmac(b"password", &salt, 4096, sha256, &mut key).unwrap();
    let sealed = bytes("enckey");
    let (nonce, rest) = sealed.split_at(12);
    let (content, tag) = rest.split_at(rest.len() - 16);
    let cipher = openssl::symm::Cipher::aes_256_gcm();
    let pem = openssl::symm::decrypt_aead(cipher, &key, Some(nonce), &[], content, tag).unwrap();

    assert!(pem.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    // IBM's label for what is SEC 1 inside.
    let text = String::from_utf8(pem).unwrap().replace("PRIVATE KEY", "EC PRIVATE KEY");
    let path = desk.file("ann.pem", &text);
    assert_eq!(subject_key_identifier(&point(path.as_ref())), file["ski"].as_str().unwrap());
    assert!(!openssl(&["dgst", "-sha512", "-sign", &path], b"message").is_empty());
}

/// `auto-init` zeroized every unit that had an administrator, and with them the only master key.
#[test]
fn auto_init_gives_no_master_key_up() {
    let desk = Desk::with_master_key();
    desk.create_root_key();
    desk.ok(&["cryptounit-add", "--units", "1 2 3 4"], &[]);
    let before = patterns(&desk);
    assert!(before.iter().all(|pattern| *pattern == before[0] && *pattern != "0".repeat(64)));
    desk.ok(&["sigkey-add", "--name", "left"], &["pw"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw"]);

    let init = [&AUTO_INIT[..], &set_thresholds(["2", "1"])[1..]].concat();
    desk.ok(&init, &["pw1", "pw2"]);
    assert_same(&desk, true);
    assert_eq!(patterns(&desk), before);
    let installed = desk.json(&["cryptounit-admins"])["crypto_unit_administrators"].clone();
    let names: Vec<&str> =
        installed.as_array().unwrap().iter().map(|row| row["admin_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "ben"].repeat(4));
}

#[test]
fn auto_init_refuses_what_no_recovery_unit_has_and_fills_what_is_empty() {
    let desk = Desk::with_master_key();
    desk.ok(&["cryptounit-add", "--units", "1 2 3 4"], &[]);
    let before = patterns(&desk)[0].clone();
    let init = [&AUTO_INIT[..], &set_thresholds(["2", "1"])[1..]].concat();
    select_only(&desk, "3 4");
    desk.ok(&["cryptounit-zeroize", "--yes"], &[]);
    let refused = desk.fails(&init, &[]);
    assert!(
        refused.contains("Crypto unit 1 has a master key that no recovery crypto unit has."),
        "{refused}"
    );
    assert!(!desk.files().join("1.sigkey").exists());
    select_only(&desk, "1 2 3 4");
    assert_eq!(patterns(&desk)[0], before);

    let desk = Desk::with_master_key();
    desk.ok(&["cryptounit-add", "--units", "2 4"], &[]);
    desk.ok(&["cryptounit-zeroize", "--yes"], &[]);
    let said = desk.ok(&init, &["pw1", "pw2"]);
    assert!(said.contains("Transferring the master key value to 2 of 2 crypto units....\n"), "{said}");
    assert!(!said.contains("Generating"), "{said}");
    assert_same(&desk, true);
}

#[test]
fn auto_init_can_be_repeated_and_says_what_is_left() {
    let desk = Desk::new();
    let init = [&AUTO_INIT[..], &set_thresholds(["2", "1"])[1..]].concat();
    desk.ok(&["cryptounit-add", "--units", "1 2 3 4"], &[]);
    // An attempt that came to a halt has made the files and installed one administrator in one unit.
    desk.ok(&["sigkey-add", "--name", "ann"], &["pw1"]);
    desk.ok(&["sigkey-add", "--name", "ben"], &["pw2"]);
    select_only(&desk, "1");
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]);
    desk.ok(&init, &["pw1", "pw2"]);
    assert_same(&desk, true);
    assert!(!desk.files().join("3.sigkey").exists());
    let document = desk.fails_in_json(&init, &["pw1", "pw2"]).0;
    assert!(document["error"].as_str().unwrap().contains("nothing is left to do"), "{document}");

    select_only(&desk, "1 2");
    desk.ok(&["cryptounit-mk-clrcur", "--yes"], &["pw1"]);
    let refused = desk.fails(&init, &["pw1", "pw2"]);
    assert!(refused.contains("use 'tke auto-mk-recover --source 3 --units \"1 2\"'."), "{refused}");
    desk.ok(&["auto-mk-recover", "--source", "3", "--units", "1 2"], &["pw1", "pw2"]);
    // Nobody needs it any more, so nobody is asked for a password.
    desk.ok(&["auto-mk-recover", "--source", "3", "--units", "1 2"], &[]);

    select_only(&desk, "1 2 3 4");
    desk.ok(&["cryptounit-mk-clrcur", "--yes"], &["pw1"]);
    let refused = desk.fails(&init, &["pw1", "pw2"]);
    assert!(refused.contains("'tke cryptounit-zeroize', then repeat 'tke auto-init'."), "{refused}");
}

/// What had been done on the first units kept the command from being repeated.
#[test]
fn a_command_that_failed_on_one_unit_can_be_repeated() {
    let desk = Desk::new();
    desk.ok(&["cryptounit-add", "--units", "1 2 3 4"], &[]);
    desk.ok(&["sigkey-add", "--name", "ann"], &["pw1"]);
    desk.ok(&["sigkey-sel", "--keynum", "1"], &["pw1"]);
    let add = ["cryptounit-admin-add", "--keynum", "1"];
    // A unit that others have administered: the same state, reached by somebody else.
    select_only(&desk, "1 3");
    desk.ok(&add, &["pw1"]);
    select_only(&desk, "1 2 3 4");
    desk.ok(&add, &["pw1"]);
    let refused = desk.fails(&add, &["pw1"]);
    assert!(refused.contains("Return code: 256\nReason code: 38\n"), "{refused}");
    assert!(refused.contains("\nFailed on crypto unit: 1\nNot tried on crypto units: 2 3 4\n"), "{refused}");

    select_only(&desk, "2");
    desk.ok(&set_thresholds(["1", "1"]), &["pw1"]);
    select_only(&desk, "1 2 3 4");
    desk.ok(&set_thresholds(["1", "1"]), &["pw1"]);
    add_parts(&desk, &["11", "22"]);
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 2"], &["pw1", "part", "part"]);
    select_only(&desk, "1 4");
    desk.ok(&["cryptounit-mk-commit"], &["pw1"]);
    select_only(&desk, "1 2 3 4");
    desk.ok(&["cryptounit-mk-commit"], &["pw1"]);
    select_only(&desk, "3");
    desk.ok(&["cryptounit-mk-setimm", "--yes"], &["pw1"]);
    select_only(&desk, "1 2 3 4");
    desk.ok(&["cryptounit-mk-setimm", "--yes"], &["pw1"]);
    assert_eq!(patterns(&desk), [A_XOR_B; 4]);

    let (document, code) = desk.fails_in_json(&["cryptounit-mk-setimm", "--yes"], &["pw1"]);
    assert_eq!(code, Some(1));
    assert_eq!((&document["return_code"], &document["reason_code"]), (&101.into(), &50.into()));
    let units = serde_json::json!({ "1": "failed", "2": "not tried", "3": "not tried", "4": "not tried" });
    assert_eq!(document["units"], units);
    assert!(document["error"].as_str().unwrap().starts_with("Error reported by EP11 crypto module.\n"));

    // A unit that loses its power in the middle.
    desk.power(3, false);
    let failed = desk.fails(&["cryptounit-mk"], &[]);
    let expected =
        "FAILED\nError sending the request to the crypto unit.\nStatus code: 503\nMessage: crypto unit 3 ";
    assert!(failed.starts_with(expected), "{failed}");
}

#[test]
fn a_command_that_fails_says_which_units_are_done() {
    let desk = Desk::new();
    desk.ok(&["cryptounit-add", "--units", "1 2 4"], &[]);
    desk.ok(&["sigkey-add", "--name", "ann"], &["pw1"]);
    desk.ok(&["sigkey-add", "--name", "ben"], &["pw2"]);
    desk.ok(&["sigkey-sel", "--keynum", "1 2"], &["pw1", "pw2"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "2"], &["pw2"]);
    desk.ok(&["cryptounit-add", "--units", "3"], &[]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]);

    let failed = desk.fails(&set_thresholds(["2", "1"]), &["pw1", "pw2"]);
    let said = "Crypto unit: 3\nDone on crypto units: 1 2\nFailed on crypto unit: 3\nNot tried on crypto units: 4\n\
                When the cause is removed, repeat 'tke cryptounit-thrhld-set': it leaves alone the crypto units that \
                are done.\n";
    assert!(failed.ends_with(said), "{failed}");
    let document = desk.fails_in_json(&set_thresholds(["2", "1"]), &["pw1", "pw2"]).0;
    assert_eq!((&document["return_code"], &document["reason_code"]), (&209.into(), &57.into()));
    let units = serde_json::json!({ "1": "done", "2": "done", "3": "failed", "4": "not tried" });
    assert_eq!(document["units"], units);

    desk.ok(&["cryptounit-admin-add", "--keynum", "2"], &["pw2"]);
    desk.ok(&set_thresholds(["2", "1"]), &["pw1", "pw2"]);
    assert_same(&desk, true);
}

/// `auto-mk-rotate`, broken off by a unit 1 that has no power for a while: key storage is re-encrypted, and nobody has
/// set the new master key, whose pattern this is.
fn broken_off(desk: &Desk) -> String {
    let rotating = desk.clone();
    let rotation = std::thread::spawn(move || {
        rotating.fails(&["auto-mk-rotate", "--delay", "3", "--yes"], &["pw1", "pw2"])
    });
    let pending = loop {
        let registers = desk.json(&["cryptounit-mk"])["new_master_key_register"].clone();
        if registers.as_array().expect("an array").iter().all(|row| row["status"] == "Full Committed") {
            break registers[0]["verification_pattern"].as_str().expect("a string").to_owned();
        }
    };
    desk.power(1, false);
    let failed = rotation.join().expect("auto-mk-rotate");
    assert!(failed.contains("run 'tke cryptounit-mk-setimm': it is safe to answer y."), "{failed}");
    desk.power(1, true);
    pending
}

#[test]
fn a_rotation_that_was_broken_off_names_its_master_key() {
    let desk = initialised();
    desk.create_root_key();
    let pending = broken_off(&desk);
    desk.ok(&["cryptounit-mk-clrnew", "--yes"], &["pw1"]);
    add_parts(&desk, &["33"]);
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 3"], &["pw1", "part", "part"]);
    desk.ok(&["cryptounit-mk-commit"], &["pw1", "pw2"]);
    let refused = desk.fails(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert!(refused.contains(&pending) && refused.contains("'tke cryptounit-mk-load'"), "{refused}");
    // A random master key that nobody has any more.
    assert!(refused.contains("'tke cryptounit-mk-rotate --cancel'; nothing is lost"), "{refused}");
    let (cancelled, asked) = desk.answered(&["cryptounit-mk-rotate", "--cancel"], "n\n");
    assert!(!cancelled && asked.contains(&pending) && asked.contains("Nothing is lost"), "{asked}");
    let said = desk.ok(&["cryptounit-mk-rotate", "--cancel", "--yes"], &[]);
    assert!(said.starts_with("OK\nThe re-encryption is cancelled;"), "{said}");
    desk.create_root_key();
    let refused = desk.fails(&["cryptounit-mk-rotate", "--cancel", "--yes"], &[]);
    assert!(refused.contains("nothing to cancel"), "{refused}");
    desk.ok(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert_same(&desk, true);
}

/// It was told to load a random master key again.
#[test]
fn a_unit_that_lost_the_new_master_key_gets_it_from_a_recovery_unit() {
    let desk = initialised();
    desk.create_root_key();
    let pending = broken_off(&desk);
    select_only(&desk, "1");
    desk.ok(&["cryptounit-zeroize", "--yes"], &["pw1"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "1"], &["pw1"]);
    desk.ok(&["cryptounit-admin-add", "--keynum", "2"], &["pw2"]);
    desk.ok(&set_thresholds(["2", "2"]), &["pw1", "pw2"]);
    desk.ok(&["auto-mk-recover", "--source", "3", "--units", "1"], &["pw1", "pw2"]);
    // One that has lost its current one only would lose the new one by the recovery.
    select_only(&desk, "2");
    desk.ok(&["cryptounit-mk-clrcur", "--yes"], &["pw1"]);
    let recover = ["auto-mk-recover", "--source", "3", "--units", "2"];
    let (recovered, asked) = desk.answered(&recover, "n\n");
    assert!(
        !recovered && asked.contains("registers of crypto units: 2\n'tke cryptounit-mk-rotate'"),
        "{asked}"
    );
    desk.ok(&[&recover[..], &["--yes"]].concat(), &["pw1", "pw2"]);

    select_only(&desk, "1 2 3 4");
    let said = desk.ok(&["cryptounit-mk-rotate", "--yes"], &["pw1", "pw2"]);
    assert!(said.contains("Recovery crypto unit 3 has the new master key, and gives it to: 1 2\n"), "{said}");
    assert_eq!(patterns(&desk), [pending.as_str(); 4]);
    assert_same(&desk, true);
    desk.create_root_key();
}

#[test]
fn a_signing_service_is_not_reached_by_https() {
    let desk = Desk::new().with_signing_service("https://localhost:8080");
    assert!(desk.fails(&["sigkeys"], &[]).contains("https is not supported yet. Use http://"));
}

/// It warned, set the new master key, and a record that was restored afterwards was lost.
#[test]
fn a_rotation_stops_before_it_loses_damaged_keys() {
    let desk = initialised();
    desk.create_root_key();
    let whole = desk.damage_root_key();
    let rotate = ["auto-mk-rotate", "--delay", "0", "--yes"];
    let failed = desk.fails(&rotate, &["pw1", "pw2"]);
    assert!(failed.contains("1 of 1 stored keys could not be re-encrypted"), "{failed}");
    assert!(failed.contains("'tke cryptounit-mk-rotate --without-damaged-keys'"), "{failed}");
    assert_eq!(patterns(&desk), [A_XOR_B; 4]);
    let (_, printed) = desk.answered(&["cryptounit-mk-setimm"], "n\n");
    assert!(printed.contains("1 of 1 stored keys could not be re-encrypted and will be lost"), "{printed}");
    let (document, code) = desk.fails_in_json(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert_eq!((&document["left_out"], code), (&1.into(), Some(1)));

    assert!(desk.audit_log().contains("\"leftOut\":1"));

    desk.restore_root_key(whole);
    let rotated = desk.json_with(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert_eq!((&rotated["reencrypted"], &rotated["left_out"]), (&1.into(), &0.into()));
    let first = patterns(&desk);
    assert_ne!(first, [A_XOR_B; 4]);

    desk.damage_root_key();
    let on = [&rotate[..], &["--without-damaged-keys"]].concat();
    let said = desk.ok(&on, &["pw1", "pw2"]);
    assert!(said.contains("Warning!  1 of 1 stored keys are damaged"), "{said}");
    assert_ne!(patterns(&desk), first);
}

/// Parts that differ from unit to unit were committed without a word.
#[test]
fn one_master_key_is_committed_in_all_units() {
    let desk = desk_with_administrators(["1", "1"]);
    add_parts(&desk, &["11", "22", "33"]);
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 2"], &["pw1", "part", "part"]);
    select_only(&desk, "3");
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 3"], &["pw1", "part", "part"]);
    select_only(&desk, "1 2 3 4");
    let failed = desk.fails(&["cryptounit-mk-commit"], &["pw1"]);
    assert!(failed.contains("crypto units 1 and 3 hold different master keys."), "{failed}");
    let wrong = desk.fails(&["cryptounit-mk-load", "--keynum", "1 2"], &["pw1", "part", "prat"]);
    assert_eq!(wrong.lines().nth(2), Some("KEYNUM 2, the master key part \"22\""));
}

#[test]
fn set_immediate_says_that_nothing_has_been_re_encrypted() {
    let desk = initialised();
    desk.create_root_key();
    add_parts(&desk, &["33"]);
    desk.ok(&["cryptounit-mk-load", "--keynum", "1 3"], &["pw1", "part", "part"]);
    desk.ok(&["cryptounit-mk-commit"], &["pw1", "pw2"]);
    let (_, printed) = desk.answered(&["cryptounit-mk-setimm"], "n\n");
    assert!(printed.contains("\nNothing has been re-encrypted under this master key"), "{printed}");
    assert!(printed.ends_with("Do you want to continue?\nAnswer [y/N]:\n> "), "{printed}");
    let said = desk.ok(&["cryptounit-mk-rotate", "--yes"], &["pw1"]);
    assert!(
        said.starts_with("Applications that hold PKCS #11 objects in memory have to be restarted"),
        "{said}"
    );
}

/// The listing of one instance threw away what was selected of another one.
#[test]
fn a_selection_survives_other_instances_and_other_commands() {
    let (one, two) = (Desk::new(), Desk::new());
    let other = one.at(&two);
    one.ok(&["cryptounit-add", "--units", "1 2"], &[]);
    other.ok(&["cryptounit-add", "--units", "3"], &[]);
    let selected = |desk: &Desk| {
        let listed = desk.json(&["cryptounits"])["crypto_units"].clone();
        let flags = listed.as_array().unwrap().iter().map(|unit| unit["selected"].as_bool().unwrap());
        flags.collect::<Vec<_>>()
    };
    assert_eq!(selected(&one), [true, true, false, false]);
    assert_eq!(selected(&other), [false, false, true, false]);
    assert_eq!(one.domains().as_array().unwrap().len(), 8);
    let written = fs::metadata(one.files().join("DOMAINS")).unwrap().modified().unwrap();
    one.ok(&["cryptounits"], &[]);
    assert_eq!(fs::metadata(one.files().join("DOMAINS")).unwrap().modified().unwrap(), written);

    for _ in 0..5 {
        one.ok(&["cryptounit-rm", "--units", "1 2 3 4"], &[]);
        std::thread::scope(|scope| {
            for unit in ["1", "2", "3", "4"] {
                scope.spawn(|| one.ok(&["cryptounit-add", "--units", unit], &[]));
            }
        });
        assert_eq!(selected(&one), [true; 4]);
    }
    one.ok(&["cryptounit-mk"], &[]);
    other.ok(&["cryptounit-mk"], &[]);
    let modules = fs::read(one.files().join("CRYPTOMODULES")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&modules).unwrap().as_array().unwrap().len(), 5);
}

#[test]
fn odd_input_is_met_with_words() {
    let desk = desk_with_administrators(["1", "1"]);
    let ann = desk.json(&["sigkeys"])["signature_keys"][0]["subject_key_identifier"].clone();
    for nothing in ["", " ", "..."] {
        let failed = desk.fails(&["cryptounit-admin-rm", "--ski", nothing], &[]);
        assert!(failed.contains("give the first ones"), "{failed}");
    }
    let abbreviated = format!("{}...", &ann.as_str().unwrap()[..30]);
    desk.ok(&["cryptounit-admin-rm", "--ski", &abbreviated], &["pw1"]);

    fs::write(desk.files().join("3.sigkey"), "{}").unwrap();
    let warned = desk.warnings(&["sigkeys"], &[]);
    assert!(warned.contains("3.sigkey is damaged"), "{warned}");
    desk.ok(&["cryptounit-thrhlds"], &[]);
    desk.ok(&["sigkey-rm", "--keynum", "3", "--yes"], &[]);
    assert_eq!(desk.warnings(&["sigkeys"], &[]), "");

    let failed = desk.fails(&["mk-add", "--random", "--description", "two\nlines"], &["part"]);
    assert!(failed.contains("one line"), "{failed}");
    assert_eq!(desk.json_with(&["mk-add", "--random", "--description", "a"], &["part"])["keynum"], 1);
    let unused = desk.warnings(&["sigkey-add", "--name", "cleo"], &["pw3", "pw4"]);
    assert_eq!(unused, "Warning: nothing has asked for the last 1 line(s) of --password-file.\n");
    let open = desk.file("open", "pw3");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let warned = desk.warnings(&["sigkey-add", "--name", "dora", "--password-file", &open], &["pw4"]);
    assert!(warned.contains("has mode 0644; others can read it."), "{warned}");

    let refused = desk.fails(&["failover-enable", "--units", "2", "--yes"], &[]);
    assert!(refused.contains("this one has no partner"), "{refused}");
    for help in [&["help"][..], &["--json", "h"], &["--help"]] {
        let said = desk.ok(help, &[]);
        assert!(
            said.contains("tke cryptounits              1. see") && said.contains("Exit codes:"),
            "{said}"
        );
    }
    for command in ["cryptounit-mk-rotate", "auto-mk-rotate"] {
        let said = desk.ok(&["help", command], &[]);
        let table = "\n  'rewrap successful'     see cryptounit-mk. All new registers alike";
        assert!(said.contains("\nIf it is interrupted") && said.contains(table), "{said}");
    }
    let said = desk.ok(&["h", "auto-recover"], &[]);
    assert!(said.contains("Passwords: of as many selected signature keys"), "{said}");
    assert!(desk.fails(&["help", "sigkey"], &[]).starts_with("error: there is no command \"sigkey\""));
}
