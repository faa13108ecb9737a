//! Backups: what was acknowledged comes back, what was altered or cut does not, and nothing half-made passes for whole.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::operator::{Operator, adopt, load, send, status};
use crate::common::server::Server;
use hsm_emulator::keystore::{Effect, Expect, Location, Write};
use hsm_emulator::services::backup::{self, Error, Manifest};
use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Layout, Region};
use hsm_emulator::services::tokens::{Tokens, User};
use hsm_emulator::units::command::Command;
use hsm_proto::kms;
use serde_json::Value;

const PASSPHRASE: &str = "correct horse battery staple";

/// Directories and the file with the passphrase.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().expect("dir"));
        desk.passphrase(PASSPHRASE);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn passphrase(&self, passphrase: &str) {
        let path = self.path("passphrase");
        fs::write(&path, format!("{passphrase}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    }

    /// `hsm-emulator` with these words; names in capitals stand for what lies in the directory.
    fn process(&self, words: &str) -> Process {
        let mut process = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"));
        for word in words.split(' ') {
            let is_name = word.bytes().all(|byte| byte.is_ascii_uppercase());
            if is_name {
                process.arg(self.path(&word.to_lowercase()))
            } else {
                process.arg(word)
            };
        }
        process.arg("--passphrase-file").arg(self.path("passphrase"));
        process
    }

    fn run(&self, words: &str) -> Output {
        self.process(words).output().expect("hsm-emulator")
    }

    fn ok(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn fails(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words} must fail");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// The names in the directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("list");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn layout() -> Layout {
    Layout { region: "us-south".into(), operational: 2, recovery: 1, master_key: true }
}

/// An instance in this directory, which no server serves.
fn region(state: &Path) -> Arc<Region> {
    Arc::new(Region::open(state, &layout()).expect("open"))
}

fn root_keys(region: &Arc<Region>) -> RootKeys {
    RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("keys")
}

fn create(state: &Path, out: &Path) -> Result<Manifest, Error> {
    backup::create(
        state,
        &Location::embedded(state),
        out,
        PASSPHRASE.as_bytes(),
        false,
        &SystemClock,
        &mut |_, _| (),
    )
}

fn verify(file: &Path) -> Result<Manifest, Error> {
    backup::verify(file, PASSPHRASE.as_bytes(), &mut |_, _| ())
}

fn restore(file: &Path, state: &Path) -> Result<Manifest, Error> {
    backup::restore(file, state, &Location::embedded(state), PASSPHRASE.as_bytes(), &mut |_, _| ())
}

/// So large that the backup takes a while, and many segments.
fn fill(region: &Region, megabytes: usize) {
    for i in 0..megabytes {
        let effect = Effect::Put((0..1 << 20).map(|byte| (byte * i % 251) as u8).collect());
        let write = Write { kind: "filling".into(), id: i.to_string(), expect: Expect::Absent, effect };
        region.keystore().commit(vec![write]).expect("commit");
    }
}

/// Every file below a directory, with its content.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_owned();
                found.push((name, fs::read(&path).expect("read")));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_was_acknowledged_before_is_there_after_a_backup_under_load() {
    let desk = Desk::new();
    let state = desk.path("hsm");
    let operator = Operator::new("operator");
    let (token, counter) = {
        let region = region(&state);
        region.units().iter().for_each(|installed| adopt(&installed.unit, &[&operator], 1));
        let tokens = Tokens::new(region.clone()).expect("tokens");
        let serial = tokens.init(None, b"so-pin", "token").expect("init").serial;
        let so = tokens.login(&serial, User::So, b"so-pin").expect("SO");
        tokens.init_pin(&so, b"user-pin").expect("init PIN");
        fill(&region, 20);
        (serial, status(&region.units()[0].unit).counter)
    };
    let server = Server::start(&state, &[]);
    let api_key = server.api_key();
    let stop_unit = hsm_proto::tke::UnitRequest { hsm_id: server.list_units().units[1].hsm_id.clone() };
    server.block_on(server.support().stop_unit(stop_unit)).expect("stop");
    let acknowledged = parking_lot::Mutex::new(Vec::new());
    let (stop, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match server.block_on(create_and_wrap(&server)) {
                        Ok(key) => acknowledged.lock().push(key),
                        Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        for (file, restored) in [("FIRST", "one"), ("SECOND", "two")] {
            thread::sleep(Duration::from_millis(300));
            let before = acknowledged.lock().clone();
            let json = desk.ok(&format!("backup --json --state HSM --out {file}"));
            let manifest: Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(manifest["contents"]["units"], 3);
            assert_eq!(manifest["contents"]["units_with_master_key"], 3);
            desk.ok(&format!("restore --state {} --from {file}", restored.to_uppercase()));
            let restored = Server::start(&desk.path(restored), &[]);
            assert_eq!(restored.api_key(), api_key);
            assert!(before.len() > 3);
            for (key, ciphertext, plaintext) in before {
                let request = kms::UnwrapRequest { key, ciphertext, ..Default::default() };
                let unwrapped = restored.block_on(restored.kms().unwrap(request)).expect("unwrap");
                assert_eq!(unwrapped.into_inner().plaintext, plaintext);
            }
            restored.block_on(create_and_wrap(&restored)).expect("it goes on");
            assert_eq!(restored.list_units().units[1].state, "stopped");
            assert!(restored.audit("verify").status.success());
            assert!(!restored.events().is_empty());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "nobody waits for a backup");
    let region = region(&desk.path("two"));
    let tokens = Tokens::new(region.clone()).expect("tokens");
    tokens.login(&token, User::User, b"user-pin").expect("the PIN is known");
    let unit = &region.units()[0].unit;
    assert_eq!(status(unit).counter, counter);
    let added = Command::AddAdministrator(Operator::new("another").administrator);
    send(unit, added.clone(), &[]).expect_err("a stranger");
    send(unit, added, &[&operator]).expect("the administrator is known");
    assert!(desk.names().iter().all(|name| !name.contains("tmp")), "{:?}", desk.names());
    assert!(!state.join("backup.sqlite").exists());
}

/// A root key, what it wrapped, and that in clear.
async fn create_and_wrap(server: &Server) -> Result<(String, String, Vec<u8>), tonic::Status> {
    let create = kms::CreateRootKeyRequest { name: "a key".into(), material: Vec::new() };
    let key = server.kms().create_root_key(create).await?.into_inner().id;
    let wrap = kms::WrapRequest { key: key.clone(), ..Default::default() };
    let wrapped = server.kms().wrap(wrap).await?.into_inner();
    Ok((key, wrapped.ciphertext, wrapped.plaintext))
}

#[test]
fn every_changed_region_and_every_cut_is_noticed_and_leaves_nothing() {
    let desk = Desk::new();
    fill(&region(&desk.path("hsm")), 1);
    let file = desk.path("file");
    create(&desk.path("hsm"), &file).expect("backup");
    let original = fs::read(&file).expect("read");
    assert_eq!(fs::metadata(&file).expect("metadata").permissions().mode() & 0o777, 0o600);
    let names = desk.names();
    // The header's parts, the passphrase's tag, first and last byte of each segment and of its tag.
    let (start, segment) = (96, (64 << 10) + 16);
    let mut places = vec![0, 6, 7, 8, 15, 16, 47, 48, 79, 80, 95, original.len() - 1];
    let segments = (original.len() - start) / segment;
    places.extend((0..segments).flat_map(|i| {
        let at = start + i * segment;
        [at, at + segment / 2, at + segment - 17, at + segment - 16, at + segment - 1]
    }));
    assert!(segments > 10);
    for place in places {
        let mut altered = original.clone();
        altered[place] ^= 0x10;
        fs::write(&file, altered).expect("write");
        restore(&file, &desk.path("new")).expect_err("altered");
        assert_eq!(desk.names(), names, "byte {place}");
    }
    let mut cuts = vec![0, 1, 7, 8, 79, 80, 95, 96, 97, original.len() - 1, original.len() - 16];
    cuts.extend(
        (1..=segments).flat_map(|i| [start + i * segment - 1, start + i * segment, start + i * segment + 5]),
    );
    for cut in cuts {
        fs::write(&file, &original[..cut]).expect("write");
        restore(&file, &desk.path("new")).expect_err("cut");
        assert_eq!(desk.names(), names, "cut at {cut}");
    }
    fs::write(&file, &original).expect("write");
    restore(&file, &desk.path("new")).expect("whole again");
}

#[test]
fn what_is_refused_says_why() {
    let desk = Desk::new();
    assert!(desk.fails("backup --state HSM --out FILE").contains("no instance"));
    drop(region(&desk.path("hsm")));
    desk.passphrase("short");
    assert!(desk.fails("backup --state HSM --out FILE").contains("too short"));
    desk.passphrase(PASSPHRASE);
    desk.ok("backup --state HSM --out FILE");
    assert!(desk.fails("backup --state HSM --out FILE").contains("add --force"));
    desk.ok("backup --state HSM --out FILE --force");
    assert!(desk.fails("restore --state HSM --from FILE").contains("no empty directory"));
    assert!(desk.fails("restore --state FILE --from FILE").contains("no empty directory"));
    assert!(desk.fails("restore --state NEW --from PASSPHRASE").contains("no backup"));
    assert!(desk.fails("restore --state NEW --from NOTHING").contains("nothing: No such file"));
    let names = desk.names();
    desk.passphrase("another passphrase");
    assert!(desk.fails("restore --state NEW --from FILE").contains("passphrase is wrong"));
    assert!(desk.fails("backup verify FILE").contains("passphrase is wrong"));
    desk.passphrase(PASSPHRASE);
    let original = fs::read(desk.path("file")).expect("read");
    let mut newer = original.clone();
    newer[7] = 9;
    fs::write(desk.path("file"), newer).expect("write");
    assert!(desk.fails("restore --state NEW --from FILE").contains("format version 9"));
    fs::write(desk.path("file"), &original[..original.len() - 1]).expect("write");
    assert!(desk.fails("restore --state NEW --from FILE").contains("cut short"));
    assert_eq!(desk.names(), names);
    fs::write(desk.path("file"), original).expect("write");
    fs::create_dir(desk.path("new")).expect("an empty one will do");
    desk.ok("restore --state NEW --from FILE");
    assert!(desk.ok("backup verify FILE").contains("in order"));
}

#[test]
fn nothing_secret_is_in_the_file_in_clear() {
    let desk = Desk::new();
    let state = desk.path("hsm");
    drop(Server::start(&state, &[]));
    create(&state, &desk.path("file")).expect("backup");
    let file = fs::read(desk.path("file")).expect("read");
    for (name, content) in files(&state) {
        // All is sealed, so that not even zeros are found.
        let is_in_clear =
            content.chunks_exact(16).any(|piece| file.windows(16).any(|window| window == piece));
        assert!(!is_in_clear, "{}", name.display());
    }
}

#[test]
fn a_kill_leaves_nothing_half_made_that_passes_for_whole() {
    let desk = Desk::new();
    fill(&region(&desk.path("hsm")), 8);
    create(&desk.path("hsm"), &desk.path("whole")).expect("backup");
    restore(&desk.path("whole"), &desk.path("expected")).expect("restore");
    let expected = files(&desk.path("expected"));
    let (mut cut, mut done) = (0, 0);
    for i in 0..24 {
        let mut child = desk
            .process("backup --state HSM --out FILE")
            .stdout(Stdio::null())
            .spawn()
            .expect("hsm-emulator");
        thread::sleep(Duration::from_millis(i * i * 2));
        child.kill().expect("kill");
        child.wait().expect("wait");
        if desk.path("file").exists() {
            verify(&desk.path("file")).expect("it has its name");
            fs::remove_file(desk.path("file")).expect("remove");
            done += 1;
        } else {
            cut += 1;
        }
        let mut child = desk
            .process("restore --state NEW --from WHOLE")
            .stdout(Stdio::null())
            .spawn()
            .expect("hsm-emulator");
        thread::sleep(Duration::from_millis(i * i * 2));
        child.kill().expect("kill");
        child.wait().expect("wait");
        if desk.path("new").exists() {
            assert!(files(&desk.path("new")) == expected, "it has its name");
            fs::remove_dir_all(desk.path("new")).expect("remove");
            done += 1;
        } else {
            cut += 1;
        }
    }
    assert!(cut > 0 && done > 0, "{cut} cut off, {done} done");
    for name in desk.names().iter().filter(|name| name.starts_with("file.")) {
        // Half made, unless the kill came when all was written and it had no name yet.
        if verify(&desk.path(name)).is_ok() {
            restore(&desk.path(name), &desk.path("left-over")).expect("restore");
            assert!(files(&desk.path("left-over")) == expected, "what verifies is whole");
            fs::remove_dir_all(desk.path("left-over")).expect("remove");
        }
    }
    // What was left over is in nobody's way.
    desk.ok("backup --state HSM --out FILE");
    desk.ok("restore --state NEW --from FILE");
    assert!(files(&desk.path("new")) == expected, "every backup of the same state has the same in it");
}

#[test]
fn no_backup_is_made_between_two_master_keys() {
    let desk = Desk::new();
    let (state, operator) = (desk.path("hsm"), Operator::new("operator"));
    let region = region(&state);
    let units = region.units();
    let (keys, mut pattern) = (root_keys(&region), None);
    let key = keys.create("a key", None).expect("create").id.clone();
    let wrapped = keys.wrap(&key, Some(b"data key"), &[]).expect("wrap").ciphertext;
    for installed in units.iter() {
        adopt(&installed.unit, &[&operator], 1);
        let loaded = load(&installed.unit, &[1, 2], &operator).expect("load");
        send(&installed.unit, Command::CommitMasterKey(loaded), &[&operator]).expect("commit");
        pattern = Some(loaded);
    }
    let unwraps = |name: &str| {
        create(&state, &desk.path(name)).expect("backup");
        let restored = desk.path(&format!("restored-{name}"));
        restore(&desk.path(name), &restored).expect("restore");
        let keys = root_keys(&self::region(&restored));
        assert_eq!(keys.unwrap(&key, &wrapped, &[]).expect("unwrap").plaintext.as_slice(), b"data key");
    };
    unwraps("committed");
    region.reencrypt(&pattern.expect("units"), false, |_| {}).expect("re-encrypt");
    let refused = create(&state, &desk.path("between"));
    assert!(matches!(refused, Err(Error::MasterKeyRotation)), "{refused:?}");
    for (i, installed) in units.iter().enumerate() {
        send(&installed.unit, Command::SetImmediate, &[&operator]).expect("set immediate");
        region.finish_reencryption().expect("finish");
        // Also while the other units wait for the new master key.
        unwraps(&format!("set-{i}"));
    }
    assert!(!desk.path("between").exists());
}

#[test]
fn a_region_of_a_pair_stands_alone_when_it_is_restored() {
    let desk = Desk::new();
    let server = Server::start(&desk.path("hsm"), &["--pair-listen", "127.0.0.1:0"]);
    let failover = |words: &str| {
        let words = words.split(' ').map(|word| match word {
            "HSM" | "AWAY" | "INVITATION" => desk.path(&word.to_lowercase()).into_os_string(),
            word => word.into(),
        });
        let output = Process::new(env!("CARGO_BIN_EXE_hsm-emulator")).arg("failover").args(words).output();
        let output = output.expect("hsm-emulator");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    failover("invite --state HSM --out INVITATION");
    failover("join --state AWAY --invitation INVITATION");
    assert!(desk.fails("backup --state AWAY --out FILE").contains("back up the primary region"));
    desk.ok("backup --state HSM --out FILE");
    drop(server);
    desk.ok("restore --state NEW --from FILE");
    assert!(!desk.path("new").join("pair").exists());
    let restored = Server::start(&desk.path("new"), &[]);
    restored.block_on(create_and_wrap(&restored)).expect("it writes alone");
    let region = region(&desk.path("new"));
    assert!(region.keystore().local("pair").expect("read").is_none());
}
