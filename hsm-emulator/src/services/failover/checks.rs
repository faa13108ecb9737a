//! The failover checks: can the units of the failover region take over? All green is what a cross-region bucket needs.

use crate::services::region::{InstalledUnit, Region};
use crate::units::command::{RegisterState, UnitStatus, UnitType};

/// A unit as the checks see it. Nothing of it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitReport {
    /// Its location.
    pub location: String,
    /// Its serial number.
    pub serial: String,
    /// [`UnitType::label`], or `unknown`.
    pub unit_type: String,
    /// [`Region::state_of`].
    pub state: String,
    /// 0 in imprint mode.
    pub signature_threshold: u32,
    /// 0 in imprint mode.
    pub revocation_threshold: u32,
    /// Subject key identifiers in hexadecimal, sorted.
    pub administrators: Vec<String>,
    /// Sorted.
    pub control_points: Vec<u32>,
    /// Verification pattern in hexadecimal; empty if the current register is.
    pub current_master_key: String,
    /// Is there anything in the new register?
    pub new_master_key: bool,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// Green?
    pub passed: bool,
    /// What was found.
    pub detail: String,
}

/// The units of a region.
pub fn units(region: &Region) -> Vec<UnitReport> {
    region.units().iter().map(|installed| report(region, installed)).collect()
}

fn report(region: &Region, installed: &InstalledUnit) -> UnitReport {
    let unknown = UnitReport {
        location: installed.unit.location(),
        serial: installed.unit.serial(),
        unit_type: installed.unit_type().map_or("unknown", UnitType::label).to_owned(),
        state: region.state_of(installed).to_owned(),
        ..UnitReport::default()
    };
    let Ok(status) = installed.unit.status() else { return unknown };
    let mut administrators: Vec<String> =
        status.administrators.iter().map(|a| a.subject_key_identifier().to_hex()).collect();
    administrators.sort();
    let UnitStatus { signature_threshold, revocation_threshold, mut control_points, .. } = status;
    control_points.sort_unstable();
    let current = &status.current_register;
    UnitReport {
        signature_threshold,
        revocation_threshold,
        administrators,
        control_points,
        current_master_key: match current.state {
            RegisterState::Valid => hex::encode(current.pattern.as_bytes()),
            _ => String::new(),
        },
        new_master_key: status.new_register.state != RegisterState::Empty,
        ..unknown
    }
}

/// All checks, over the units of both regions; `synchronised` says what keeps the keystores apart, if anything does.
pub fn check(units: &[UnitReport], synchronised: Result<String, String>) -> Vec<Check> {
    let of_type = |wanted: UnitType| -> Vec<&UnitReport> {
        units.iter().filter(|unit| unit.unit_type == wanted.label()).collect()
    };
    let (operational, failover) = (of_type(UnitType::Operational), of_type(UnitType::Failover));
    let enough = (2..=operational.len().max(2)).contains(&failover.len());
    let mut checks = vec![Check {
        name: "Failover crypto units assigned",
        passed: enough,
        detail: format!("{} of {} (at least 2)", failover.len(), operational.len()),
    }];
    let all: Vec<&UnitReport> = operational.iter().chain(&failover).copied().collect();
    let mut each = |name, good: &str, is_good: &dyn Fn(&UnitReport) -> bool| {
        let bad: Vec<&str> =
            all.iter().filter(|unit| !is_good(unit)).map(|unit| unit.location.as_str()).collect();
        let passed = bad.is_empty() && !failover.is_empty();
        let detail = match (failover.is_empty(), bad.is_empty()) {
            (true, _) => "there are no failover crypto units".to_owned(),
            (_, true) => good.to_owned(),
            (_, false) => format!("not so: {}", bad.join(", ")),
        };
        checks.push(Check { name, passed, detail });
    };
    // What the first operational unit has is what all must have.
    let model = operational.first().copied().cloned().unwrap_or_default();
    each("In service", "all units", &|unit| unit.state == "running");
    each("Left imprint mode", "all units", &|unit| unit.signature_threshold > 0);
    each("Administrators", "the same in all units", &|unit| {
        !unit.administrators.is_empty() && unit.administrators == model.administrators
    });
    each("Thresholds", "the same in all units", &|unit| {
        (unit.signature_threshold, unit.revocation_threshold)
            == (model.signature_threshold, model.revocation_threshold)
            && unit.signature_threshold > 0
    });
    each("Current master key", "valid, with one verification pattern", &|unit| {
        let compared = |unit: &UnitReport| unit.current_master_key.get(..COMPARED_DIGITS).map(str::to_owned);
        compared(unit).is_some() && compared(unit) == compared(&model)
    });
    each("New master key register", "empty in all units", &|unit| !unit.new_master_key);
    each("Control points", "the same in all units", &|unit| unit.control_points == model.control_points);
    let passed = synchronised.is_ok();
    let (Ok(detail) | Err(detail)) = synchronised;
    checks.push(Check { name: "Key storage in sync", passed, detail });
    checks
}

/// Of a verification pattern: newer modules report the rest as zero.
const COMPARED_DIGITS: usize = 56;

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(unit_type: UnitType) -> UnitReport {
        UnitReport {
            location: format!("[{}]", unit_type.label()),
            serial: "1".to_owned(),
            unit_type: unit_type.label().to_owned(),
            state: "running".to_owned(),
            signature_threshold: 2,
            revocation_threshold: 1,
            administrators: vec!["aa".to_owned(), "bb".to_owned()],
            control_points: vec![1],
            current_master_key: "ab".repeat(32),
            new_master_key: false,
        }
    }

    /// The names of the red rows.
    fn red(units: &[UnitReport]) -> Vec<&'static str> {
        check(units, Ok(String::new())).iter().filter(|check| !check.passed).map(|check| check.name).collect()
    }

    #[test]
    fn each_difference_has_a_row_of_its_own() {
        use UnitType::{Failover, Operational, Recovery};
        let good = [Operational, Operational, Failover, Failover, Recovery].map(unit);
        assert!(red(&good).is_empty());
        type Spoil = fn(&mut UnitReport);
        let spoilt: [(&str, Spoil); 7] = [
            ("In service", |unit| unit.state = "stopped".to_owned()),
            ("Left imprint mode", |unit| unit.signature_threshold = 0),
            ("Administrators", |unit| drop(unit.administrators.pop())),
            ("Thresholds", |unit| unit.revocation_threshold = 2),
            ("Current master key", |unit| unit.current_master_key = "cd".repeat(32)),
            ("New master key register", |unit| unit.new_master_key = true),
            ("Control points", |unit| unit.control_points.clear()),
        ];
        for (row, spoil) in spoilt {
            let mut units = good.clone();
            spoil(&mut units[3]);
            assert!(red(&units).contains(&row), "{row}");
            let check = check(&units, Ok(String::new())).into_iter().find(|check| check.name == row);
            assert!(check.is_some_and(|check| check.detail.contains("[failover]")));
        }
        assert!(red(&good[..3]).contains(&"Failover crypto units assigned"));
        assert!(red(&good[..2]).contains(&"Current master key"), "without failover units nothing is green");
        let checks = check(&good, Err("behind".to_owned()));
        assert!(checks.iter().any(|check| !check.passed && check.detail == "behind"));
    }

    #[test]
    fn the_rest_of_a_pattern_does_not_count() {
        let mut units = [UnitType::Operational, UnitType::Failover, UnitType::Failover].map(unit);
        units[1].current_master_key = format!("{}00000000", &"ab".repeat(32)[..56]);
        assert!(!red(&units).contains(&"Current master key"));
    }
}
