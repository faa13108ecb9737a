//! ML-DSA, SLH-DSA, and the keys of ML-KEM.

use cryptoki_sys::*;

use super::raw::{Mechanism, OPEN, RawSession, TRUE, ulong};

fn context(hedge: CK_HEDGE_TYPE, context: &[u8]) -> CK_SIGN_ADDITIONAL_CONTEXT {
    CK_SIGN_ADDITIONAL_CONTEXT {
        hedgeVariant: hedge,
        pContext: context.as_ptr().cast_mut(),
        ulContextLen: context.len() as CK_ULONG,
    }
}

fn pair(
    session: &RawSession,
    generator: CK_MECHANISM_TYPE,
    set: CK_ULONG,
) -> (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) {
    let set = ulong(set);
    let public = [(CKA_PARAMETER_SET, &set[..])];
    session.generate_key_pair(Mechanism::plain(generator), &public, OPEN).unwrap()
}

#[test]
fn ml_dsa_signs_with_and_without_a_context() {
    let session = RawSession::new();
    let plain = Mechanism::plain(CKM_ML_DSA);
    for (set, public_bytes, private_bytes, signature_bytes) in [
        (CKP_ML_DSA_44, 1312, 2560, 2420),
        (CKP_ML_DSA_65, 1952, 4032, 3309),
        (CKP_ML_DSA_87, 2592, 4896, 4627),
    ] {
        let (public, private) = pair(&session, CKM_ML_DSA_KEY_PAIR_GEN, set);
        assert_eq!(session.value(public).len(), public_bytes);
        assert_eq!(session.value(private).len(), private_bytes);
        assert_eq!(session.attribute(private, CKA_PARAMETER_SET).unwrap(), ulong(set));
        assert_eq!(session.sign(plain, private, b"data").unwrap().len(), signature_bytes);
        session.check_signatures(plain, public, private, b"data");
        let signature = session.sign_parts(plain, private, b"some data", 4).unwrap();
        session.verify(plain, public, b"some data", &signature).unwrap();
        let given = context(CKH_HEDGE_REQUIRED, b"context");
        let with_context = Mechanism::with(CKM_ML_DSA, &given);
        session.check_signatures(with_context, public, private, b"data");
        let signature = session.sign(with_context, private, b"data").unwrap();
        assert_eq!(session.verify(plain, public, b"data", &signature), Err(CKR_SIGNATURE_INVALID));
        let same = context(CKH_HEDGE_PREFERRED, b"");
        let signature = session.sign(Mechanism::with(CKM_ML_DSA, &same), private, b"data").unwrap();
        session.verify(plain, public, b"data", &signature).unwrap();
    }
    let (_, private) = pair(&session, CKM_ML_DSA_KEY_PAIR_GEN, CKP_ML_DSA_44);
    for refused in [context(CKH_DETERMINISTIC_REQUIRED, b""), context(CKH_HEDGE_PREFERRED, &[0; 256])] {
        let mechanism = Mechanism::with(CKM_ML_DSA, &refused);
        assert_eq!(session.sign(mechanism, private, b"data"), Err(CKR_MECHANISM_PARAM_INVALID));
    }
    let generate = |public| session.generate_key_pair(Mechanism::plain(CKM_ML_DSA_KEY_PAIR_GEN), public, &[]);
    assert_eq!(generate(&[]), Err(CKR_TEMPLATE_INCOMPLETE));
    assert_eq!(generate(&[(CKA_PARAMETER_SET, &ulong(9))]), Err(CKR_PARAMETER_SET_NOT_SUPPORTED));
}

#[test]
fn a_private_key_is_its_seed() {
    let session = RawSession::new();
    for (generator, key_type, set, seed_bytes) in [
        (CKM_ML_DSA_KEY_PAIR_GEN, CKK_ML_DSA, CKP_ML_DSA_65, 32),
        (CKM_ML_KEM_KEY_PAIR_GEN, CKK_ML_KEM, CKP_ML_KEM_768, 64),
    ] {
        let (_, private) = pair(&session, generator, set);
        let seed = session.attribute(private, CKA_SEED).unwrap();
        assert_eq!(seed.len(), seed_bytes);
        let (class, key_type, set) = (ulong(CKO_PRIVATE_KEY), ulong(key_type), ulong(set));
        let common = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type), (CKA_PARAMETER_SET, &set)];
        let create = |own: &[(CK_ATTRIBUTE_TYPE, &[u8])]| session.create(&[&common, own, OPEN].concat());
        let value = session.value(private);
        let of_seed = create(&[(CKA_SEED, &seed)]).unwrap();
        assert_eq!(session.value(of_seed), value);
        let of_value = create(&[(CKA_VALUE, &value)]).unwrap();
        assert_eq!(session.value(of_value), value);
        assert_eq!(session.attribute(of_value, CKA_SEED), Err(CKR_ATTRIBUTE_TYPE_INVALID));
        create(&[(CKA_VALUE, &value), (CKA_SEED, &seed)]).unwrap();
        let other = vec![1; seed.len()];
        for wrong in [
            &[(CKA_VALUE, &value[..]), (CKA_SEED, &other)][..],
            &[(CKA_VALUE, &value[1..])],
            &[(CKA_SEED, &seed[1..])],
        ] {
            assert_eq!(create(wrong), Err(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        assert_eq!(create(&[]), Err(CKR_TEMPLATE_INCOMPLETE));
    }
}

#[test]
fn slh_dsa_signs_with_every_fast_parameter_set() {
    let session = RawSession::new();
    for (set, key_bytes, signature_bytes) in [
        (CKP_SLH_DSA_SHA2_128F, 32, 17088),
        (CKP_SLH_DSA_SHAKE_128F, 32, 17088),
        (CKP_SLH_DSA_SHA2_192F, 48, 35664),
        (CKP_SLH_DSA_SHAKE_192F, 48, 35664),
        (CKP_SLH_DSA_SHA2_256F, 64, 49856),
        (CKP_SLH_DSA_SHAKE_256F, 64, 49856),
    ] {
        let (public, private) = pair(&session, CKM_SLH_DSA_KEY_PAIR_GEN, set);
        assert_eq!(session.value(public).len(), key_bytes);
        assert_eq!(session.value(private).len(), 2 * key_bytes);
        let mechanism = Mechanism::plain(CKM_SLH_DSA);
        let signature = session.sign(mechanism, private, b"data").unwrap();
        assert_eq!(signature.len(), signature_bytes);
        session.verify(mechanism, public, b"data", &signature).unwrap();
        assert_eq!(session.verify(mechanism, public, b"Data", &signature), Err(CKR_SIGNATURE_INVALID));
    }
    let (public, private) = pair(&session, CKM_SLH_DSA_KEY_PAIR_GEN, CKP_SLH_DSA_SHA2_128S);
    let given = context(CKH_HEDGE_PREFERRED, b"context");
    let mechanism = Mechanism::with(CKM_SLH_DSA, &given);
    let signature = session.sign(mechanism, private, b"data").unwrap();
    assert_eq!(signature.len(), 7856);
    session.verify(mechanism, public, b"data", &signature).unwrap();
}

#[test]
fn post_quantum_keys_are_wrapped_and_work_again() {
    let session = RawSession::new();
    let wrapping = session.secret(CKK_AES, &[7; 32]);
    let mechanism = Mechanism::plain(CKM_AES_KEY_WRAP_KWP);
    for (generator, key_type, set) in [
        (CKM_ML_DSA_KEY_PAIR_GEN, CKK_ML_DSA, CKP_ML_DSA_44),
        (CKM_ML_KEM_KEY_PAIR_GEN, CKK_ML_KEM, CKP_ML_KEM_512),
        (CKM_SLH_DSA_KEY_PAIR_GEN, CKK_SLH_DSA, CKP_SLH_DSA_SHAKE_128F),
    ] {
        let (_, private) = pair(&session, generator, set);
        let wrapped = session.wrap(mechanism, wrapping, private).unwrap();
        let (class, right, wrong) = (ulong(CKO_PRIVATE_KEY), ulong(key_type), ulong(CKK_EC));
        let unwrap = |key_type: &[u8]| {
            let own = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, key_type)];
            session.unwrap(mechanism, wrapping, &wrapped, &[&own, OPEN].concat())
        };
        let back = unwrap(&right).unwrap();
        assert_eq!(session.value(back), session.value(private));
        assert_eq!(session.attribute(back, CKA_SEED), session.attribute(private, CKA_SEED));
        assert_eq!(session.attribute(back, CKA_PARAMETER_SET).unwrap(), ulong(set));
        assert_eq!(unwrap(&wrong), Err(CKR_WRAPPED_KEY_INVALID));
    }
}

#[test]
fn keys_of_ml_kem_encapsulate_and_do_nothing_else() {
    let session = RawSession::new();
    let (public, private) = pair(&session, CKM_ML_KEM_KEY_PAIR_GEN, CKP_ML_KEM_1024);
    assert_eq!(session.value(public).len(), 1568);
    assert_eq!(session.value(private).len(), 3168);
    assert_eq!(session.attribute(public, CKA_ENCAPSULATE).unwrap(), TRUE);
    assert_eq!(session.attribute(private, CKA_DECAPSULATE).unwrap(), TRUE);
    let signed = session.sign(Mechanism::plain(CKM_ML_KEM), private, b"data");
    assert_eq!(signed, Err(CKR_MECHANISM_INVALID));
}
