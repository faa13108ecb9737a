//! Triple DES.

use cryptoki_sys::*;

use super::raw::{Mechanism, OPEN, RawSession, ulong};

const KEY: &str = "0123456789abcdef23456789abcdef01456789abcdef0123";

/// SP 800-67, appendix B.
#[test]
fn des3_gives_the_published_ciphertext() {
    let session = RawSession::new();
    let key = session.secret(CKK_DES3, &hex::decode(KEY).unwrap());
    let ecb = Mechanism::plain(CKM_DES3_ECB);
    let expected = "a826fd8ce53b855fcce21c8112256fe668d5c05dd9b6b900";
    let encrypted = session.encrypt(ecb, key, b"The qufck brown fox jump").unwrap();
    assert_eq!(hex::encode(&encrypted), expected);
    assert_eq!(session.decrypt(ecb, key, &encrypted).unwrap(), b"The qufck brown fox jump");
    assert_eq!(session.encrypt(ecb, key, b"seven b"), Err(CKR_DATA_LEN_RANGE));
    assert_eq!(
        session.encrypt(Mechanism::bytes(CKM_DES3_CBC, &[0; 16]), key, &[0; 8]),
        Err(CKR_MECHANISM_PARAM_INVALID)
    );
    assert_eq!(session.encrypt(Mechanism::plain(CKM_AES_ECB), key, &[0; 16]), Err(CKR_KEY_TYPE_INCONSISTENT));
}

#[test]
fn des_in_parts_gives_the_same_as_the_whole() {
    let session = RawSession::new();
    let iv = [7; 8];
    for generator in [CKM_DES2_KEY_GEN, CKM_DES3_KEY_GEN] {
        let key = session.generate_key(Mechanism::plain(generator), &[]).unwrap();
        let modes = [
            (Mechanism::plain(CKM_DES3_ECB), 8),
            (Mechanism::bytes(CKM_DES3_CBC, &iv), 8),
            (Mechanism::bytes(CKM_DES3_CBC_PAD, &iv), 1),
        ];
        for (mechanism, multiple) in modes {
            for len in [0usize, 1, 7, 8, 9, 16, 100] {
                let data = vec![0x5a; len.next_multiple_of(multiple)];
                let whole = session.encrypt(mechanism, key, &data).unwrap();
                for part in [1, 5, 8, 13] {
                    assert_eq!(session.encrypt_parts(mechanism, key, &data, part).unwrap(), whole);
                    assert_eq!(session.decrypt_parts(mechanism, key, &whole, part).unwrap(), data);
                }
                assert_eq!(session.decrypt(mechanism, key, &whole).unwrap(), data);
            }
        }
    }
}

#[test]
fn des_keys_have_odd_parity() {
    let session = RawSession::new();
    let odd = |key: &[u8]| key.iter().all(|byte| byte.count_ones() % 2 == 1);
    for (generator, bytes) in [(CKM_DES2_KEY_GEN, 16), (CKM_DES3_KEY_GEN, 24)] {
        let value = session.value(session.generate_key(Mechanism::plain(generator), OPEN).unwrap());
        assert_eq!(value.len(), bytes);
        assert!(odd(&value));
    }
    let template = |key_type: u64, value: &[u8]| {
        session.create(&[
            (CKA_CLASS, &ulong(CKO_SECRET_KEY)),
            (CKA_KEY_TYPE, &ulong(key_type)),
            (CKA_VALUE, value),
        ])
    };
    assert_eq!(template(CKK_DES3, &[0; 24]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(template(CKK_DES2, &[1; 24]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    // A derived key is given its parity.
    let base = session.secret(CKK_DES3, &hex::decode(KEY).unwrap());
    let data = [1; 24];
    let text = CK_KEY_DERIVATION_STRING_DATA { pData: data.as_ptr().cast_mut(), ulLen: 24 };
    let mechanism = Mechanism::with(CKM_DES3_ECB_ENCRYPT_DATA, &text);
    let derived =
        session.derive(mechanism, base, &[&[(CKA_KEY_TYPE, &ulong(CKK_DES3)[..])], OPEN].concat()).unwrap();
    let value = session.value(derived);
    assert!(odd(&value));
    let encrypted = session.encrypt(Mechanism::plain(CKM_DES3_ECB), base, &data).unwrap();
    assert!(value.iter().zip(&encrypted).all(|(key, byte)| (key ^ byte) & 0xfe == 0));
}

/// SP 800-38B, appendix D.4, examples 13 and 14.
#[test]
fn des_gives_the_published_mac() {
    let session = RawSession::new();
    let value = hex::decode("8aa83bf8cbda10620bc1bf19fbb6cd58bc313d4a371ca8b5").unwrap();
    let key = session.secret(CKK_DES3, &value);
    let cmac = Mechanism::plain(CKM_DES3_CMAC);
    let block = hex::decode("6bc1bee22e409f96").unwrap();
    assert_eq!(hex::encode(session.sign(cmac, key, &[]).unwrap()), "b7a688e122ffaf95");
    assert_eq!(hex::encode(session.sign(cmac, key, &block).unwrap()), "8e8f293136283797");
    assert_eq!(hex::encode(session.sign_parts(cmac, key, &block, 3).unwrap()), "8e8f293136283797");
    let five: CK_ULONG = 5;
    let general = Mechanism::with(CKM_DES3_CMAC_GENERAL, &five);
    assert_eq!(hex::encode(session.sign(general, key, &block).unwrap()), "8e8f293136");
    for mechanism in [cmac, general, Mechanism::plain(CKM_DES3_MAC)] {
        session.check_signatures(mechanism, key, key, b"some data");
    }
    let nine: CK_ULONG = 9;
    let general = Mechanism::with(CKM_DES3_MAC_GENERAL, &nine);
    assert_eq!(session.sign(general, key, &block), Err(CKR_MECHANISM_PARAM_INVALID));
}

#[test]
fn keys_are_wrapped_with_des() {
    let session = RawSession::new();
    let wrapping = session.secret(CKK_DES3, &hex::decode(KEY).unwrap());
    let key = session.secret(CKK_GENERIC_SECRET, b"thirteen byte");
    let mechanism = Mechanism::bytes(CKM_DES3_CBC_PAD, &[3; 8]);
    let wrapped = session.wrap(mechanism, wrapping, key).unwrap();
    assert_eq!(wrapped.len(), 16);
    let (class, key_type) = (ulong(CKO_SECRET_KEY), ulong(CKK_GENERIC_SECRET));
    let template = [&[(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type)], OPEN].concat();
    let back = session.unwrap(mechanism, wrapping, &wrapped, &template).unwrap();
    assert_eq!(session.value(back), b"thirteen byte");
    assert_eq!(session.unwrap(mechanism, wrapping, &wrapped[..8], &template), Err(CKR_WRAPPED_KEY_INVALID));
}
