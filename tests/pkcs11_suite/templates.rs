//! What a key says of other keys: its templates for them, and which keys may wrap it.

use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism as Named;
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::session::UserType;
use cryptoki_sys::*;

use super::raw::{FALSE, Mechanism, Nested, OPEN, RawSession, TRUE, Template, ulong};
use super::{SO_PIN, USER_PIN, new_token, pin, pkcs11, refusal};
use crate::pkcs11_fixture::library::user_session;

fn aes_key(session: &RawSession, more: Template<'_>) -> Result<CK_OBJECT_HANDLE, CK_RV> {
    let len = ulong(32);
    session.generate_key(Mechanism::plain(CKM_AES_KEY_GEN), &[&[(CKA_VALUE_LEN, &len[..])], more].concat())
}

#[test]
fn a_wrapping_key_says_what_it_wraps() {
    let session = RawSession::new();
    let template = Nested::new(&[(CKA_ENCRYPT, TRUE), (CKA_LABEL, b"to be wrapped")]);
    let wrapping = aes_key(&session, &[(CKA_WRAP, TRUE), (CKA_WRAP_TEMPLATE, template.bytes())]).unwrap();
    let fitting = [(CKA_LABEL, &b"to be wrapped"[..]), (CKA_EXTRACTABLE, TRUE)];
    let key = aes_key(&session, &fitting).unwrap();
    assert_eq!(session.wrap(Mechanism::plain(CKM_AES_KEY_WRAP), wrapping, key).unwrap().len(), 40);
    for other in [
        &[(CKA_LABEL, &b"another"[..]), (CKA_EXTRACTABLE, TRUE)][..],
        &[fitting[0], fitting[1], (CKA_ENCRYPT, FALSE)][..],
    ] {
        let key = aes_key(&session, other).unwrap();
        assert_eq!(
            session.wrap(Mechanism::plain(CKM_AES_KEY_WRAP), wrapping, key),
            Err(CKR_KEY_HANDLE_INVALID)
        );
    }
}

#[test]
fn an_unwrapping_key_adds_to_what_it_unwraps() {
    let session = RawSession::new();
    let template = Nested::new(&[(CKA_SIGN, FALSE), (CKA_LABEL, b"unwrapped")]);
    let wrapping =
        aes_key(&session, &[(CKA_UNWRAP, TRUE), (CKA_WRAP, TRUE), (CKA_UNWRAP_TEMPLATE, template.bytes())])
            .unwrap();
    let wrapped =
        session.wrap(Mechanism::plain(CKM_AES_KEY_WRAP), wrapping, aes_key(&session, OPEN).unwrap()).unwrap();
    let (class, key_type) = (ulong(CKO_SECRET_KEY), ulong(CKK_AES));
    let wanted = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type[..])];
    let unwrap = |more: Template<'_>| {
        session.unwrap(Mechanism::plain(CKM_AES_KEY_WRAP), wrapping, &wrapped, &[&wanted, more].concat())
    };
    let key = unwrap(&[]).unwrap();
    assert_eq!(session.attribute(key, CKA_SIGN).unwrap(), FALSE);
    assert_eq!(session.attribute(key, CKA_LABEL).unwrap(), b"unwrapped");
    unwrap(&[(CKA_SIGN, FALSE)]).unwrap();
    assert_eq!(unwrap(&[(CKA_SIGN, TRUE)]), Err(CKR_TEMPLATE_INCONSISTENT));
    assert_eq!(unwrap(&[(CKA_LABEL, b"mine")]), Err(CKR_TEMPLATE_INCONSISTENT));
}

/// Whether a new object is private, or the token's, follows from the whole of both templates.
#[test]
fn what_a_base_key_adds_decides_where_the_new_key_lives() {
    let session = RawSession::new();
    let template = Nested::new(&[(CKA_TOKEN, TRUE), (CKA_PRIVATE, FALSE), (CKA_EXTRACTABLE, FALSE)]);
    let base = aes_key(&session, &[(CKA_DERIVE, TRUE), (CKA_DERIVE_TEMPLATE, template.bytes())]).unwrap();
    let mut bytes = [7; 16];
    let data = CK_KEY_DERIVATION_STRING_DATA { pData: bytes.as_mut_ptr(), ulLen: 16 };
    let mechanism = Mechanism::with(CKM_AES_ECB_ENCRYPT_DATA, &data);
    let derived = session.derive(mechanism, base, &[]).unwrap();
    for (kind, value) in [(CKA_TOKEN, TRUE), (CKA_PRIVATE, FALSE), (CKA_EXTRACTABLE, FALSE)] {
        assert_eq!(session.attribute(derived, kind).unwrap(), value);
    }
    assert_eq!(session.derive(mechanism, base, &[(CKA_TOKEN, FALSE)]), Err(CKR_TEMPLATE_INCONSISTENT));
    // Joined to another key, the base key has its say, too, wherever it stands.
    let other = aes_key(&session, &[(CKA_DERIVE, TRUE)]).unwrap();
    for (first, second) in [(base, other), (other, base)] {
        let joined = Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, &second);
        assert_eq!(session.attribute(session.derive(joined, first, &[]).unwrap(), CKA_TOKEN).unwrap(), TRUE);
    }
}

#[test]
fn templates_within_templates_are_read_as_they_were_written() {
    let session = RawSession::new();
    let class = ulong(CKO_SECRET_KEY);
    let inner: Template<'_> = &[(CKA_CLASS, &class), (CKA_LABEL, b"label"), (CKA_SIGN, FALSE)];
    let template = Nested::new(inner);
    let key = aes_key(&session, &[(CKA_WRAP_TEMPLATE, template.bytes())]).unwrap();
    let read = session.nested_attribute(key, CKA_WRAP_TEMPLATE, false).unwrap();
    assert_eq!(read.iter().map(|(kind, value)| (*kind, &value[..])).collect::<Vec<_>>(), inner);
    assert_eq!(session.nested_attribute(key, CKA_WRAP_TEMPLATE, true), Err(CKR_BUFFER_TOO_SMALL));
    assert_eq!(session.nested_attribute(key, CKA_UNWRAP_TEMPLATE, false), Err(CKR_ATTRIBUTE_TYPE_INVALID));
    let refused = |kind, value: &[u8]| {
        assert_eq!(aes_key(&session, &[(kind, value)]), Err(CKR_ATTRIBUTE_VALUE_INVALID))
    };
    refused(CKA_WRAP_TEMPLATE, &template.bytes()[1..]);
    refused(CKA_WRAP_TEMPLATE, Nested::new(&[(CKA_WRAP_TEMPLATE, template.bytes())]).bytes());
    refused(CKA_UNWRAP_TEMPLATE, Nested::new(&[(CKA_VALUE, &[1; 32])]).bytes());
    refused(CKA_DERIVE_TEMPLATE, Nested::new(&[(CKA_LABEL, &[b'x'; 5000])]).bytes());
}

#[test]
fn the_so_says_which_keys_are_trusted() {
    let slot = new_token("trust");
    let template = [Attribute::Token(true), Attribute::Private(false), Attribute::ValueLen(32.into())];
    let trusted = [&template[..], &[Attribute::Wrap(true), Attribute::Trusted(true)]].concat();
    let user = user_session(pkcs11(), slot);
    let refused = user.generate_key(&Named::AesKeyGen, &trusted);
    assert_eq!(refusal(refused), RvError::AttributeReadOnly);
    let untrusted = [&template[..], &[Attribute::Wrap(true)]].concat();
    let by_user = user.generate_key(&Named::AesKeyGen, &untrusted).unwrap();
    user.logout().unwrap();

    user.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    let by_so = user.generate_key(&Named::AesKeyGen, &trusted).unwrap();
    user.logout().unwrap();

    user.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    let secret = [
        Attribute::Token(false),
        Attribute::ValueLen(32.into()),
        Attribute::Extractable(true),
        Attribute::WrapWithTrusted(true),
    ];
    let secret = user.generate_key(&Named::AesKeyGen, &secret).unwrap();
    assert_eq!(user.wrap_key(&Named::AesKeyWrap, by_so, secret).unwrap().len(), 40);
    assert_eq!(refusal(user.wrap_key(&Named::AesKeyWrap, by_user, secret)), RvError::KeyNotWrappable);
    assert_eq!(
        refusal(user.update_attributes(by_user, &[Attribute::Trusted(true)])),
        RvError::AttributeReadOnly
    );
    user.logout().unwrap();

    // An object that is there already is trusted from now on, and not any more.
    user.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    user.update_attributes(by_user, &[Attribute::Trusted(true)]).unwrap();
    let is_trusted =
        || user.get_attributes(by_user, &[AttributeType::Trusted]).unwrap() == [Attribute::Trusted(true)];
    assert!(is_trusted());
    user.update_attributes(by_user, &[Attribute::Trusted(false)]).unwrap();
    assert!(!is_trusted());
}
