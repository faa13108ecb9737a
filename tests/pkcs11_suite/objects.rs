//! Objects: creation, visibility, attributes, search.

use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass};
use cryptoki::session::UserType;

use super::{P256, USER_PIN, aes_key, ec_pair, new_token, pin, pkcs11, refusal, user_session};

fn token_key(label: &str, private: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(vec![7; 16]),
        Attribute::Token(true),
        Attribute::Private(private),
        Attribute::Label(label.into()),
        Attribute::Id(vec![1, 2]),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

#[test]
fn read_only_sessions_make_no_token_objects() {
    let slot = new_token("read-only");
    let session = pkcs11().open_ro_session(slot).unwrap();
    assert_eq!(refusal(session.create_object(&token_key("a", false))), RvError::SessionReadOnly);
    let rw = pkcs11().open_rw_session(slot).unwrap();
    let key = rw.create_object(&token_key("a", false)).unwrap();
    assert_eq!(refusal(session.destroy_object(key)), RvError::SessionReadOnly);
    assert_eq!(
        refusal(session.update_attributes(key, &[Attribute::Label("b".into())])),
        RvError::SessionReadOnly
    );
}

#[test]
fn private_objects_are_the_users_alone() {
    let slot = new_token("private");
    let session = pkcs11().open_rw_session(slot).unwrap();
    assert_eq!(refusal(session.create_object(&token_key("hidden", true))), RvError::UserNotLoggedIn);
    // Keys are private unless the template says otherwise.
    assert_eq!(
        refusal(session.generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(16.into())])),
        RvError::UserNotLoggedIn
    );
    let open = session.create_object(&token_key("open", false)).unwrap();
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    let hidden = session.create_object(&token_key("hidden", true)).unwrap();
    let session_key = aes_key(&session);
    assert_eq!(session.find_objects(&[]).unwrap().len(), 3);
    session.logout().unwrap();
    assert_eq!(session.find_objects(&[]).unwrap(), [open]);
    let label = [AttributeType::Label];
    assert_eq!(refusal(session.get_attributes(hidden, &label)), RvError::ObjectHandleInvalid);
    assert_eq!(refusal(session.encrypt(&Mechanism::AesEcb, hidden, &[0; 16])), RvError::KeyHandleInvalid);
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    // The token object is back under a new handle; the private session object died with the logout.
    let [still_open, found] = session.find_objects(&[]).unwrap()[..] else { panic!("not two objects") };
    assert!(still_open == open && found != hidden);
    assert!(session.get_attributes(found, &label).is_ok());
    for gone in [hidden, session_key] {
        assert_eq!(refusal(session.get_attributes(gone, &label)), RvError::ObjectHandleInvalid);
    }
}

#[test]
fn session_objects_die_with_their_session() {
    let session = user_session("session objects");
    let other = pkcs11().open_rw_session(session.get_session_info().unwrap().slot_id()).unwrap();
    let key = aes_key(&other);
    assert_eq!(session.encrypt(&Mechanism::AesEcb, key, &[0; 16]).unwrap().len(), 16);
    other.close().unwrap();
    assert_eq!(refusal(session.encrypt(&Mechanism::AesEcb, key, &[0; 16])), RvError::KeyHandleInvalid);
    assert!(session.find_objects(&[]).unwrap().is_empty());
}

#[test]
fn objects_are_found_by_any_of_their_attributes() {
    let session = user_session("search");
    let keys: Vec<_> = (0..20)
        .map(|i| session.create_object(&token_key(&format!("key {i}"), i % 2 == 0)).unwrap())
        .collect();
    let data = session
        .create_object(&[
            Attribute::Class(ObjectClass::DATA),
            Attribute::Label("key 3".into()),
            Attribute::Value(b"content".to_vec()),
        ])
        .unwrap();
    let find = |template: &[Attribute]| session.find_objects(template).unwrap();
    assert_eq!(find(&[Attribute::Label("key 3".into())]), [keys[3], data]);
    assert_eq!(
        find(&[Attribute::Label("key 3".into()), Attribute::Class(ObjectClass::SECRET_KEY)]),
        [keys[3]]
    );
    assert_eq!(find(&[Attribute::Id(vec![1, 2])]), keys);
    assert_eq!(find(&[Attribute::Private(true)]).len(), 10);
    assert_eq!(find(&[Attribute::Class(ObjectClass::DATA), Attribute::Value(b"content".to_vec())]), [data]);
    assert!(find(&[Attribute::Class(ObjectClass::DATA), Attribute::Value(b"other".to_vec())]).is_empty());
    assert!(find(&[Attribute::Label("key 99".into())]).is_empty());
    session.update_attributes(keys[3], &[Attribute::Label("renamed".into())]).unwrap();
    assert_eq!(find(&[Attribute::Label("key 3".into())]), [data]);
    assert_eq!(find(&[Attribute::Label("renamed".into())]), [keys[3]]);
    session.destroy_object(keys[3]).unwrap();
    assert!(find(&[Attribute::Label("renamed".into())]).is_empty());
    assert_eq!(refusal(session.destroy_object(keys[3])), RvError::ObjectHandleInvalid);
}

#[test]
fn sensitive_values_stay_inside() {
    let session = user_session("sensitive");
    let key = session
        .generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(32.into()), Attribute::Sensitive(true)])
        .unwrap();
    let kinds = [AttributeType::Value, AttributeType::ValueLen, AttributeType::Modulus];
    let info = session.get_attribute_info(key, &kinds).unwrap();
    assert!(matches!(
        info[..],
        [AttributeInfo::Sensitive, AttributeInfo::Available(8), AttributeInfo::TypeInvalid]
    ));
    let open = session.create_object(&token_key("open", true)).unwrap();
    assert_eq!(
        session.get_attributes(open, &[AttributeType::Value]).unwrap(),
        [Attribute::Value(vec![7; 16])]
    );
    session.update_attributes(open, &[Attribute::Sensitive(true)]).unwrap();
    let info = session.get_attribute_info(open, &[AttributeType::Value]).unwrap();
    assert!(matches!(info[..], [AttributeInfo::Sensitive]));
    assert_eq!(
        refusal(session.update_attributes(open, &[Attribute::Sensitive(false)])),
        RvError::AttributeReadOnly
    );
}

#[test]
fn copies_differ_as_asked() {
    let session = user_session("copies");
    let key = session.create_object(&token_key("original", true)).unwrap();
    let copy = session.copy_object(key, &[Attribute::Token(false), Attribute::Label("copy".into())]).unwrap();
    let kinds = [AttributeType::Token, AttributeType::Label, AttributeType::Value];
    assert_eq!(
        session.get_attributes(copy, &kinds).unwrap(),
        [Attribute::Token(false), Attribute::Label("copy".into()), Attribute::Value(vec![7; 16])]
    );
    let fixed = session.copy_object(key, &[Attribute::Copyable(false)]).unwrap();
    assert_eq!(refusal(session.copy_object(fixed, &[])), RvError::ActionProhibited);
    let kept = session.copy_object(key, &[Attribute::Destroyable(false)]).unwrap();
    assert_eq!(refusal(session.destroy_object(kept)), RvError::ActionProhibited);
}

#[test]
fn two_parties_derive_the_same_secret() {
    let session = user_session("derive");
    let (public_a, private_a) = ec_pair(&session, P256);
    let (public_b, private_b) = ec_pair(&session, P256);
    let point = |key| match session.get_attributes(key, &[AttributeType::EcPoint]).unwrap().remove(0) {
        Attribute::EcPoint(point) => point,
        other => panic!("{other:?}"),
    };
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    let derive = |private, point: &[u8]| {
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
        let key = session.derive_key(&mechanism, private, &template).unwrap();
        session.get_attributes(key, &[AttributeType::Value]).unwrap()
    };
    assert_eq!(derive(private_a, &point(public_b)), derive(private_b, &point(public_a)));
    let off_curve = vec![4; 65];
    // A point, but in X.509's form.
    let head = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    let key_info = [&head[..], &point(public_b)[2..]].concat();
    for bad in [&off_curve, &key_info, &vec![0], &vec![]] {
        let bad = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), bad));
        assert_eq!(refusal(session.derive_key(&bad, private_a, &template)), RvError::MechanismParamInvalid);
    }
}
