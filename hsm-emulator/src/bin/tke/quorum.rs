//! How many signatures a command needs, so that no more passwords are asked for. The unit decides for itself.

use hsm_emulator::units::command::{Command, UnitStatus};
use hsm_emulator::units::quorum::signatures_needed;

/// Signatures that this unit will want under a command. For what is refused in imprint mode: none.
pub fn signatures(status: &UnitStatus, command: &Command) -> usize {
    let needed = signatures_needed(
        status.signature_threshold,
        status.revocation_threshold,
        status.permissions,
        command,
    );
    // The unit refuses a threshold above the number of its administrators whoever signs.
    needed.unwrap_or(0).min(status.administrators.len() as u32) as usize
}
