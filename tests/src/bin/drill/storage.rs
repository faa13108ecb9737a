//! The storage service with both regions as its HSM, and clients who put objects into a bucket under a root key.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use integration_tests::s3::{Client, Connection};
use parking_lot::Mutex;
use serde_json::Value;

use crate::dice::Dice;
use crate::load::{Kind, Load, Success};
use crate::pair::{Pair, Process, server, until};

/// The service, killed when dropped, and its clients.
pub struct Storage {
    clients: Arc<Clients>,
    threads: Vec<JoinHandle<()>>,
    _process: Process,
}

struct Clients {
    client: Client,
    load: Arc<Load>,
    stopped: AtomicBool,
    objects: Mutex<BTreeMap<String, Versions>>,
}

/// An object is replaced again and again; its content says by which version.
#[derive(Clone, Copy, Default)]
struct Versions {
    /// The last one that was acknowledged, or 0.
    acknowledged: u64,
    /// The last one that was sent.
    sent: u64,
}

impl Storage {
    /// Starts it with a bucket under the root key of this CRN.
    pub fn start(pair: &Pair, load: Arc<Load>, crn: &str, seed: u64) -> Result<Self, String> {
        let state = pair.path("cos");
        let log = File::create(pair.path("cos.log")).map_err(text)?;
        let mut command = server("cos-service");
        command.args(["serve", "--listen", "127.0.0.1:0", "--lease", LEASE, "--hsm", &pair.endpoints()]);
        command.arg("--hsm-api-key-file").arg(pair.api_key_file()).arg("--state").arg(&state);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let process = Process(process.map_err(|error| format!("cos-service: {error}"))?);
        until("the storage service serves", || Ok(state.join("endpoint").exists()))?;
        let endpoint = fs::read_to_string(state.join("endpoint")).map_err(text)?;
        let credentials = fs::read(state.join("credentials.json")).map_err(text)?;
        let credentials: Value = serde_json::from_slice(&credentials).map_err(text)?;
        let known = |name: &str| credentials[name].as_str().unwrap_or_default();
        let client = Client::new(endpoint.trim(), known("access_key_id"), known("secret_access_key"));
        let (stopped, objects) = (AtomicBool::new(false), Mutex::default());
        let clients = Arc::new(Clients { client: client.map_err(text)?, load, stopped, objects });
        let key = [("ibm-sse-kp-customer-root-key-crn", crn), ("ibm-sse-kp-encryption-algorithm", "AES256")];
        match clients.client.connect(None).and_then(|mut open| Ok(open.call("PUT", BUCKET, &key, &[])?.0)) {
            Ok(200) => {}
            answer => return Err(format!("no bucket: {answer:?}")),
        }
        let mut dice = Dice::new(seed);
        let threads = (0..WRITERS + READERS).map(|thread| {
            let (clients, dice) = (clients.clone(), Dice::new(dice.number()));
            spawn(move || clients.work(thread, dice))
        });
        Ok(Self { threads: threads.collect(), clients, _process: process })
    }

    /// Waits until the last requests have been answered.
    pub fn stop(&mut self) {
        self.clients.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.clients.load.violate("a client of the storage service has panicked".to_owned());
            }
        }
    }

    /// How many of the objects that were acknowledged are not there.
    pub fn verify(&self) -> usize {
        let objects = self.clients.objects.lock().clone();
        let mut connection = None;
        let kept = |path: &String| self.clients.get(&mut connection, path);
        objects.keys().map(kept).filter(|kept| !kept).count()
    }
}

impl Clients {
    fn work(&self, thread: u64, mut dice: Dice) {
        let mut connection = None;
        while !self.stopped.load(Ordering::Relaxed) {
            if thread < WRITERS {
                let path = format!("{BUCKET}/{thread}-{}", dice.below(OBJECTS));
                self.put(&mut connection, &path);
            } else {
                let path = {
                    let objects = self.objects.lock();
                    objects.keys().nth(dice.below(objects.len())).cloned()
                };
                if let Some(path) = path {
                    self.get(&mut connection, &path);
                }
            }
            sleep(PAUSE);
        }
    }

    /// Each object has one writer.
    fn put(&self, connection: &mut Option<Connection>, path: &str) {
        let version = {
            let mut objects = self.objects.lock();
            let versions = objects.entry(path.to_owned()).or_default();
            versions.sent += 1;
            versions.sent
        };
        if self.ask(connection, "PUT", path, &content(path, version)).is_some()
            && let Some(versions) = self.objects.lock().get_mut(path)
        {
            versions.acknowledged = version;
        }
    }

    /// Is it there, as what was acknowledged last or is on its way?
    fn get(&self, connection: &mut Option<Connection>, path: &str) -> bool {
        let versions = || self.objects.lock().get(path).copied().unwrap_or_default();
        let before = versions();
        if before.acknowledged == 0 {
            return true;
        }
        let Some(body) = self.ask(connection, "GET", path, &[]) else { return false };
        let version = body.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        let expected = before.acknowledged..=versions().sent;
        let right = expected.contains(&version) && body == content(path, version);
        if !right {
            self.load.violate(format!("WRONG ANSWER: object {path} is not what was put"));
        }
        right
    }

    /// Again and again until it is done, or the deadline has passed.
    fn ask(
        &self,
        connection: &mut Option<Connection>,
        method: &str,
        path: &str,
        sent: &[u8],
    ) -> Option<Vec<u8>> {
        let begun = Instant::now();
        loop {
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => self.client.connect(Some(DEADLINE)),
            };
            let answer = open.and_then(|mut open| {
                let (status, body) = open.call(method, path, &[], sent)?;
                let answer = (status, body.to_vec());
                *connection = Some(open);
                Ok(answer)
            });
            let failure = match answer {
                Ok((200, body)) => {
                    self.load.journal().done[Kind::Storage as usize].push(Success::since(begun));
                    return Some(body);
                }
                Ok((status, body)) => format!("{status} {}", String::from_utf8_lossy(&body)),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= DEADLINE {
                self.load.has_failed(&format!("{method} of an object: {failure}"), begun);
                return None;
            }
            sleep(PAUSE);
        }
    }
}

/// Begins with the version. Some are kept beside the metadata, some in files.
fn content(path: &str, version: u64) -> Vec<u8> {
    let seed = path.bytes().fold(version, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut dice = Dice::new(seed);
    let blocks = if dice.below(10) == 0 { LARGE_BLOCKS } else { SMALL_BLOCKS };
    let mut content = version.to_le_bytes().to_vec();
    content.extend((0..blocks).flat_map(|_| dice.bytes()));
    content
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

const BUCKET: &str = "/drill";
/// The shortest: a bucket key is unwrapped once a second.
const LEASE: &str = "1s";
/// Threads that put objects.
const WRITERS: u64 = 2;
/// Threads that get them.
const READERS: u64 = 2;
/// For each writer.
const OBJECTS: usize = 100;
/// Of 32 bytes.
const SMALL_BLOCKS: usize = 32;
const LARGE_BLOCKS: usize = 8 << 10;
/// For a request with all its attempts.
const DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);
