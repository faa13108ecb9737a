//! The PKCS #11 library when its remote HSM goes away, comes back, hangs, and when the application forks.
#![allow(clippy::unwrap_used)]

mod pkcs11_fixture;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::Session;

use pkcs11_fixture::Server;
use pkcs11_fixture::library::{library, new_token, set_environment, user_session};

/// One story, because the library has one state for the process.
#[test]
fn the_library_outlives_its_server() {
    let mut server = Server::start();
    set_environment(&server.environment());
    let pkcs11 = library();
    let slot = new_token(&pkcs11, "failures");
    let session = user_session(&pkcs11, slot);
    let key = session
        .generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(32.into()), Attribute::Token(true)]);
    let key = key.unwrap();
    let encrypt = |session: &Session| session.encrypt(&Mechanism::AesEcb, key, &[1; 16]);
    let expected = encrypt(&session).unwrap();

    // The server restarts between two calls: nothing is noticed, and nobody has to log in again.
    server.kill();
    server.restart();
    assert_eq!(encrypt(&session).unwrap(), expected);
    server.kill();
    server.restart();
    session
        .generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(16.into()), Attribute::Token(true)])
        .unwrap();
    assert_eq!(session.find_objects(&[]).unwrap().len(), 2);

    // While it is gone, calls that need it fail at once, others go on.
    server.kill();
    let started = Instant::now();
    let outcome = encrypt(&session);
    assert!(matches!(outcome, Err(Error::Pkcs11(RvError::DeviceError, _))), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(session.digest(&Mechanism::Sha256, b"abc").unwrap().len(), 32);
    server.restart();
    assert_eq!(encrypt(&session).unwrap(), expected);

    // It hangs: the deadline ends the call, and the next one works.
    server.halt();
    let started = Instant::now();
    let outcome = encrypt(&session);
    assert!(matches!(outcome, Err(Error::Pkcs11(RvError::DeviceError, _))), "{outcome:?}");
    assert!((9..15).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    server.go_on();
    assert_eq!(encrypt(&session).unwrap(), expected);

    // A child that ends without a word to the library does not touch the parent's connection.
    for _ in 0..3 {
        let mut child = Command::new("true");
        // SAFETY: the closure only ends the process, running its exit handlers.
        #[allow(unsafe_code)]
        unsafe {
            child.pre_exec(|| std::process::exit(0));
        }
        // The process that should have become the program ends before it does.
        let _ = child.status();
        assert_eq!(encrypt(&session).unwrap(), expected);
    }

    // Threads that end close their connections.
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();
    for _ in 0..30 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let session = pkcs11.open_ro_session(slot).unwrap();
                assert_eq!(encrypt(&session).unwrap(), expected);
            });
        });
    }
    // A thread has been joined before what belongs to it alone is dropped.
    let deadline = Instant::now() + Duration::from_secs(10);
    while open_files() > before + 4 {
        assert!(Instant::now() < deadline, "{} files open, {before} before", open_files());
        std::thread::sleep(Duration::from_millis(10));
    }
    session.close().unwrap();
    pkcs11.finalize().unwrap();
}
