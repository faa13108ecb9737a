//! Directories and servers for the PKCS #11 library that end with the test program, however it ends: statics
//! are not dropped, and a panic may come between. A shell waits for the end of its input and clears up.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod library;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A program or library of this build.
pub fn built(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().and_then(|deps| deps.parent()).unwrap().join(name)
}

/// An empty directory.
pub struct Directory {
    path: PathBuf,
    watcher: Child,
}

impl Directory {
    /// Makes it.
    pub fn new() -> Self {
        let path = tempfile::tempdir().unwrap().keep();
        let watcher = Command::new("sh")
            .args(["-c", "read -r _; rm -rf \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { path, watcher }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        self.watcher.wait().ok();
    }
}

/// A server, and the environment that names it.
pub struct Server {
    endpoint: String,
    process: Process,
    state: Directory,
}

struct Process {
    pid: Pid,
    watcher: Child,
}

impl Server {
    /// Starts with a new instance, on a free port.
    pub fn start() -> Self {
        let state = Directory::new();
        let (process, endpoint) = serve(state.path(), "127.0.0.1:0");
        Self { endpoint, process, state }
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
        self.process.end();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        std::fs::remove_file(self.state.path().join("endpoint")).ok();
        let address = self.endpoint.trim_start_matches("http://").to_owned();
        (self.process, self.endpoint) = serve(self.state.path(), &address);
    }

    /// Another one with the same keys, as a second region has them.
    pub fn copy(&mut self) -> Self {
        self.kill();
        let state = Directory::new();
        let copied = Command::new("cp").args(["-a", "-T"]).arg(self.state.path()).arg(state.path()).status();
        assert!(copied.unwrap().success());
        std::fs::remove_file(state.path().join("endpoint")).ok();
        self.restart();
        let (process, endpoint) = serve(state.path(), "127.0.0.1:0");
        Self { endpoint, process, state }
    }

    /// `hsm-emulator unit WORDS`: what it prints.
    pub fn unit(&self, words: &[&str]) -> String {
        let mut command = Command::new(built("hsm-emulator"));
        let output = command.arg("unit").args(words).arg("--state").arg(self.state.path()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes it stop answering: when this returns, no thread of it runs any more.
    pub fn halt(&self) {
        kill_process(self.process.pid, Signal::STOP).unwrap();
        let tasks = format!("/proc/{}/task", self.process.pid.as_raw_pid());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
            // A thread that has just ended is as quiet as one that is stopped.
            stat.map_or(true, |stat| stat.rsplit(") ").next().unwrap().starts_with('T'))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_dir(&tasks).unwrap().all(is_stopped) {
            assert!(Instant::now() < deadline, "the server does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        kill_process(self.process.pid, Signal::CONT).unwrap();
    }
}

impl Process {
    fn end(&mut self) {
        drop(self.watcher.stdin.take());
        self.watcher.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(state: &Path, listen: &str) -> (Process, String) {
    let mut watcher = Command::new("sh")
        .args(["-c", "\"$0\" \"$@\" >/dev/null 2>&1 & echo $!; read -r _; kill -9 $!; wait"])
        .arg(built("hsm-emulator"))
        .args(["serve", "--listen", listen, "--state"])
        .arg(state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let process = Process { pid: Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), watcher };
    let started = Instant::now();
    loop {
        if let Ok(endpoint) = std::fs::read_to_string(state.join("endpoint")) {
            return (process, endpoint.trim().to_owned());
        }
        assert!(started.elapsed() < Duration::from_secs(20), "the server does not start: is it built?");
        std::thread::sleep(Duration::from_millis(20));
    }
}
