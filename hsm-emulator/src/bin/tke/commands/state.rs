//! Tables of what crypto units report.

use hsm_emulator::units::administration::control_point;
use hsm_emulator::units::command::{RegisterStatus, UnitStatus, UnitType};

use crate::output::Output;
use crate::table::{Cell, Table};
use crate::workstation::Queried;

/// How a unit's number is printed: only some tables mark recovery units.
pub type NumberCell = fn(&Queried) -> Cell;

/// Without a mark.
pub fn plain(unit: &Queried) -> Cell {
    Cell::Number(unit.number)
}

/// Recovery units with a star.
pub fn starred(unit: &Queried) -> Cell {
    match unit.status.unit_type {
        UnitType::Recovery => Cell::Starred(unit.number),
        UnitType::Operational | UnitType::Failover => plain(unit),
    }
}

/// `SIGNATURE THRESHOLDS`, without the line on imprint mode.
pub fn show_thresholds(output: &mut Output, instance: &str, units: &[Queried], number: NumberCell) {
    let mut table = Table::new(&["CRYPTO UNIT NUM", "SIGNATURE THRESHOLD", "REVOCATION THRESHOLD"]);
    for unit in units {
        let threshold = |value: u32| Cell::Number(value.into());
        let UnitStatus { signature_threshold, revocation_threshold, .. } = unit.status;
        table.push(vec![number(unit), threshold(signature_threshold), threshold(revocation_threshold)]);
    }
    show(output, "SIGNATURE THRESHOLDS", instance, &table);
}

/// Follows `SIGNATURE THRESHOLDS` always.
pub const IMPRINT_NOTE: &str = "\n==> Crypto units with a signature threshold of 0 are in IMPRINT MODE. <==";

/// `CRYPTO UNIT ADMINISTRATORS`.
pub fn show_administrators(output: &mut Output, instance: &str, units: &[Queried], number: NumberCell) {
    let mut table = Table::new(&["CRYPTO UNIT NUM", "ADMIN NAME", "SUBJECT KEY IDENTIFIER"]);
    for unit in units {
        for administrator in &unit.status.administrators {
            let name = Cell::Text(administrator.name().to_owned());
            table.push(vec![number(unit), name, Cell::Identifier(administrator.subject_key_identifier())]);
        }
        if unit.status.administrators.is_empty() {
            let none = Cell::Text("No administrators".to_owned());
            table.push(vec![number(unit), none, Cell::Text(String::new())]);
        }
    }
    show(output, "CRYPTO UNIT ADMINISTRATORS", instance, &table);
}

/// `NEW MASTER KEY REGISTER`.
pub fn show_new_register(output: &mut Output, instance: &str, units: &[Queried], number: NumberCell) {
    let table = register(units, number, |status| &status.new_register);
    show(output, "NEW MASTER KEY REGISTER", instance, &table);
}

/// `CURRENT MASTER KEY REGISTER`.
pub fn show_current_register(output: &mut Output, instance: &str, units: &[Queried], number: NumberCell) {
    let table = register(units, number, |status| &status.current_register);
    show(output, "CURRENT MASTER KEY REGISTER", instance, &table);
}

/// `CONTROL POINTS`.
pub fn show_control_points(output: &mut Output, instance: &str, units: &[Queried], number: NumberCell) {
    let mut table =
        Table::new(&["CRYPTO UNIT NUM", "XCP_CPB_ALG_EC_25519", "XCP_CPB_BTC", "XCP_CPB_ECDSA_OTHER"]);
    for unit in units {
        let mut row = vec![number(unit)];
        row.extend(control_point::ALL.iter().map(|(point, _)| {
            let set = unit.status.control_points.contains(point);
            Cell::Text(if set { "Set" } else { "Not Set" }.to_owned())
        }));
        table.push(row);
    }
    show(output, "CONTROL POINTS", instance, &table);
}

fn register(units: &[Queried], number: NumberCell, of: fn(&UnitStatus) -> &RegisterStatus) -> Table {
    let mut table = Table::new(&["CRYPTO UNIT NUM", "STATUS", "VERIFICATION PATTERN"]);
    for unit in units {
        let register = of(&unit.status);
        let state = Cell::Text(register.state.label().to_owned());
        table.push(vec![number(unit), state, Cell::Pattern(register.verification_pattern())]);
    }
    table
}

fn show(output: &mut Output, heading: &str, instance: &str, table: &Table) {
    output.line(&format!("\n{heading}\nSERVICE INSTANCE: {instance}"));
    output.set("service_instance", instance);
    output.table(&heading.to_lowercase().replace(' ', "_"), table);
}
