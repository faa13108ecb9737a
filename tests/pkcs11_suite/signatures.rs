//! Signatures and MACs.

use cryptoki::error::RvError;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};

use super::{BRAINPOOL, P192, P256, P384, P521, USER_PIN, ec_pair, pin, refusal, rsa_pair, user_session};

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
    // 256 bytes have room for a hash, two bytes, and so much salt.
    let salted = |salt| Mechanism::RsaPkcsPss(pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, salt));
    check(&session, &salted(222), public, private, &[5; 32]);
    assert_eq!(refusal(session.sign_init(&salted(223), private)), RvError::MechanismParamInvalid);
    assert_eq!(refusal(session.verify_init(&salted(u64::MAX), public)), RvError::MechanismParamInvalid);
}

/// What was signed long ago is verified, but nothing is encrypted to such a key.
#[test]
fn a_small_rsa_key_verifies_only() {
    let session = user_session("small rsa");
    let key = session
        .create_object(&[
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Modulus([&[0x80][..], &[0; 62], &[1]].concat()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ])
        .unwrap();
    let refused = session.verify(&Mechanism::Sha256RsaPkcs, key, b"data", &[1; 64]);
    assert_eq!(refusal(refused), RvError::SignatureInvalid);
    assert_eq!(refusal(session.encrypt(&Mechanism::RsaPkcs, key, b"data")), RvError::KeySizeRange);
    let size = Attribute::ModulusBits(512.into());
    let exponent = Attribute::PublicExponent(vec![1, 0, 1]);
    let pair = session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &[size, exponent], &[]);
    assert_eq!(refusal(pair), RvError::AttributeValueInvalid);
}

#[test]
fn ecdsa_signs_on_every_curve() {
    let session = user_session("ecdsa");
    let [b256, b320, b384, b512] = BRAINPOOL;
    let brainpool = [(b256, 64), (b320, 80), (b384, 96), (b512, 128)];
    for (curve, len) in [(P192, 48), (P256, 64), (P384, 96), (P521, 132)].into_iter().chain(brainpool) {
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

/// RFC 8032 section 7.4, the first test.
#[test]
fn ed448_gives_the_published_signature() {
    let session = user_session("ed448");
    let eddsa = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
    let params = || Attribute::EcParams(b"\x06\x03\x2b\x65\x71".to_vec());
    let (public, private) =
        session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &[params()], &[]).unwrap();
    check(&session, &eddsa, public, private, b"data");
    let value = "6c82a562cb808d10d632be89c8513ebf6c929f34ddfa8c9f63c9960ef6e348a3528c8a3fcc2f044e39a3fc5b94492f8f032e7549a20098f95b";
    let known = session
        .create_object(&[
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC_EDWARDS),
            params(),
            Attribute::Value(hex::decode(value).unwrap()),
            Attribute::Sign(true),
        ])
        .unwrap();
    let expected = "533a37f6bbe457251f023c0d88f976ae2dfb504a843e34d2074fd823d41a591f2b233f034f628281f2fd7a22ddd47d7828c59bd0a21bfd39\
                    80ff0d2028d4b18a9df63e006c5d1c2d345b925d8dc00b4104852db99ac5c7cdda8530a113a0f4dbb61149f05a7363268c71d95808ff2e652600";
    assert_eq!(hex::encode(session.sign(&eddsa, known, b"").unwrap()), expected);
}

/// RFC 4493 section 4, examples 1 and 2.
#[test]
fn aes_gives_the_published_mac() {
    let session = user_session("cmac");
    let key = session
        .create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Value(hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap()),
        ])
        .unwrap();
    let block = hex::decode("6bc1bee22e409f96e93d7e117393172a").unwrap();
    for (data, expected) in
        [(&[][..], "bb1d6929e95937287fa37d129b756746"), (&block, "070a16b46b4d4144f79bdd9dd04a287c")]
    {
        assert_eq!(hex::encode(session.sign(&Mechanism::AesCMac, key, data).unwrap()), expected);
    }
    check_parts(&session, &Mechanism::AesCMac, key, key);
    assert_eq!(refusal(session.sign_init(&Mechanism::Sha256Hmac, key)), RvError::KeyTypeInconsistent);
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
