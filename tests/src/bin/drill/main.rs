//! Failover drills with two real regions under load: each one passes or fails, and measures what it has cost.
#![forbid(unsafe_code)]

mod administration;
mod application;
mod client;
mod dice;
mod drill;
mod faults;
mod history;
mod load;
#[path = "../../../../hsm-emulator/tests/suite/common/operator.rs"]
#[allow(dead_code)]
mod operator;
mod pair;
mod pkcs11;
mod proxy;
mod report;
mod scenarios;
mod storage;

use std::ops::Range;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use drill::Drill;
use report::{Outcome, Paint};
use scenarios::SCENARIOS;
use serde_json::Value;

/// Runs failover drills; all of them, or those that are named. The exit code is 0 only if all have passed.
#[derive(Parser)]
#[command(after_help = drills())]
struct Arguments {
    /// What to run.
    #[arg(value_parser = SCENARIOS.map(|scenario| scenario.name))]
    drills: Vec<String>,
    /// Repeat the fault so often, and print percentiles.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Repeat the chances of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of a drill: faults by chance, for each of these seeds, such as 0..12. The history is checked.
    #[arg(long, value_name = "FROM..TO", value_parser = seeds, conflicts_with_all = ["drills", "runs", "seed", "json"])]
    faults: Option<Range<u64>>,
    /// At the end of each seed an operator breaks the promise by force: the check has to find it.
    #[arg(long, requires = "faults")]
    break_the_promise: bool,
    /// Print JSON only: a list with an object for each drill.
    #[arg(long)]
    json: bool,
    /// Instead of a drill: the PKCS #11 application that a drill starts.
    #[arg(long, hide = true)]
    pkcs11_application: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.pkcs11_application {
        return application::run();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let seed = arguments.seed.unwrap_or(now);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Connections are made outside of it too.
    let _entered = runtime.enter();
    let paint = Paint::new(arguments.json);
    if let Some(seeds) = arguments.faults {
        return faults::run(&runtime, seeds, arguments.break_the_promise, paint);
    }
    let wanted =
        |name: &str| arguments.drills.is_empty() || arguments.drills.iter().any(|drill| drill == name);
    let outcomes: Vec<Outcome> = SCENARIOS
        .iter()
        .filter(|scenario| wanted(scenario.name))
        .map(|scenario| Drill::run(&runtime, scenario, arguments.runs.into(), seed, paint))
        .collect();
    if arguments.json {
        println!("{:#}", outcomes.iter().map(Outcome::json).collect::<Value>());
    } else if outcomes.len() > 1 {
        paint.summary(&outcomes);
    }
    if outcomes.iter().all(Outcome::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let numbers = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    numbers.filter(|seeds| !seeds.is_empty()).ok_or_else(|| format!("'{text}' is no range such as 0..12"))
}

fn drills() -> String {
    let rows = SCENARIOS.iter().map(|scenario| format!("  {:<20} {}\n", scenario.name, scenario.about));
    format!("Drills:\n{}", rows.collect::<String>())
}
