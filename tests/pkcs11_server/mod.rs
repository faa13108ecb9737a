//! A server process for the PKCS #11 library.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A server, and the environment that names it.
pub struct Server {
    state: tempfile::TempDir,
    endpoint: String,
    process: Child,
}

impl Server {
    /// Starts with a new instance, on a free port.
    pub fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let (process, endpoint) = serve(state.path().to_owned(), "127.0.0.1:0");
        Self { state, endpoint, process }
    }

    /// What the library needs in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let key = self.state.path().join("api-key");
        vec![
            ("HSM_GRPC_ENDPOINT", self.endpoint.clone()),
            ("HSM_API_KEY_FILE", key.to_str().unwrap().to_owned()),
        ]
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        std::fs::remove_file(self.state.path().join("endpoint")).ok();
        let address = self.endpoint.trim_start_matches("http://").to_owned();
        (self.process, self.endpoint) = serve(self.state.path().to_owned(), &address);
    }

    /// Makes it stop answering, or go on.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn serve(state: PathBuf, listen: &str) -> (Child, String) {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(|deps| deps.parent()).unwrap().join("hsm-emulator");
    let process = Command::new(program)
        .args(["serve", "--listen", listen, "--state"])
        .arg(&state)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server program is built");
    let started = Instant::now();
    loop {
        if let Ok(endpoint) = std::fs::read_to_string(state.join("endpoint")) {
            return (process, endpoint.trim().to_owned());
        }
        assert!(started.elapsed() < Duration::from_secs(20), "the server does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}
