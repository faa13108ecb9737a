//! Slots, tokens, PINs, sessions, login.

use cryptoki::error::RvError;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::session::{SessionState, UserType};

use super::{
    SO_PIN, USER_PIN, aes_key, new_token, pin, pkcs11, refusal, user_session, while_no_token_is_made,
};

#[test]
fn a_new_token_shows_what_it_is() {
    let slot = new_token("shows");
    let info = pkcs11().get_token_info(slot).unwrap();
    assert_eq!(info.label(), "shows");
    assert_eq!(info.serial_number().len(), 16);
    assert!(info.token_initialized() && info.user_pin_initialized() && info.login_required() && info.rng());
    assert_eq!((info.min_pin_length(), info.max_pin_length()), (4, 255));
    assert!(pkcs11().get_slot_info(slot).unwrap().token_present());
    while_no_token_is_made(|| {
        let free = *pkcs11().get_all_slots().unwrap().last().unwrap();
        assert!(!pkcs11().get_token_info(free).unwrap().token_initialized());
        assert_eq!(refusal(pkcs11().open_rw_session(free)), RvError::TokenNotRecognized);
    });
}

#[test]
fn every_listed_mechanism_has_its_information() {
    let slot = new_token("mechanisms");
    let list = pkcs11().get_mechanism_list(slot).unwrap();
    for wanted in [
        MechanismType::AES_GCM,
        MechanismType::AES_CBC_PAD,
        MechanismType::AES_KEY_WRAP,
        MechanismType::RSA_PKCS_OAEP,
        MechanismType::SHA256_RSA_PKCS_PSS,
        MechanismType::ECDSA,
        MechanismType::ECDH1_DERIVE,
        MechanismType::SHA256_HMAC,
    ] {
        assert!(list.contains(&wanted), "{wanted} is missing");
    }
    for kind in list {
        let info = pkcs11().get_mechanism_info(slot, kind).unwrap();
        assert!(info.min_key_size() <= info.max_key_size());
    }
    // In bits, unlike all others that make secret keys.
    let generic = pkcs11().get_mechanism_info(slot, MechanismType::GENERIC_SECRET_KEY_GEN).unwrap();
    assert_eq!((generic.min_key_size(), generic.max_key_size()), (8, 32768));
}

#[test]
fn wrong_pins_are_refused_and_counted() {
    let slot = new_token("pins");
    let session = pkcs11().open_rw_session(slot).unwrap();
    assert_eq!(refusal(session.login(UserType::User, Some(&pin("9999")))), RvError::PinIncorrect);
    assert!(pkcs11().get_token_info(slot).unwrap().user_pin_count_low());
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    assert!(!pkcs11().get_token_info(slot).unwrap().user_pin_count_low());
    assert_eq!(refusal(session.set_pin(&pin("9999"), &pin("5678"))), RvError::PinIncorrect);
    assert_eq!(refusal(session.set_pin(&pin(USER_PIN), &pin("123"))), RvError::PinLenRange);
    session.set_pin(&pin(USER_PIN), &pin("5678")).unwrap();
    // Still logged in, with the new PIN's proof.
    session
        .generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(16.into()), Attribute::Token(true)])
        .unwrap();
    assert_eq!(session.find_objects(&[]).unwrap().len(), 1);
    session.logout().unwrap();
    assert_eq!(refusal(session.login(UserType::User, Some(&pin(USER_PIN)))), RvError::PinIncorrect);
    session.login(UserType::User, Some(&pin("5678"))).unwrap();
}

#[test]
fn a_pin_is_locked_after_too_many_wrong_ones_until_the_so_sets_it() {
    let slot = new_token("locked");
    let session = pkcs11().open_rw_session(slot).unwrap();
    let mut attempts = 0;
    while refusal(session.login(UserType::User, Some(&pin("9999")))) != RvError::PinLocked {
        attempts += 1;
        assert!(attempts < 20, "never locked");
    }
    assert_eq!(refusal(session.login(UserType::User, Some(&pin(USER_PIN)))), RvError::PinLocked);
    assert!(pkcs11().get_token_info(slot).unwrap().user_pin_locked());
    session.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    session.init_pin(&pin(USER_PIN)).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
}

#[test]
fn login_follows_the_rules_of_users_and_sessions() {
    let slot = new_token("login");
    let rw = pkcs11().open_rw_session(slot).unwrap();
    let ro = pkcs11().open_ro_session(slot).unwrap();
    assert_eq!(refusal(rw.login(UserType::So, Some(&pin(SO_PIN)))), RvError::SessionReadOnlyExists);
    assert_eq!(refusal(rw.logout()), RvError::UserNotLoggedIn);
    ro.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    assert_eq!(rw.get_session_info().unwrap().session_state(), SessionState::RwUser);
    assert_eq!(ro.get_session_info().unwrap().session_state(), SessionState::RoUser);
    assert_eq!(refusal(rw.login(UserType::User, Some(&pin(USER_PIN)))), RvError::UserAlreadyLoggedIn);
    ro.close().unwrap();
    assert_eq!(refusal(rw.login(UserType::So, Some(&pin(SO_PIN)))), RvError::UserAnotherAlreadyLoggedIn);
    rw.logout().unwrap();
    rw.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    assert_eq!(rw.get_session_info().unwrap().session_state(), SessionState::RwSecurityOfficer);
    assert_eq!(refusal(pkcs11().open_ro_session(slot)), RvError::SessionReadWriteSoExists);
    assert_eq!(refusal(rw.login(UserType::User, Some(&pin(USER_PIN)))), RvError::UserAnotherAlreadyLoggedIn);
}

#[test]
fn the_last_session_logs_out() {
    let slot = new_token("last");
    let session = pkcs11().open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    session.close().unwrap();
    let session = pkcs11().open_rw_session(slot).unwrap();
    assert_eq!(session.get_session_info().unwrap().session_state(), SessionState::RwPublic);
}

#[test]
fn a_token_is_erased_by_its_so_and_not_while_in_use() {
    let session = user_session("erased");
    let slot = session.get_session_info().unwrap().slot_id();
    session
        .generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(16.into()), Attribute::Token(true)])
        .unwrap();
    assert_eq!(refusal(pkcs11().init_token(slot, &pin(SO_PIN), "again")), RvError::SessionExists);
    session.close().unwrap();
    assert_eq!(refusal(pkcs11().init_token(slot, &pin("87654321"), "again")), RvError::PinIncorrect);
    pkcs11().init_token(slot, &pin(SO_PIN), "again").unwrap();
    let info = pkcs11().get_token_info(slot).unwrap();
    assert_eq!(info.label(), "again");
    assert!(!info.user_pin_initialized());
    let session = pkcs11().open_rw_session(slot).unwrap();
    assert_eq!(refusal(session.login(UserType::User, Some(&pin(USER_PIN)))), RvError::UserPinNotInitialized);
    session.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    session.init_pin(&pin(USER_PIN)).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    assert!(session.find_objects(&[]).unwrap().is_empty());
}

#[test]
fn random_bytes_differ_and_come_in_any_number() {
    let session = user_session("random");
    let first = session.generate_random_vec(32).unwrap();
    assert_ne!(first, session.generate_random_vec(32).unwrap());
    for len in [0, 1, 1023, 1024, 1025, 5000, 1_500_000] {
        let bytes = session.generate_random_vec(len).unwrap();
        assert_eq!(bytes.len(), len as usize);
        assert!(len < 100 || bytes.iter().any(|byte| *byte != 0));
    }
    session.seed_random(b"seed").unwrap();
}

#[test]
fn threads_work_side_by_side() {
    let session = user_session("threads");
    let slot = session.get_session_info().unwrap().slot_id();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let session = pkcs11().open_rw_session(slot).unwrap();
                    let key = aes_key(&session);
                    let plain = session.generate_random_vec(100).unwrap();
                    let mechanism = Mechanism::AesCbcPad([1; 16]);
                    let encrypted = session.encrypt(&mechanism, key, &plain).unwrap();
                    assert_eq!(session.decrypt(&mechanism, key, &encrypted).unwrap(), plain);
                    let found =
                        session.find_objects(&[Attribute::KeyType(cryptoki::object::KeyType::AES)]).unwrap();
                    assert!(found.contains(&key));
                    let attributes = session.get_attributes(key, &[AttributeType::ValueLen]).unwrap();
                    assert_eq!(attributes, [Attribute::ValueLen(32.into())]);
                }
            });
        }
    });
}
