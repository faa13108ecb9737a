//! The PKCS #11 library while crypto units fail: calls and multi-part operations go on in another one.
#![allow(clippy::unwrap_used)]

mod pkcs11_fixture;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;

use pkcs11_fixture::Server;
use pkcs11_fixture::library::{library, new_token, set_environment, user_session};

#[test]
fn a_unit_that_fails_costs_no_call() {
    let server = Server::start();
    set_environment(&server.environment());
    let pkcs11 = library();
    let slot = new_token(&pkcs11, "faults");
    let session = user_session(&pkcs11, slot);
    let p256 = Attribute::EcParams(vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    let (public, private) = session
        .generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[p256, Attribute::Verify(true)],
            &[Attribute::Sign(true)],
        )
        .unwrap();
    let listed = server.unit(&["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let serial = |unit: usize| listed[unit]["serial_number"].as_str().unwrap().to_owned();
    let fault = |unit: usize, words: &[&str]| server.unit(&[&["fault", &serial(unit)], words].concat());

    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pkcs11, stop, done) = (&pkcs11, &stop, &done);
            scope.spawn(move || {
                let session = pkcs11.open_rw_session(slot).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let signature = session.sign(&Mechanism::EcdsaSha256, private, b"in two parts").unwrap();
                    session.verify(&Mechanism::EcdsaSha256, public, b"in two parts", &signature).unwrap();
                    session.sign_init(&Mechanism::EcdsaSha256, private).unwrap();
                    session.sign_update(b"in two ").unwrap();
                    session.sign_update(b"parts").unwrap();
                    let signature = session.sign_final().unwrap();
                    session.verify(&Mechanism::EcdsaSha256, public, b"in two parts", &signature).unwrap();
                    if thread == 0 {
                        let template = [Attribute::ValueLen(32.into()), Attribute::Token(true)];
                        let key = session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
                        session.destroy_object(key).unwrap();
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let go_on = || {
            let before = done.load(Ordering::Relaxed);
            let deadline = Instant::now() + Duration::from_secs(30);
            while done.load(Ordering::Relaxed) < before + 20 {
                assert!(Instant::now() < deadline, "nothing goes on");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            go_on();
            for unit in [0, 1] {
                for kind in
                    [&["--kind", "disable"][..], &["--kind", "corrupt"], &["--kind", "slow", "--delay", "1s"]]
                {
                    // One begun before and finished after: its state goes from unit to unit.
                    session.sign_init(&Mechanism::EcdsaSha256, private).unwrap();
                    session.sign_update(b"in two ").unwrap();
                    fault(unit, kind);
                    go_on();
                    session.sign_update(b"parts").unwrap();
                    let signature = session.sign_final().unwrap();
                    fault(unit, &["--clear"]);
                    session.verify(&Mechanism::EcdsaSha256, public, b"in two parts", &signature).unwrap();
                }
            }
            fault(0, &["--kind", "zeroize"]);
            go_on();
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    pkcs11.finalize().unwrap();
}
