//! A PostgreSQL server of the tests' own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use hsm_emulator::keystore::Location;
use postgres::NoTls;
use tempfile::TempDir;

/// A server; it stops when it is dropped, or when the process ends.
pub struct Database {
    dir: TempDir,
    server: Child,
    databases: AtomicU32,
}

impl Database {
    /// Starts one.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("hsm-postgres").tempdir_in("/tmp").expect("dir");
        let server = start(dir.path());
        Self { dir, server, databases: AtomicU32::new(0) }
    }

    /// An empty database of its own.
    pub fn create(&self) -> Location {
        Location::Postgres(self.create_url())
    }

    /// The same as an address.
    pub fn create_url(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut client = postgres::Client::connect(&self.url("postgres"), NoTls).expect("connect");
        client.batch_execute(&format!("CREATE DATABASE {name}")).expect("create");
        self.url(&name)
    }

    fn url(&self, name: &str) -> String {
        format!("postgresql:///{name}?host={}&user=hsm", self.dir.path().display())
    }

    /// `kill -9`: the server and, as they notice, its processes.
    pub fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.dir.path().join("data/postmaster.pid")).expect("pid");
        let pid = pid.lines().next().expect("line");
        assert!(Command::new("kill").args(["-9", pid]).status().expect("kill").success());
        stop(&mut self.server);
    }

    /// Starts it again.
    pub fn restart(&mut self) {
        stop(&mut self.server);
        self.server = start(self.dir.path());
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        stop(&mut self.server);
    }
}

fn start(dir: &Path) -> Child {
    let mut server = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/private-postgres"))
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("private-postgres");
    let mut line = String::new();
    let stdout = server.stdout.as_mut().expect("stdout");
    BufReader::new(stdout).read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n", "private-postgres did not start");
    server
}

/// Its data stays.
fn stop(server: &mut Child) {
    if let Some(mut stdin) = server.stdin.take() {
        stdin.write_all(b"keep\n").expect("private-postgres");
    }
    server.wait().expect("wait");
}
