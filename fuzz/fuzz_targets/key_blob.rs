//! A key blob from a stranger: parsed, shown, and opened by a unit.
#![no_main]

use std::sync::LazyLock;

use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{CryptoUnit, KeyBlob};
use libfuzzer_sys::fuzz_target;

static UNIT: LazyLock<CryptoUnit> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("dir").keep();
    let unit = CryptoUnit::create(&dir, "fuzz", hsm_emulator::units::command::UnitType::Operational, &[]).expect("unit");
    unit.generate_master_key().expect("master key");
    unit
});

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    // Of the unit's master key, or nothing would be decrypted.
    let pattern = UNIT.verification_pattern().expect("a master key");
    if let Some(id) = bytes.get_mut(32..48) {
        id.copy_from_slice(pattern.wrapping_key_id());
    }
    let Ok(blob) = KeyBlob::parse(&bytes) else { return };
    blob.attributes().ok();
    assert!(UNIT.unseal(&blob).is_err(), "a blob that no unit made was opened");
    assert!(UNIT.encrypt(&Mechanism::plain(0x1081), &blob, &[0; 16]).is_err());
});
