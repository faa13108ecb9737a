//! Where an instance outgrows a machine: what keys cost in memory and at the start, and a simulation of writes that wait for
//! a region far away. docs/scale.md is made of this.
#![allow(clippy::expect_used)]

use std::collections::BinaryHeap;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Layout, Region};

const KEYS: usize = 20_000;
const CREATORS: usize = 32;

fn main() {
    let dir = tempfile::tempdir().expect("dir");
    let layout = Layout { region: "us-south".into(), operational: 2, recovery: 0, master_key: true };
    let (commit, record) = {
        let region = Arc::new(Region::open(dir.path(), &layout).expect("region"));
        let keys = RootKeys::open(region, Arc::new(SystemClock)).expect("keys");
        keys.create("the first", None).expect("create");
        let commit =
            median((0..200).map(|_| time(|| drop(keys.create("alone", None).expect("create")))).collect());
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for creator in 0..CREATORS {
                let keys = &keys;
                scope.spawn(move || {
                    for i in (creator..KEYS).step_by(CREATORS) {
                        keys.create(&format!("key {i}"), None).expect("create");
                    }
                });
            }
        });
        (commit, begun.elapsed() / KEYS as u32)
    };
    let before = memory();
    let mut keys = None;
    let opened = time(|| {
        let region = Arc::new(Region::open(dir.path(), &layout).expect("region"));
        keys = Some(RootKeys::open(region, Arc::new(SystemClock)).expect("keys"));
    });
    let keys = keys.expect("keys");
    let count = keys.list(true).len() as u64;
    let disk = fs::metadata(dir.path().join("keystore.sqlite")).expect("keystore").len();
    println!("\n{count} root keys");
    println!("  open                       {:>8.1} us each", opened.as_secs_f64() * 1e6 / count as f64);
    println!("  memory                     {:>8} bytes each", memory().saturating_sub(before) / count);
    println!("  disk                       {:>8} bytes each", disk / count);

    let key = keys.list(true)[0].id.clone();
    let wrapped = keys.wrap(&key, Some(&[7; 32]), &[]).expect("wrap").ciphertext;
    let unwrap =
        median((0..100_000).map(|_| time(|| drop(black_box(keys.unwrap(&key, &wrapped, &[]))))).collect());
    println!("  unwrap in the process      {:>8.1} us", unwrap.as_secs_f64() * 1e6);

    println!(
        "\nwrites per second, acknowledged by both regions (simulated): a commit of one record takes {:.2} ms in each, every record more {:.2} ms",
        commit.as_secs_f64() * 1e3,
        record.as_secs_f64() * 1e3
    );
    print!("  {:>16}", "round trip");
    CLIENTS.iter().for_each(|clients| print!("{:>12}", format!("{clients} clients")));
    println!("{:>16}", "one write");
    for milliseconds in [0.2, 1.0, 5.0, 20.0, 60.0, 120.0] {
        let round_trip = Duration::from_secs_f64(milliseconds / 1e3);
        print!("  {milliseconds:>13} ms");
        let mut alone = 0.0;
        for clients in CLIENTS {
            let rate = simulate(clients, |records| commit + record * (records as u32 - 1), round_trip);
            if clients == 1 {
                alone = 1e3 / rate;
            }
            print!("{rate:>12.0}");
        }
        println!("{alone:>13.1} ms");
    }
}

/// Clients that write again as soon as they are answered. Who waits when the disk is free shares a commit, in the primary
/// region and in the other one; and what has come in on the line meanwhile shares one there. Writes per second.
fn simulate(clients: usize, commit: impl Fn(usize) -> Duration, round_trip: Duration) -> f64 {
    let half = round_trip / 2;
    // (time, what, how many), the earliest first.
    let mut events = BinaryHeap::new();
    let at = |events: &mut BinaryHeap<_>, time: Duration, what: Event, count: usize| {
        events.push((std::cmp::Reverse(time), what, count));
    };
    let (mut waiting, mut arrived) = (clients, 0);
    let (mut home_busy, mut away_busy) = (false, false);
    let mut done = 0;
    at(&mut events, Duration::ZERO, Event::Asked, 0);
    while let Some((std::cmp::Reverse(now), what, count)) = events.pop() {
        if now > SIMULATED {
            break;
        }
        match what {
            Event::Asked => waiting += count,
            Event::Committed => {
                home_busy = false;
                at(&mut events, now + half, Event::Arrived, count);
            }
            Event::Arrived => arrived += count,
            Event::Held => {
                away_busy = false;
                at(&mut events, now + half, Event::Answered, count);
            }
            Event::Answered => {
                done += count;
                at(&mut events, now, Event::Asked, count);
            }
        }
        if !home_busy && waiting > 0 {
            home_busy = true;
            at(&mut events, now + commit(waiting), Event::Committed, std::mem::take(&mut waiting));
        }
        if !away_busy && arrived > 0 {
            away_busy = true;
            at(&mut events, now + commit(arrived), Event::Held, std::mem::take(&mut arrived));
        }
    }
    done as f64 / SIMULATED.as_secs_f64()
}

/// What happens to some writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asked,
    Committed,
    Arrived,
    Held,
    Answered,
}

fn time(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Resident, in bytes.
fn memory() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = statm.split(' ').nth(1).expect("resident").parse().expect("a number");
    pages * 4096
}

const CLIENTS: [usize; 4] = [1, 8, 64, 512];
const SIMULATED: Duration = Duration::from_secs(60);
