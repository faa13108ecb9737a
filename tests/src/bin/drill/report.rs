//! What a person sees, and what a program reads.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// How a drill has gone.
#[derive(Default)]
pub struct Outcome {
    /// Of the drill.
    pub name: &'static str,
    /// What repeats it.
    pub seed: u64,
    /// From making the pair to the last comparison.
    pub took: Duration,
    /// The longest time without a wrap or unwrap, in each run.
    pub cryptography_gaps: Vec<Duration>,
    /// The longest time without a creation or deletion.
    pub write_gaps: Vec<Duration>,
    /// Wraps and unwraps that were done.
    pub cryptography: usize,
    /// Creations and deletions that were acknowledged.
    pub writes: usize,
    /// Those that were not done within the client's deadline.
    pub refused_writes: usize,
    /// How often a region that had not yet caught up did not know a key, and the other one was asked.
    pub behind: usize,
    /// Acknowledged records that are not there.
    pub lost: usize,
    /// Acknowledged records that could not be kept, since both regions and all that came after the backup were lost.
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
            "rto": { "cryptography": times(&self.cryptography_gaps), "writes": times(&self.write_gaps) },
            "rpo_records": self.lost,
            "requests": {
                "cryptography": self.cryptography, "writes": self.writes,
                "writes_refused": self.refused_writes, "region_behind": self.behind,
            },
            "violations": self.violations, "timeline": self.timeline, "kept": self.kept,
        })
    }
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
        self.print(&format!("  RTO        cryptography {}", gaps(&outcome.cryptography_gaps)));
        self.print(&format!("             writes       {}", gaps(&outcome.write_gaps)));
        let lost = outcome.lost + outcome.lost_since_backup;
        let why = if outcome.lost_since_backup > 0 { ", made after the backup" } else { "" };
        self.print(&format!("  RPO        {lost} acknowledged records lost{why}"));
        self.print(&format!(
            "  requests   {} wraps and unwraps, {} creations and deletions, {} not done in 2 s; \
             {} times a region was behind",
            outcome.cryptography, outcome.writes, outcome.refused_writes, outcome.behind
        ));
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
            "\n{:<20} {:>12} {:>11} {:>5} {:>8}  RESULT",
            "DRILL", "RTO CRYPTO", "RTO WRITES", "RPO", "TIME"
        ));
        for outcome in outcomes {
            self.print(&format!(
                "{:<20} {:>12} {:>11} {:>5} {:>8}  {}",
                outcome.name,
                seconds(percentile(&outcome.cryptography_gaps, 50)),
                seconds(percentile(&outcome.write_gaps, 50)),
                outcome.lost,
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
