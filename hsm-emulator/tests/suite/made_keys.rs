//! What a unit refuses to make by generating, deriving and unwrapping, and the limits of ciphers.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::kdf::{Hkdf, Salt};
use hsm_emulator::units::mechanism::{Mechanism, OtherKey, Parameter};
use hsm_emulator::units::{Attributes, CryptoUnit, Error, KeyBlob};

use crate::common::unit;

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> CK_RV {
    outcome.expect_err("must be refused").code
}

fn with_bytes(kind: CK_MECHANISM_TYPE, bytes: &[u8]) -> Mechanism {
    Mechanism { kind, parameter: Parameter::Bytes(bytes.to_vec()) }
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

/// SP 800-38E: a data unit has at most 2^20 blocks.
#[test]
fn what_is_too_long_for_a_cipher_is_refused_by_its_direction() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let value: Vec<u8> = (0..64).collect();
    let key = secret(&unit, CKK_AES_XTS, &value);
    let xts = with_bytes(CKM_AES_XTS, &[0; 16]);
    let mut data = vec![7; 16 << 20];
    let encrypted = unit.encrypt(&xts, &key, &data).expect("the longest data unit");
    assert!(*unit.decrypt(&xts, &key, &encrypted).expect("decrypt") == data);
    data.push(7);
    assert_eq!(code(unit.encrypt(&xts, &key, &data)), CKR_DATA_LEN_RANGE);
    assert_eq!(code(unit.decrypt(&xts, &key, &data)), CKR_ENCRYPTED_DATA_LEN_RANGE);

    let key = secret(&unit, CKK_AES, &[1; 16]);
    let last_count = Parameter::Ctr { counter_bits: 8, counter_block: [0xff; 16] };
    let ctr = Mechanism { kind: CKM_AES_CTR, parameter: last_count };
    unit.encrypt(&ctr, &key, &[0; 16]).expect("one block");
    assert_eq!(code(unit.encrypt(&ctr, &key, &[0; 17])), CKR_DATA_LEN_RANGE);
    assert_eq!(code(unit.decrypt(&ctr, &key, &[0; 17])), CKR_ENCRYPTED_DATA_LEN_RANGE);
}

#[test]
fn hkdf_takes_no_value_for_its_data() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let base = secret(&unit, CKK_HKDF, &[1; 32]);
    let hkdf =
        Hkdf { extract: true, expand: true, digest: CKM_SHA256, salt: Salt::Null, info: b"info".to_vec() };
    let mechanism = Mechanism { kind: CKM_HKDF_DATA, parameter: Parameter::Hkdf(hkdf) };
    let template = Attributes::new().with_ulong(CKA_CLASS, CKO_DATA).with_ulong(CKA_VALUE_LEN, 20);
    let data = unit.derive_key(&mechanism, &base, &template).expect("data");
    assert_eq!(unit.attribute(&data, CKA_VALUE).expect("value").len(), 20);
    let given = template.with(CKA_VALUE, [0; 20]);
    assert_eq!(code(unit.derive_key(&mechanism, &base, &given)), CKR_ATTRIBUTE_READ_ONLY);
}

/// PKCS #11 v3.1 section 6.27.3 has a code of its own for data that are too short; a length that no key of the type has
/// is the template's fault, as in every derivation.
#[test]
fn a_length_that_no_key_has_is_not_the_datas_fault() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let base = secret(&unit, CKK_AES, &[1; 16]);
    let of_len = |key_type, len| {
        let template = typed(key_type).with_ulong(CKA_VALUE_LEN, len);
        unit.derive_key(&with_bytes(CKM_AES_ECB_ENCRYPT_DATA, &[3; 48]), &base, &template)
    };
    of_len(CKK_AES, 32).expect("a key");
    assert_eq!(code(of_len(CKK_AES, 17)), CKR_KEY_SIZE_RANGE);
    assert_eq!(code(of_len(CKK_GENERIC_SECRET, 5000)), CKR_KEY_SIZE_RANGE);
    assert_eq!(code(of_len(CKK_GENERIC_SECRET, 49)), CKR_DATA_LEN_RANGE);
}

#[test]
fn a_subprime_has_the_length_that_goes_with_the_prime() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let generate = |prime_bits, subprime_bits| {
        let template = Attributes::new()
            .with_ulong(CKA_PRIME_BITS, prime_bits)
            .with_ulong(CKA_SUBPRIME_BITS, subprime_bits);
        unit.generate_key(&Mechanism::plain(CKM_DSA_PARAMETER_GEN), &template)
    };
    for (prime_bits, subprime_bits) in [(1024, 256), (2048, 160), (3072, 160), (3072, 224)] {
        assert_eq!(code(generate(prime_bits, subprime_bits)), CKR_KEY_SIZE_RANGE);
    }
    let parameters = generate(1024, 160).expect("parameters").attributes().expect("attributes");
    assert_eq!(parameters.ulong(CKA_SUBPRIME_BITS), Some(160));
    assert_eq!(parameters.get(CKA_SUBPRIME).map(<[u8]>::len), Some(20));
}

/// A wrapped key that was altered, and a mechanism that was wrong from the beginning, have codes of their own.
#[test]
fn unwrapping_tells_a_wrong_key_from_a_wrong_parameter() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let kek = secret(&unit, CKK_AES, &[1; 32]);
    let key = secret(&unit, CKK_AES, &[2; 16]);
    let gcm = |aad: &[u8], tag_bits| Mechanism {
        kind: CKM_AES_GCM,
        parameter: Parameter::Gcm { iv: vec![5; 12], aad: aad.to_vec(), tag_bits },
    };
    let wrapped = unit.wrap_key(&gcm(b"about", 128), &kek, &key).expect("wrap");
    let unwrap =
        |mechanism: &Mechanism, wrapped: &[u8]| unit.unwrap_key(mechanism, &kek, wrapped, &typed(CKK_AES));
    unwrap(&gcm(b"about", 128), &wrapped).expect("unwrap");
    for position in 0..wrapped.len() {
        let mut altered = wrapped.clone();
        altered[position] ^= 1;
        assert_eq!(code(unwrap(&gcm(b"about", 128), &altered)), CKR_WRAPPED_KEY_INVALID);
    }
    assert_eq!(code(unwrap(&gcm(b"other", 128), &wrapped)), CKR_WRAPPED_KEY_INVALID);
    assert_eq!(code(unwrap(&gcm(b"about", 128), &wrapped[..15])), CKR_WRAPPED_KEY_LEN_RANGE);
    for wrong in [
        gcm(b"about", 136),
        Mechanism::plain(CKM_AES_GCM),
        with_bytes(CKM_AES_CBC_PAD, &[0; 8]),
        Mechanism::plain(CKM_AES_CBC),
        with_bytes(CKM_AES_ECB, &[0; 16]),
        with_bytes(CKM_AES_KEY_WRAP_KWP, &[0; 4]),
    ] {
        assert_eq!(code(unwrap(&wrong, &[0; 32])), CKR_MECHANISM_PARAM_INVALID, "{wrong:?}");
    }
    assert_eq!(code(unwrap(&with_bytes(CKM_AES_CBC_PAD, &[0; 16]), &[0; 32])), CKR_WRAPPED_KEY_INVALID);
}

/// Clients of GREP11 reach a unit without the checks that the PKCS #11 library makes beforehand.
#[test]
fn a_parameter_that_does_not_belong_to_the_mechanism_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let none = Attributes::new();
    let superfluous = |kind| with_bytes(kind, &[0]);

    let aes = Attributes::new().with_ulong(CKA_VALUE_LEN, 16);
    assert_eq!(code(unit.generate_key(&superfluous(CKM_AES_KEY_GEN), &aes)), CKR_MECHANISM_PARAM_INVALID);
    let prime = Attributes::new().with_ulong(CKA_PRIME_BITS, 1024);
    let generated = unit.generate_key(&superfluous(CKM_DSA_PARAMETER_GEN), &prime);
    assert_eq!(code(generated), CKR_MECHANISM_PARAM_INVALID);

    let p256 = Attributes::new().with(CKA_EC_PARAMS, *b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07");
    let generated = unit.generate_key_pair(&superfluous(CKM_EC_KEY_PAIR_GEN), &p256, &none);
    assert_eq!(code(generated), CKR_MECHANISM_PARAM_INVALID);
    let (public, private) =
        unit.generate_key_pair(&Mechanism::plain(CKM_EC_KEY_PAIR_GEN), &p256, &none).expect("EC");
    for kind in [CKM_ECDSA, CKM_ECDSA_SHA256] {
        let signature = unit.sign(&Mechanism::plain(kind), &private, &[7; 32]).expect("sign");
        let verified = unit.verify(&superfluous(kind), &public, &[7; 32], &signature);
        assert_eq!(code(verified), CKR_MECHANISM_PARAM_INVALID);
        assert_eq!(code(unit.sign(&superfluous(kind), &private, &[7; 32])), CKR_MECHANISM_PARAM_INVALID);
    }

    // A digest of the same length as the mechanism's own would make a signature that nobody else verifies.
    let bits = Attributes::new().with_ulong(CKA_MODULUS_BITS, 1024);
    let (public, private) =
        unit.generate_key_pair(&Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN), &bits, &none).expect("RSA");
    let pss = |kind, digest| Mechanism {
        kind,
        parameter: Parameter::Pss { digest, mgf: CKG_MGF1_SHA256, salt_len: 20 },
    };
    let signature = unit.sign(&pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256), &private, b"data").expect("sign");
    for wrong in [
        pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA3_256),
        pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA_1),
        pss(CKM_RSA_PKCS_PSS, CKM_AES_ECB),
        pss(CKM_SHA256_RSA_PKCS, CKM_SHA256),
    ] {
        assert_eq!(code(unit.sign(&wrong, &private, b"data")), CKR_MECHANISM_PARAM_INVALID, "{wrong:?}");
        let verified = unit.verify(&wrong, &public, b"data", &signature);
        assert_eq!(code(verified), CKR_MECHANISM_PARAM_INVALID, "{wrong:?}");
    }
}
