//! The PKCS #11 library with two regions that hold the same keys.
#![allow(clippy::unwrap_used)]

mod pkcs11_fixture;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::Session;

use pkcs11_fixture::Server;
use pkcs11_fixture::library::{library, new_token, set_environment, user_session};

/// One story, because the library has one state for the process.
#[test]
fn sessions_go_on_in_the_other_region_and_come_home() {
    let mut home = Server::start();
    set_environment(&home.environment());
    let pkcs11 = library();
    {
        let session = user_session(&pkcs11, new_token(&pkcs11, "failover"));
        let template = [Attribute::ValueLen(32.into()), Attribute::Token(true), Attribute::Label("k".into())];
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
    }
    pkcs11.finalize().unwrap();

    let mut away = home.copy();
    let [both, key_file] = {
        let [mut endpoints, key_file] = home.environment().try_into().unwrap();
        endpoints.1 = format!("{},{}", endpoints.1, away.environment()[0].1);
        [endpoints, key_file]
    };
    set_environment(&[both, key_file]);
    let pkcs11 = library();
    let slot = pkcs11.get_all_slots().unwrap()[0];
    let session = user_session(&pkcs11, slot);
    let key = session.find_objects(&[Attribute::Label("k".into())]).unwrap()[0];
    let encrypt = |session: &Session| session.encrypt(&Mechanism::AesEcb, key, &[1; 16]);
    let expected = encrypt(&session).unwrap();

    // Killed, and stopped, under load: no call fails, and each is done soon.
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let longest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let session = pkcs11.open_ro_session(slot).unwrap();
                    let mut longest = Duration::ZERO;
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        assert_eq!(encrypt(&session).unwrap(), expected);
                        longest = longest.max(begun.elapsed());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    longest
                })
            })
            .collect();
        let goes_on = || {
            let before = done.load(Ordering::Relaxed);
            let deadline = Instant::now() + Duration::from_secs(30);
            while done.load(Ordering::Relaxed) < before + 100 {
                assert!(Instant::now() < deadline, "nothing goes on");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        goes_on();
        home.kill();
        goes_on();
        home.restart();
        // Back at home within seconds: then the other one is not missed.
        std::thread::sleep(Duration::from_secs(5));
        away.kill();
        goes_on();
        away.restart();
        home.halt();
        goes_on();
        home.go_on();
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).max()
    });
    println!("{} calls, the longest {longest:?}", done.load(Ordering::Relaxed));

    // It begins with the home region gone, too.
    drop(session);
    pkcs11.finalize().unwrap();
    home.kill();
    let pkcs11 = library();
    let session = user_session(&pkcs11, pkcs11.get_all_slots().unwrap()[0]);
    assert_eq!(session.find_objects(&[Attribute::Label("k".into())]).unwrap().len(), 1);
    // Without either, an error at once.
    away.kill();
    let started = Instant::now();
    assert!(session.generate_random_vec(100_000).is_err());
    assert!(started.elapsed() < Duration::from_secs(10));
}
