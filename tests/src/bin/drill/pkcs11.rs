//! The PKCS #11 application as the drill sees it: a process, and what it prints.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::application::{AGAIN, FAILED, PARTS, READY, SIGNED, WRONG};
use crate::load::{Kind, Load, Success};
use crate::pair::{Pair, Process, server};

/// Signs and encrypts until it is dropped.
pub struct Pkcs11 {
    process: Process,
    reader: Option<JoinHandle<()>>,
}

impl Pkcs11 {
    /// Starts it, and waits until its token and keys are there.
    pub fn start(pair: &Pair, load: Arc<Load>) -> Result<Self, String> {
        let log = File::create(pair.path("pkcs11.log")).map_err(|error| error.to_string())?;
        let mut process = server("drill")
            .arg("--pkcs11-application")
            .env("HSM_GRPC_ENDPOINT", pair.endpoints())
            .env("HSM_API_KEY_FILE", pair.api_key_file())
            .env_remove("HSM_PKCS11_CONFIG")
            .env_remove("HSM_PKCS11_STATE")
            .env_remove("HSM_API_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map(Process)
            .map_err(|error| error.to_string())?;
        let mut lines =
            process.0.stdout.take().map(|output| BufReader::new(output).lines()).into_iter().flatten();
        if !lines.next().is_some_and(|line| line.is_ok_and(|line| line == READY)) {
            let log = fs::read_to_string(pair.path("pkcs11.log")).unwrap_or_default();
            return Err(format!("the PKCS #11 application does not start: {}", log.trim()));
        }
        let reader =
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| read(&load, &line)));
        Ok(Self { process, reader: Some(reader) })
    }

    /// Waits until its last operations are done.
    pub fn stop(&mut self) -> Result<(), String> {
        drop(self.process.0.stdin.take());
        let ended = self.process.0.wait().map_err(|error| error.to_string())?;
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| "the reader of the PKCS #11 application has panicked")?;
        }
        if ended.success() { Ok(()) } else { Err(format!("the PKCS #11 application has ended: {ended}")) }
    }
}

fn read(load: &Load, line: &str) {
    let now = Instant::now();
    let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (micros, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let took = Duration::from_micros(micros.parse().unwrap_or_default());
    match what {
        SIGNED | PARTS => {
            let mut journal = load.journal();
            journal.done[Kind::Pkcs11 as usize].push(Success { at: now, took });
            if what == PARTS {
                journal.parts.push(Success { at: now, took });
            }
        }
        AGAIN => {
            // The library's texts explain the code at length.
            let reason = rest.split_once(".  ").map_or(rest, |(reason, _)| reason);
            load.journal().again.push((now, reason.to_owned()));
        }
        FAILED => load.has_failed(&format!("a PKCS #11 operation: {reason}"), now - took),
        WRONG => load.violate(format!("WRONG ANSWER to a PKCS #11 operation: {rest}")),
        _ => load.violate(format!("the PKCS #11 application says {line:?}")),
    }
}
