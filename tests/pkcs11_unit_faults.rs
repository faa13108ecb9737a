//! The PKCS #11 library while crypto units fail: calls and multi-part operations go on in another one.
#![allow(clippy::unwrap_used)]

mod pkcs11_fixture;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use pkcs11_fixture::{Server, built};

#[test]
fn a_unit_that_fails_costs_no_call() {
    let server = Server::start();
    for (name, value) in server.environment() {
        // SAFETY: the only test of this program, while it has no other threads.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(name, value);
        }
    }
    let pkcs11 = Pkcs11::new(built("libhsm_pkcs11.so")).expect("the library is built");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = pkcs11.get_all_slots().unwrap()[0];
    let pin = |text: &str| AuthPin::new(text.into());
    pkcs11.init_token(slot, &pin("12345678"), "faults").unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&pin("12345678"))).unwrap();
    session.init_pin(&pin("1234")).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin("1234"))).unwrap();
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
