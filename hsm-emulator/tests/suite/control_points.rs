//! Control points decide which mechanisms a unit has.

use crate::common::operator::{Operator, adopt, load, send};
use cryptoki_sys::*;
use hsm_emulator::units::administration::control_point;
use hsm_emulator::units::command::{Command, UnitType};
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Attributes, CryptoUnit, Error, KeyBlob, vendor};

const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// As before a firmware update: no control point is set.
fn unit_without_control_points() -> (tempfile::TempDir, CryptoUnit, Operator) {
    let dir = tempfile::tempdir().expect("dir");
    let location = "[us-south].[AZ1-CS1].[00].[00]";
    let unit =
        CryptoUnit::create(&dir.path().join("unit"), location, UnitType::Operational, &[]).expect("unit");
    let ann = Operator::new("ann");
    adopt(&unit, &[&ann], 1);
    let pattern = load(&unit, &[1, 2], &ann).expect("load");
    send(&unit, Command::CommitMasterKey(pattern), &[&ann]).expect("commit");
    send(&unit, Command::SetImmediate, &[&ann]).expect("set immediate");
    (dir, unit, ann)
}

fn key_pair(unit: &CryptoUnit, mechanism: u64) -> Result<(KeyBlob, KeyBlob), Error> {
    let public = Attributes::new().with(CKA_EC_PARAMS, ED25519);
    unit.generate_key_pair(&Mechanism::plain(mechanism), &public, &Attributes::new())
}

#[test]
fn ed25519_needs_its_control_point() {
    let (_dir, unit, ann) = unit_without_control_points();
    for mechanism in [CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN] {
        let refused = key_pair(&unit, mechanism).expect_err("must be refused");
        assert_eq!(refused.code, CKR_MECHANISM_INVALID);
        assert!(refused.message.contains("XCP_CPB_ALG_EC_25519"), "{refused}");
    }
    send(&unit, Command::SetControlPoints(vec![control_point::BTC]), &[&ann]).expect("set");
    assert!(key_pair(&unit, CKM_EC_EDWARDS_KEY_PAIR_GEN).is_err());
    send(&unit, Command::SetControlPoints(vec![control_point::ALG_EC_25519]), &[&ann]).expect("set");
    for generator in [CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN] {
        let (public, private) = key_pair(&unit, generator).expect("Ed25519");
        for mechanism in [CKM_EDDSA, vendor::CKM_IBM_ED25519_SHA512] {
            let mechanism = Mechanism::plain(mechanism);
            let signature = unit.sign(&mechanism, &private, b"data").expect("sign");
            unit.verify(&mechanism, &public, b"data", &signature).expect("verify");
        }
    }
}

#[test]
fn a_key_from_another_unit_needs_it_too() {
    let (_dir, unit, ann) = unit_without_control_points();
    send(&unit, Command::SetControlPoints(vec![control_point::ALG_EC_25519]), &[&ann]).expect("set");
    let (public, private) = key_pair(&unit, CKM_EC_EDWARDS_KEY_PAIR_GEN).expect("Ed25519");
    // The same master key, no control point.
    let (_other_dir, other, _) = unit_without_control_points();
    let eddsa = Mechanism::plain(CKM_EDDSA);
    let signature = unit.sign(&eddsa, &private, b"data").expect("sign");
    assert_eq!(other.sign(&eddsa, &private, b"data").expect_err("refused").code, CKR_MECHANISM_INVALID);
    let refused = other.verify(&eddsa, &public, b"data", &signature).expect_err("refused");
    assert_eq!(refused.code, CKR_MECHANISM_INVALID);
    let imported = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_EC_EDWARDS)
        .with(CKA_EC_PARAMS, ED25519)
        .with(CKA_VALUE, [7; 32]);
    assert_eq!(other.create_object(&imported).expect_err("refused").code, CKR_MECHANISM_INVALID);
    unit.create_object(&imported).expect("import");
}

#[test]
fn x25519_needs_it_as_well() {
    let (_dir, unit, ann) = unit_without_control_points();
    let public = Attributes::new().with(CKA_EC_PARAMS, [0x06, 0x03, 0x2b, 0x65, 0x6e]);
    let pair = |unit: &CryptoUnit, generator| {
        unit.generate_key_pair(&Mechanism::plain(generator), &public, &Attributes::new())
    };
    for generator in [CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN] {
        assert_eq!(pair(&unit, generator).expect_err("refused").code, CKR_MECHANISM_INVALID);
    }
    send(&unit, Command::SetControlPoints(vec![control_point::ALG_EC_25519]), &[&ann]).expect("set");
    let (public, private) = pair(&unit, CKM_EC_KEY_PAIR_GEN).expect("X25519");
    let public_data = public.attributes().expect("attributes").get(CKA_EC_POINT).expect("point").to_vec();
    let parameter = Parameter::Ecdh1 { kdf: CKD_NULL, shared_data: Vec::new(), public_data };
    let mechanism = Mechanism { kind: CKM_ECDH1_DERIVE, parameter };
    let template = Attributes::new().with_ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
    unit.derive_key(&mechanism, &private, &template).expect("derive");
    let (_other_dir, other, _) = unit_without_control_points();
    let refused = other.derive_key(&mechanism, &private, &template).expect_err("refused");
    assert_eq!(refused.code, CKR_MECHANISM_INVALID);
}
