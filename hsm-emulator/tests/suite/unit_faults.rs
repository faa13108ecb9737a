//! A crypto unit that fails costs no request: another one does it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::clients::{create, unwrap, wait_until, wrap};
use crate::common::server::{Door, Server};
use hsm_proto::tke::{self, Fault};
use tonic::Code;

fn set(server: &Server, unit: usize, fault: Fault, delay: Duration) -> tke::Unit {
    let hsm_id = server.list_units().units[unit].hsm_id.clone();
    let delay_milliseconds = delay.as_millis() as u32;
    let request = tke::SetFaultRequest { hsm_id, fault: fault.into(), delay_milliseconds };
    server.block_on(server.support().set_fault(request)).expect("fault").into_inner()
}

fn states(server: &Server) -> Vec<String> {
    server.list_units().units.into_iter().take(2).map(|unit| unit.state).collect()
}

/// Clients that use and create keys all the while; none of them may be refused.
fn under_load(server: &Server, work: impl FnOnce(&dyn Fn(usize))) {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let key = create(server, "in use").expect("create");
    let ciphertext = wrap(server, &key);
    thread::scope(|scope| {
        for client in 0..4 {
            let (key, ciphertext, stop, done) = (&key, &ciphertext, &stop, &done);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(unwrap(server, key, ciphertext).expect("unwrap"), [7; 32]);
                    assert_eq!(unwrap(server, key, &wrap(server, key)).expect("unwrap"), [7; 32]);
                    if client == 0 {
                        // A new key, of which no unit has anything open yet.
                        let new = create(server, "a new one").expect("create");
                        assert_eq!(unwrap(server, &new, &wrap(server, &new)).expect("unwrap"), [7; 32]);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let go_on = |rounds: usize| {
            let before = done.load(Ordering::Relaxed);
            wait_until("the load goes on", || done.load(Ordering::Relaxed) >= before + rounds);
        };
        go_on(20);
        // Also if it panics: else the others would never end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&go_on)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_unit_that_fails_costs_no_request() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(&dir.path().join("hsm"), &[]);
    let none = Duration::ZERO;
    under_load(&server, |go_on| {
        for unit in [0, 1, 0] {
            let other = 1 - unit;
            assert_eq!(set(&server, unit, Fault::Disabled, none).state, "disabled");
            go_on(50);
            assert_eq!(states(&server)[other], "running");
            set(&server, unit, Fault::None, none);
            assert_eq!(states(&server), ["running", "running"]);

            // It notices when it is to seal something, or to open what it has not open.
            set(&server, unit, Fault::Corrupt, none);
            wait_until("it has noticed", || states(&server)[unit] == "out of order");
            go_on(50);
            set(&server, unit, Fault::None, none);
            assert_eq!(states(&server), ["running", "running"]);

            for delay in [100, 2_000] {
                set(&server, unit, Fault::Slow, Duration::from_millis(delay));
                wait_until("it has kept somebody waiting", || states(&server)[unit] == "slow");
                go_on(50);
                set(&server, unit, Fault::None, none);
            }
            go_on(50);
        }
        // Its administrators would have to come.
        assert_eq!(set(&server, 1, Fault::Zeroized, none).state, "no master key");
        go_on(50);
        assert_eq!(set(&server, 1, Fault::None, none).state, "no master key");
        assert!(server.unit(1, Door::Grpc).status().administrators.is_empty());
    });
}

#[test]
fn without_a_unit_requests_fail_clearly_until_one_is_back() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(&dir.path().join("hsm"), &[]);
    let key = create(&server, "in use").expect("create");
    let ciphertext = wrap(&server, &key);
    for (fault, delay) in [(Fault::Disabled, 0), (Fault::Slow, 1_000)] {
        [0, 1].iter().for_each(|unit| drop(set(&server, *unit, fault, Duration::from_millis(delay))));
        let refused = unwrap(&server, &key, &ciphertext).expect_err("no unit");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("crypto unit"), "{refused}");
        let refused = create(&server, "none").expect_err("no unit");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        set(&server, 1, Fault::None, Duration::ZERO);
        assert_eq!(unwrap(&server, &key, &ciphertext).expect("one is back"), [7; 32]);
        set(&server, 0, Fault::None, Duration::ZERO);
    }
    // Two that are slow are better than none.
    [0, 1].iter().for_each(|unit| drop(set(&server, *unit, Fault::Slow, Duration::from_millis(50))));
    for _ in 0..4 {
        assert_eq!(unwrap(&server, &key, &ciphertext).expect("slowly"), [7; 32]);
    }
    assert_eq!(states(&server), ["slow", "slow"]);
}

/// What a damaged master key has in its memory never comes to the disk, and nothing is sealed under it.
#[test]
fn a_corrupt_unit_is_as_before_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("hsm");
    let server = Server::start(&state, &[]);
    let key = create(&server, "in use").expect("create");
    let ciphertext = wrap(&server, &key);
    [0, 1].iter().for_each(|unit| drop(set(&server, *unit, Fault::Corrupt, Duration::ZERO)));
    let refused = create(&server, "under a damaged master key").expect_err("no unit");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(states(&server), ["out of order", "out of order"]);
    drop(server);
    let server = Server::start(&state, &[]);
    assert_eq!(states(&server), ["running", "running"]);
    assert_eq!(unwrap(&server, &key, &ciphertext).expect("unwrap"), [7; 32]);
}

#[test]
fn the_command_names_units_as_the_list_does() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("hsm");
    let server = Server::start(&state, &[]);
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hsm-emulator"))
            .args(["unit", "fault"])
            .args(arguments)
            .arg("--state")
            .arg(&state)
            .output()
            .expect("hsm-emulator");
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), text)
    };
    let serial = server.list_units().units[0].serial_number.clone();
    let (done, printed) = run(&[&serial, "--kind", "slow", "--delay", "50ms"]);
    assert!(done && printed.contains(&serial), "{printed}");
    let (done, printed) = run(&[&serial, "--kind", "slow", "--delay", "2m"]);
    assert!(!done && printed.contains("from 1 to 60000"), "{printed}");
    let (done, printed) = run(&[&serial]);
    assert!(!done && printed.contains("--kind"), "{printed}");
    let (done, printed) = run(&["nobody", "--clear"]);
    assert!(!done && printed.contains("no such crypto unit"), "{printed}");
    let (done, printed) = run(&[&serial, "--clear"]);
    assert!(done && printed.contains("running"), "{printed}");
}
