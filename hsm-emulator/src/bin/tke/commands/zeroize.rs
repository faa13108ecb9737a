//! `cryptounit-zeroize`.

use hsm_emulator::units::command::Command;

use super::master_key;
use crate::error::Result;
use crate::workstation::Workstation;

/// Puts all selected units back into imprint mode.
pub fn zeroize(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    workstation.desk.prompt.confirm(
        "Warning!  Administrators, signature thresholds and master keys will be gone.\nAre you sure you want to zeroize \
         the selected crypto units?",
    )?;
    workstation.execute_all(&units, |_| false, |_| Command::Zeroize)?;
    workstation.desk.output.line("OK\nThe selected crypto units have been zeroized.");
    master_key::list(workstation)
}
