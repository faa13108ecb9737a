//! A region in a temporary directory.

pub mod clients;
pub mod database;
pub mod desk;
pub mod operator;
pub mod server;

use std::path::Path;
use std::sync::Arc;

use hsm_emulator::services::region::{Layout, Region};
use hsm_emulator::services::tokens::{ObjectId, Put};
use hsm_emulator::units::CryptoUnit;
use hsm_emulator::units::KeyBlob;
use hsm_emulator::units::administration::control_point;

pub fn region(dir: &Path, units: usize) -> Arc<Region> {
    Arc::new(
        Region::open(
            dir,
            &Layout { region: "us-south".into(), operational: units, recovery: 0, master_key: true },
        )
        .expect("open the region"),
    )
}

pub fn unit(dir: &Path) -> CryptoUnit {
    let unit = CryptoUnit::create(
        &dir.join("unit"),
        "[us-south].[AZ1-CS1].[00].[00]",
        hsm_emulator::units::command::UnitType::Operational,
        &control_point::ALL.map(|(number, _)| number),
    )
    .expect("create");
    unit.generate_master_key().expect("master key");
    unit
}

/// An object to be stored.
pub fn to_put<'a>(id: ObjectId, object: &'a KeyBlob, replaces: Option<&'a KeyBlob>) -> Put<'a> {
    Put { id, object, replaces }
}
