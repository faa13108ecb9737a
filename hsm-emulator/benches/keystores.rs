//! What a write costs in one region, in two, and in PostgreSQL, beside the floors of this machine's disk and network; what
//! a use of a key costs with either database; and how fast a partner comes back, or comes new.
#![allow(dead_code, clippy::expect_used)]

#[path = "../tests/suite/common/mod.rs"]
mod common;

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::database::Database;
use common::server::Server;
use hsm_emulator::keystore::{Effect, Expect, Keystore, Location, Write};
use hsm_proto::kms;
use serde_json::Value;
use tempfile::TempDir;

/// Records of the new partner's keystore; `RECORDS` in the environment is another number.
const RECORDS: usize = 1_000_000;
const BEHIND: usize = 10_000;
/// About what a root key has.
const BODY: usize = 700;
/// Each keystore has its turn, so that what else the machine does meets all of them.
const ROUNDS: usize = 15;
const TURN: Duration = Duration::from_millis(500);

fn main() {
    let mut database = Database::start();
    let url = database.create_url();
    let alone = Alone::start("alone", &[]);
    let in_database = Alone::start("database", &["--keystore", &url]);
    let pair = Pair::start(|_| ());
    floors(alone.dir.path(), &alone.server);

    let servers =
        [("SQLite", &alone.server), ("two regions", &pair.home), ("PostgreSQL", &in_database.server)];
    for (what, threads) in [("create a key, one at a time", 1), ("create keys, 8 at a time", 8)] {
        compare(what, &servers, threads, |server, _| drop(create(server)));
    }
    let keys = servers.map(|(_, server)| {
        let key = create(server);
        let request = kms::WrapRequest { key: key.clone(), plaintext: vec![7; 32], aad: Vec::new() };
        let wrapped = server.block_on(server.kms().wrap(request)).expect("wrap").into_inner();
        kms::UnwrapRequest { key, ciphertext: wrapped.ciphertext, aad: Vec::new() }
    });
    compare("unwrap, 8 at a time", &servers, 8, |server, i| {
        server.block_on(server.kms().unwrap(keys[i].clone())).expect("unwrap");
    });
    // For less time than keys are used without it.
    database.kill();
    let servers = [servers[0], ("PostgreSQL, killed", &in_database.server)];
    let keys = [&keys[0], &keys[2]];
    compare("unwrap, 8 at a time, without the database", &servers, 8, |server, i| {
        server.block_on(server.kms().unwrap(keys[i].clone())).expect("unwrap");
    });
    drop((alone, in_database, database));

    come_back(pair);
    come_new();
}

/// What no keystore can be faster than.
fn floors(dir: &Path, server: &Server) {
    println!("\n{:<42}{:>10}{:>10}", "floor", "p50 us", "p99 us");
    let mut file = File::create(dir.join("floor")).expect("file");
    let sync = || {
        file.write_all(&[7; 4096]).expect("write");
        file.sync_data().expect("fsync");
    };
    row("append 4 KiB and fsync", times(TURN, sync));
    let request = kms::GetInstanceRequest::default();
    row("round trip over gRPC", times(TURN, || drop(server.block_on(server.kms().get_instance(request)))));
}

/// With each one's part of the first one's rate: the median of all rounds.
fn compare(what: &str, servers: &[(&str, &Server)], threads: usize, work: impl Fn(&Server, usize) + Sync) {
    println!("\n{what:<42}{:>10}{:>10}{:>10}{:>10}", "calls/s", "p50 us", "p99 us", "ratio");
    let mut all = vec![Vec::new(); servers.len()];
    let mut rates = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        for (i, (_, server)) in servers.iter().enumerate() {
            let found = Mutex::new(Vec::new());
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let times = times(TURN, || work(server, i));
                        found.lock().expect("lock").extend(times);
                    });
                }
            });
            let found = found.into_inner().expect("lock");
            rates[i].push(found.len() as f64);
            all[i].extend(found);
        }
    }
    for (i, ((name, _), times)) in servers.iter().zip(all).enumerate() {
        let rate = times.len() as f64 / (TURN * ROUNDS as u32).as_secs_f64();
        let [p50, p99] = percentiles(times);
        let mut ratios: Vec<f64> = rates[i].iter().zip(&rates[0]).map(|(this, first)| this / first).collect();
        ratios.sort_by(f64::total_cmp);
        println!("  {name:<40}{rate:>10.0}{p50:>10}{p99:>10}{:>10.2}", ratios[ratios.len() / 2]);
    }
}

/// A failover region that was away while many changes were made.
fn come_back(mut pair: Pair) {
    pair.lose_partner();
    pair.step(0, &["detach"]);
    pair.fill(BEHIND);
    pair.step(0, &["attach"]);
    let begun = Instant::now();
    pair.find_partner();
    println!("\n{BEHIND} changes behind: joined again after {:.2} s", begun.elapsed().as_secs_f64());
}

/// A failover region that has nothing yet.
fn come_new() {
    let records = std::env::var("RECORDS").map_or(RECORDS, |number| number.parse().expect("RECORDS"));
    let mut begun = Instant::now();
    let pair = Pair::start(|pair| {
        pair.fill(records);
        begun = Instant::now();
    });
    println!(
        "\n{records} records for a new region: joined after {:.1} s; at most {} MiB in the primary region, {} MiB in the new one",
        begun.elapsed().as_secs_f64(),
        pair.home.peak_memory() >> 20,
        pair.away.as_ref().map_or(0, |away| away.peak_memory() >> 20),
    );
}

struct Alone {
    dir: TempDir,
    server: Server,
}

impl Alone {
    fn start(name: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let server = Server::start(&dir.path().join(name), flags);
        Self { dir, server }
    }
}

struct Pair {
    dir: TempDir,
    ports: [u16; 2],
    home: Server,
    away: Option<Server>,
}

impl Pair {
    fn start(before: impl FnOnce(&Self)) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let ports = [(); 2]
            .map(|()| TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("port").port());
        let home = serve(dir.path(), &ports, 0);
        let mut pair = Self { dir, ports, home, away: None };
        let invitation = pair.dir.path().join("invitation");
        let invitation = invitation.to_str().expect("UTF-8");
        pair.step(0, &["invite", "--out", invitation]);
        pair.step(1, &["join", "--invitation", invitation]);
        before(&pair);
        pair.find_partner();
        pair
    }

    fn lose_partner(&mut self) {
        self.away = None;
    }

    /// Until it has everything.
    fn find_partner(&mut self) {
        self.away = Some(serve(self.dir.path(), &self.ports, 1));
        while self.bond(1) != "joined" || self.bond(0) != "joined" || self.partner_of_home() != "joined" {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn bond(&self, i: usize) -> String {
        self.status(i)["here"]["bond"].as_str().unwrap_or_default().to_owned()
    }

    fn partner_of_home(&self) -> String {
        self.status(0)["partner"]["bond"].as_str().unwrap_or_default().to_owned()
    }

    fn status(&self, i: usize) -> Value {
        let output = step(&state(self.dir.path(), i), &["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn step(&self, i: usize, words: &[&str]) {
        let output = step(&state(self.dir.path(), i), words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes records beside the server, faster than through it.
    fn fill(&self, records: usize) {
        let keystore = Keystore::open(&Location::embedded(&state(self.dir.path(), 0))).expect("keystore");
        for first in (0..records).step_by(1000) {
            let written: Result<(), hsm_emulator::keystore::Error> =
                keystore.transaction_here(|transaction| {
                    (first..records.min(first + 1000)).try_for_each(|i| {
                        let (kind, id) = ("benchmark".to_owned(), format!("{i:08}"));
                        let effect = Effect::Put(vec![7; BODY]);
                        transaction.write(&Write { kind, id, expect: Expect::Any, effect })
                    })
                });
            written.expect("write");
        }
    }
}

fn state(dir: &Path, i: usize) -> PathBuf {
    dir.join(["us-south", "us-east"][i])
}

fn serve(dir: &Path, ports: &[u16; 2], i: usize) -> Server {
    let listen = format!("127.0.0.1:{}", ports[i]);
    Server::start(&state(dir, i), &["--pair-listen", &listen])
}

fn step(state: &Path, words: &[&str]) -> std::process::Output {
    let mut process = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"));
    process.arg("failover").args(words).arg("--state").arg(state).output().expect("hsm-emulator")
}

fn create(server: &Server) -> String {
    let request = kms::CreateRootKeyRequest { name: "a key".to_owned(), material: Vec::new() };
    server.block_on(server.kms().create_root_key(request)).expect("create").into_inner().id
}

fn times(turn: Duration, mut work: impl FnMut()) -> Vec<Duration> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < turn {
        let begin = Instant::now();
        work();
        times.push(begin.elapsed());
    }
    times
}

fn row(name: &str, times: Vec<Duration>) {
    let [p50, p99] = percentiles(times);
    println!("  {name:<40}{p50:>10}{p99:>10}");
}

/// In microseconds.
fn percentiles(mut times: Vec<Duration>) -> [u128; 2] {
    times.sort();
    [0.5, 0.99].map(|part| times[((times.len() - 1) as f64 * part) as usize].as_micros())
}
