//! A drill that runs: the pair, the load, and what was seen.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hsm_proto::kms;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Response, Status};

use crate::dice::Dice;
use crate::load::{KINDS, Kind, Load, Success};
use crate::pair::{Pair, REGIONS, until};
use crate::pkcs11::Pkcs11;
use crate::report::{Outcome, Paint};
use crate::scenarios::Scenario;
use crate::storage::Storage;

/// A drill that runs.
pub struct Drill<'a> {
    storage: Storage,
    pkcs11: Pkcs11,
    /// The regions.
    pub pair: Pair,
    /// What they are used for meanwhile.
    pub load: Arc<Load>,
    runtime: &'a Runtime,
    paint: Paint,
    timeline: Vec<Value>,
    fault: Option<Instant>,
    gaps: [Duration; KINDS.len()],
    lost_since_backup: usize,
    dice: Dice,
}

impl<'a> Drill<'a> {
    /// From making the pair to comparing the regions.
    pub fn run(runtime: &'a Runtime, scenario: &Scenario, runs: usize, seed: u64, paint: Paint) -> Outcome {
        let begun = Instant::now();
        paint.title(scenario.name, scenario.about);
        let mut outcome = Outcome { name: scenario.name, seed, ..Outcome::default() };
        if let Err(error) = Self::begin(runtime, scenario, seed, paint)
            .and_then(|mut drill| drill.repeat(scenario, runs, &mut outcome))
        {
            outcome.violations.push(error);
        }
        outcome.took = begun.elapsed();
        paint.verdict(&outcome);
        outcome
    }

    fn begin(runtime: &'a Runtime, scenario: &Scenario, seed: u64, paint: Paint) -> Result<Self, String> {
        let begun = Instant::now();
        let mut dice = Dice::new(seed);
        // Two drills at the same time take other ports.
        let mut ports = Dice::new(seed ^ u64::from(std::process::id()));
        let pair = Pair::new(runtime, &mut ports, scenario.flags)?;
        let regions = [pair.kms(0)?, pair.kms(1)?];
        let load = runtime.block_on(Load::start(regions, dice.number()))?;
        let pkcs11 = Pkcs11::start(&pair, load.clone())?;
        let request = kms::CreateRootKeyRequest { name: "bucket".to_owned(), material: Vec::new() };
        let key = runtime.block_on(pair.kms(0)?.create_root_key(request));
        let crn = key.map_err(|status| status.to_string())?.into_inner().crn;
        let storage = Storage::start(&pair, load.clone(), &crn, dice.number())?;
        paint.note(&format!(
            "two regions, joined, under one master key; made in {:.1} s; under load now",
            begun.elapsed().as_secs_f64()
        ));
        Ok(Self {
            storage,
            pkcs11,
            pair,
            load,
            runtime,
            paint,
            timeline: Vec::new(),
            fault: None,
            gaps: Default::default(),
            lost_since_backup: 0,
            dice,
        })
    }

    fn repeat(&mut self, scenario: &Scenario, runs: usize, outcome: &mut Outcome) -> Result<(), String> {
        let mut done = Ok(());
        for run in 0..runs {
            if run > 0 {
                sleep(HOMECOMING);
            }
            // At a moment that nothing is tied to.
            let moment = Duration::from_millis(self.dice.below(200) as u64);
            sleep(WARM_UP + moment);
            (self.fault, self.gaps) = (None, Default::default());
            done = (scenario.run)(self);
            sleep(WARM_UP);
            self.measure();
            outcome.gaps.iter_mut().zip(self.gaps).for_each(|(gaps, gap)| gaps.push(gap));
            if done.is_err() {
                break;
            }
        }
        outcome.timeline = std::mem::take(&mut self.timeline);
        self.storage.stop();
        let ended = self.pkcs11.stop();
        self.runtime.block_on(self.load.stop());
        let compared = if done.is_ok() { self.compare(outcome) } else { Ok(()) };
        let journal = self.load.journal();
        outcome.requests = journal.done.each_ref().map(Vec::len);
        outcome.lost_since_backup = self.lost_since_backup;
        for (_, reason) in &journal.again {
            *outcome.again.entry(reason.clone()).or_default() += 1;
        }
        outcome.refused_writes = journal.refused_writes;
        outcome.behind = journal.behind;
        outcome.violations.extend(journal.violations.iter().cloned());
        drop(journal);
        let result = done.and(compared).and(ended);
        if result.is_err() || !outcome.violations.is_empty() {
            outcome.kept = Some(self.pair.keep());
        }
        result
    }

    /// Both regions with the journal, and with each other; and the storage service with what was put.
    fn compare(&mut self, outcome: &mut Outcome) -> Result<(), String> {
        let mut lists = Vec::new();
        for region in [0, 1] {
            let (list, lost) = self.runtime.block_on(self.load.verify(&self.pair.kms(region)?))?;
            outcome.lost = outcome.lost.max(lost);
            lists.push(list);
        }
        if lists[0] != lists[1] {
            self.load.violate("the regions hold different keys".to_owned());
        }
        outcome.lost += self.storage.verify();
        Ok(())
    }

    /// A line of the timeline.
    pub fn say(&mut self, what: &str) {
        let since = self.fault.map_or(Duration::ZERO, |fault| fault.elapsed());
        self.timeline.push(json!({ "seconds": since.as_secs_f64(), "what": what }));
        self.paint.event(since, what);
    }

    /// The time begins here: call it right before. What is acknowledged may be in one region only from now on.
    pub fn fault(&mut self, what: &str) {
        self.measure();
        self.load.set_together(false);
        self.fault = Some(Instant::now());
        self.timeline.push(json!({ "seconds": 0.0, "what": what }));
        self.paint.fault(what);
    }

    /// The longest time without an answer since the fault.
    fn measure(&mut self) {
        let Some(fault) = self.fault else { return };
        let journal = self.load.journal();
        for (longest, done) in self.gaps.iter_mut().zip(&journal.done) {
            *longest = gap(done, fault).max(*longest);
        }
    }

    /// Until something was done, of each kind but writes, by a request that began now.
    pub fn goes_on(&mut self) -> Result<(), String> {
        let now = Instant::now();
        for (kind, what) in [
            (Kind::Cryptography, "root keys wrap and unwrap again"),
            (Kind::Pkcs11, "PKCS #11 goes on"),
            (Kind::Storage, "S3 goes on"),
        ] {
            until(what, || Ok(self.is_done_since(kind, now)))?;
            self.say(what);
        }
        Ok(())
    }

    /// Is something of this kind done that began after this moment?
    fn is_done_since(&self, kind: Kind, now: Instant) -> bool {
        let journal = self.load.journal();
        journal.done[kind as usize].last().is_some_and(|success| success.at - success.took > now)
    }

    /// Until something was written by a request that began now.
    pub fn writes_go_on(&mut self) -> Result<(), String> {
        self.await_write()?;
        self.say("writes go on");
        Ok(())
    }

    fn await_write(&self) -> Result<(), String> {
        let now = Instant::now();
        until("writes go on", || Ok(self.is_done_since(Kind::Writes, now)))
    }

    /// Until the region lets itself be promoted: what it says then.
    pub fn promote(&mut self, region: usize) -> Result<Value, String> {
        let mut said = Value::Null;
        until("the region is promoted", || match self.pair.operator(region, &["promote"]) {
            Err(error) if error.contains("is alive") => Ok(false),
            outcome => outcome.map(|status| said = status).map(|()| true),
        })?;
        self.say(&format!("{} is promoted", REGIONS[region]));
        Ok(said)
    }

    /// Were PKCS #11 operations of several parts under way at the fault, and was none begun again since?
    pub fn parts_end_well(&mut self) -> Result<(), String> {
        let Some(fault) = self.fault else { return Ok(()) };
        sleep(LONGEST_OPERATION);
        let (across, again) = {
            let journal = self.load.journal();
            let across = journal.parts.iter().filter(|done| done.at > fault && done.at - done.took < fault);
            let again = journal.again.iter().find(|(at, _)| *at > fault).map(|(_, reason)| reason.clone());
            (across.count(), again)
        };
        self.say(&format!("{across} operations of several parts were under way, and have ended well"));
        match again {
            Some(reason) => Err(format!("a PKCS #11 operation had to be begun again: {reason}")),
            None if across == 0 => Err("no operation was under way".to_owned()),
            None => Ok(()),
        }
    }

    /// What a backup cannot hold.
    pub fn lost_since_backup(&mut self, records: usize) {
        self.lost_since_backup += records;
        self.say(&format!("{records} records were acknowledged since the backup, and are lost"));
    }

    /// A new failover region in the place of one that is lost.
    pub fn make_pair_anew(&mut self) -> Result<(), String> {
        self.pair.complete(self.runtime)?;
        self.say("us-east is joined anew, and its new units are initialised: all checks are green");
        Ok(())
    }

    /// Until both regions hold everything, and this one is the primary one.
    pub fn joined(&mut self, primary: usize) -> Result<(), String> {
        until("the regions are joined", || Ok(self.pair.is_joined(primary)))?;
        self.load.set_together(true);
        self.say(&format!("joined: {} follows {}", REGIONS[1 - primary], REGIONS[primary]));
        Ok(())
    }

    /// From this region to the other one, until they are joined.
    pub fn switch_over(&mut self, from: usize) -> Result<(), String> {
        self.load.set_together(false);
        self.pair.operator(from, &["switchover"])?;
        self.say(&format!("switchover: {} has the primary role", REGIONS[1 - from]));
        self.await_write()?;
        self.joined(1 - from)
    }

    /// This one region wraps and unwraps.
    pub fn uses_keys(&mut self, region: usize) -> Result<(), String> {
        let mut kms = self.pair.kms(region)?;
        let used = self.runtime.block_on(async {
            let list = kms::ListRootKeysRequest { limit: 1, offset: 0, include_destroyed: false };
            let list = kms.list_root_keys(list).await?.into_inner();
            let key = list.keys.into_iter().next().map(|key| key.id).unwrap_or_default();
            let plaintext = self.dice.bytes();
            let wrap = kms::WrapRequest { key: key.clone(), plaintext: plaintext.clone(), aad: Vec::new() };
            let ciphertext = kms.wrap(wrap).await?.into_inner().ciphertext;
            let unwrap = kms::UnwrapRequest { key, ciphertext, aad: Vec::new() };
            Ok::<_, Status>(kms.unwrap(unwrap).await?.into_inner().plaintext == plaintext)
        });
        match used {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("WRONG ANSWER from {}", REGIONS[region])),
            Err(status) => Err(format!("{} does not wrap and unwrap: {status}", REGIONS[region])),
        }
    }

    /// Creates a key in this one region, with much patience.
    pub fn spawn_write(&self, region: usize, name: &str) -> Result<LateWrite, String> {
        let mut kms = self.pair.kms(region)?;
        let request = kms::CreateRootKeyRequest { name: name.to_owned(), material: Vec::new() };
        Ok(self.runtime.spawn(async move {
            let answer = timeout(PATIENCE, kms.create_root_key(request)).await;
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer at all")))
        }))
    }

    /// Half of the wraps and unwraps were faster than the first, half of the writes than the second, lately.
    pub fn medians(&self, lately: Duration) -> Result<(Duration, Duration), String> {
        let since = Instant::now() - lately;
        let journal = self.load.journal();
        let median = |successes: &[Success]| {
            let mut times: Vec<_> = successes.iter().filter(|s| s.at > since).map(|s| s.took).collect();
            times.sort();
            times.get(times.len() / 2).copied().ok_or("nothing was done".to_owned())
        };
        Ok((
            median(&journal.done[Kind::Cryptography as usize])?,
            median(&journal.done[Kind::Writes as usize])?,
        ))
    }

    /// Waits for it.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Of a region.
    pub fn name(&self, region: usize) -> &'static str {
        REGIONS[region]
    }
}

/// A write on its way.
pub type LateWrite = JoinHandle<Result<Response<kms::RootKey>, Status>>;

/// The longest time between two successes, the second of them after the fault.
fn gap(successes: &[Success], fault: Instant) -> Duration {
    let mut times: Vec<Instant> = successes.iter().map(|success| success.at).collect();
    times.push(Instant::now());
    times.sort();
    times.windows(2).filter(|pair| pair[1] > fault).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Of the load, before a fault and after its end.
const WARM_UP: Duration = Duration::from_millis(500);
/// The PKCS #11 library looks for the home region every two seconds: whoever is still in the other one would not notice
/// the next fault.
const HOMECOMING: Duration = Duration::from_millis(2500);
/// An operation of several parts, with a region that is lost meanwhile.
const LONGEST_OPERATION: Duration = Duration::from_secs(2);
/// A write that waits in a stopped region.
const PATIENCE: Duration = Duration::from_secs(20);
