//! What stands on a unit's outside: who it is, to be read without opening it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable_file;
use crate::units::CryptoUnit;
use crate::units::command::UnitType;

/// A copy of a unit's identity, in clear and not authenticated: it counts only while the sealed one cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Nameplate {
    pub serial: String,
    pub location: String,
    /// As [`UnitType::label`] has it.
    #[serde(rename = "type")]
    unit_type: String,
}

impl Nameplate {
    pub fn of(unit: &CryptoUnit) -> Self {
        let unit_type = unit.unit_type().label().to_owned();
        Self { serial: unit.serial(), location: unit.location(), unit_type }
    }

    /// Of a unit in its directory, if it is there and fit to be shown.
    pub fn read(dir: &Path) -> Option<Self> {
        let plate: Self = serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()?;
        let is_fit = |text: &str| text.len() <= MAX_BYTES && text.chars().all(|c| c.is_ascii_graphic());
        (is_fit(&plate.serial) && is_fit(&plate.location)).then_some(plate)
    }

    /// Puts it on the unit in this directory.
    pub fn attach(&self, dir: &Path) -> io::Result<()> {
        if Self::read(dir).as_ref() == Some(self) {
            return Ok(());
        }
        durable_file::replace(&dir.join(FILE), &serde_json::to_vec(self)?)
    }

    /// `None` if it says nothing that is known.
    pub fn unit_type(&self) -> Option<UnitType> {
        [UnitType::Operational, UnitType::Recovery, UnitType::Failover]
            .into_iter()
            .find(|unit_type| unit_type.label() == self.unit_type)
    }
}

const FILE: &str = "nameplate.json";
const MAX_BYTES: usize = 128;
