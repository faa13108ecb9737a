//! Programs that people use with PKCS #11 libraries, and openssl to check what they made.

use std::path::Path;
use std::process::Command;

use super::{SO_PIN, USER_PIN, built, hsm, new_token, pkcs11, user_session};
use crate::Hsm;

/// Runs a program with the environment of the HSM that all tests share; what it printed.
fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    run_at(hsm(), dir, program, arguments)
}

fn run_at(hsm: &Hsm, dir: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .envs(hsm.environment())
        .env("GNUTLS_PIN", USER_PIN)
        .env("GNUTLS_SO_PIN", SO_PIN)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}\n{text}");
    text
}

fn library() -> String {
    built("libhsm_pkcs11.so").to_str().unwrap().to_owned()
}

#[test]
fn pkcs11_tool_makes_keys_and_signatures_that_openssl_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let (library, label) = (library(), "pkcs11-tool");
    new_token(label);
    let tool = |arguments: &[&str]| {
        let common = ["--module", &library, "--token-label", label, "--login", "--pin", USER_PIN];
        run(dir.path(), "pkcs11-tool", &[&common, arguments].concat())
    };
    std::fs::write(dir.path().join("data"), vec![b'x'; 100_000]).unwrap();
    std::fs::write(dir.path().join("short"), b"short").unwrap();
    for (id, kind) in [("01", "rsa:2048"), ("02", "EC:prime256v1")] {
        tool(&["--keypairgen", "--key-type", kind, "--id", id, "--label", kind]);
        tool(&["--read-object", "--type", "pubkey", "--id", id, "-o", id]);
        let name = if id == "01" { "rsa" } else { "ec" };
        run(dir.path(), "openssl", &[name, "-pubin", "-inform", "DER", "-in", id, "-out", "public.pem"]);
        let mechanisms: &[&str] =
            if id == "01" { &["SHA256-RSA-PKCS", "SHA256-RSA-PKCS-PSS"] } else { &["ECDSA-SHA256"] };
        for mechanism in mechanisms {
            tool(&[
                "--sign",
                "-m",
                mechanism,
                "--id",
                id,
                "-i",
                "data",
                "-o",
                "signature",
                "--signature-format",
                if id == "01" { "rs" } else { "openssl" },
            ]);
            let mut verify = vec!["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature"];
            if mechanism.ends_with("PSS") {
                verify.extend(["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]);
            }
            verify.push("data");
            assert!(run(dir.path(), "openssl", &verify).contains("Verified OK"));
        }
    }
    tool(&["--keypairgen", "--key-type", "EC:edwards25519", "--id", "04", "--label", "ed25519"]);
    tool(&["--read-object", "--type", "pubkey", "--id", "04", "-o", "ed25519.pem"]);
    tool(&["--sign", "-m", "EDDSA", "--id", "04", "-i", "short", "-o", "signature"]);
    let key = ["-pubin", "-inkey", "ed25519.pem"];
    let verify = ["pkeyutl", "-verify", "-rawin", "-in", "short", "-sigfile", "signature"];
    assert!(run(dir.path(), "openssl", &[&verify[..], &key].concat()).contains("Verified Successfully"));
    tool(&["--keygen", "--key-type", "AES:32", "--id", "03", "--label", "aes"]);
    let iv = "000102030405060708090a0b0c0d0e0f";
    tool(&["--encrypt", "-m", "AES-CBC-PAD", "--id", "03", "--iv", iv, "-i", "data", "-o", "encrypted"]);
    tool(&["--decrypt", "-m", "AES-CBC-PAD", "--id", "03", "--iv", iv, "-i", "encrypted", "-o", "decrypted"]);
    assert_eq!(std::fs::read(dir.path().join("decrypted")).unwrap(), vec![b'x'; 100_000]);
    assert!(tool(&["--test"]).contains("No errors"));
}

/// An HSM of its own: GnuTLS finds no token where a library has more than 48 slots.
#[test]
fn p11tool_lists_generates_signs_writes_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let hsm = Hsm::start();
    let library = library();
    let url = |object: &str| format!("pkcs11:token=p11tool{object}");
    let tool = |arguments: &[&str]| {
        run_at(&hsm, dir.path(), "p11tool", &[&["--provider", &library, "--batch"], arguments].concat())
    };
    let token = ["--init-token", "--free", "--label", "p11tool", "--so-pin", SO_PIN, "--pin", USER_PIN];
    run_at(&hsm, dir.path(), built("hsm-util").to_str().unwrap(), &token);
    assert!(tool(&["--list-tokens"]).contains("token=p11tool"));
    tool(&["--login", "--generate-privkey=rsa", "--bits", "2048", "--label", "one", &url("")]);
    tool(&["--login", "--generate-privkey=ecdsa", "--curve", "secp256r1", "--label", "two", &url("")]);
    for label in ["one", "two"] {
        let object = url(&format!(";object={label};type=private"));
        assert!(tool(&["--login", "--test-sign", &object]).contains("ok"));
        assert!(tool(&["--login", "--export-pubkey", &object]).contains("BEGIN PUBLIC KEY"));
    }
    let request =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out cert -subj /CN=x";
    run(dir.path(), "openssl", &request.split(' ').collect::<Vec<_>>());
    tool(&["--login", "--write", "--load-certificate", "cert", "--label", "three", &url("")]);
    tool(&["--login", "--write", "--load-privkey", "key", "--label", "three", &url("")]);
    assert!(tool(&["--export", &url(";object=three;type=cert")]).contains("BEGIN CERTIFICATE"));
    let list = tool(&["--login", "--list-all", &url("")]);
    assert_eq!(list.matches("Label:").count(), 6, "{list}");
    for label in ["one", "two", "three"] {
        tool(&["--login", "--delete", &url(&format!(";object={label}"))]);
    }
    let list = ["--token-label", "p11tool", "--login", "--pin", USER_PIN, "--list-objects"];
    let left = run_at(&hsm, dir.path(), "pkcs11-tool", &[&["--module", &library], &list[..]].concat());
    assert!(!left.to_lowercase().contains("object"), "{left}");
}

/// What another process does to a token is seen at the next search.
#[test]
fn processes_see_each_others_objects() {
    let dir = tempfile::tempdir().unwrap();
    let session = user_session("shared");
    let library = library();
    let tool = |arguments: &[&str]| {
        let common = ["--module", &library, "--token-label", "shared", "--login", "--pin", USER_PIN];
        run(dir.path(), "pkcs11-tool", &[&common, arguments].concat())
    };
    assert!(session.find_objects(&[]).unwrap().is_empty());
    tool(&["--keygen", "--key-type", "AES:16", "--label", "theirs", "--id", "07"]);
    let found = session.find_objects(&[]).unwrap();
    assert_eq!(found.len(), 1);
    session.destroy_object(found[0]).unwrap();
    assert!(!tool(&["--list-objects"]).contains("theirs"));
    // And whole tokens.
    let before = pkcs11().get_slots_with_token().unwrap().len();
    new_token("counted");
    assert!(pkcs11().get_slots_with_token().unwrap().len() > before);
}
