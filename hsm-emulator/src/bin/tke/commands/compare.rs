//! `cryptounit-compare`.

use std::collections::BTreeSet;

use hsm_emulator::units::SubjectKeyIdentifier;
use hsm_emulator::units::command::{RegisterStatus, UnitStatus, UnitType};

use super::state::{self, IMPRINT_NOTE, starred};
use crate::error::Result;
use crate::output::Output;
use crate::workstation::Workstation;

/// Prints five tables and the verdict.
pub fn compare(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    let instance = workstation.instance.clone();
    let output = &mut workstation.desk.output;
    let has_recovery = units.iter().any(|unit| unit.status.unit_type == UnitType::Recovery);
    let footnote = |output: &Output| {
        if has_recovery {
            output.line("\n* Indicates a recovery crypto unit");
        }
    };

    state::show_thresholds(output, &instance, &units, starred);
    footnote(output);
    output.line(IMPRINT_NOTE);
    state::show_administrators(output, &instance, &units, starred);
    footnote(output);
    state::show_new_register(output, &instance, &units, starred);
    state::show_current_register(output, &instance, &units, starred);
    footnote(output);
    state::show_control_points(output, &instance, &units, starred);
    footnote(output);

    let same = units.windows(2).all(|pair| are_same(&pair[0].status, &pair[1].status));
    output.set("same", same);
    output.line(if same {
        "\n==> All crypto units are configured the same. <=="
    } else {
        "\n==> WARNING: Crypto units are configured differently. <=="
    });
    Ok(())
}

/// Type, location, names and order of administrators do not count.
fn are_same(one: &UnitStatus, other: &UnitStatus) -> bool {
    let thresholds = |status: &UnitStatus| (status.signature_threshold, status.revocation_threshold);
    let register = |register: &RegisterStatus| (register.state, register.verification_pattern());
    let points = |status: &UnitStatus| status.control_points.iter().copied().collect::<BTreeSet<u32>>();
    thresholds(one) == thresholds(other)
        && administrators(one) == administrators(other)
        && register(&one.new_register) == register(&other.new_register)
        && register(&one.current_register) == register(&other.current_register)
        && points(one) == points(other)
}

fn administrators(status: &UnitStatus) -> BTreeSet<SubjectKeyIdentifier> {
    status.administrators.iter().map(|administrator| administrator.subject_key_identifier()).collect()
}
