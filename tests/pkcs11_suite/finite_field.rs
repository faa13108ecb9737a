//! Diffie-Hellman and DSA.

use cryptoki_sys::*;

use super::raw::{Mechanism, OPEN, Outcome, RawSession, TRUE, Template, ulong};

/// RFC 3526, section 2: 1536 bits.
const PRIME: &str = concat!(
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd",
    "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed",
    "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f",
    "83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca237327ffffffffffffffff",
);

fn pair(
    session: &RawSession,
    prime: &[u8],
    private: Template<'_>,
) -> Outcome<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    let public = [(CKA_PRIME, prime), (CKA_BASE, &[2])];
    session.generate_key_pair(Mechanism::plain(CKM_DH_PKCS_KEY_PAIR_GEN), &public, private)
}

#[test]
fn both_sides_of_diffie_hellman_derive_the_same_key() {
    let session = RawSession::new();
    let prime = hex::decode(PRIME).unwrap();
    let (public, private) = pair(&session, &prime, &[]).unwrap();
    let (other_public, other_private) = pair(&session, &prime, &[(CKA_VALUE_BITS, &ulong(256))]).unwrap();
    assert_eq!(session.attribute(other_private, CKA_VALUE_BITS).unwrap(), ulong(256));
    assert_eq!(session.attribute(private, CKA_PRIME).unwrap(), prime);
    let (key_type, len) = (ulong(CKK_AES), ulong(32));
    let template = [&[(CKA_KEY_TYPE, &key_type[..]), (CKA_VALUE_LEN, &len)], OPEN].concat();
    let (value, other_value) = (session.value(public), session.value(other_public));
    let derive =
        |peer: &[u8], private| session.derive(Mechanism::bytes(CKM_DH_PKCS_DERIVE, peer), private, &template);
    let key = session.value(derive(&other_value, private).unwrap());
    assert_eq!(key.len(), 32);
    assert_eq!(key, session.value(derive(&value, other_private).unwrap()));
    for bad in [&[][..], &[0], &[1], &prime] {
        assert_eq!(derive(bad, private), Err(CKR_MECHANISM_PARAM_INVALID));
    }
    let [.., last] = prime[..] else { panic!("no prime") };
    let minus_one = [&prime[..prime.len() - 1], &[last - 1]].concat();
    assert_eq!(derive(&minus_one, private), Err(CKR_MECHANISM_PARAM_INVALID));
    assert_eq!(pair(&session, &prime[..8], &[]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(pair(&session, &[2; 128], &[]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(pair(&session, &prime, &[(CKA_VALUE_BITS, &ulong(8))]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
}

/// With an exponent and a public value so small that the secret is their power.
#[test]
fn diffie_hellman_gives_the_computed_secret() {
    let session = RawSession::new();
    let prime = hex::decode(PRIME).unwrap();
    // The exponent 3: the secret is the cube of the public value.
    let private = session
        .create(&[
            (CKA_CLASS, &ulong(CKO_PRIVATE_KEY)),
            (CKA_KEY_TYPE, &ulong(CKK_DH)),
            (CKA_PRIME, &prime),
            (CKA_BASE, &[2]),
            (CKA_VALUE, &[3]),
            (CKA_DERIVE, TRUE),
        ])
        .unwrap();
    let key_type = ulong(CKK_GENERIC_SECRET);
    let template = [&[(CKA_KEY_TYPE, &key_type[..])], OPEN].concat();
    let derived = session.derive(Mechanism::bytes(CKM_DH_PKCS_DERIVE, &[4]), private, &template).unwrap();
    let mut expected = vec![0; prime.len()];
    expected[prime.len() - 1] = 64;
    assert_eq!(session.value(derived), expected);
}

#[test]
fn domain_parameters_are_objects() {
    let session = RawSession::new();
    let prime = hex::decode(PRIME).unwrap();
    let created = session
        .create(&[
            (CKA_CLASS, &ulong(CKO_DOMAIN_PARAMETERS)),
            (CKA_KEY_TYPE, &ulong(CKK_DH)),
            (CKA_TOKEN, TRUE),
            (CKA_PRIME, &prime),
            (CKA_BASE, &[2]),
        ])
        .unwrap();
    assert_eq!(session.attribute(created, CKA_PRIME_BITS).unwrap(), ulong(1536));
    assert_eq!(session.attribute(created, CKA_LOCAL).unwrap(), [0]);
    let generator = Mechanism::plain(CKM_DH_PKCS_PARAMETER_GEN);
    let made = session.generate_key(generator, &[(CKA_PRIME_BITS, &ulong(512))]).unwrap();
    assert_eq!(session.attribute(made, CKA_PRIME).unwrap().len(), 64);
    assert_eq!(session.attribute(made, CKA_LOCAL).unwrap(), [1]);
    assert_eq!(session.generate_key(generator, &[]), Err(CKR_TEMPLATE_INCOMPLETE));
    assert_eq!(
        session.generate_key(generator, &[(CKA_PRIME_BITS, &ulong(1 << 20))]),
        Err(CKR_ATTRIBUTE_VALUE_INVALID)
    );
}

#[test]
fn dsa_signs_with_every_digest() {
    let session = RawSession::new();
    let generator = Mechanism::plain(CKM_DSA_PARAMETER_GEN);
    let parameters = session.generate_key(generator, &[(CKA_PRIME_BITS, &ulong(1024))]).unwrap();
    assert_eq!(session.attribute(parameters, CKA_SUBPRIME_BITS).unwrap(), ulong(160));
    let part = |kind| session.attribute(parameters, kind).unwrap();
    let (prime, subprime, base) = (part(CKA_PRIME), part(CKA_SUBPRIME), part(CKA_BASE));
    let template = [(CKA_PRIME, &prime[..]), (CKA_SUBPRIME, &subprime), (CKA_BASE, &base)];
    let (public, private) =
        session.generate_key_pair(Mechanism::plain(CKM_DSA_KEY_PAIR_GEN), &template, OPEN).unwrap();
    for kind in [CKM_DSA_SHA1, CKM_DSA_SHA224, CKM_DSA_SHA256, CKM_DSA_SHA384, CKM_DSA_SHA512] {
        let mechanism = Mechanism::plain(kind);
        session.check_signatures(mechanism, public, private, b"some data");
        let signature = session.sign_parts(mechanism, private, b"some data", 4).unwrap();
        assert_eq!(signature.len(), 40);
        session.verify(mechanism, public, b"some data", &signature).unwrap();
    }
    session.check_signatures(Mechanism::plain(CKM_DSA), public, private, &[9; 20]);
    assert_eq!(session.sign(Mechanism::plain(CKM_DSA), private, &[9; 19]), Err(CKR_DATA_LEN_RANGE));
    assert_eq!(session.sign(Mechanism::plain(CKM_ECDSA), private, &[9; 20]), Err(CKR_KEY_TYPE_INCONSISTENT));
    // Wrapped in PKCS #8, and back.
    let wrapping = session.secret(CKK_AES, &[7; 32]);
    let wrap = Mechanism::plain(CKM_AES_KEY_WRAP_KWP);
    let wrapped = session.wrap(wrap, wrapping, private).unwrap();
    let (class, key_type) = (ulong(CKO_PRIVATE_KEY), ulong(CKK_DSA));
    let back =
        session.unwrap(wrap, wrapping, &wrapped, &[(CKA_CLASS, &class), (CKA_KEY_TYPE, &key_type)]).unwrap();
    session.check_signatures(Mechanism::plain(CKM_DSA_SHA256), public, back, b"some data");
    let wrong = ulong(CKK_EC);
    assert_eq!(
        session.unwrap(wrap, wrapping, &wrapped, &[(CKA_CLASS, &class), (CKA_KEY_TYPE, &wrong)]),
        Err(CKR_WRAPPED_KEY_INVALID)
    );
}
