//! X25519, X448, and agreement with cofactor.

use cryptoki_sys::*;

use super::raw::{Mechanism, OPEN, Outcome, RawSession, TRUE, ulong};
use super::{P256, P384};

const X25519: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x6e", b"\x13\x0acurve25519"];
const X448: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x6f", b"\x13\x08curve448"];

fn derive(
    session: &RawSession,
    kind: CK_MECHANISM_TYPE,
    private: CK_OBJECT_HANDLE,
    peer: &[u8],
) -> Outcome<Vec<u8>> {
    let parameter = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: std::ptr::null_mut(),
        ulPublicDataLen: peer.len() as CK_ULONG,
        pPublicData: peer.as_ptr().cast_mut(),
    };
    let key_type = ulong(CKK_GENERIC_SECRET);
    let template = [&[(CKA_KEY_TYPE, &key_type[..])], OPEN].concat();
    Ok(session.value(session.derive(Mechanism::with(kind, &parameter), private, &template)?))
}

fn montgomery_key(session: &RawSession, params: &[u8], value: &str) -> CK_OBJECT_HANDLE {
    session
        .create(&[
            (CKA_CLASS, &ulong(CKO_PRIVATE_KEY)),
            (CKA_KEY_TYPE, &ulong(CKK_EC_MONTGOMERY)),
            (CKA_EC_PARAMS, params),
            (CKA_VALUE, &hex::decode(value).unwrap()),
            (CKA_DERIVE, TRUE),
        ])
        .unwrap()
}

/// RFC 7748, sections 6.1 and 6.2.
#[test]
fn montgomery_curves_give_the_published_secrets() {
    let session = RawSession::new();
    let cases = [
        (
            X25519,
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
        (
            X448,
            concat!(
                "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28d",
                "d9c9baf574a9419744897391006382a6f127ab1d9ac2d8c0a598726b"
            ),
            concat!(
                "3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b430",
                "27d8b972fc3e34fb4232a13ca706dcb57aec3dae07bdc1c67bf33609"
            ),
            concat!(
                "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282b",
                "b60c0b56fd2464c335543936521c24403085d59a449a5037514a879d"
            ),
        ),
    ];
    for (params, private, peer, secret) in cases {
        let peer = hex::decode(peer).unwrap();
        for params in params {
            let private = montgomery_key(&session, params, private);
            let der = [&[0x04, peer.len() as u8], &peer[..]].concat();
            for peer in [&peer, &der] {
                let shared = derive(&session, CKM_ECDH1_DERIVE, private, peer).unwrap();
                assert_eq!(hex::encode(shared), secret);
            }
            for bad in [&peer[1..], &vec![0; peer.len()], &[]] {
                let refused = derive(&session, CKM_ECDH1_DERIVE, private, bad);
                assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
            }
            let refused = derive(&session, CKM_ECDH1_COFACTOR_DERIVE, private, &peer);
            assert_eq!(refused, Err(CKR_KEY_TYPE_INCONSISTENT));
        }
    }
}

#[test]
fn montgomery_keys_agree_and_do_not_sign() {
    let session = RawSession::new();
    for params in X25519.into_iter().chain(X448) {
        let pair = || {
            let generator = Mechanism::plain(CKM_EC_MONTGOMERY_KEY_PAIR_GEN);
            session.generate_key_pair(generator, &[(CKA_EC_PARAMS, params)], &[]).unwrap()
        };
        let ((public, private), (other_public, other_private)) = (pair(), pair());
        let point = |key| session.attribute(key, CKA_EC_POINT).unwrap();
        let secret = derive(&session, CKM_ECDH1_DERIVE, private, &point(other_public)).unwrap();
        assert_eq!(secret, derive(&session, CKM_ECDH1_DERIVE, other_private, &point(public)).unwrap());
        let eddsa = Mechanism::plain(CKM_EDDSA);
        assert_eq!(session.sign(eddsa, private, b"data"), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    }
    let edwards = [(CKA_EC_PARAMS, &b"\x06\x03\x2b\x65\x70"[..])];
    let generator = Mechanism::plain(CKM_EC_MONTGOMERY_KEY_PAIR_GEN);
    assert_eq!(session.generate_key_pair(generator, &edwards, &[]), Err(CKR_CURVE_NOT_SUPPORTED));
}

#[test]
fn agreement_with_cofactor_is_the_same_on_prime_curves() {
    let session = RawSession::new();
    for params in [P256, P384] {
        let generator = Mechanism::plain(CKM_EC_KEY_PAIR_GEN);
        let (public, private) =
            session.generate_key_pair(generator, &[(CKA_EC_PARAMS, params)], &[]).unwrap();
        let point = session.attribute(public, CKA_EC_POINT).unwrap();
        assert_eq!(
            derive(&session, CKM_ECDH1_COFACTOR_DERIVE, private, &point),
            derive(&session, CKM_ECDH1_DERIVE, private, &point)
        );
    }
}
