//! Rotation of the master key over 10,000 root keys, with unwraps going on beside it.
#![allow(clippy::expect_used)]

#[allow(dead_code)]
#[path = "../tests/suite/common/operator.rs"]
mod operator;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Layout, Region};
use hsm_emulator::units::command::Command;
use operator::{Operator, adopt, load, send};

const KEYS: usize = 10_000;
const CREATORS: usize = 16;

fn main() {
    let dir = tempfile::tempdir().expect("dir");
    let layout = Layout { region: "us-south".into(), operational: 2, recovery: 2, master_key: true };
    let region = Arc::new(Region::open(dir.path(), &layout).expect("region"));
    let keys = RootKeys::open(region.clone(), Arc::new(SystemClock)).expect("keys");
    let operator = Operator::new("operator");
    region.units().iter().for_each(|installed| adopt(&installed.unit, &[&operator], 1));
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
    let key = keys.create("in use", None).expect("create").id.clone();
    let wrapped = keys.wrap(&key, Some(&[7; 32]), &[]).expect("wrap").ciphertext;
    let unwrap = || {
        let begun = Instant::now();
        keys.unwrap(&key, &wrapped, &[]).expect("unwrap");
        begun.elapsed()
    };
    let idle = percentiles((0..20_000).map(|_| unwrap()).collect());

    let done = AtomicBool::new(false);
    let (elapsed, busy) = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut times = Vec::new();
            while !done.load(Ordering::Relaxed) {
                times.push(unwrap());
            }
            times
        });
        let begun = Instant::now();
        for installed in region.units().iter() {
            let pattern = load(&installed.unit, &[1, 2], &operator).expect("load");
            send(&installed.unit, Command::CommitMasterKey(pattern), &[&operator]).expect("commit");
        }
        let pattern = region.units()[0].unit.committed_pattern().expect("committed");
        region.reencrypt(&pattern, false, |_| {}).expect("re-encrypt");
        for installed in region.units().iter() {
            send(&installed.unit, Command::SetImmediate, &[&operator]).expect("set immediate");
            region.finish_reencryption().expect("finish");
        }
        let elapsed = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        (elapsed, percentiles(user.join().expect("user")))
    });
    println!("{} keys re-encrypted in {:.2} s", KEYS + 1, elapsed.as_secs_f64());
    println!("{:<22} {:>10} {:>10} {:>10}", "unwrap, in the process", "p50", "p99", "max");
    for (name, [p50, p99, max]) in [("idle", idle), ("during the rotation", busy)] {
        println!("{name:<22} {p50:>10.1?} {p99:>10.1?} {max:>10.1?}");
    }
}

fn percentiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
}
