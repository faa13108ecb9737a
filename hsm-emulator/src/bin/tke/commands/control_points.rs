//! `cryptounit-cp` and its companions.

use hsm_emulator::units::administration::control_point;
use hsm_emulator::units::command::{Command, UnitStatus};

use super::state::{self, plain};
use crate::error::{Error, Result};
use crate::workstation::Workstation;

/// Prints the control points, or sets one in all selected units.
pub fn show_or_set(workstation: &mut Workstation, number: Option<u32>) -> Result<()> {
    match number {
        None => list(workstation),
        Some(point) if control_point::ALL.iter().any(|(known, _)| *known == point) => set(workstation, point),
        Some(point) => {
            let known: Vec<String> =
                control_point::ALL.iter().map(|(number, name)| format!("{number} ({name})")).collect();
            Err(Error::new(format!("Control point {point} cannot be set. Known ones: {}.", known.join(", "))))
        }
    }
}

/// Sets a control point in all selected units; none can be unset.
pub fn set(workstation: &mut Workstation, point: u32) -> Result<()> {
    let units = workstation.selected()?;
    let is_set = |status: &UnitStatus| status.control_points.contains(&point);
    workstation.execute_all(&units, is_set, |_| Command::SetControlPoints(vec![point]))?;
    workstation.desk.output.line("OK\nThe control point has been set in the selected crypto units.");
    list(workstation)
}

fn list(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    state::show_control_points(&mut workstation.desk.output, &workstation.instance, &units, plain);
    Ok(())
}
