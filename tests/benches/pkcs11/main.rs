//! PKCS #11 operations: the library embedded, beside SoftHSM2, kryoptic and NSS in the process, and remote, beside
//! SoftHSM2 behind p11-kit's remoting, in the same run.
//!
//! Each module runs in processes of its own, in several rounds in turn; the best round of each row counts, since
//! other load on the machine only ever adds time. Sessions and keys are made beforehand, what undoes an operation is
//! not timed, and lengths are not asked for. The primitive is what the HSM does at the core of an operation, with the key
//! ready, or one fdatasync; the echo, a message of the same size there and back on a gRPC stream between two processes.
#![allow(clippy::expect_used)]

mod floor;
mod goals;
mod module;
mod peers;
mod rows;
mod table;
mod timing;
mod token;

use std::env;
use std::path::Path;
use std::time::Duration;

use goals::start_name;
use peers::Peers;
use rows::RSA_GENERATE;
use table::Table;
use timing::Figure;

const ROUNDS: usize = 3;
const BUDGET: Duration = Duration::from_millis(60);
const OBJECTS: [usize; 3] = [10, 1000, 10_000];

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let after = |option: &str| {
        let position = arguments.iter().position(|argument| argument == option)?;
        Some(&arguments[position + 1..])
    };
    if let (Some(module), Some(task)) = (after("--module"), after("--task")) {
        token::perform(Path::new(&module[0]), after("--parameters").map(|rest| rest[0].as_str()), task);
    } else if let Some(directory) = after("--primitives") {
        floor::primitives(Path::new(&directory[0]));
    } else if after("--echo").is_some() {
        floor::echo();
    } else if after("--serve-echo").is_some() {
        floor::serve_echo();
    } else {
        let table = compare();
        table.print();
        goals::print(&table);
    }
}

fn compare() -> Table {
    let disk = env::temp_dir();
    let peers = Peers::start(&disk);
    let mut table = Table::default();
    rounds("", || {
        for peer in peers.modules.iter().chain(&peers.floors) {
            eprintln!("  {}", peer.name);
            table.enter(peer.name, peer.run(&["rows"]));
        }
    });
    drop(peers);
    // Thousands of objects take some peers minutes to make on a disk, and are searched in memory anyway.
    let memory = Path::new("/dev/shm");
    let peers = Peers::start(if memory.is_dir() { memory } else { &disk });
    rounds("starting up", || start(&peers, 0, &mut table));
    let mut before = 0;
    for count in OBJECTS {
        for peer in peers.modules.iter().filter(|peer| count <= peer.most_objects) {
            eprintln!("{count} objects: {}", peer.name);
            peer.run(&["fill", &before.to_string(), &count.to_string()]);
        }
        rounds("searching", || {
            for peer in peers.modules.iter().filter(|peer| count <= peer.most_objects) {
                table.enter(peer.name, peer.run(&["find", &count.to_string()]));
            }
            if count != OBJECTS[0] {
                start(&peers, count, &mut table);
            }
        });
        before = count;
    }
    table
}

fn rounds(what: &str, mut round: impl FnMut()) {
    for number in 1..=ROUNDS {
        eprintln!("round {number} of {ROUNDS} {what}");
        round();
    }
}

/// For a row, module and number of threads, in one round.
fn budget(row: &str) -> Duration {
    // How long a prime is looked for is a matter of luck.
    if row == RSA_GENERATE { 12 * BUDGET } else { BUDGET }
}

/// New processes, with tokens of so many objects.
fn start(peers: &Peers, count: usize, table: &mut Table) {
    for peer in peers.modules.iter().filter(|peer| count <= peer.most_objects) {
        let figures = peer.run(&["start"]).into_iter();
        table.enter(peer.name, figures.map(|(what, figure)| (start_name(&what, count), figure)).collect());
    }
}

/// A line of a process's output: name, median in microseconds, operations per second, with tabs between.
fn print_figure(name: &str, Figure { median, rates: [one, two, four] }: Figure) {
    println!("{name}\t{median}\t{one}\t{two}\t{four}");
}

fn read_figure(line: &str) -> (String, Figure) {
    let mut fields = line.split('\t');
    let name = fields.next().unwrap_or_default().to_owned();
    let mut number = || fields.next().and_then(|field| field.parse().ok()).expect("a figure");
    let median = number();
    (name, Figure { median, rates: std::array::from_fn(|_| number()) })
}
