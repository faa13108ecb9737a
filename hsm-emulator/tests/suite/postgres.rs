//! Several processes of a region on one PostgreSQL database; the database is lost and comes back; pairs of both kinds.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::clients::{
    SetAtTheEnd, create, delete, ids, initialise, load, reencrypt, unwrap, wait_until, wrap,
};
use crate::common::database::Database;
use crate::common::operator::Operator;
use crate::common::server::{Door, Server};
use hsm_emulator::keystore::{self, Effect, Expect, Keystore, Location, Write};
use hsm_emulator::units::command::Command;
use hsm_proto::{kms, tke};
use tonic::Code;

/// Processes of one region that share a database.
struct Shared {
    dir: tempfile::TempDir,
    operators: [Operator; 2],
    url: String,
    database: Database,
}

impl Shared {
    fn new() -> Self {
        let database = Database::start();
        let operators = [Operator::new("a"), Operator::new("b")];
        Self { dir: tempfile::tempdir().expect("dir"), operators, url: database.create_url(), database }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, name: &str) -> Server {
        Server::start(&self.state(name), &["--imprint", "--keystore", &self.url])
    }

    /// The same with the units initialised.
    fn begin(&self, name: &str) -> Server {
        let server = self.start(name);
        initialise(&server, &self.operators, tke::UnitType::Operational);
        server
    }
}

#[test]
fn what_one_process_changes_the_other_one_knows() {
    let shared = Shared::new();
    let a = shared.begin("a");
    let key = create(&a, "made before").expect("create");
    let b = shared.begin("b");
    let instance = |server: &Server| server.list_units().instance;
    assert_eq!(instance(&a), instance(&b));
    let serials = |server: &Server| -> Vec<String> {
        server.list_units().units.into_iter().map(|unit| unit.serial_number).collect()
    };
    assert!(serials(&a).iter().all(|serial| !serials(&b).contains(serial)), "units of its own");

    let ciphertext = wrap(&a, &key);
    assert_eq!(unwrap(&b, &key, &ciphertext).expect("the same key"), [7; 32]);
    let new = create(&b, "made by the other one").expect("create");
    wait_until("the key is known", || ids(&a).contains(&new));
    assert_eq!(unwrap(&a, &new, &wrap(&b, &new)).expect("the same key"), [7; 32]);

    let rotate = kms::RotateRequest { key: key.clone(), material: Vec::new() };
    b.block_on(b.kms().rotate(rotate)).expect("rotate");
    wait_until("the new version is known", || unwrap(&a, &key, &wrap(&b, &key)).is_ok());
    assert_eq!(unwrap(&b, &key, &ciphertext).expect("an old version"), [7; 32]);

    delete(&a, &new).expect("delete");
    wait_until("the key is gone", || !ids(&b).contains(&new));
    let request = kms::WrapRequest { key: new, plaintext: vec![7; 32], aad: Vec::new() };
    assert!(b.block_on(b.kms().wrap(request)).is_err());

    // Both write at the same time, and nothing is lost.
    let made = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for server in [&a, &b] {
            let made = &made;
            scope.spawn(move || {
                for i in 0..20 {
                    let id = create(server, &format!("key {i}")).expect("create");
                    made.lock().expect("lock").push(id);
                }
            });
        }
    });
    let made = made.into_inner().expect("lock");
    assert_eq!(made.len(), 40);
    wait_until("all are known in both", || {
        [&a, &b].iter().all(|server| made.iter().all(|id| ids(server).contains(id)))
    });

    // One of them is lost; started again, it has everything.
    drop(b);
    let again = shared.start("b");
    assert_eq!(unwrap(&again, &key, &ciphertext).expect("unwrap"), [7; 32]);
    assert_eq!(ids(&again).len(), ids(&a).len());
}

#[test]
fn a_database_that_is_killed_costs_no_use_of_a_key_and_no_key() {
    let mut shared = Shared::new();
    let a = shared.begin("a");
    let key = create(&a, "used all the time").expect("create");
    let ciphertext = wrap(&a, &key);
    let (stop, used) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (made, refused) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(unwrap(&a, &key, &ciphertext).expect("a use of a key"), [7; 32]);
                    used.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match create(&a, "made meanwhile") {
                        Ok(id) => made.lock().expect("lock").push(id),
                        Err(status) => refused.lock().expect("lock").push(status),
                    }
                }
            });
        }
        let count = || made.lock().expect("lock").len();
        wait_until("keys are created", || count() > 20);
        for _ in 0..3 {
            shared.database.kill();
            let before = used.load(Ordering::Relaxed);
            wait_until("a creation is refused", || !refused.lock().expect("lock").is_empty());
            wait_until("keys are used", || used.load(Ordering::Relaxed) > before + 100);
            shared.database.restart();
            let before = count();
            wait_until("keys are created again", || count() > before + 20);
        }
        stop.store(true, Ordering::Relaxed);
    });
    for status in refused.into_inner().expect("lock") {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().starts_with("the keystore cannot be used: "), "{status:?}");
    }
    let made = made.into_inner().expect("lock");
    let found = ids(&a);
    assert!(made.iter().all(|id| found.contains(id)), "what was acknowledged is there");
    drop(a);
    let found = ids(&shared.start("a"));
    assert!(made.iter().all(|id| found.contains(id)), "and is durable");
}

#[test]
fn a_region_without_its_database_says_so_and_starts_when_it_is_back() {
    let mut shared = Shared::new();
    drop(shared.begin("a"));
    shared.database.kill();
    let state = shared.state("a");
    let started = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"))
        .args(["serve", "--listen", "127.0.0.1:0", "--keystore", &shared.url, "--state"])
        .arg(&state)
        .output()
        .expect("hsm-emulator");
    assert!(!started.status.success());
    let text = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(text.contains("the keystore cannot be used"), "{text}");
    shared.database.restart();
    create(&shared.start("a"), "it is back").expect("create");
    // Its units belong to a keystore that is not in its directory.
    let started = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"))
        .args(["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(&state)
        .output()
        .expect("hsm-emulator");
    let text = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(text.contains("restore it from a backup") && text.contains("--keystore"), "{text}");
}

#[test]
fn who_waits_too_long_for_the_log_is_refused_and_goes_on() {
    let database = Database::start();
    let url = format!("{}&options=-c%20lock_timeout%3D100ms", database.create_url());
    let keystore = Keystore::open(&Location::Postgres(url.clone())).expect("open");
    let write = |id: &str| {
        let effect = Effect::Put(b"1".to_vec());
        keystore.commit(vec![Write { kind: "k".into(), id: id.into(), expect: Expect::Absent, effect }])
    };
    let mut other = postgres::Client::connect(&url, postgres::NoTls).expect("connect");
    let mut holding = other.transaction().expect("transaction");
    holding.execute("SELECT last FROM hsm.log FOR UPDATE", &[]).expect("lock");
    for _ in 0..2 {
        let refused = write("a").expect_err("somebody else has the log").to_string();
        assert!(refused.contains("lock timeout"), "{refused}");
    }
    holding.rollback().expect("rollback");
    assert_eq!(write("a").expect("commit"), 1);
    other.batch_execute("UPDATE hsm.schema SET version = 9").expect("update");
    let newer = Keystore::open(&Location::Postgres(url)).err();
    assert!(matches!(newer, Some(keystore::Error::Schema { found: 9, known: 1 })), "{newer:?}");
}

#[test]
fn both_sides_of_a_pair_may_be_of_either_kind() {
    for in_database in [0, 1] {
        let database = Database::start();
        let url = database.create_url();
        let dir = tempfile::tempdir().expect("dir");
        let states = ["us-south", "us-east"].map(|name| dir.path().join(name));
        let operators = [Operator::new("a"), Operator::new("b")];
        let keystore =
            |i: usize| if i == in_database { vec!["--keystore", url.as_str()] } else { Vec::new() };
        let start = |i: usize, flags: &[&str]| {
            let flags = [&["--pair-listen", "127.0.0.1:0"], flags, &keystore(i)].concat();
            Server::start(&states[i], &flags)
        };
        let home = start(0, &["--imprint"]);
        initialise(&home, &operators, tke::UnitType::Operational);
        let key = create(&home, "made before").expect("create");
        let invitation = dir.path().join("invitation");
        let invitation = invitation.to_str().expect("UTF-8");
        let path = |i: usize| states[i].to_str().expect("UTF-8");
        run(&["failover", "invite", "--out", invitation, "--state", path(0)]);
        run(&[&["failover", "join", "--invitation", invitation, "--state", path(1)], keystore(1).as_slice()]
            .concat());
        let away = start(1, &[]);
        let location = |i: usize| match i == in_database {
            true => Location::Postgres(url.clone()),
            false => Location::embedded(&states[i]),
        };
        let follows = |id: &String| {
            Keystore::open(&location(1)).expect("open").ids("root-key").expect("ids").contains(id)
        };
        wait_until("the first key has come over", || follows(&key));
        let is_joined = |i: usize| {
            let mut status = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"));
            let output =
                status.args(["failover", "status", "--json", "--state", path(i)]).output().expect("status");
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            status["here"]["bond"] == "joined" && status["connected"] == true
        };
        wait_until("joined", || is_joined(0) && is_joined(1));
        let new = create(&home, "acknowledged by both").expect("create");
        assert!(follows(&new));
        delete(&home, &key).expect("delete");
        drop((home, away));
        let all = |i: usize| Keystore::open(&location(i)).expect("open").scan("root-key").expect("scan");
        assert_eq!(all(0), all(1));
    }
}

#[test]
fn a_backup_of_one_kind_is_restored_as_the_other() {
    let shared = Shared::new();
    let a = shared.begin("a");
    let key = create(&a, "backed up").expect("create");
    let ciphertext = wrap(&a, &key);
    let dir = shared.dir.path();
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(dir.join("passphrase"), "correct horse battery staple\n").expect("passphrase");
    let passphrase = path("passphrase");
    let common = ["--passphrase-file", passphrase.as_str()];
    run(&[
        &["backup", "--state", &path("a"), "--out", &path("first"), "--keystore", &shared.url],
        &common[..],
    ]
    .concat());
    drop(a);
    // Into a file, and from there into another database.
    run(&[&["restore", "--state", &path("b"), "--from", &path("first")], &common[..]].concat());
    let b = Server::start(Path::new(&path("b")), &[]);
    assert_eq!(unwrap(&b, &key, &ciphertext).expect("unwrap"), [7; 32]);
    run(&[&["backup", "--state", &path("b"), "--out", &path("second")], &common[..]].concat());
    drop(b);
    let url = shared.database.create_url();
    let keystore = ["--keystore", url.as_str()];
    run(&[&["restore", "--state", &path("c"), "--from", &path("second")], &common[..], &keystore].concat());
    assert!(!Path::new(&path("c")).join("keystore.sqlite").exists());
    let c = Server::start(Path::new(&path("c")), &keystore);
    assert_eq!(unwrap(&c, &key, &ciphertext).expect("unwrap"), [7; 32]);
    // Where there is an instance, no other one is put over it.
    create(&c, "made since").expect("create");
    let refused = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"))
        .args(["restore", "--state", &path("d"), "--from", &path("first"), "--keystore", &url])
        .args(common)
        .output()
        .expect("hsm-emulator");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("an empty one is needed"), "{text}");
    assert!(!Path::new(&path("d")).exists());
}

#[test]
fn of_two_that_make_the_instance_at_the_same_time_one_does() {
    let shared = Shared::new();
    let serve = |name: &str| Server::start(&shared.state(name), &["--keystore", &shared.url]);
    let servers = thread::scope(|scope| {
        let starting = ["a", "b"].map(|name| scope.spawn(move || serve(name)));
        starting.map(|starting| starting.join().expect("a server"))
    });
    let [a, b] = &servers;
    assert_eq!(a.list_units().instance, b.list_units().instance);
    let serving = servers.iter().filter(|server| create(server, "a key").is_ok()).count();
    assert_eq!(serving, 1, "the other one's units have no master key yet");
}

/// Each process has units of its own, and its operators give them the new master key.
#[test]
fn the_master_key_is_rotated_in_all_processes() {
    let shared = Shared::new();
    let (a, b) = (shared.begin("a"), shared.begin("b"));
    let key = create(&a, "made before").expect("create");
    wait_until("the key is known", || ids(&b).contains(&key));
    let ciphertext = wrap(&b, &key);
    let operational = |server: &Server| -> Vec<usize> {
        let units = server.list_units().units;
        (0..units.len()).filter(|i| units[*i].r#type() == tke::UnitType::Operational).collect()
    };
    let commit = |server: &Server| {
        let load = |i: usize| load(&server.unit(i, Door::Grpc), &shared.operators, [0x11, 0x33]);
        operational(server).into_iter().map(load).last().expect("units")
    };
    let pattern = commit(&a);
    assert_eq!(commit(&b), pattern);
    let (stop, used) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = SetAtTheEnd(&stop);
        // As clients with both endpoints: one of them answers at any time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let opened = unwrap(&b, &key, &ciphertext).or_else(|_| unwrap(&a, &key, &ciphertext));
                assert_eq!(opened.expect("one of them has a unit for it"), [7; 32]);
                used.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(reencrypt(&a, &pattern).complete);
        let refused = create(&b, "sealed under what is about to go").expect_err("a re-encryption has begun");
        assert!(refused.message().contains("rotat"), "{refused:?}");
        let set = |server: &Server| {
            for i in operational(server) {
                let unit = server.unit(i, Door::Grpc);
                unit.send(Command::SetImmediate, &[&shared.operators[0]]).expect("set immediate");
            }
        };
        set(&a);
        let new = create(&a, "under the new master key").expect("create");
        wait_until("the other one's units are behind", || {
            let refused = unwrap(&b, &key, &ciphertext).err();
            refused.is_some_and(|refused| refused.message().contains(&pattern.to_hex()))
        });
        set(&b);
        assert_eq!(unwrap(&b, &key, &ciphertext).expect("unwrap"), [7; 32]);
        assert_eq!(unwrap(&b, &new, &wrap(&a, &new)).expect("unwrap"), [7; 32]);
        create(&b, "by the other one").expect("create");
        let before = used.load(Ordering::Relaxed);
        wait_until("keys are used", || used.load(Ordering::Relaxed) > before + 20);
    });
}

/// `hsm-emulator ARGUMENTS` succeeds.
fn run(arguments: &[&str]) {
    let output =
        Process::new(env!("CARGO_BIN_EXE_hsm-emulator")).args(arguments).output().expect("hsm-emulator");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
