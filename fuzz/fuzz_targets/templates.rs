//! Templates and mechanisms from a stranger: whatever comes of them, the unit stands.
#![no_main]

use std::sync::LazyLock;

use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Attributes, CryptoUnit};
use libfuzzer_sys::fuzz_target;

static UNIT: LazyLock<CryptoUnit> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("dir").keep();
    let unit = CryptoUnit::create(&dir, "fuzz", hsm_emulator::units::command::UnitType::Operational, &[]).expect("unit");
    unit.generate_master_key().expect("master key");
    unit
});

fuzz_target!(|input: (Vec<(u16, Vec<u8>)>, u16, Vec<u8>, Vec<u8>)| {
    let (attributes, kind, parameter, data) = input;
    let template: Attributes = attributes.into_iter().map(|(kind, value)| (kind.into(), value)).collect();
    assert!(Attributes::decode(&template.encode()).is_ok_and(|decoded| decoded == template));
    Attributes::decode(&data).ok();
    let Ok(object) = UNIT.create_object(&template) else { return };
    let mechanism = Mechanism { kind: kind.into(), parameter: Parameter::Bytes(parameter) };
    let plain = Mechanism::plain(kind.into());
    for mechanism in [mechanism, plain] {
        UNIT.encrypt(&mechanism, &object, &data).ok();
        UNIT.decrypt(&mechanism, &object, &data).ok();
        UNIT.sign(&mechanism, &object, &data).ok();
        UNIT.verify(&mechanism, &object, &data, &data).ok();
        UNIT.wrap_key(&mechanism, &object, &object).ok();
        UNIT.unwrap_key(&mechanism, &object, &data, &template).ok();
        UNIT.derive_key(&mechanism, &object, &template).ok();
    }
    UNIT.change_object(&object, &template, true).ok();
});
