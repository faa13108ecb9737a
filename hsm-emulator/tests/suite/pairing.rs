//! Two regions as processes: what the primary acknowledges is in both, and who may write is never in doubt.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::clients::{
    SetAtTheEnd, create, delete, ids, initialise, load, reencrypt, unwrap, wait_until, wrap, wrapped,
};
use crate::common::operator::Operator;
use crate::common::server::{Door, Server};
use hsm_emulator::keystore::{Effect, Expect, Keystore, Location, Write};
use hsm_emulator::units::command::Command;
use hsm_proto::{kms, tke};
use serde_json::Value;
use tonic::Code;

/// A primary region, a failover region, and the directory of both.
struct Pair {
    dir: tempfile::TempDir,
    ports: [u16; 2],
    operators: [Operator; 2],
}

impl Pair {
    /// Both initialised with the same master key, served, and joined.
    fn new() -> (Self, Server, Server) {
        let pair = Self {
            dir: tempfile::tempdir().expect("dir"),
            ports: [port(), port()],
            operators: [Operator::new("a"), Operator::new("b")],
        };
        let home = pair.start(0, &["--imprint"]);
        initialise(&home, &pair.operators, tke::UnitType::Operational);
        let invitation = pair.dir.path().join("invitation");
        let invitation = invitation.to_str().expect("UTF-8");
        pair.run(&[
            "failover",
            "invite",
            "--out",
            invitation,
            "--state",
            pair.state(0).to_str().expect("UTF-8"),
        ]);
        pair.run(&[
            "failover",
            "join",
            "--invitation",
            invitation,
            "--state",
            pair.state(1).to_str().expect("UTF-8"),
        ]);
        let away = pair.start(1, &[]);
        wait_until("the pair is joined", || pair.status(0)["partner"]["bond"] == "joined");
        add_units(&home);
        // Through the home region, as its operators do it.
        initialise(&home, &pair.operators, tke::UnitType::Failover);
        wait_until("the checks are green", || {
            pair.status(0)["checks"].as_array().expect("checks").iter().all(|check| check["passed"] == true)
        });
        (pair, home, away)
    }

    fn state(&self, i: usize) -> PathBuf {
        self.dir.path().join(["us-south", "us-east"][i])
    }

    fn start(&self, i: usize, flags: &[&str]) -> Server {
        let listen = format!("127.0.0.1:{}", self.ports[i]);
        let flags = [&["--pair-listen", listen.as_str()], flags].concat();
        Server::start(&self.state(i), &flags)
    }

    /// `hsm-emulator failover VERB` there: did it succeed, and what does it say?
    fn step(&self, i: usize, words: &[&str]) -> Result<Value, String> {
        let state = self.state(i);
        let words = [&["failover"], words, &["--json", "--state", state.to_str().expect("UTF-8")]].concat();
        let output =
            Process::new(env!("CARGO_BIN_EXE_hsm-emulator")).args(&words).output().expect("hsm-emulator");
        let printed = serde_json::from_slice(&output.stdout);
        match printed {
            Ok(printed) if output.status.success() || words[1] == "status" => Ok(printed),
            _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn status(&self, i: usize) -> Value {
        self.step(i, &["status"]).expect("status")
    }

    fn run(&self, words: &[&str]) {
        let output =
            Process::new(env!("CARGO_BIN_EXE_hsm-emulator")).args(words).output().expect("hsm-emulator");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Below the range that the system gives to outgoing connections: still free when a region is started again.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn add_units(home: &Server) {
    for _ in 0..2 {
        let request = tke::AddUnitRequest { r#type: tke::UnitType::Failover.into(), old_firmware: false };
        home.block_on(home.support().add_unit(request)).expect("add");
    }
}

/// As if the region had been killed between its own commit and the partner's acknowledgement.
fn unacknowledged_key(state: &Path, like: &str) -> String {
    let keystore = Keystore::open(&Location::embedded(state)).expect("keystore");
    let body = keystore.get("root-key", like).expect("read").expect("a root key").body;
    let id = "11111111-2222-4333-8444-555555555555";
    let (kind, effect) = ("root-key".to_owned(), Effect::Put(body));
    let write = Write { kind, id: id.to_owned(), expect: Expect::Absent, effect };
    keystore.transaction_here(|transaction| transaction.write(&write)).expect("write");
    id.to_owned()
}

fn set_aside(state: &Path) -> String {
    let files = std::fs::read_dir(state.join("set-aside")).expect("set-aside");
    files.map(|file| std::fs::read_to_string(file.expect("file").path()).expect("text")).collect()
}

#[test]
fn what_is_acknowledged_is_in_both_and_used_in_both() {
    let (_pair, home, away) = Pair::new();
    assert_eq!(home.api_key(), away.api_key());
    let keys: Vec<String> = (0..20).map(|i| create(&home, &format!("key {i}")).expect("create")).collect();
    for key in &keys {
        let ciphertext = wrap(&home, key);
        assert_eq!(unwrap(&away, key, &ciphertext).expect("at once"), [7; 32]);
        let ciphertext = wrap(&away, key);
        assert_eq!(unwrap(&home, key, &ciphertext).expect("there and back"), [7; 32]);
    }
    let ciphertext = wrap(&home, &keys[0]);
    delete(&home, &keys[0]).expect("delete");
    let refused = unwrap(&away, &keys[0], &ciphertext).expect_err("deleted in both");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    // Only the primary one writes, and says so.
    let refused = create(&away, "elsewhere").expect_err("not the primary");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("not the primary one"), "{}", refused.message());
    assert_eq!(ids(&home), ids(&away));
}

#[test]
fn without_the_partner_keys_are_used_but_not_changed_until_it_is_detached() {
    let (pair, home, away) = Pair::new();
    let key = create(&home, "before").expect("create");
    let ciphertext = wrap(&home, &key);
    drop(away);
    let refused = create(&home, "lost").expect_err("the partner is lost");
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(unwrap(&home, &key, &ciphertext).expect("untouched"), [7; 32]);
    pair.step(0, &["detach"]).expect("detach");
    let alone = create(&home, "alone").expect("alone");
    assert_eq!(pair.status(0)["here"]["bond"], "detached");
    // It comes back, and stays behind until it is let in again.
    let away = pair.start(1, &[]);
    wait_until("it knows", || pair.status(1)["here"]["bond"] == "detached");
    assert!(!ids(&away).contains(&alone));
    assert!(pair.step(1, &["promote"]).is_err(), "it is not up to date");
    pair.step(0, &["attach"]).expect("attach");
    wait_until("joined again", || pair.status(1)["here"]["bond"] == "joined");
    assert_eq!(ids(&home), ids(&away));
    create(&home, "together").expect("together");
    assert_eq!(ids(&home), ids(&away));
}

#[test]
fn a_promoted_region_writes_and_the_old_primary_steps_down_with_its_tail_set_aside() {
    let (pair, home, away) = Pair::new();
    let kept = create(&home, "kept").expect("create");
    let ciphertext = wrap(&home, &kept);
    assert!(pair.step(1, &["promote"]).expect_err("alive").contains("switchover"));
    // The home region goes while it writes: some of that nobody has acknowledged.
    drop(home);
    let tail = unacknowledged_key(&pair.state(0), &kept);
    wait_until("promoted", || pair.step(1, &["promote"]).is_ok());
    assert_eq!(unwrap(&away, &kept, &ciphertext).expect("all along"), [7; 32]);
    let new = create(&away, "new").expect("the primary writes");

    let home = pair.start(0, &[]);
    wait_until("joined the other way round", || {
        let status = pair.status(0);
        (&status["here"]["role"], &status["here"]["bond"]) == (&"failover".into(), &"joined".into())
    });
    assert_eq!(ids(&home), ids(&away));
    assert!(ids(&home).contains(&new) && !ids(&home).contains(&tail));
    assert!(set_aside(&pair.state(0)).contains(&tail), "reported, not lost");
    assert_eq!(pair.status(0)["set_aside"].as_array().expect("files").len(), 1);
    assert_eq!(create(&home, "refused").expect_err("follows").code(), Code::Unavailable);

    // And home again, without a gap.
    create(&away, "while joined").expect("both");
    pair.step(1, &["switchover"]).expect("switchover");
    wait_until("home is primary", || create(&home, "home again").is_ok());
    wait_until("joined", || pair.status(1)["here"]["bond"] == "joined");
    assert_eq!(pair.status(0)["here"]["role"], "primary");
    assert_eq!(ids(&home), ids(&away));
}

#[test]
fn two_regions_that_went_on_alone_are_not_merged_by_themselves() {
    let (pair, home, away) = Pair::new();
    create(&home, "common").expect("create");
    drop(away);
    pair.step(0, &["detach"]).expect("detach");
    let here = create(&home, "here").expect("alone");
    drop(home);
    let away = pair.start(1, &[]);
    wait_until("promoted", || pair.step(1, &["promote", "--force"]).is_ok());
    let there = create(&away, "there").expect("alone too");

    let home = pair.start(0, &[]);
    let listed = |status: &Value, side: &str, id: &str| {
        status[side].as_array().expect("records").iter().any(|record| record["id"] == id)
    };
    wait_until("both are listed", || {
        let status = pair.status(0);
        listed(&status, "changed_here", &here) && listed(&status, "changed_there", &there)
    });
    assert!(pair.status(0)["problem"].as_str().expect("problem").contains("give-up-changes"));
    assert!(ids(&home).contains(&here) && ids(&away).contains(&there), "nothing was chosen");
    assert_eq!(
        (&pair.status(0)["here"]["role"], &pair.status(1)["here"]["role"]),
        (&"primary".into(), &"primary".into())
    );

    pair.step(0, &["attach", "--give-up-changes"]).expect("give up");
    wait_until("joined", || pair.status(0)["here"]["bond"] == "joined");
    assert_eq!(ids(&home), ids(&away));
    assert!(ids(&home).contains(&there) && !ids(&home).contains(&here));
    assert!(set_aside(&pair.state(0)).contains(&here));
}

#[test]
fn a_primary_that_is_alive_gives_way_to_one_that_was_promoted_by_force() {
    let (pair, home, away) = Pair::new();
    let key = create(&home, "before").expect("create");
    pair.step(1, &["promote", "--force"]).expect("promote");
    wait_until("the old one follows", || {
        let status = pair.status(0);
        (&status["here"]["role"], &status["here"]["bond"]) == (&"failover".into(), &"joined".into())
    });
    let new = create(&away, "after").expect("the primary writes");
    assert_eq!(ids(&home), ids(&away));
    assert!(ids(&home).contains(&key) && ids(&home).contains(&new));
}

/// A rotation that waits for the partner only must not keep the region from starting.
#[test]
fn a_rotation_that_was_cut_off_is_finished_when_the_regions_are_together() {
    let (pair, home, away) = Pair::new();
    let key = create(&home, "before").expect("create");
    let ciphertext = wrap(&home, &key);
    let units: Vec<usize> = (0..home.list_units().units.len())
        .filter(|i| home.list_units().units[*i].r#type() != tke::UnitType::Recovery)
        .collect();
    let patterns: Vec<_> =
        units.iter().map(|i| load(&home.unit(*i, Door::Grpc), &pair.operators, [0x11, 0x33])).collect();
    assert!(reencrypt(&home, &patterns[0]).complete);
    drop(away);
    // The unit takes the new master key; that the stored keys follow needs the partner.
    let unit = home.unit(units[0], Door::Grpc);
    let command = unit.request(Command::SetImmediate, unit.status().counter + 1, &[&pair.operators[0]]);
    assert!(unit.submit(&command).is_err());
    assert_eq!(unit.status().current_register.pattern.as_bytes(), patterns[0].as_bytes());
    drop(home);

    let home = pair.start(0, &[]);
    assert_eq!(unwrap(&home, &key, &ciphertext).expect("by the other unit"), [7; 32]);
    let _away = pair.start(1, &[]);
    wait_until("the stored keys are under the new master key", || {
        let progress = home.block_on(home.tke().get_reencryption(tke::GetReencryptionRequest {}));
        progress.expect("progress").into_inner().verification_pattern.is_empty()
    });
    assert_eq!(unwrap(&home, &key, &ciphertext).expect("by the first unit"), [7; 32]);
}

/// The failover region has a change before the primary region knows that: nobody may see the two in the other order.
#[test]
fn what_is_seen_changed_in_one_region_is_not_seen_unchanged_in_the_other() {
    let (_pair, home, away) = Pair::new();
    let key = create(&home, "rotated without a pause").expect("create");
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let rotate = || {
        let request = kms::RotateRequest { key: key.clone(), material: Vec::new() };
        home.block_on(home.kms().rotate(request)).expect("rotate").into_inner().versions
    };
    let versions = thread::scope(|scope| {
        let _stop = SetAtTheEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let pair = [&away, &home, &away].map(|server| wrapped(server, &key).key_version);
                    seen.lock().expect("lock").push(pair);
                }
            });
        }
        let mut versions = Vec::new();
        for _ in 0..300 {
            versions = rotate();
        }
        versions
    });
    // Newest first.
    let age = |version: &String| versions.iter().position(|known| known.id == *version).expect("a version");
    for pair in seen.into_inner().expect("lock") {
        let ages = pair.each_ref().map(age);
        assert!(ages.is_sorted_by(|before, after| before >= after), "a version came back: {ages:?}");
    }
}

#[test]
fn regions_come_together_while_keys_are_created_without_a_pause() {
    let (pair, home, _away) = Pair::new();
    create(&home, "before").expect("create");
    pair.step(0, &["detach"]).expect("detach");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    create(&home, "without a pause").expect("the primary writes");
                }
            });
        }
        pair.step(0, &["attach"]).expect("attach");
        let begun = Instant::now();
        while pair.status(1)["here"]["bond"] != "joined" && begun.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(50));
        }
        let joined = pair.status(1)["here"]["bond"] == "joined";
        stop.store(true, Ordering::Relaxed);
        assert!(joined);
    });
}

#[test]
fn a_region_that_was_away_itself_does_not_take_the_primary_role() {
    let (pair, home, away) = Pair::new();
    drop(away);
    // Longer than a busy machine is silent by itself.
    let away = pair.start(1, &["--promote-after", "4s"]);
    wait_until("joined", || create(&home, "together").is_ok());
    away.signal("STOP");
    thread::sleep(Duration::from_secs(6));
    away.signal("CONT");
    wait_until("together again", || create(&home, "again").is_ok());
    assert_eq!(pair.status(1)["here"]["role"], "failover");
    assert_eq!(pair.status(0)["here"]["epoch"], 1);
}

#[test]
fn a_partner_that_was_given_up_has_no_say_any_more() {
    let (pair, home, away) = Pair::new();
    let states = |server: &Server| -> Vec<String> {
        let units = server.list_units().units.into_iter();
        units.filter(|unit| unit.location.starts_with("[us-south]")).map(|unit| unit.state).collect()
    };
    assert!(states(&away).iter().all(|state| state != "unreachable"));
    assert!(pair.step(0, &["dissolve"]).is_err(), "it asks first");
    let state = pair.state(0);
    pair.run(&["failover", "dissolve", "--yes", "--state", state.to_str().expect("UTF-8")]);
    assert!(states(&away).iter().all(|state| state == "unreachable"), "over the connection that was open");
    create(&home, "alone").expect("without a partner");
}

/// What nobody but this region has, would be lost with it.
#[test]
fn nothing_is_wrapped_with_a_version_that_the_partner_has_not_acknowledged() {
    let (_pair, home, away) = Pair::new();
    let key = create(&home, "orders").expect("create");
    let before = wrapped(&home, &key).key_version;
    away.signal("STOP");
    let rotate =
        || home.block_on(home.kms().rotate(kms::RotateRequest { key: key.clone(), material: Vec::new() }));
    assert_eq!(rotate().expect_err("nobody acknowledges it").code(), Code::Unavailable);
    assert_eq!(wrapped(&home, &key).key_version, before);
    away.signal("CONT");
    wait_until("acknowledged, it is used", || wrapped(&home, &key).key_version != before);
    rotate().expect("and rotated again");
    let ciphertext = wrap(&home, &key);
    assert_eq!(unwrap(&away, &key, &ciphertext).expect("in both"), [7; 32]);
}
