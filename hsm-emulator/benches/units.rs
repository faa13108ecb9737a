//! What one unit does in one thread, without any transport.
#![allow(clippy::expect_used)]

use std::path::Path;

use cryptoki_sys::*;
use divan::{Bencher, black_box};
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Attributes, CryptoUnit, KeyBlob};

fn main() {
    divan::main();
}

fn unit() -> (tempfile::TempDir, CryptoUnit) {
    let dir = tempfile::tempdir().expect("dir");
    let unit = CryptoUnit::create(
        &Path::new(dir.path()).join("unit"),
        "bench",
        hsm_emulator::units::command::UnitType::Operational,
        &[],
    )
    .expect("unit");
    unit.generate_master_key().expect("master key");
    (dir, unit)
}

fn aes(unit: &CryptoUnit) -> KeyBlob {
    let template = Attributes::new().with_ulong(CKA_VALUE_LEN, 32);
    unit.generate_key(&Mechanism::plain(CKM_AES_KEY_GEN), &template).expect("AES key")
}

#[divan::bench]
fn root_key_wrap(bencher: Bencher) {
    let (_dir, unit) = unit();
    let key = unit.create_root_key(b"id", None).expect("root key");
    let aad = ["bucket".to_owned()];
    bencher.bench_local(|| unit.wrap_data_key(black_box(&key), b"id", &aad, &[7; 32]).expect("wrap"));
}

#[divan::bench]
fn root_key_unwrap(bencher: Bencher) {
    let (_dir, unit) = unit();
    let key = unit.create_root_key(b"id", None).expect("root key");
    let wrapped = unit.wrap_data_key(&key, b"id", &[], &[7; 32]).expect("wrap");
    bencher.bench_local(|| unit.unwrap_data_key(black_box(&key), b"id", &[], &wrapped).expect("unwrap"));
}

#[divan::bench(args = [32, 4096, 1 << 20])]
fn aes_gcm_encrypt(bencher: Bencher, len: usize) {
    let (_dir, unit) = unit();
    let key = aes(&unit);
    let parameter = Parameter::Gcm { iv: vec![1; 12], aad: Vec::new(), tag_bits: 128 };
    let mechanism = Mechanism { kind: CKM_AES_GCM, parameter };
    let data = vec![0; len];
    bencher.bench_local(|| unit.encrypt(&mechanism, &key, black_box(&data)).expect("encrypt"));
}

#[divan::bench]
fn rsa_2048_sign(bencher: Bencher) {
    let (_dir, unit) = unit();
    let public = Attributes::new().with_ulong(CKA_MODULUS_BITS, 2048);
    let mechanism = Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN);
    let (_, key) = unit.generate_key_pair(&mechanism, &public, &Attributes::new()).expect("RSA");
    bencher
        .bench_local(|| unit.sign(&Mechanism::plain(CKM_RSA_PKCS), &key, black_box(&[7; 51])).expect("sign"));
}

#[divan::bench]
fn ecdsa_p256_sign(bencher: Bencher) {
    let (_dir, unit) = unit();
    let p256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let public = Attributes::new().with(CKA_EC_PARAMS, p256);
    let mechanism = Mechanism::plain(CKM_EC_KEY_PAIR_GEN);
    let (_, key) = unit.generate_key_pair(&mechanism, &public, &Attributes::new()).expect("EC");
    bencher.bench_local(|| unit.sign(&Mechanism::plain(CKM_ECDSA), &key, black_box(&[7; 32])).expect("sign"));
}

/// A blob that is not in the cache: parse, open, prepare.
#[divan::bench]
fn open_an_aes_key(bencher: Bencher) {
    let (_dir, unit) = unit();
    let mechanism = Mechanism { kind: CKM_AES_CBC, parameter: Parameter::Bytes(vec![0; 16]) };
    bencher
        .with_inputs(|| aes(&unit))
        .bench_local_values(|key| unit.encrypt(&mechanism, &key, &[0; 16]).expect("encrypt"));
}
