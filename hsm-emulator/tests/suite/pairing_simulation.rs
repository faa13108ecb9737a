//! Two regions and the line between them, driven by a seed: kills, cuts, stalls, disk errors, promotions, switchovers.
//! What was acknowledged must survive, in one history. A violation names the seed.
//!
//! The keystores, their gates and every step of the pair are the real ones; the network is a queue, and time stands
//! still, so that a seed always does the same.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use hsm_emulator::keystore::{self, Effect, Expect, Importance, Keystore, Location, Piece, Write};
use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::failover::history::{History, Relation};
use hsm_emulator::services::failover::pair::{Bond, Pair, Partner, Role};
use hsm_emulator::services::failover::pairing::{Error, Intake, Pairing, Welcome};
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Layout, Region};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// A rule that is broken on purpose, to see that the checker finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The follower acknowledges what it has not made durable.
    EarlyAcknowledgement,
    /// A region is promoted although it is not up to date.
    CarelessPromotion,
}

struct Node {
    dir: PathBuf,
    up: Option<Up>,
}

struct Up {
    pairing: Arc<Pairing>,
    keys: Arc<RootKeys>,
}

/// One connection: what is on its way, in both directions.
struct Line {
    follower: usize,
    connection: u64,
    intake: Option<Intake>,
    welcome: Option<Welcome>,
    to_follower: VecDeque<ToFollower>,
    to_primary: VecDeque<(u64, bool)>,
    sent: u64,
    join_at: Option<u64>,
    told: bool,
}

enum ToFollower {
    Piece(Piece),
    Joined,
    HandOver(u64),
}

/// A write as its client sees it.
#[derive(Clone, Debug)]
struct Attempt {
    /// `None` deletes.
    value: Option<u64>,
    node: usize,
    revision: u64,
    acknowledged: Option<bool>,
}

struct World {
    _dir: tempfile::TempDir,
    nodes: [Node; 2],
    line: Option<Line>,
    cut: bool,
    dice: Dice,
    broken: Broken,
    /// By record, in the order in which they were made.
    attempts: BTreeMap<usize, Vec<Attempt>>,
    next_value: u64,
    trace: Vec<String>,
}

const KEYS: usize = 6;
const KIND: &str = "root-key";

fn id(key: usize) -> String {
    format!("00000000-0000-4000-8000-{key:012}")
}

fn body(value: u64) -> Vec<u8> {
    let key = serde_json::json!({
        "name": format!("value {value}"), "state": "Active", "imported": false, "bits": 256,
        "created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "rotated": null, "deleted": null,
        "versions": [],
    });
    serde_json::to_vec(&key).expect("JSON")
}

fn open(dir: &std::path::Path) -> Up {
    let layout = Layout { region: "us-south".into(), operational: 1, recovery: 0, master_key: false };
    let region = Arc::new(Region::open(dir, &layout).expect("open"));
    let keys = Arc::new(RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("keys"));
    let pairing = Arc::new(Pairing::open(region, keys.clone(), dir).expect("pairing"));
    Up { pairing, keys }
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        // Nothing here depends on a disk that is synced.
        let place = std::path::Path::new("/dev/shm");
        let dir =
            if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() }.expect("dir");
        let dirs = ["us-south", "us-east"].map(|name| dir.path().join(name));
        let home = open(&dirs[0]);
        let partner = |region: &str| Partner {
            region: region.to_owned(),
            address: format!("https://{region}"),
            certificate: String::new(),
        };
        home.pairing.invite(partner("us-east")).expect("invite");
        let pair = Pair {
            region: "us-east".into(),
            identity: home.pairing.region().identity().clone(),
            role: Role::Failover,
            bond: Bond::Joining,
            history: History::default(),
            partner: partner("us-south"),
            gives_up: false,
        };
        Region::join(&dirs[1], &Location::embedded(&dirs[1]), &pair).expect("join");
        let away = open(&dirs[1]);
        let [home_dir, away_dir] = dirs;
        Self {
            _dir: dir,
            nodes: [Node { dir: home_dir, up: Some(home) }, Node { dir: away_dir, up: Some(away) }],
            line: None,
            cut: false,
            dice: Dice(seed),
            broken,
            attempts: BTreeMap::new(),
            next_value: 0,
            trace: Vec::new(),
        }
    }

    fn up(&self, node: usize) -> Option<&Up> {
        self.nodes[node].up.as_ref()
    }

    fn keystore(&self, node: usize) -> Option<&Keystore> {
        self.up(node).map(|up| up.pairing.keystore())
    }

    fn role(&self, node: usize) -> Option<Role> {
        self.up(node).and_then(|up| up.pairing.pair()).map(|pair| pair.role)
    }

    fn bond(&self, node: usize) -> Option<Bond> {
        self.up(node).and_then(|up| up.pairing.pair()).map(|pair| pair.bond)
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0..35 => self.write(),
            35..70 => self.deliver(),
            70..78 => self.connect(),
            78..82 => self.disconnect(),
            82..86 => {
                self.cut = !self.cut;
                self.trace.push(format!("cut {}", self.cut));
                if self.cut {
                    self.disconnect();
                }
            }
            86..90 => self.kill(),
            90..94 => self.start(),
            94..97 => self.promote(),
            97..99 => self.switch_over(),
            _ => self.fail_disk(),
        }
        self.look_for_a_newer_primary();
        self.settle();
    }

    /// A client writes where it can, or tries in vain.
    fn write(&mut self) {
        let (node, key) = (self.dice.roll(2), self.dice.roll(KEYS));
        let deletes = self.dice.roll(5) == 0;
        let Some(keystore) = self.keystore(node) else { return };
        let exists = keystore.get(KIND, &id(key)).expect("get").is_some();
        if deletes && !exists {
            return;
        }
        let value = (!deletes).then_some(self.next_value);
        let effect = value.map_or(Effect::Delete, |value| Effect::Put(body(value)));
        let write = Write { kind: KIND.into(), id: id(key), expect: Expect::Any, effect };
        let written = keystore.commit_here(vec![write], Importance::Lasting);
        self.trace.push(format!("write {key} = {value:?} at {node}: {written:?}"));
        match written {
            Ok(revision) => {
                self.next_value += 1;
                if let Some(up) = self.up(node) {
                    up.keys.refresh(false).expect("refresh");
                }
                let attempt = Attempt { value, node, revision, acknowledged: None };
                self.attempts.entry(key).or_default().push(attempt);
            }
            Err(keystore::Error::NotPrimary | keystore::Error::PartnerLost) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Clients hear of what has been decided.
    fn settle(&mut self) {
        let mut news = Vec::new();
        for attempts in self.attempts.values_mut() {
            for attempt in attempts.iter_mut().filter(|attempt| attempt.acknowledged.is_none()) {
                let up = self.nodes[attempt.node].up.as_ref();
                let outcome = up.map_or(Some(Err(keystore::Error::Unacknowledged)), |up| {
                    up.pairing.keystore().gate().outcome(attempt.revision)
                });
                attempt.acknowledged = outcome.map(|outcome| outcome.is_ok());
                if attempt.acknowledged.is_some() {
                    news.push(format!("{:?} at {}: {:?}", attempt.value, attempt.node, attempt.acknowledged));
                }
            }
        }
        self.trace.extend(news);
    }

    fn connect(&mut self) {
        if self.cut {
            return;
        }
        let Some(follower) = (0..2).find(|node| self.role(*node) == Some(Role::Failover)) else { return };
        let (Some(ours), Some(theirs)) = (self.up(follower), self.up(1 - follower)) else { return };
        let hello = ours.pairing.hello("https://somewhere").expect("hello");
        let welcome = match theirs.pairing.welcome(&hello) {
            Ok(welcome) => welcome,
            Err(Error::Role { .. }) => return,
            Err(error) => panic!("they do not come together: {error}\n{}", self.trace.join("\n")),
        };
        let connection = theirs.pairing.new_connection();
        let from = if welcome.reset_from.is_some() { 0 } else { hello.head };
        theirs.pairing.keystore().gate().connect(connection, from);
        self.trace.push(format!("{follower} follows from {from}, reset {:?}", welcome.reset_from));
        self.line = Some(Line {
            follower,
            connection,
            intake: None,
            welcome: Some(welcome),
            to_follower: VecDeque::new(),
            to_primary: VecDeque::new(),
            sent: from,
            join_at: None,
            told: false,
        });
    }

    /// Each side may find out first.
    fn disconnect(&mut self) {
        let Some(line) = self.line.take() else { return };
        self.trace.push("disconnected".to_owned());
        if let Some(keystore) = self.keystore(1 - line.follower) {
            keystore.gate().disconnect(line.connection);
            // An acknowledgement that comes late counts for nothing.
            for (late, joined) in line.to_primary {
                assert!(!keystore.gate().acknowledge(line.connection, late, joined));
            }
        }
    }

    /// Something moves on the line, or comes onto it.
    fn deliver(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        let (follower, primary) = (line.follower, 1 - line.follower);
        let (Some(ours), Some(theirs)) = (self.up(follower), self.up(primary)) else { return };
        let (ours, theirs) = (ours.pairing.clone(), theirs.pairing.clone());
        let mut goes_on = true;
        match self.dice.roll(3) {
            0 => self.send(&mut line, &theirs),
            1 => goes_on = self.take_in(&mut line, &ours),
            _ => {
                if let Some((revision, joined)) = line.to_primary.pop_front() {
                    // Twice does no harm.
                    goes_on = theirs.keystore().gate().acknowledge(line.connection, revision, joined)
                        && theirs.keystore().gate().acknowledge(line.connection, revision, joined);
                }
            }
        }
        if goes_on {
            self.line = Some(line);
        } else {
            theirs.keystore().gate().disconnect(line.connection);
        }
    }

    /// As the primary's side of the line does it.
    fn send(&mut self, line: &mut Line, primary: &Pairing) {
        let pair = primary.pair().expect("paired");
        let acknowledged = primary.keystore().gate().acknowledged_revision();
        if pair.role == Role::Failover {
            line.to_follower.push_back(ToFollower::HandOver(acknowledged));
            return;
        }
        let piece = primary.keystore().piece(line.sent).expect("piece");
        let caught_up = piece.changes.is_empty() && acknowledged >= line.sent && line.welcome.is_none();
        if !piece.changes.is_empty() {
            line.sent = piece.revision;
            line.to_follower.push_back(ToFollower::Piece(piece));
        }
        if line.join_at.is_none() && (pair.bond == Bond::Joined || caught_up) {
            line.join_at = Some(primary.join().expect("join"));
        } else if !line.told && line.join_at.is_some_and(|head| acknowledged >= head) {
            line.to_follower.push_back(ToFollower::Joined);
            line.told = true;
        }
    }

    fn take_in(&mut self, line: &mut Line, follower: &Arc<Pairing>) -> bool {
        if let Some(welcome) = line.welcome.take() {
            return match follower.follow(welcome) {
                Ok(intake) => {
                    line.intake = Some(intake);
                    true
                }
                Err(_) => false,
            };
        }
        let (Some(message), Some(intake)) = (line.to_follower.pop_front(), line.intake.as_mut()) else {
            return true;
        };
        match message {
            ToFollower::Piece(piece) => {
                if self.broken == Broken::EarlyAcknowledgement && self.dice.roll(4) == 0 {
                    line.to_primary.push_back((piece.revision, false));
                    return true;
                }
                match intake.take(&piece) {
                    Ok(Some(revision)) => {
                        line.to_primary.push_back((revision, false));
                        true
                    }
                    Ok(None) => true,
                    Err(_) => false,
                }
            }
            ToFollower::Joined => {
                let joined = follower.joined().is_ok();
                line.to_primary.push_back((follower.keystore().head().expect("head"), joined));
                joined
            }
            ToFollower::HandOver(head) => {
                let taken_over = follower.take_over(head);
                self.trace.push(format!("hand over at {head}: {taken_over:?}"));
                false
            }
        }
    }

    /// The follower's disk refuses: what it was taking in is gone, and the line with it.
    fn fail_disk(&mut self) {
        if self.line.is_some() {
            self.trace.push("the follower's disk fails".to_owned());
            self.disconnect();
        }
    }

    fn kill(&mut self) {
        let node = self.dice.roll(2);
        self.disconnect();
        if self.nodes[node].up.take().is_some() {
            self.trace.push(format!("kill {node}"));
        }
    }

    fn start(&mut self) {
        for node in 0..2 {
            if self.nodes[node].up.is_none() {
                self.trace.push(format!("start {node}"));
                let dir = self.nodes[node].dir.clone();
                self.nodes[node].up = Some(open(&dir));
            }
        }
    }

    /// An operator promotes a region that is up to date, whether the other one is alive or not.
    fn promote(&mut self) {
        let node = self.dice.roll(2);
        let careless = self.broken == Broken::CarelessPromotion;
        if self.role(node) == Some(Role::Failover) && (careless || self.bond(node) == Some(Bond::Joined)) {
            self.disconnect();
            let promoted = self.up(node).map(|up| up.pairing.promote(true));
            self.trace.push(format!("promote {node}: {promoted:?}"));
        }
    }

    fn switch_over(&mut self) {
        let Some(primary) = (0..2).find(|node| self.role(*node) == Some(Role::Primary)) else { return };
        let Some(up) = self.up(primary) else { return };
        // Time stands still: only what the follower has acknowledged already can be handed over.
        let gate = up.pairing.keystore().gate();
        if gate.is_joined() && gate.acknowledged_revision() >= up.pairing.keystore().head().expect("head") {
            let outcome = up.pairing.switch_over();
            self.trace.push(format!("switch over from {primary}: {outcome:?}"));
        }
    }

    fn look_for_a_newer_primary(&mut self) {
        if self.cut || self.line.is_some() {
            return;
        }
        let (Some(a), Some(b)) = (self.up(0), self.up(1)) else { return };
        for (ours, theirs) in [(a, b), (b, a)] {
            let pair = theirs.pairing.pair().expect("paired");
            if pair.role == Role::Primary {
                let head = theirs.pairing.keystore().head().expect("head");
                ours.pairing.step_down(&pair.history, head).expect("step down");
            }
        }
    }

    /// Everything is mended, and the two come together.
    fn heal(&mut self) {
        self.cut = false;
        self.disconnect();
        self.start();
        for _ in 0..20_000 {
            self.look_for_a_newer_primary();
            if self.role(0) == Some(Role::Failover) && self.role(1) == Some(Role::Failover) {
                // A switchover was cut off: the one that is up to date goes on.
                let node =
                    (0..2).find(|node| self.bond(*node) == Some(Bond::Joined)).expect("one is up to date");
                self.up(node).map(|up| up.pairing.promote(true)).expect("up").expect("promote");
            }
            if self.line.is_none() {
                self.connect();
            }
            self.deliver();
            self.settle();
            let heads = [0, 1].map(|node| self.keystore(node).map(|keystore| keystore.head().expect("head")));
            if self.bond(0) == Some(Bond::Joined)
                && self.bond(1) == Some(Bond::Joined)
                && heads[0] == heads[1]
            {
                return;
            }
        }
        panic!("the two do not come together\n{}", self.trace.join("\n"));
    }

    /// What is wrong, if anything is.
    fn check(&self) -> Result<(), String> {
        let records = [0, 1].map(|node| {
            let keystore = self.keystore(node).expect("up");
            keystore.scan(KIND).expect("scan").into_iter().map(|r| (r.id, r.body)).collect::<BTreeMap<_, _>>()
        });
        if records[0] != records[1] {
            return Err("the two regions have different records".to_owned());
        }
        for (key, attempts) in &self.attempts {
            let found = records[0].get(&id(*key));
            // The last one that was acknowledged, or one after it of which nobody knew.
            let last = attempts.iter().rposition(|attempt| attempt.acknowledged == Some(true));
            let allowed = &attempts[last.unwrap_or(0)..];
            let fits = |attempt: &Attempt| attempt.value.map(body).as_ref() == found;
            if !(allowed.iter().any(fits) || last.is_none() && found.is_none()) {
                return Err(format!("key {key}: neither the last acknowledged value nor a later one"));
            }
        }
        for (node, records) in records.iter().enumerate() {
            for key in 0..KEYS {
                let used =
                    self.up(node).expect("up").keys.get(&id(key)).ok().map(|key| key.metadata.name.clone());
                let stored = records.get(&id(key)).map(|body| {
                    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
                    body["name"].as_str().expect("name").to_owned()
                });
                if used != stored {
                    return Err(format!("key {key} is used at {node} as {used:?}, but stored as {stored:?}"));
                }
            }
        }
        let pairs = [0, 1].map(|node| self.up(node).and_then(|up| up.pairing.pair()).expect("paired"));
        let heads = [0, 1].map(|node| self.keystore(node).expect("up").head().expect("head"));
        match pairs[0].history.relation(heads[0], &pairs[1].history, heads[1]) {
            Relation::Behind => Ok(()),
            relation => Err(format!("the histories differ: {relation:?}")),
        }
    }
}

/// What went wrong with a seed.
fn run(seed: u64, broken: Broken) -> Result<usize, String> {
    let mut world = World::new(seed, broken);
    for _ in 0..3 {
        for _ in 0..150 {
            world.step();
        }
        world.heal();
        world.check().map_err(|wrong| format!("seed {seed}: {wrong}\n{}", world.trace.join("\n")))?;
    }
    let all = world.attempts.values().flatten();
    Ok(all.filter(|attempt| attempt.acknowledged == Some(true)).count())
}

/// `SEEDS=FROM..TO` runs others.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("SEEDS").ok();
    let given = given.as_deref().and_then(|text| text.split_once(".."));
    let number = |text: &str| text.parse::<u64>().expect("SEEDS=FROM..TO");
    given.map_or(0..2000, |(from, to)| number(from)..number(to))
}

#[test]
fn no_seed_loses_what_was_acknowledged() {
    let seeds = seeds();
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let acknowledged: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = seeds.clone().filter(move |seed| seed % threads == thread);
                scope.spawn(move || -> usize {
                    seeds
                        .map(|seed| run(seed, Broken::Nothing).unwrap_or_else(|wrong| panic!("{wrong}")))
                        .sum()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a seed failed")).sum()
    });
    // A simulation in which nothing is ever acknowledged would prove nothing.
    assert!(acknowledged as u64 > 10 * (seeds.end - seeds.start), "{acknowledged}");
    println!("{acknowledged} acknowledged writes over {} seeds", seeds.end - seeds.start);
}

#[test]
fn the_checker_finds_rules_that_are_broken_on_purpose() {
    for broken in [Broken::EarlyAcknowledgement, Broken::CarelessPromotion] {
        let found = (0..200).find(|seed| {
            let outcome = std::panic::catch_unwind(|| run(*seed, broken));
            !matches!(outcome, Ok(Ok(_)))
        });
        assert!(found.is_some());
    }
}
