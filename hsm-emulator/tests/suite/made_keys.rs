//! What a unit refuses to make by generating, deriving and unwrapping, and the limits of ciphers.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, OtherKey, Parameter};
use hsm_emulator::units::{Attributes, CryptoUnit, Error, KeyBlob};

use crate::common::unit;

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> CK_RV {
    outcome.expect_err("must be refused").code
}

fn typed(key_type: CK_KEY_TYPE) -> Attributes {
    Attributes::new().with_ulong(CKA_CLASS, CKO_SECRET_KEY).with_ulong(CKA_KEY_TYPE, key_type)
}

/// A key of this value, which may be derived from and wrapped.
fn secret(unit: &CryptoUnit, key_type: CK_KEY_TYPE, value: &[u8]) -> KeyBlob {
    let template = typed(key_type)
        .with_bool(CKA_SENSITIVE, false)
        .with_bool(CKA_EXTRACTABLE, true)
        .with_bool(CKA_DERIVE, true)
        .with(CKA_VALUE, value);
    unit.create_object(&template).expect("secret key")
}

/// FIPS 140-3 IG C.I: AES-XTS with equal halves is weaker than AES.
#[test]
fn no_aes_xts_key_has_equal_halves() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let half = secret(&unit, CKK_GENERIC_SECRET, &[1; 16]);
    let other_half = secret(&unit, CKK_GENERIC_SECRET, &[2; 16]);
    let join = |other: &KeyBlob| {
        let parameter = Parameter::Key(OtherKey::Blob(other.clone()));
        let mechanism = Mechanism { kind: CKM_CONCATENATE_BASE_AND_KEY, parameter };
        unit.derive_key(&mechanism, &half, &typed(CKK_AES_XTS))
    };
    assert_eq!(code(join(&half)), CKR_ATTRIBUTE_VALUE_INVALID);
    join(&other_half).expect("different halves");

    let created = typed(CKK_AES_XTS).with(CKA_VALUE, [1; 32]);
    assert_eq!(code(unit.create_object(&created)), CKR_ATTRIBUTE_VALUE_INVALID);

    let kek = secret(&unit, CKK_AES, &[3; 32]);
    let kwp = Mechanism::plain(CKM_AES_KEY_WRAP_KWP);
    let halves = secret(&unit, CKK_GENERIC_SECRET, &[1; 32]);
    let wrapped = unit.wrap_key(&kwp, &kek, &halves).expect("wrap");
    let unwrapped = unit.unwrap_key(&kwp, &kek, &wrapped, &typed(CKK_AES_XTS));
    assert_eq!(code(unwrapped), CKR_WRAPPED_KEY_INVALID);
}
