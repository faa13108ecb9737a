//! What happens in each drill. Every one ends as it has begun: joined, with the home region as the primary one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use hsm_proto::kms::CreateRootKeyRequest;
use hsm_proto::tke::{Unit, UnitType};
use rustix::process::Signal;
use serde_json::Value;

use crate::administration::{OTHER_PARTS, PARTS};
use crate::drill::Drill;
use crate::pair::until;
use crate::proxy::Condition;

/// A drill.
pub struct Scenario {
    /// As on the command line.
    pub name: &'static str,
    /// In one sentence.
    pub about: &'static str,
    /// Of the failover region's `serve`.
    pub flags: &'static [&'static str],
    /// Once; may be repeated.
    pub run: fn(&mut Drill) -> Result<(), String>,
}

/// All drills, in the order in which they are run.
pub const SCENARIOS: [Scenario; 13] = [
    Scenario {
        name: "region-killed",
        about: "the primary region is killed under load; promotion, return, failback",
        flags: &[],
        run: region_killed,
    },
    Scenario {
        name: "region-stopped",
        about: "the primary region stops, is replaced, and wakes up again",
        flags: &[],
        run: region_stopped,
    },
    Scenario {
        name: "failback",
        about: "the primary region is away for a while, and gets its role back with all that was done meanwhile",
        flags: &[],
        run: failback,
    },
    Scenario {
        name: "multi-part",
        about: "the region is killed, and stopped, while PKCS #11 operations of several parts are under way",
        flags: &[],
        run: multi_part,
    },
    Scenario {
        name: "region-partitioned",
        about: "the line between the regions is cut, and stalled one way, the other, and both",
        flags: &[],
        run: region_partitioned,
    },
    Scenario {
        name: "slow-link",
        about: "50 ms more in each direction between the regions",
        flags: &[],
        run: slow_link,
    },
    Scenario {
        name: "switchover",
        about: "the primary role goes over and back under load, ten times",
        flags: &[],
        run: switchover,
    },
    Scenario {
        name: "rolling-restart",
        about: "both regions are restarted, one after the other",
        flags: &[],
        run: rolling_restart,
    },
    Scenario {
        name: "mismatched-patterns",
        about: "failover with one failover unit under another master key, and with all of them",
        flags: &[],
        run: mismatched_patterns,
    },
    Scenario {
        name: "unit-failure",
        about: "crypto units are disabled, corrupted, slowed down and zeroized, one after the other",
        flags: &[],
        run: unit_failure,
    },
    Scenario {
        name: "rotation",
        about: "the master key is rotated in both regions while keys are used",
        flags: &[],
        run: rotation,
    },
    Scenario {
        name: "both-lost",
        about: "both regions and their disks are lost; one is restored from a backup, and paired anew",
        flags: &[],
        run: both_lost,
    },
    Scenario {
        name: "promote-after",
        about: "the primary region is killed; the other one promotes itself after 2 s",
        flags: &["--promote-after", "2s"],
        run: promote_after,
    },
];

const HOME: usize = 0;
const AWAY: usize = 1;

fn region_killed(drill: &mut Drill) -> Result<(), String> {
    drill.fault("kill -9 us-south, the primary region");
    drill.pair.signal(HOME, Signal::KILL)?;
    drill.goes_on()?;
    drill.promote(AWAY)?;
    drill.writes_go_on()?;
    return_and_fail_back(drill)
}

fn promote_after(drill: &mut Drill) -> Result<(), String> {
    drill.fault("kill -9 us-south, the primary region");
    drill.pair.signal(HOME, Signal::KILL)?;
    drill.goes_on()?;
    drill.writes_go_on()?;
    drill.say("us-east has promoted itself");
    return_and_fail_back(drill)
}

/// The home region was lost, and the other one is the primary one.
fn return_and_fail_back(drill: &mut Drill) -> Result<(), String> {
    drill.pair.start(HOME)?;
    drill.say("us-south is back");
    drill.joined(AWAY)?;
    drill.switch_over(AWAY)
}

fn region_stopped(drill: &mut Drill) -> Result<(), String> {
    drill.fault("kill -STOP us-south, the primary region");
    drill.pair.signal(HOME, Signal::STOP)?;
    let late: Vec<_> =
        (0..LATE_WRITES).map(|i| drill.spawn_write(HOME, &format!("late {i}"))).collect::<Result<_, _>>()?;
    drill.goes_on()?;
    drill.promote(AWAY)?;
    drill.writes_go_on()?;
    drill.pair.signal(HOME, Signal::CONT)?;
    drill.say("kill -CONT us-south, which takes itself for the primary region");
    for write in late {
        // Whatever it acknowledges would have to be in the other region too.
        if let Ok(answer) = drill.block_on(write).map_err(|error| error.to_string())? {
            drill.load.acknowledged(answer.into_inner().id);
            return Err("the replaced primary region has acknowledged a write".to_owned());
        }
    }
    drill.say(&format!("{LATE_WRITES} writes have waited in us-south, and are all refused"));
    drill.joined(AWAY)?;
    drill.switch_over(AWAY)
}

fn region_partitioned(drill: &mut Drill) -> Result<(), String> {
    let good = Condition::default();
    for (what, condition) in [
        ("cut the line between the regions", Condition { cut: true, ..good }),
        ("stall the line from us-east to us-south", Condition { stalled_forth: true, ..good }),
        ("stall the line from us-south to us-east", Condition { stalled_back: true, ..good }),
        ("stall the line both ways", Condition { stalled_forth: true, stalled_back: true, ..good }),
    ] {
        drill.fault(what);
        drill.pair.line.set(condition);
        let home = drill.pair.kms(HOME)?;
        let refused = |drill: &Drill| {
            let request = CreateRootKeyRequest { name: "refused".to_owned(), material: Vec::new() };
            let answer = drill.block_on(home.clone().create_root_key(request));
            match answer {
                Ok(key) => drill.load.acknowledged(key.into_inner().id),
                Err(status) if status.code() == tonic::Code::Unavailable => return Ok(true),
                Err(status) => return Err(format!("a write is refused with {:?}", status.code())),
            }
            Ok(false)
        };
        until("writes are refused", || refused(drill))?;
        drill.say("writes are refused: UNAVAILABLE");
        for region in [HOME, AWAY] {
            drill.uses_keys(region)?;
        }
        drill.say("both regions wrap and unwrap");
        drill.pair.line.set(good);
        drill.say("the line is good again");
        drill.joined(HOME)?;
        drill.writes_go_on()?;
    }
    Ok(())
}

fn slow_link(drill: &mut Drill) -> Result<(), String> {
    sleep(OBSERVED);
    let (before_cryptography, before_writes) = drill.medians(OBSERVED)?;
    drill.pair.line.set(Condition { delay: SLOW, ..Condition::default() });
    drill.fault("50 ms more in each direction between the regions");
    drill.load.set_together(true);
    // What was under way has ended then.
    sleep(2 * OBSERVED);
    let (cryptography, writes) = drill.medians(OBSERVED)?;
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    drill.say(&format!("a write took {:.1} ms before, and {:.1} ms now", ms(before_writes), ms(writes)));
    drill.say(&format!(
        "a wrap or unwrap took {:.1} ms before, and {:.1} ms now",
        ms(before_cryptography),
        ms(cryptography)
    ));
    if writes < 2 * SLOW {
        return Err("a write was acknowledged before the other region can have had it".to_owned());
    }
    if cryptography >= 2 * SLOW {
        return Err("cryptography waits for the other region".to_owned());
    }
    drill.pair.line.set(Condition::default());
    drill.say("the line is good again");
    drill.joined(HOME)
}

fn switchover(drill: &mut Drill) -> Result<(), String> {
    drill.fault("the primary role goes over and back, ten times");
    for _ in 0..10 {
        drill.switch_over(HOME)?;
        drill.switch_over(AWAY)?;
    }
    Ok(())
}

fn rolling_restart(drill: &mut Drill) -> Result<(), String> {
    for region in [AWAY, HOME] {
        if region == HOME {
            drill.switch_over(HOME)?;
        }
        drill.fault(&format!("restart {}", drill.name(region)));
        drill.pair.signal(region, Signal::TERM)?;
        drill.pair.start(region)?;
        drill.say("it is back");
        drill.joined(1 - region)?;
        drill.writes_go_on()?;
    }
    drill.switch_over(AWAY)
}

fn failback(drill: &mut Drill) -> Result<(), String> {
    drill.fault("kill -9 us-south, the primary region");
    drill.pair.signal(HOME, Signal::KILL)?;
    drill.promote(AWAY)?;
    drill.writes_go_on()?;
    let before = drill.load.writes();
    sleep(OBSERVED);
    let made = drill.load.writes() - before;
    drill.say(&format!("{made} keys were created or deleted without us-south"));
    return_and_fail_back(drill)?;
    drill.pair.signal(AWAY, Signal::KILL)?;
    drill.say("kill -9 us-east: us-south has everything itself");
    drill.goes_on()?;
    drill.pair.start(AWAY)?;
    drill.joined(HOME)?;
    drill.writes_go_on()
}

fn multi_part(drill: &mut Drill) -> Result<(), String> {
    for (signal, what) in [(Signal::KILL, "kill -9"), (Signal::STOP, "kill -STOP")] {
        drill.fault(&format!("{what} us-south, the primary region"));
        drill.pair.signal(HOME, signal)?;
        drill.goes_on()?;
        drill.parts_end_well()?;
        drill.promote(AWAY)?;
        if signal == Signal::STOP {
            drill.pair.signal(HOME, Signal::CONT)?;
            drill.joined(AWAY)?;
            drill.switch_over(AWAY)?;
        } else {
            return_and_fail_back(drill)?;
            // The library looks for the home region every two seconds.
            sleep(2 * OBSERVED);
        }
    }
    Ok(())
}

fn mismatched_patterns(drill: &mut Drill) -> Result<(), String> {
    let units = drill.block_on(drill.pair.desk.units(UnitType::Failover))?;
    for (count, what) in [(1, "one failover unit"), (units.len(), "all failover units")] {
        let wrong = &units[units.len() - count..];
        drill.fault(&format!("load another master key into {what}"));
        for unit in wrong {
            drill.block_on(drill.pair.desk.load_master_key(unit, OTHER_PARTS))?;
        }
        for region in [HOME, AWAY] {
            let (status, code) = drill.pair.status(region)?;
            if code != 1 {
                return Err(format!("'failover status' exits with {code}: {status}"));
            }
            names_units(&status, wrong)?;
            drill.say(&format!(
                "'failover status' in {} exits with 1 and names the units",
                drill.name(region)
            ));
        }
        drill.goes_on()?;
        let serves = count < units.len();
        drill.fault("kill -9 us-south, the primary region");
        drill.load.excuse(!serves);
        drill.pair.signal(HOME, Signal::KILL)?;
        let said = drill.promote(AWAY)?;
        names_units(&said, wrong)?;
        drill.say("'failover promote' names the units");
        if serves {
            drill.goes_on()?;
            drill.writes_go_on()?;
        } else {
            if drill.uses_keys(AWAY).is_ok() {
                return Err("us-east wraps and unwraps without its master key".to_owned());
            }
            drill.say("us-east has no master key for these keys, and refuses");
        }
        let desk = drill.pair.desk_at(AWAY)?;
        for unit in wrong {
            drill.block_on(desk.load_master_key(unit, PARTS))?;
        }
        drill.say("the right master key is loaded");
        drill.goes_on()?;
        drill.load.excuse(false);
        drill.writes_go_on()?;
        return_and_fail_back(drill)?;
        until("the checks are green", || Ok(drill.pair.status(AWAY)?.1 == 0))?;
        drill.say("all checks are green");
    }
    Ok(())
}

/// In the row of the current master key.
fn names_units(status: &Value, units: &[Unit]) -> Result<(), String> {
    let rows = status["checks"].as_array().ok_or("there are no checks")?;
    let row = rows.iter().find(|row| row["name"] == "Current master key" && row["passed"] == false);
    let detail = row.and_then(|row| row["detail"].as_str()).unwrap_or_default();
    match units.iter().find(|unit| !detail.contains(&unit.location)) {
        None => Ok(()),
        Some(unit) => Err(format!("the checks do not name {}: {rows:?}", unit.location)),
    }
}

fn unit_failure(drill: &mut Drill) -> Result<(), String> {
    let units = drill.block_on(drill.pair.desk.units(UnitType::Operational))?;
    drill.fault("the crypto units of us-south fail, one at a time");
    drill.load.set_together(true);
    for unit in &units {
        for words in
            [&["--kind", "disable"][..], &["--kind", "corrupt"], &["--kind", "slow", "--delay", "2s"]]
        {
            let fault = [&["unit", "fault", unit.serial_number.as_str()], words].concat();
            drill.pair.run(HOME, &fault)?;
            drill.say(&format!("{}: {}", unit.location, words[1..].join(" ").replace("--", "")));
            drill.goes_on()?;
            drill.writes_go_on()?;
            drill.pair.run(HOME, &["unit", "fault", &unit.serial_number, "--clear"])?;
        }
    }
    let unit = units.first().ok_or("there are no units")?;
    drill.pair.run(HOME, &["unit", "fault", &unit.serial_number, "--kind", "zeroize"])?;
    drill.say(&format!("{}: zeroized", unit.location));
    drill.goes_on()?;
    drill.writes_go_on()?;
    drill.block_on(drill.pair.desk.initialise(unit))?;
    until("the checks are green", || Ok(drill.pair.status(HOME)?.1 == 0))?;
    drill.say("it has its administrators and its master key again, and all checks are green");
    Ok(())
}

fn rotation(drill: &mut Drill) -> Result<(), String> {
    let mut units = Vec::new();
    for unit_type in [UnitType::Operational, UnitType::Failover] {
        units.extend(drill.block_on(drill.pair.desk.units(unit_type))?);
    }
    for (parts, what) in [(OTHER_PARTS, "a new master key"), (PARTS, "the first master key again")] {
        drill.fault(&format!("{what} for all crypto units of both regions"));
        drill.load.set_together(true);
        let mut committed = None;
        for unit in &units {
            committed = Some(drill.block_on(drill.pair.desk.commit_master_key(unit, parts))?);
        }
        let pattern = committed.ok_or("there are no units")?;
        drill.say(&format!("committed in {} crypto units: {}", units.len(), &pattern.to_hex()[..16]));
        let keys = drill.block_on(drill.pair.desk.reencrypt(&pattern))?;
        drill.say(&format!("{keys} stored keys are re-encrypted in us-south, and in us-east by that"));
        for unit in &units {
            drill.block_on(drill.pair.desk.set_immediate(unit))?;
            drill.say(&format!("{} has it", unit.location));
            drill.goes_on()?;
        }
        drill.writes_go_on()?;
        until("the checks are green", || Ok(drill.pair.status(HOME)?.1 == 0))?;
        for region in [HOME, AWAY] {
            drill.uses_keys(region)?;
        }
        drill.say("all checks are green, and both regions wrap and unwrap");
    }
    Ok(())
}

fn both_lost(drill: &mut Drill) -> Result<(), String> {
    let begun = Instant::now();
    let backup = drill.pair.back_up(HOME)?;
    let ended = Instant::now();
    drill.say("hsm-emulator backup of us-south, under load");
    sleep(OBSERVED);
    drill.fault("kill -9 both regions; both disks are lost");
    drill.load.excuse(true);
    drill.pair.destroy(HOME)?;
    drill.pair.destroy(AWAY)?;
    let paused = drill.block_on(drill.load.pause());
    let lost = drill.load.go_back(begun, ended);
    drill.pair.restore(HOME, &backup)?;
    drop(paused);
    drill.say("us-south is restored from the backup");
    drill.goes_on()?;
    drill.load.excuse(false);
    drill.writes_go_on()?;
    drill.lost_since_backup(lost);
    drill.make_pair_anew()?;
    drill.joined(HOME)
}

const LATE_WRITES: usize = 4;
const SLOW: Duration = Duration::from_millis(50);
const OBSERVED: Duration = Duration::from_secs(2);
