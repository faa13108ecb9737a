//! What the cross-process tests and benchmarks stand on: a region that the project's own scripts start and stop.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub mod arguments;
pub mod s3;

/// An HSM instance and its storage service, running; stopped and deleted when dropped.
pub struct Region {
    directory: TempDir,
    variables: HashMap<String, String>,
}

impl Region {
    /// Starts what has been built already.
    ///
    /// # Panics
    /// With the script's output if it fails.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let env_file = directory.path().join("env");
        let mut up = script("up");
        up.args(["--detach", "--no-build", "--state"])
            .arg(state(directory.path()))
            .arg("--env")
            .arg(&env_file);
        let output = up.output().expect("run scripts/up");
        assert!(output.status.success(), "scripts/up failed:\n{}", String::from_utf8_lossy(&output.stderr));
        let variables = fs::read_to_string(&env_file)
            .expect("the env file")
            .lines()
            .filter(|line| !line.starts_with("export "))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
            .collect();
        Self { directory, variables }
    }

    /// A variable of the env file that `scripts/up` writes: `S3_ENDPOINT`, `HSM_GRPC_ENDPOINT`, ...
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn var(&self, name: &str) -> &str {
        self.variables.get(name).unwrap_or_else(|| panic!("scripts/up wrote no {name}"))
    }

    /// The gRPC endpoint of the HSM.
    pub fn endpoint(&self) -> &str {
        self.var("HSM_GRPC_ENDPOINT")
    }

    /// The file with the API key.
    pub fn api_key_file(&self) -> PathBuf {
        self.var("HSM_API_KEY_FILE").into()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let down =
            script("down").arg("--state").arg(state(self.directory.path())).stdout(Stdio::null()).status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("scripts/down failed for {}", self.directory.path().display());
        }
    }
}

fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name));
    // What a region of the caller's has put into the environment must not leak into this one.
    for (variable, _) in std::env::vars() {
        if ["AWS_", "HSM_", "COS_", "S3_", "PKCS11_"].iter().any(|prefix| variable.starts_with(prefix)) {
            command.env_remove(variable);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn state(directory: &Path) -> PathBuf {
    directory.join("state")
}
