//! How many signatures a command needs: one table, for the unit that counts them and for the workstation that
//! asks for no more passwords than that.

use super::administration::permission;
use super::command::Command;
use super::refusal::Refusal;

/// Signatures that a unit with these thresholds and permissions wants under a command. A signature threshold of 0
/// is imprint mode.
///
/// # Errors
/// [`Refusal::IMPRINT_MODE`] for what imprint mode forbids whoever signs.
pub fn signatures_needed(
    signature_threshold: u32,
    revocation_threshold: u32,
    permissions: u32,
    command: &Command,
) -> Result<u32, Refusal> {
    if signature_threshold == 0 {
        return match command {
            Command::Query
            | Command::AddAdministrator(_)
            | Command::RemoveAdministrator(_)
            | Command::Zeroize => Ok(0),
            // Leaving takes what every later change will take: the new threshold.
            Command::SetAttributes(attributes) => Ok(attributes.signature_threshold.unwrap_or(0)),
            _ => Err(Refusal::IMPRINT_MODE),
        };
    }
    Ok(match command {
        Command::Query => 0,
        Command::AddAdministrator(_)
        | Command::SetAttributes(_)
        | Command::CommitMasterKey(_)
        | Command::SetControlPoints(_)
        | Command::ReplaceControlPoints(_)
        | Command::DeleteControlPoints(_)
        | Command::ExportCurrent(_)
        | Command::ExportPending(_) => signature_threshold,
        Command::RemoveAdministrator(_) => revocation_threshold,
        Command::Zeroize if permissions & permission::ZEROIZE_WITH_ONE == 0 => signature_threshold,
        // EP11 takes every key part in a command of its own, with a signature each, and the same administrator may
        // give all of them. Here all parts of a load are one command, so that one signature says the same.
        Command::ImportMasterKey(_) => 1,
        Command::Zeroize
        | Command::GenerateImporterKey
        | Command::GenerateMasterKey
        | Command::SetImmediate
        | Command::ClearNew
        | Command::ClearCurrent => 1,
    })
}
