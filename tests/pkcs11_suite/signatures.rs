//! Signatures and MACs.

use cryptoki::error::RvError;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};

use super::{P256, P384, P521, USER_PIN, ec_pair, pin, refusal, rsa_pair, user_session};

/// Signs in one part and in many, verifies all of it, and refuses what is altered.
fn check(session: &Session, mechanism: &Mechanism, public: ObjectHandle, private: ObjectHandle, data: &[u8]) {
    let signature = session.sign(mechanism, private, data).unwrap();
    session.verify(mechanism, public, data, &signature).unwrap();
    let mut altered = signature.clone();
    altered[signature.len() / 2] ^= 1;
    assert_eq!(refusal(session.verify(mechanism, public, data, &altered)), RvError::SignatureInvalid);
    let short = &signature[1..];
    assert_eq!(refusal(session.verify(mechanism, public, data, short)), RvError::SignatureLenRange);
}

fn check_parts(session: &Session, mechanism: &Mechanism, public: ObjectHandle, private: ObjectHandle) {
    let data = session.generate_random_vec(100_000).unwrap();
    check(session, mechanism, public, private, &data);
    session.sign_init(mechanism, private).unwrap();
    data.chunks(7777).for_each(|part| session.sign_update(part).unwrap());
    let signature = session.sign_final().unwrap();
    session.verify(mechanism, public, &data, &signature).unwrap();
    session.verify_init(mechanism, public).unwrap();
    data.chunks(1000).for_each(|part| session.verify_update(part).unwrap());
    session.verify_final(&signature).unwrap();
    session.verify_init(mechanism, public).unwrap();
    session.verify_update(&data[1..]).unwrap();
    assert_eq!(refusal(session.verify_final(&signature)), RvError::SignatureInvalid);
}

fn pss(hash_alg: MechanismType, mgf: PkcsMgfType, salt: u64) -> PkcsPssParams {
    PkcsPssParams { hash_alg, mgf, s_len: salt.into() }
}

#[test]
fn rsa_signs_with_every_digest() {
    let session = user_session("rsa signatures");
    let (public, private) = rsa_pair(&session);
    let sha256 = || pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32);
    for mechanism in [
        Mechanism::Sha1RsaPkcs,
        Mechanism::Sha224RsaPkcs,
        Mechanism::Sha256RsaPkcs,
        Mechanism::Sha384RsaPkcs,
        Mechanism::Sha512RsaPkcs,
        Mechanism::Sha1RsaPkcsPss(pss(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, 20)),
        Mechanism::Sha256RsaPkcsPss(sha256()),
        Mechanism::Sha384RsaPkcsPss(pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 0)),
        Mechanism::Sha512RsaPkcsPss(pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA256, 20)),
    ] {
        check_parts(&session, &mechanism, public, private);
    }
    check(&session, &Mechanism::RsaPkcs, public, private, b"not hashed");
    check(&session, &Mechanism::RsaPkcsPss(sha256()), public, private, &[5; 32]);
    assert_eq!(refusal(session.sign(&Mechanism::RsaPkcs, private, &[0; 250])), RvError::DataLenRange);
    let other_digest = Mechanism::Sha512RsaPkcsPss(sha256());
    assert_eq!(refusal(session.sign_init(&other_digest, private)), RvError::MechanismParamInvalid);
}

#[test]
fn ecdsa_signs_on_every_curve() {
    let session = user_session("ecdsa");
    for (curve, len) in [(P256, 64), (P384, 96), (P521, 132)] {
        let (public, private) = ec_pair(&session, curve);
        for mechanism in [
            Mechanism::EcdsaSha1,
            Mechanism::EcdsaSha224,
            Mechanism::EcdsaSha256,
            Mechanism::EcdsaSha384,
            Mechanism::EcdsaSha512,
        ] {
            check_parts(&session, &mechanism, public, private);
        }
        check(&session, &Mechanism::Ecdsa, public, private, &[5; 32]);
        assert_eq!(session.sign(&Mechanism::Ecdsa, private, &[5; 32]).unwrap().len(), len);
        session.sign_init(&Mechanism::Ecdsa, private).unwrap();
        assert_eq!(refusal(session.sign_update(&[5; 32])), RvError::OperationNotInitialized);
    }
}

#[test]
fn ed25519_signs() {
    let session = user_session("ed25519");
    let eddsa = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
    // By object identifier, and by name.
    for params in [&b"\x06\x03\x2b\x65\x70"[..], b"\x13\x0cedwards25519"] {
        let public = [Attribute::EcParams(params.to_vec())];
        let (public, private) =
            session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &[]).unwrap();
        check(&session, &eddsa, public, private, b"data");
        assert_eq!(session.sign(&eddsa, private, b"").unwrap().len(), 64);
        assert_eq!(
            refusal(session.sign_init(&Mechanism::EcdsaSha256, private)),
            RvError::KeyTypeInconsistent
        );
    }
}

/// RFC 4231, test case 2.
#[test]
fn hmac_gives_the_published_mac() {
    let session = user_session("hmac");
    let key = session
        .create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Value(b"Jefe".to_vec()),
            Attribute::Sign(true),
            Attribute::Verify(true),
        ])
        .unwrap();
    let data = b"what do ya want for nothing?";
    let mac = session.sign(&Mechanism::Sha256Hmac, key, data).unwrap();
    assert_eq!(hex::encode(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    for mechanism in
        [Mechanism::Sha1Hmac, Mechanism::Sha224Hmac, Mechanism::Sha256Hmac, Mechanism::Sha512Hmac]
    {
        check_parts(&session, &mechanism, key, key);
    }
}

#[test]
fn a_key_may_want_a_login_for_each_use() {
    let session = user_session("always authenticate");
    let (public, private) = session
        .generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[Attribute::EcParams(P256.to_vec())],
            &[Attribute::AlwaysAuthenticate(true)],
        )
        .unwrap();
    let context_login = |text| session.login(UserType::ContextSpecific, Some(&pin(text)));
    assert_eq!(refusal(session.sign(&Mechanism::Ecdsa, private, &[5; 32])), RvError::UserNotLoggedIn);
    assert_eq!(refusal(context_login(USER_PIN)), RvError::OperationNotInitialized);
    for _ in 0..2 {
        session.sign_init(&Mechanism::EcdsaSha256, private).unwrap();
        session.sign_update(b"data").unwrap();
        assert_eq!(refusal(context_login("9999")), RvError::PinIncorrect);
        context_login(USER_PIN).unwrap();
        let signature = session.sign_final().unwrap();
        session.verify(&Mechanism::EcdsaSha256, public, b"data", &signature).unwrap();
    }
}

#[test]
fn a_restricted_key_signs_with_its_mechanism() {
    let session = user_session("restricted");
    let allowed = vec![MechanismType::ECDSA_SHA256];
    let (public, private) = session
        .generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[Attribute::EcParams(P256.to_vec())],
            &[Attribute::AllowedMechanisms(allowed)],
        )
        .unwrap();
    check_parts(&session, &Mechanism::EcdsaSha256, public, private);
    assert_eq!(refusal(session.sign_init(&Mechanism::Ecdsa, private)), RvError::MechanismInvalid);
}
