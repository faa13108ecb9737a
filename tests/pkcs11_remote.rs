//! The PKCS #11 library with the HSM in another process.
#![allow(clippy::unwrap_used)]

mod pkcs11_suite;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server, and the environment that names it.
struct Hsm {
    state: tempfile::TempDir,
    endpoint: String,
    server: Child,
}

impl Hsm {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let server = Command::new(pkcs11_suite::built("hsm-emulator"))
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(state.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server program is built");
        let address = state.path().join("endpoint");
        let started = Instant::now();
        let endpoint = loop {
            match std::fs::read_to_string(&address) {
                Ok(endpoint) => break endpoint.trim().to_owned(),
                Err(_) => assert!(started.elapsed() < Duration::from_secs(20), "the server does not start"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Self { state, endpoint, server }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let key = self.state.path().join("api-key");
        vec![
            ("HSM_GRPC_ENDPOINT", self.endpoint.clone()),
            ("HSM_API_KEY_FILE", key.to_str().unwrap().to_owned()),
        ]
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
