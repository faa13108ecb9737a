//! A wrapped data key from a stranger.
#![no_main]

use std::sync::{Arc, LazyLock};

use hsm_emulator::services::clock::SystemClock;
use hsm_emulator::services::kms::root_keys::RootKeys;
use hsm_emulator::services::region::{Layout, Region};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<(RootKeys, String)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("dir").keep();
    let region = Region::open(&dir, &Layout { region: "us-south".into(), operational: 1, recovery: 0, master_key: true }).expect("region");
    let keys = RootKeys::open(Arc::new(region), Arc::new(SystemClock)).expect("keys");
    let key = keys.create("fuzz", None).expect("key").id.clone();
    (keys, key)
});

fuzz_target!(|input: (String, Vec<String>)| {
    let (keys, key) = &*KEYS;
    assert!(keys.unwrap(key, &input.0, &input.1).is_err(), "a ciphertext that nobody wrapped was unwrapped");
    keys.get(&input.0).ok();
});
