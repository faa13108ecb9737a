//! `cryptounit-thrhlds`, `cryptounit-thrhld-set`, `cryptounit-exit-impr`.

use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{Command, DomainAttributes, UnitStatus, UnitType};

use super::state::{self, IMPRINT_NOTE, plain};
use crate::cli::Thresholds;
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::workstation::{Desk, Workstation};

/// Prints the thresholds.
pub fn list(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    let output = &mut workstation.desk.output;
    state::show_thresholds(output, &workstation.instance, &units, plain);
    output.line(IMPRINT_NOTE);
    Ok(())
}

/// Sets them in all selected units.
pub fn set(workstation: &mut Workstation, values: &Thresholds) -> Result<()> {
    let units = workstation.selected()?;
    let prompt = &workstation.desk.prompt;
    let signature =
        ask(prompt, "Enter the new signature threshold value:", values.signature_threshold, SIGNATURE)?;
    let question = "\nEnter the new revocation signature threshold value:";
    let revocation = ask(prompt, question, values.revocation_threshold, REVOCATION)?;
    let wanted = |status: &UnitStatus| attributes(status, signature, revocation);
    let are_set = |status: &UnitStatus| {
        status.signature_threshold == signature
            && status.revocation_threshold == revocation
            && wanted(status).permissions == Some(status.permissions)
    };
    workstation.execute_all(&units, are_set, |status| Command::SetAttributes(wanted(status)))?;
    workstation
        .desk
        .output
        .line("OK\nNew signature threshold values have been set in the selected crypto units.");
    list(workstation)
}

/// The deprecated command.
pub fn explain_exit(desk: &mut Desk) {
    let text = "This command is deprecated. Crypto units leave imprint mode when their signature thresholds are set: \
                use 'tke cryptounit-thrhld-set'.";
    desk.output.line(text);
    desk.output.set("message", text);
}

/// A threshold.
pub fn ask(prompt: &Prompt, question: &str, given: Option<u64>, flag: &str) -> Result<u32> {
    let value = prompt.number(question, given, flag)?;
    value.try_into().map_err(|_| Error::new(format!("{value}: a threshold is 1 to 8.")))
}

/// The flag for the signature threshold.
pub const SIGNATURE: &str = "--signature-threshold";
/// The flag for the revocation threshold.
pub const REVOCATION: &str = "--revocation-threshold";

/// Thresholds, with the permissions that belong to a unit of its type.
pub fn attributes(status: &UnitStatus, signature: u32, revocation: u32) -> DomainAttributes {
    DomainAttributes {
        signature_threshold: Some(signature),
        revocation_threshold: Some(revocation),
        permissions: Some(permissions(status)),
    }
}

/// Only a recovery unit gives its master key away or makes one. What is not named here stays as it is.
fn permissions(status: &UnitStatus) -> u32 {
    let mut permissions =
        status.permissions | permission::IMPORT | permission::SINGLE_PART | permission::ZEROIZE_WITH_ONE;
    if status.permissions & permission::CHANGE_MODULE_ADMINISTRATORS != 0 {
        permissions |= permission::WITHOUT_MODULE_ADMINISTRATORS;
    }
    permissions &= !permission::CHANGE_MODULE_ADMINISTRATORS;
    match status.unit_type {
        UnitType::Recovery => permissions | permission::EXPORT | permission::RANDOM,
        UnitType::Operational | UnitType::Failover => permissions & !permission::EXPORT,
    }
}
