//! Two regions as processes, and what an operator does to them.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hsm_proto::kms::kms_client::KmsClient;
use hsm_proto::tke::UnitType;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::administration::Desk;
use crate::client::{Authorized, Kms, authorized};
use crate::dice::Dice;
use crate::proxy::Proxy;

const HSM: &str = "hsm-emulator";
/// Where the two are: the home region first.
pub const REGIONS: [&str; 2] = ["us-south", "us-east"];

/// A primary region and its failover region. Both are killed and deleted when dropped.
pub struct Pair {
    regions: [Region; 2],
    // Dropped after the processes.
    dir: TempDir,
    /// By which the failover region follows.
    pub line: Proxy,
    /// By which the home region reaches the failover region: it follows by it when the roles have changed.
    pub back: Proxy,
    /// The administrators of all crypto units.
    pub desk: Desk,
}

/// A process that is killed when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

struct Region {
    listen: SocketAddr,
    pair_listen: SocketAddr,
    flags: Vec<String>,
    /// A library that sets it from a file beside the directory of the region.
    clock: Option<PathBuf>,
    process: Option<Process>,
}

impl Pair {
    /// Both initialised with the same master key, joined, with green checks. `flags` are for the failover region.
    pub fn new(runtime: &Runtime, dice: &mut Dice, flags: &[&str]) -> Result<Self, String> {
        Self::start_both(runtime, dice, flags, None)
    }

    /// With clocks that [`Self::set_clock`] sets.
    pub fn with_clocks(runtime: &Runtime, dice: &mut Dice) -> Result<Self, String> {
        let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let mut places = places.iter().map(|place| Path::new(place).join("faketime/libfaketime.so.1"));
        let library = places
            .find(|library| library.exists())
            .ok_or("libfaketime is not installed: package faketime")?;
        Self::start_both(runtime, dice, &[], Some(library))
    }

    fn start_both(
        runtime: &Runtime,
        dice: &mut Dice,
        flags: &[&str],
        clock: Option<PathBuf>,
    ) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("hsm-drill-").tempdir().map_err(text)?;
        let region = |dice: &mut Dice, flags: &[&str]| Region {
            listen: free_address(dice),
            pair_listen: free_address(dice),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            clock: clock.clone(),
            process: None,
        };
        let mut home = region(dice, &["--imprint"]);
        let mut away = region(dice, flags);
        let line = home.behind_proxy(runtime)?;
        let back = away.behind_proxy(runtime)?;
        home.start(&dir.path().join(REGIONS[0]))?;
        let desk = runtime.block_on(async {
            let desk = Desk::new(home.port(&dir.path().join(REGIONS[0]))?);
            for unit in desk.units(UnitType::Operational).await? {
                desk.initialise(&unit).await?;
            }
            Ok::<_, String>(desk)
        })?;
        let mut pair = Self { regions: [home, away], dir, line, back, desk };
        pair.complete(runtime)?;
        Ok(pair)
    }

    /// Joins a new failover region with new units to the home region.
    pub fn complete(&mut self, runtime: &Runtime) -> Result<(), String> {
        self.join()?;
        // Through the home region, as its operators do it.
        runtime.block_on(async {
            for _ in 0..2 {
                self.desk.assign_failover_unit().await?;
            }
            for unit in self.desk.units(UnitType::Failover).await? {
                self.desk.initialise(&unit).await?;
            }
            Ok::<_, String>(())
        })?;
        until("the checks are green", || Ok(self.operator(0, &["status"]).is_ok()))
    }

    fn join(&mut self) -> Result<(), String> {
        let invitation = self.path("invitation");
        fs::remove_file(&invitation).ok();
        let file = invitation.to_str().ok_or("the temporary directory is not UTF-8")?;
        self.operator(0, &["invite", "--out", file])?;
        let mut join = Command::new(program(HSM));
        join.args(["failover", "join", "--invitation", file, "--region", REGIONS[1], "--state"]);
        output(join.arg(self.state(1)))?;
        self.start(1)?;
        until("the regions are joined", || Ok(self.is_joined(0)))
    }

    fn state(&self, region: usize) -> PathBuf {
        self.path(REGIONS[region])
    }

    /// In the directory of both.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As applications list them: home first.
    pub fn endpoints(&self) -> String {
        format!("http://{},http://{}", self.regions[0].listen, self.regions[1].listen)
    }

    /// Of both regions.
    pub fn api_key_file(&self) -> PathBuf {
        self.state(0).join("api-key")
    }

    /// Keeps the directory; where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// `hsm-emulator WORDS --state` of a region.
    pub fn run(&self, region: usize, words: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program(HSM));
        output(command.args(words).arg("--state").arg(self.state(region))).map(drop)
    }

    /// `hsm-emulator backup` of a region, while it serves.
    pub fn back_up(&self, region: usize) -> Result<PathBuf, String> {
        let (file, passphrase) = (self.path("backup"), self.path("passphrase"));
        fs::write(&passphrase, "only for a drill\n").map_err(text)?;
        let mut command = Command::new(program(HSM));
        command.args(["backup", "--force", "--json", "--state"]).arg(self.state(region));
        output(command.arg("--out").arg(&file).arg("--passphrase-file").arg(passphrase))?;
        Ok(file)
    }

    /// Its disk is lost.
    pub fn destroy(&mut self, region: usize) -> Result<(), String> {
        self.signal(region, Signal::KILL)?;
        fs::remove_dir_all(self.state(region)).map_err(text)
    }

    /// `hsm-emulator restore` of a region whose disk is lost; it is served then.
    pub fn restore(&mut self, region: usize, backup: &Path) -> Result<(), String> {
        let mut command = Command::new(program(HSM));
        command.args(["restore", "--json", "--state"]).arg(self.state(region)).arg("--from").arg(backup);
        output(command.arg("--passphrase-file").arg(self.path("passphrase")))?;
        self.start(region)
    }

    /// The administrators, at a region.
    pub fn desk_at(&self, region: usize) -> Result<Desk, String> {
        Ok(self.desk.at(self.regions[region].port(&self.state(region))?))
    }

    /// Root keys in a region.
    pub fn kms(&self, region: usize) -> Result<Kms, String> {
        Ok(KmsClient::new(self.regions[region].port(&self.state(region))?))
    }

    /// Starts a region, or starts it again.
    pub fn start(&mut self, region: usize) -> Result<(), String> {
        let state = self.state(region);
        self.regions[region].start(&state)
    }

    /// Its process, unless it was killed.
    ///
    /// # Errors
    /// If it has ended by itself.
    pub fn process(&mut self, region: usize) -> Result<Option<Pid>, String> {
        let Some(process) = &mut self.regions[region].process else { return Ok(None) };
        match process.0.try_wait().map_err(text)? {
            None => Ok(Some(Pid::from_child(&process.0))),
            Some(status) => Err(format!("{} has ended by itself: {status}", REGIONS[region])),
        }
    }

    /// SIGKILL, SIGTERM, SIGSTOP or SIGCONT.
    pub fn signal(&mut self, region: usize, signal: Signal) -> Result<(), String> {
        let slot = &mut self.regions[region].process;
        let process = slot.as_mut().ok_or_else(|| format!("{} does not run", REGIONS[region]))?;
        kill_process(Pid::from_child(&process.0), signal).map_err(text)?;
        if matches!(signal, Signal::KILL | Signal::TERM) {
            process.0.wait().map_err(text)?;
            *slot = None;
        }
        Ok(())
    }

    /// The date of a region is so many days ahead, within a second.
    pub fn set_clock(&self, region: usize, days: i64) -> Result<(), String> {
        let (file, new) = (self.state(region).with_extension("clock"), self.path("clock"));
        fs::write(&new, format!("{days:+}d\n")).and_then(|()| fs::rename(&new, &file)).map_err(text)
    }

    /// `hsm-emulator failover WORDS` in a region: what it prints, or its error.
    pub fn operator(&self, region: usize, words: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(program(HSM));
        command.arg("failover").args(words).args(["--json", "--state"]).arg(self.state(region));
        serde_json::from_slice(&output(&mut command)?).map_err(text)
    }

    /// What `hsm-emulator failover status` prints, also if not all is green, and its exit code.
    pub fn status(&self, region: usize) -> Result<(Value, i32), String> {
        let mut command = Command::new(program(HSM));
        command.args(["failover", "status", "--json", "--state"]).arg(self.state(region));
        let output = command.output().map_err(text)?;
        let status = serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((status, output.status.code().unwrap_or(-1)))
    }

    /// Does the other region follow this one, and has it everything?
    pub fn is_joined(&self, primary: usize) -> bool {
        let state = |region| self.status(region).map(|(status, _)| status).unwrap_or_default();
        let (here, there) = (state(primary), state(1 - primary));
        here["connected"] == true
            && (&here["here"]["role"], &here["here"]["bond"]) == (&"primary".into(), &"joined".into())
            && (&there["here"]["role"], &there["here"]["bond"]) == (&"failover".into(), &"joined".into())
    }
}

impl Region {
    /// The other region reaches it by the proxy.
    fn behind_proxy(&mut self, runtime: &Runtime) -> Result<Proxy, String> {
        let proxy = runtime.block_on(Proxy::open(self.pair_listen)).map_err(text)?;
        self.flags.extend(["--pair-address".to_owned(), proxy.address.to_string()]);
        Ok(proxy)
    }

    fn start(&mut self, state: &Path) -> Result<(), String> {
        let endpoint = state.join("endpoint");
        fs::remove_file(&endpoint).ok();
        let log = state.with_extension("log");
        let lines = File::options().create(true).append(true).open(&log).map_err(text)?;
        let mut command = server(HSM);
        command.args(["serve", "--listen", &self.listen.to_string()]);
        command.args(["--pair-listen", &self.pair_listen.to_string()]).args(&self.flags);
        command.arg("--state").arg(state).stdin(Stdio::null()).stderr(lines);
        if let Some(library) = &self.clock {
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", state.with_extension("clock"));
            // The date only, as an operator or a time server sets it.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
            command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DISABLE_SHM", "1");
        }
        let process = command.spawn().map_err(|error| format!("{HSM}: {error}"))?;
        let process = self.process.insert(Process(process));
        until("the region serves", || match process.0.try_wait().map_err(text)? {
            None => Ok(endpoint.exists()),
            Some(status) => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                Err(format!(
                    "{HSM} has ended: {status}; {}",
                    log.lines().last().unwrap_or("it has said nothing")
                ))
            }
        })
    }

    fn port(&self, state: &Path) -> Result<Authorized, String> {
        let api_key = fs::read_to_string(state.join("api-key")).map_err(text)?;
        authorized(&format!("http://{}", self.listen), api_key.trim())
    }
}

/// One of this build that the kernel kills when the drill ends, however it ends.
pub fn server(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program(name));
    command
}

/// One of this build.
pub fn program(name: &str) -> PathBuf {
    // Whoever asks runs from the same directory.
    std::env::current_exe().unwrap_or_default().with_file_name(name)
}

/// Looks again and again; gives up after a minute.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so()? {
        if Instant::now() >= deadline {
            return Err(format!("not within a minute: {what}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Outside the range that the kernel gives to connections: nobody takes it while a region is down.
fn free_address(dice: &mut Dice) -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + dice.below(12_000) as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(text)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
