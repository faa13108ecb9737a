//! What a person sees, and what a program reads.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::KINDS;

/// How a drill has gone.
#[derive(Default)]
pub struct Outcome {
    /// Of the drill.
    pub name: &'static str,
    /// What repeats it.
    pub seed: u64,
    /// From making the pair to the last comparison.
    pub took: Duration,
    /// The longest time in which nothing of a kind was done, in each run.
    pub gaps: [Vec<Duration>; KINDS.len()],
    /// What was done, by kind.
    pub requests: [usize; KINDS.len()],
    /// How often PKCS #11 operations had to be begun again, by reason.
    pub again: BTreeMap<String, usize>,
    /// Those that were not done within the client's deadline.
    pub refused_writes: usize,
    /// How often a region that had not yet caught up did not know a key, and the other one was asked.
    pub behind: usize,
    /// Acknowledged records that are not there, and should be.
    pub lost: usize,
    /// Those that were acknowledged since the backup from which a region was restored.
    pub lost_since_backup: usize,
    /// Why it has failed.
    pub violations: Vec<String>,
    /// Relative to the fault.
    pub timeline: Vec<Value>,
    /// The directory, of a drill that has failed.
    pub kept: Option<PathBuf>,
}

impl Outcome {
    /// Has every promise been kept?
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.lost == 0
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let times = |times: &[Duration]| {
            json!({
                "p50_ms": milliseconds(percentile(times, 50)), "p99_ms": milliseconds(percentile(times, 99)),
                "runs_ms": times.iter().copied().map(milliseconds).collect::<Vec<_>>(),
            })
        };
        json!({
            "drill": self.name, "passed": self.passed(), "seed": self.seed, "seconds": self.took.as_secs_f64(),
            "rto": by_kind(self.gaps.each_ref().map(|gaps| times(gaps))),
            "rpo_records": self.lost + self.lost_since_backup,
            "requests": by_kind(self.requests.map(Value::from)),
            "writes_refused": self.refused_writes, "pkcs11_again": self.again, "region_behind": self.behind,
            "violations": self.violations, "timeline": self.timeline, "kept": self.kept,
        })
    }
}

fn by_kind(values: [Value; KINDS.len()]) -> Value {
    ["cryptography", "writes", "pkcs11", "s3"].into_iter().zip(values).collect()
}

/// Prints for a person, or nothing.
#[derive(Clone, Copy)]
pub struct Paint {
    quiet: bool,
    colours: bool,
}

impl Paint {
    /// Colours only on a terminal.
    pub fn new(quiet: bool) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { quiet, colours }
    }

    fn print(self, line: &str) {
        if !self.quiet {
            println!("{line}");
        }
    }

    fn coloured(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Of a drill.
    pub fn title(self, name: &str, about: &str) {
        self.print(&format!("\n{}  {about}", self.coloured("1", name)));
    }

    /// Before the fault.
    pub fn note(self, text: &str) {
        self.print(&format!("             {text}"));
    }

    /// When the time begins.
    pub fn fault(self, what: &str) {
        self.print(&self.coloured("33", &format!("    0.000 s  {what}")));
    }

    /// After the fault.
    pub fn event(self, since: Duration, what: &str) {
        self.print(&format!("  +{:6.3} s  {what}", since.as_secs_f64()));
    }

    /// At the end of a drill.
    pub fn verdict(self, outcome: &Outcome) {
        let gaps = |gaps: &[Duration]| match gaps {
            [] => "-".to_owned(),
            [gap] => seconds(*gap),
            _ => format!(
                "p50 {}, p99 {} of {} runs",
                seconds(percentile(gaps, 50)),
                seconds(percentile(gaps, 99)),
                gaps.len()
            ),
        };
        for (i, (kind, times)) in KINDS.iter().zip(&outcome.gaps).enumerate() {
            let label = if i == 0 { "RTO" } else { "" };
            self.print(&format!("  {label:<9}  {kind:<12} {}", gaps(times)));
        }
        self.print(&match outcome.lost_since_backup {
            0 => format!("  RPO        {} acknowledged records lost", outcome.lost),
            since => format!(
                "  RPO        {since} acknowledged records lost since the backup, {} others",
                outcome.lost
            ),
        });
        let [cryptography, writes, pkcs11, storage] = outcome.requests;
        self.print(&format!(
            "  requests   {cryptography} wraps and unwraps, {writes} creations and deletions, {pkcs11} PKCS #11 operations, \
             {storage} PUTs and GETs"
        ));
        self.print(&format!(
            "             {} writes not done in 2 s, {} times a region was behind",
            outcome.refused_writes, outcome.behind
        ));
        for (reason, count) in &outcome.again {
            self.print(&format!("             {count} times a PKCS #11 operation was begun again: {reason}"));
        }
        for violation in outcome.violations.iter().take(MOST_VIOLATIONS) {
            self.print(&format!("  {}", self.coloured("31", violation)));
        }
        if let Some(left) = outcome.violations.len().checked_sub(MOST_VIOLATIONS + 1) {
            self.print(&format!("  and {} more", left + 1));
        }
        if let Some(kept) = &outcome.kept {
            self.print(&format!("  logs and keystores are in {}; seed {}", kept.display(), outcome.seed));
        }
        self.print(&format!("  {}", self.result(outcome)));
    }

    fn result(self, outcome: &Outcome) -> String {
        if outcome.passed() { self.coloured("32", "PASS") } else { self.coloured("31", "FAIL") }
    }

    /// All drills.
    pub fn summary(self, outcomes: &[Outcome]) {
        self.print(&format!(
            "\n{:<20} {:>12} {:>9} {:>9} {:>9} {:>5} {:>8}  RESULT",
            "DRILL", "RTO: CRYPTO", "WRITES", "PKCS #11", "S3", "RPO", "TIME"
        ));
        for outcome in outcomes {
            let [cryptography, writes, pkcs11, storage] =
                outcome.gaps.each_ref().map(|gaps| seconds(percentile(gaps, 50)));
            self.print(&format!(
                "{:<20} {cryptography:>12} {writes:>9} {pkcs11:>9} {storage:>9} {:>5} {:>8}  {}",
                outcome.name,
                outcome.lost + outcome.lost_since_backup,
                format!("{:.1} s", outcome.took.as_secs_f64()),
                self.result(outcome)
            ));
        }
        let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
        self.print(&format!("\n{passed} passed, {} failed", outcomes.len() - passed));
    }
}

/// The smallest time that at least this many percent do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

const MOST_VIOLATIONS: usize = 10;
