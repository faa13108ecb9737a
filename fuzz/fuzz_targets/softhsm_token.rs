//! A token directory of a SoftHSM from a stranger: whatever its object files and PIN records say, and whatever
//! objects come of it, the unit stands.
#![no_main]

use std::sync::LazyLock;

use hsm_emulator::units::CryptoUnit;
use hsm_pkcs11::softhsm_token::{TokenKey, parse_object_file};
use libfuzzer_sys::fuzz_target;

static UNIT: LazyLock<CryptoUnit> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("dir").keep();
    let unit = CryptoUnit::create(&dir, "fuzz", hsm_emulator::units::command::UnitType::Operational, &[]).expect("unit");
    unit.generate_master_key().expect("master key");
    unit
});

/// The user's PIN record of a token with the PIN 1234.
const RECORD: &str = "820f865e9d061e47c45f097703c8309fa4a8d1b2d9087e990fe960ba5c6876c4caa3d9b0\
    76b9001b50cc1536cb7261ba423144907f6eee1ac795f59d8bcdd361479714690a3f7fed";

static KEY: LazyLock<TokenKey> = LazyLock::new(|| {
    let record: Vec<u8> = RECORD
        .as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("hexadecimal"))
        .collect();
    TokenKey::open(&record, b"1234").expect("a record").expect("its PIN")
});

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (file, record) = input;
    TokenKey::open(&record, b"1234").ok();
    let Ok(object) = parse_object_file(&file) else { return };
    let Ok(attributes) = object.attributes(&KEY) else { return };
    let Ok(blob) = UNIT.restore_object(&attributes) else { return };
    blob.attributes().expect("what the unit has sealed");
});
