//! Faults by chance, with real processes, and a history that is checked: each seed is another drill.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hsm_proto::kms;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::client::Kms;
use crate::dice::Dice;
use crate::history::{Action, Event, Last, Life, check};
use crate::pair::{Pair, REGIONS, until};
use crate::proxy::Condition;
use crate::report::Paint;

/// Clients that use some keys all at the same time, and what was seen of each key.
struct Clients {
    regions: [Kms; 2],
    begun: Instant,
    /// Even: no fault is there, and both regions are together. Odd: there is one, or they are not. A request that has seen
    /// two numbers, or an odd one, says nothing about both regions.
    phase: AtomicU64,
    stopped: AtomicBool,
    keys: Mutex<BTreeMap<String, Seen>>,
    violations: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    /// Was it not calm when the event of the same place happened?
    rough: Vec<bool>,
    wrapped: Vec<(Vec<u8>, String)>,
}

/// Runs seeds, and says which have shown a violation: none may, or all must if the promise is broken.
pub fn run(runtime: &Runtime, seeds: Range<u64>, break_the_promise: bool, paint: Paint) -> ExitCode {
    paint.title(
        "faults",
        "by chance, one to three at the same time, and operators who promote; the history is checked",
    );
    let all = seeds.end - seeds.start;
    let (mut found, mut broken_off) = (0, 0);
    for seed in seeds {
        let begun = Instant::now();
        let mut story = Vec::new();
        let outcome = one(runtime, seed, break_the_promise, &mut story);
        let (took, story) = (begun.elapsed().as_secs_f64(), story.join(", "));
        match outcome {
            Ok(Ok((keys, events))) => {
                paint.note(&format!(
                    "seed {seed:<5} {took:>5.1} s  {keys:>3} keys, {events:>5} events in order: {story}"
                ));
            }
            Err(error) => {
                broken_off += 1;
                paint.note(&format!("seed {seed:<5} {took:>5.1} s  BROKEN OFF: {story}"));
                paint.note(&format!("  {error}"));
            }
            Ok(Err(violations)) => {
                // What was lost on purpose, and nothing else, shows that it is found.
                let is_expected = |violation: &String| !break_the_promise || violation.contains(LOST);
                found += u64::from(violations.iter().any(is_expected));
                paint.note(&format!("seed {seed:<5} {took:>5.1} s  VIOLATION: {story}"));
                violations.iter().for_each(|violation| paint.note(&format!("  {violation}")));
            }
        }
    }
    // A drill that was broken off has found nothing.
    let failed = if break_the_promise { all - found } else { found + broken_off };
    println!("\n{} passed, {failed} failed", all - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many keys and events have an order, or what violates the promise; an error if the drill was broken off.
fn one(
    runtime: &Runtime,
    seed: u64,
    break_the_promise: bool,
    story: &mut Vec<String>,
) -> Result<Result<(usize, usize), Vec<String>>, String> {
    let mut dice = Dice::new(seed);
    let mut ports = Dice::new(seed ^ u64::from(std::process::id()));
    let mut pair = Pair::with_clocks(runtime, &mut ports)?;
    runtime.block_on(check_clock(&pair))?;
    let clients = Arc::new(Clients {
        regions: [pair.kms(0)?, pair.kms(1)?],
        begun: Instant::now(),
        phase: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        keys: Mutex::default(),
        violations: Mutex::default(),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (clients, dice) = (clients.clone(), Dice::new(dice.number()));
            runtime.spawn(clients.work(dice))
        })
        .collect();
    let mut outcome = Ok(());
    for _ in 0..EPISODES {
        sleep(Duration::from_millis(100 + dice.below(400) as u64));
        clients.phase.fetch_add(1, Ordering::SeqCst);
        outcome = episode(&mut pair, &mut dice, story);
        if outcome.is_err() {
            break;
        }
        clients.phase.fetch_add(1, Ordering::SeqCst);
    }
    if break_the_promise && outcome.is_ok() {
        clients.phase.fetch_add(1, Ordering::SeqCst);
        outcome = break_the_promise_of(&mut pair, &clients, runtime);
    }
    sleep(Duration::from_millis(300));
    clients.stopped.store(true, Ordering::SeqCst);
    for worker in workers {
        if runtime.block_on(worker).is_err() {
            clients.violations.lock().push("a client has panicked".to_owned());
        }
    }
    let judged = outcome.and_then(|()| runtime.block_on(clients.judge())).and_then(|(keys, events)| {
        if events < FEWEST_EVENTS { Err(format!("{events} events show nothing")) } else { Ok((keys, events)) }
    });
    let mut violations = std::mem::take(&mut *clients.violations.lock());
    if judged.is_ok() && violations.is_empty() {
        return judged.map(Ok);
    }
    if !break_the_promise {
        violations.push(format!("the directories are kept: {}", pair.keep().display()));
    }
    match judged {
        Ok(_) => Ok(Err(violations)),
        Err(error) => Err(format!("{error}; {}", violations.join("; "))),
    }
}

/// Does the clock of the home region obey?
async fn check_clock(pair: &Pair) -> Result<(), String> {
    let month = async || {
        let request = kms::CreateRootKeyRequest { name: "what time is it?".to_owned(), material: Vec::new() };
        let key = pair.kms(0)?.create_root_key(request).await.map_err(|status| status.to_string())?;
        Ok::<_, String>(key.into_inner().created.chars().take("2026-11".len()).collect::<String>())
    };
    let before = month().await?;
    pair.set_clock(0, 100)?;
    // It looks at its file once a second or two.
    let deadline = Instant::now() + PATIENCE_WITH_CLOCKS;
    while month().await? == before {
        if Instant::now() > deadline {
            return Err(format!("the date cannot be set: it is {before} still"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pair.set_clock(0, 0)
}

/// One or two faults at the same time, perhaps an operator who promotes, and their end.
fn episode(pair: &mut Pair, dice: &mut Dice, story: &mut Vec<String>) -> Result<(), String> {
    let primary = usize::from(!is_primary(pair, 0));
    for _ in 0..1 + dice.below(2) {
        let region = dice.below(2);
        story.push(strike(pair, dice, region)?);
        sleep(Duration::from_millis(dice.below(900) as u64));
    }
    match dice.below(5) {
        0 | 1 => {
            let refused = promote_with_patience(pair, 1 - primary).is_err();
            story.push(format!(
                "promote {}{}",
                REGIONS[1 - primary],
                if refused { " (refused)" } else { "" }
            ));
        }
        2 => {
            let done = pair.operator(primary, &["switchover"]).is_ok();
            story.push(format!("switchover{}", if done { "" } else { " (refused)" }));
        }
        _ => {}
    }
    sleep(Duration::from_millis(dice.below(900) as u64));
    heal(pair)?;
    until("the regions are together again", || Ok(pair.is_joined(0) || pair.is_joined(1)))
}

/// Until the other region counts as lost.
fn promote_with_patience(pair: &Pair, region: usize) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match pair.operator(region, &["promote"]) {
            Err(error) if error.contains("is alive") && begun.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(100))
            }
            outcome => return outcome.map(drop),
        }
    }
}

fn strike(pair: &mut Pair, dice: &mut Dice, region: usize) -> Result<String, String> {
    let name = REGIONS[region];
    let good = Condition::default();
    let set = |pair: &Pair, line: usize, condition| {
        if line == 0 { pair.line.set(condition) } else { pair.back.set(condition) }
    };
    Ok(match dice.below(10) {
        0 if pair.process(region)?.is_some() => {
            pair.signal(region, Signal::KILL)?;
            format!("kill {name}")
        }
        1 if pair.process(region)?.is_some() => {
            pair.signal(region, Signal::STOP)?;
            format!("stop {name}")
        }
        2 => {
            set(pair, 0, Condition { cut: true, ..good });
            set(pair, 1, Condition { cut: true, ..good });
            "cut both lines".to_owned()
        }
        3 => {
            set(pair, region, Condition { cut: true, ..good });
            format!("cut the line to {name}")
        }
        4 => {
            set(pair, region, Condition { stalled_forth: true, ..good });
            format!("stall the line to {name}")
        }
        5 => {
            set(pair, region, Condition { stalled_back: true, ..good });
            format!("stall the answers of {name}")
        }
        6 => {
            let delay = Duration::from_millis(20 + dice.below(200) as u64);
            set(pair, region, Condition { delay, ..good });
            format!("{} ms to {name}", delay.as_millis())
        }
        7 if pair.process(region)?.is_some() => {
            // For its partner there are two of it then.
            set(pair, 0, Condition { held: true, ..good });
            set(pair, 1, Condition { held: true, ..good });
            pair.signal(region, Signal::KILL)?;
            pair.start(region)?;
            format!("restart {name}, its old connections stay")
        }
        8 => {
            let days = dice.below(1000) as i64 - 500;
            pair.set_clock(region, days)?;
            format!("{days} days in {name}")
        }
        _ => {
            limit_files(pair, region, Some(0))?;
            format!("no disk in {name}")
        }
    })
}

/// Every fault ends.
fn heal(pair: &mut Pair) -> Result<(), String> {
    pair.line.set(Condition::default());
    pair.back.set(Condition::default());
    for region in [0, 1] {
        if pair.process(region)?.is_some() {
            pair.signal(region, Signal::CONT)?;
            limit_files(pair, region, None)?;
        } else {
            pair.start(region)?;
        }
    }
    Ok(())
}

/// Nothing can be written beyond this size: a disk that fails.
fn limit_files(pair: &mut Pair, region: usize, bytes: Option<u64>) -> Result<(), String> {
    let Some(process) = pair.process(region)? else { return Ok(()) };
    prlimit(Some(process), Resource::Fsize, Rlimit { current: bytes, maximum: None })
        .map_err(|e| e.to_string())?;
    Ok(())
}

/// What no operator may do: the primary region goes on alone, and the other one is promoted by force.
fn break_the_promise_of(pair: &mut Pair, clients: &Clients, runtime: &Runtime) -> Result<(), String> {
    let primary = usize::from(!is_primary(pair, 0));
    pair.operator(primary, &["detach"])?;
    let written = runtime.block_on(async {
        let request =
            kms::CreateRootKeyRequest { name: "in one region only".to_owned(), material: Vec::new() };
        let begun = clients.now();
        let answer = clients.regions[primary].clone().create_root_key(request).await;
        answer.map(|answer| clients.created(primary, begun, &answer.into_inner())).map_err(|e| e.to_string())
    });
    written?;
    pair.signal(primary, Signal::KILL)?;
    pair.operator(1 - primary, &["promote", "--force"])?;
    pair.start(primary)?;
    // Neither gives way; the operator chooses the wrong one.
    until("its changes are given up", || {
        Ok(pair.operator(primary, &["attach", "--give-up-changes"]).is_ok())
    })?;
    // The other one may wait for it already.
    pair.operator(1 - primary, &["attach"]).ok();
    until("the regions are together again", || Ok(pair.is_joined(1 - primary)))
}

fn is_primary(pair: &Pair, region: usize) -> bool {
    pair.status(region).is_ok_and(|(status, _)| status["here"]["role"] == "primary")
}

impl Clients {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Was there a fault at any time since this phase?
    fn is_rough(&self, phase: u64) -> bool {
        phase % 2 == 1 || self.phase.load(Ordering::SeqCst) != phase
    }

    async fn work(self: Arc<Self>, mut dice: Dice) {
        while !self.stopped.load(Ordering::SeqCst) {
            let key = {
                let keys = self.keys.lock();
                let open: Vec<_> =
                    keys.iter().filter(|(_, seen)| seen.is_open()).map(|(id, _)| id.clone()).collect();
                if open.len() < OPEN_KEYS { None } else { open.get(dice.below(open.len())).cloned() }
            };
            let region = dice.below(2);
            match key {
                None => self.create(region).await,
                Some(key) => match dice.below(12) {
                    0 | 1 => self.write(&key, region, Action::Rotate).await,
                    2 => self.write(&key, region, Action::Disable).await,
                    3 | 4 => self.write(&key, region, Action::Enable).await,
                    5 => self.write(&key, region, Action::Delete).await,
                    6..9 => self.wrap(&key, region, dice.bytes()).await,
                    _ => self.unwrap(&key, region, &mut dice).await,
                },
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn create(&self, region: usize) {
        let mut kms = self.regions[region].clone();
        let begun = self.now();
        let request = kms::CreateRootKeyRequest { name: "by chance".to_owned(), material: Vec::new() };
        if let Some(Ok(key)) = self.ask(kms.create_root_key(request)).await {
            self.created(region, begun, &key);
        }
    }

    fn created(&self, region: usize, begun: Duration, key: &kms::RootKey) {
        let event =
            Event { action: Action::Create, region, begun, ended: Some(self.now()), version: newest(key) };
        self.keys.lock().entry(key.id.clone()).or_default().see(event, false);
    }

    async fn write(&self, key: &str, region: usize, action: Action) {
        let mut kms = self.regions[region].clone();
        let (begun, phase, id) = (self.now(), self.phase.load(Ordering::SeqCst), key.to_owned());
        let answer = match action {
            Action::Rotate => {
                self.ask(kms.rotate(kms::RotateRequest { key: id, material: Vec::new() })).await
            }
            Action::Disable => self.ask(kms.disable(kms::DisableRequest { key: id })).await,
            Action::Enable => self.ask(kms.enable(kms::EnableRequest { key: id })).await,
            _ => self.ask(kms.delete(kms::DeleteRequest { key: id })).await,
        };
        let Some(answer) = answer else { return };
        let ended = answer.is_ok().then(|| self.now());
        let version = if action == Action::Rotate { answer.ok().as_ref().and_then(newest) } else { None };
        let rough = self.is_rough(phase);
        if let Some(seen) = self.keys.lock().get_mut(key) {
            seen.see(Event { action, region, begun, ended, version }, rough);
        }
    }

    async fn wrap(&self, key: &str, region: usize, plaintext: Vec<u8>) {
        let mut kms = self.regions[region].clone();
        let (begun, phase) = (self.now(), self.phase.load(Ordering::SeqCst));
        let request = kms::WrapRequest { key: key.to_owned(), plaintext: plaintext.clone(), aad: Vec::new() };
        let Some(Ok(answer)) = self.ask(kms.wrap(request)).await else { return };
        let rough = self.is_rough(phase);
        if let Some(seen) = self.keys.lock().get_mut(key) {
            let (ended, version) = (Some(self.now()), Some(answer.key_version));
            seen.see(Event { action: Action::Use, region, begun, ended, version }, rough);
            seen.wrapped.push((plaintext, answer.ciphertext));
        }
    }

    async fn unwrap(&self, key: &str, region: usize, dice: &mut Dice) {
        let chosen = self
            .keys
            .lock()
            .get(key)
            .and_then(|seen| seen.wrapped.get(dice.below(seen.wrapped.len())).cloned());
        let Some((plaintext, ciphertext)) = chosen else { return };
        let mut kms = self.regions[region].clone();
        let (begun, phase) = (self.now(), self.phase.load(Ordering::SeqCst));
        let request = kms::UnwrapRequest { key: key.to_owned(), ciphertext, aad: Vec::new() };
        let Some(Ok(answer)) = self.ask(kms.unwrap(request)).await else { return };
        if answer.plaintext != plaintext {
            self.violations.lock().push(format!("WRONG ANSWER of {} for key {key}", REGIONS[region]));
        }
        let rough = self.is_rough(phase);
        if let Some(seen) = self.keys.lock().get_mut(key) {
            let ended = Some(self.now());
            seen.see(Event { action: Action::Use, region, begun, ended, version: None }, rough);
        }
    }

    /// The answer; an error if it is not known whether it was done; `None` if it was not.
    async fn ask<T>(
        &self,
        request: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Option<Result<T, Status>> {
        let phase = self.phase.load(Ordering::SeqCst);
        let status = match timeout(ATTEMPT, request).await {
            Ok(Ok(answer)) => return Some(Ok(answer.into_inner())),
            Ok(Err(status)) => status,
            Err(_) => return Some(Err(Status::deadline_exceeded("it is silent"))),
        };
        let says = |text: &str| status.message().contains(text);
        match status.code() {
            // Only what a region answers has details.
            _ if status.details().is_empty() => Some(Err(status)),
            Code::Aborted | Code::FailedPrecondition | Code::NotFound => None,
            Code::Unavailable if says("not the primary one") || says("the failover region is lost:") => None,
            Code::Unavailable => Some(Err(status)),
            // A region that is behind does not know the version.
            Code::InvalidArgument if self.is_rough(phase) => None,
            _ => {
                self.violations.lock().push(format!("{:?}: {}", status.code(), status.message()));
                None
            }
        }
    }

    /// Compares what was seen with what both regions have now: how many keys, and events.
    ///
    /// # Errors
    /// If a region does not say what it has.
    async fn judge(&self) -> Result<(usize, usize), String> {
        let keys = std::mem::take(&mut *self.keys.lock());
        let mut violations = Vec::new();
        for (id, seen) in &keys {
            let mut found = Vec::new();
            for region in &self.regions {
                let answer = region.clone().get_root_key(kms::GetRootKeyRequest { key: id.clone() }).await;
                match answer {
                    Ok(key) => found.push(key.into_inner()),
                    Err(status) if status.code() == Code::NotFound => {}
                    Err(status) => return Err(format!("key {id}: {status}")),
                }
            }
            let judged = match &found[..] {
                [here, there] if here == there => seen.judge(&last(here)),
                [_, _] => Err(format!("the regions differ: {found:?}")),
                _ => Err(format!("it was acknowledged and {LOST}")),
            };
            violations.extend(judged.err().map(|violation| format!("key {id}: {violation}")));
        }
        self.violations.lock().extend(violations);
        Ok((keys.len(), keys.values().map(|seen| seen.events.len()).sum()))
    }
}

impl Seen {
    /// Has it a future?
    fn is_open(&self) -> bool {
        self.events.len() < EVENTS
            && self.events.iter().all(|event| event.action != Action::Delete || event.ended.is_none())
    }

    fn see(&mut self, event: Event, rough: bool) {
        self.events.push(event);
        self.rough.push(rough);
    }

    /// A region that is cut off uses keys as it knows them; all else is in one order. And what both have deleted, nobody
    /// uses any more.
    fn judge(&self, last: &Last) -> Result<(), String> {
        let all = || self.events.iter().zip(&self.rough);
        let deleted =
            all().find(|(event, rough)| event.action == Action::Delete && event.ended.is_some() && !**rough);
        if let Some(end) = deleted.and_then(|(event, _)| event.ended)
            && let Some((used, _)) = all().find(|(event, _)| event.action == Action::Use && event.begun > end)
        {
            return Err(format!("deleted in both regions, and region {} has used it", used.region));
        }
        let ordered = all().filter(|(event, rough)| event.action != Action::Use || !**rough);
        check(&ordered.map(|(event, _)| event.clone()).collect::<Vec<_>>(), last)
    }
}

fn newest(key: &kms::RootKey) -> Option<String> {
    key.versions.first().map(|version| version.id.clone())
}

fn last(key: &kms::RootKey) -> Last {
    let life = match key.state() {
        kms::KeyState::Active => Life::Active,
        kms::KeyState::Suspended => Life::Suspended,
        _ => Life::Destroyed,
    };
    Last { life, versions: key.versions.iter().map(|version| version.id.clone()).collect() }
}

const PATIENCE: Duration = Duration::from_secs(2);
/// What a violation says of something that was acknowledged.
const LOST: &str = "is lost";
/// Any drill sees many more.
const FEWEST_EVENTS: usize = 100;
const PATIENCE_WITH_CLOCKS: Duration = Duration::from_secs(10);
const WORKERS: usize = 4;
const EPISODES: usize = 4;
const OPEN_KEYS: usize = 5;
/// Of one key: the search for an order must come to an end.
const EVENTS: usize = 60;
const PAUSE: Duration = Duration::from_millis(5);
/// A request that is not answered by then is in doubt.
const ATTEMPT: Duration = Duration::from_secs(2);
