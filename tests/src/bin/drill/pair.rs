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

/// Where the two are: the home region first.
pub const REGIONS: [&str; 2] = ["us-south", "us-east"];

/// A primary region and its failover region. Both are killed and deleted when dropped.
pub struct Pair {
    dir: TempDir,
    program: PathBuf,
    regions: [Region; 2],
    /// By which the failover region follows.
    pub line: Proxy,
    /// By which the home region reaches the failover region: it follows by it when the roles have changed.
    pub back: Proxy,
    /// The administrators of all crypto units.
    pub desk: Desk,
}

struct Region {
    listen: SocketAddr,
    pair_listen: SocketAddr,
    flags: Vec<String>,
    process: Option<Child>,
}

impl Pair {
    /// `hsm-emulator WORDS --state` of a region.
    pub fn run(&self, region: usize, words: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        output(command.args(words).arg("--state").arg(self.state(region))).map(drop)
    }

    /// A path beside the regions.
    pub fn path(&self, name: &str) -> Result<String, String> {
        let path = self.dir.path().join(name);
        Ok(path.to_str().ok_or("the temporary directory is not UTF-8")?.to_owned())
    }

    /// Nothing of it is left.
    pub fn erase(&self, region: usize) -> Result<(), String> {
        fs::remove_dir_all(self.state(region)).map_err(text)
    }

    /// The failover region, made anew from nothing.
    pub fn join_anew(&mut self, runtime: &Runtime) -> Result<(), String> {
        let invitation = self.dir.path().join("invitation");
        fs::remove_file(invitation).map_err(text)?;
        self.join()?;
        self.assign_failover_units(runtime)
    }

    /// Both initialised with the same master key, joined, with green checks. `flags` are for the failover region.
    pub fn new(runtime: &Runtime, dice: &mut Dice, flags: &[&str]) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("hsm-drill-").tempdir().map_err(text)?;
        let program = std::env::current_exe().map_err(text)?.with_file_name("hsm-emulator");
        let region = |dice: &mut Dice, flags: &[&str]| Region {
            listen: free_address(dice),
            pair_listen: free_address(dice),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            process: None,
        };
        let mut home = region(dice, &["--imprint"]);
        let mut away = region(dice, flags);
        let line = home.behind_proxy(runtime)?;
        let back = away.behind_proxy(runtime)?;
        home.start(&program, &dir.path().join(REGIONS[0]))?;
        let desk = runtime.block_on(async {
            let desk = Desk::new(home.port(&dir.path().join(REGIONS[0]))?);
            for unit in desk.units(UnitType::Operational).await? {
                desk.initialise(&unit).await?;
            }
            Ok::<_, String>(desk)
        })?;
        let mut pair = Self { dir, program, regions: [home, away], line, back, desk };
        pair.join()?;
        pair.assign_failover_units(runtime)?;
        Ok(pair)
    }

    /// Through the home region, as its operators do it.
    fn assign_failover_units(&self, runtime: &Runtime) -> Result<(), String> {
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
        let invitation = self.dir.path().join("invitation");
        let file = invitation.to_str().ok_or("the temporary directory is not UTF-8")?;
        self.operator(0, &["invite", "--out", file])?;
        let mut join = Command::new(&self.program);
        join.args(["failover", "join", "--invitation", file, "--region", REGIONS[1], "--state"]);
        output(join.arg(self.state(1)))?;
        self.start(1)?;
        until("the regions are joined", || Ok(self.is_joined(0)))
    }

    fn state(&self, region: usize) -> PathBuf {
        self.dir.path().join(REGIONS[region])
    }

    /// Keeps the directory; where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Root keys in a region.
    pub fn kms(&self, region: usize) -> Result<Kms, String> {
        Ok(KmsClient::new(self.regions[region].port(&self.state(region))?))
    }

    /// Starts a region, or starts it again.
    pub fn start(&mut self, region: usize) -> Result<(), String> {
        let state = self.state(region);
        self.regions[region].start(&self.program, &state)
    }

    /// Its process, unless it was killed.
    ///
    /// # Errors
    /// If it has ended by itself.
    pub fn process(&mut self, region: usize) -> Result<Option<Pid>, String> {
        let Some(process) = &mut self.regions[region].process else { return Ok(None) };
        match process.try_wait().map_err(text)? {
            None => Ok(Some(Pid::from_child(process))),
            Some(status) => Err(format!("{} has ended by itself: {status}", REGIONS[region])),
        }
    }

    /// SIGKILL, SIGTERM, SIGSTOP or SIGCONT.
    pub fn signal(&mut self, region: usize, signal: Signal) -> Result<(), String> {
        let slot = &mut self.regions[region].process;
        let process = slot.as_mut().ok_or_else(|| format!("{} does not run", REGIONS[region]))?;
        kill_process(Pid::from_child(process), signal).map_err(text)?;
        if matches!(signal, Signal::KILL | Signal::TERM) {
            process.wait().map_err(text)?;
            *slot = None;
        }
        Ok(())
    }

    /// `hsm-emulator failover WORDS` in a region: what it prints, or its error.
    pub fn operator(&self, region: usize, words: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.arg("failover").args(words).args(["--json", "--state"]).arg(self.state(region));
        serde_json::from_slice(&output(&mut command)?).map_err(text)
    }

    /// What `hsm-emulator failover status` prints, also if not all is green, and its exit code.
    pub fn status(&self, region: usize) -> Result<(Value, i32), String> {
        let mut command = Command::new(&self.program);
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

impl Drop for Pair {
    fn drop(&mut self) {
        for process in self.regions.iter_mut().filter_map(|region| region.process.as_mut()) {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

impl Region {
    /// The other region reaches it by the proxy.
    fn behind_proxy(&mut self, runtime: &Runtime) -> Result<Proxy, String> {
        let proxy = runtime.block_on(Proxy::open(self.pair_listen)).map_err(text)?;
        self.flags.extend(["--pair-address".to_owned(), proxy.address.to_string()]);
        Ok(proxy)
    }

    fn start(&mut self, program: &Path, state: &Path) -> Result<(), String> {
        let endpoint = state.join("endpoint");
        fs::remove_file(&endpoint).ok();
        let log = state.with_extension("log");
        let log = File::options().create(true).append(true).open(log).map_err(text)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &self.listen.to_string()]);
        command.args(["--pair-listen", &self.pair_listen.to_string()]).args(&self.flags);
        command.arg("--state").arg(state).stdin(Stdio::null()).stderr(log);
        let process =
            command.spawn().map_err(|error| format!("{}: {error}; build it first", program.display()))?;
        self.process = Some(process);
        until("the region serves", || Ok(endpoint.exists()))
    }

    fn port(&self, state: &Path) -> Result<Authorized, String> {
        let api_key = fs::read_to_string(state.join("api-key")).map_err(text)?;
        authorized(&format!("http://{}", self.listen), api_key.trim())
    }
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
