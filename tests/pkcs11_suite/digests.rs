//! SHA-3, SHA-512/224 and /256, MD5, and what is built on digests.

use cryptoki_sys::*;

use super::raw::{Mechanism, OPEN, RawSession, ulong};

const SHA3: [CK_MECHANISM_TYPE; 4] = [CKM_SHA3_224, CKM_SHA3_256, CKM_SHA3_384, CKM_SHA3_512];

/// RFC 1321 appendix A.5, and the examples of FIPS 180-4 and FIPS 202 with "abc".
#[test]
fn digests_are_the_published_ones() {
    let session = RawSession::new();
    for (kind, expected) in [
        (CKM_MD5, "900150983cd24fb0d6963f7d28e17f72"),
        (CKM_SHA512_224, "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa"),
        (CKM_SHA512_256, "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
        (CKM_SHA3_224, "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
        (CKM_SHA3_256, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
    ] {
        assert_eq!(hex::encode(session.digest(Mechanism::plain(kind), b"abc").unwrap()), expected);
    }
}

/// RFC 2202 and RFC 4231, test case 2; NIST's examples of HMAC with SHA-3 have no such key, but OpenSSL does.
#[test]
fn hmac_is_the_published_one() {
    let session = RawSession::new();
    let key = session.secret(CKK_GENERIC_SECRET, b"Jefe");
    let data = b"what do ya want for nothing?";
    for (kind, general, expected) in [
        (CKM_MD5_HMAC, CKM_MD5_HMAC_GENERAL, "750c783e6ab0b503eaa86e310a5db738"),
        (CKM_SHA_1_HMAC, CKM_SHA_1_HMAC_GENERAL, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (
            CKM_SHA256_HMAC,
            CKM_SHA256_HMAC_GENERAL,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            CKM_SHA3_256_HMAC,
            CKM_SHA3_256_HMAC_GENERAL,
            "c7d4072e788877ae3596bbb0da73b887c9171f93095b294ae857fbe2645e1ba5",
        ),
    ] {
        let mac = hex::encode(session.sign(Mechanism::plain(kind), key, data).unwrap());
        assert_eq!(mac, expected);
        let seven: CK_ULONG = 7;
        let mechanism = Mechanism::with(general, &seven);
        assert_eq!(hex::encode(session.sign_parts(mechanism, key, data, 5).unwrap()), expected[..14]);
        session.check_signatures(mechanism, key, key, data);
        for length in [0, expected.len() as CK_ULONG / 2 + 1] {
            let refused = session.sign(Mechanism::with(general, &length), key, data);
            assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
        }
        assert_eq!(session.sign(Mechanism::plain(general), key, data), Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

#[test]
fn hmac_keys_are_generated_for_their_digest() {
    let session = RawSession::new();
    for (generator, key_type, mac) in [
        (CKM_SHA_1_KEY_GEN, CKK_SHA_1_HMAC, CKM_SHA_1_HMAC),
        (CKM_SHA512_256_KEY_GEN, CKK_SHA512_256_HMAC, CKM_SHA512_256_HMAC),
        (CKM_SHA3_384_KEY_GEN, CKK_SHA3_384_HMAC, CKM_SHA3_384_HMAC),
    ] {
        let key = session.generate_key(Mechanism::plain(generator), &[(CKA_VALUE_LEN, &ulong(24))]).unwrap();
        assert_eq!(session.attribute(key, CKA_KEY_TYPE).unwrap(), ulong(key_type));
        session.check_signatures(Mechanism::plain(mac), key, key, b"data");
    }
}

#[test]
fn keys_sign_with_sha3_and_md5() {
    let session = RawSession::new();
    let (public, private) = session
        .generate_key_pair(
            Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN),
            &[(CKA_MODULUS_BITS, &ulong(2048))],
            &[],
        )
        .unwrap();
    for kind in [
        CKM_MD5_RSA_PKCS,
        CKM_SHA3_224_RSA_PKCS,
        CKM_SHA3_256_RSA_PKCS,
        CKM_SHA3_384_RSA_PKCS,
        CKM_SHA3_512_RSA_PKCS,
    ] {
        session.check_signatures(Mechanism::plain(kind), public, private, b"data");
    }
    let pss = [
        CKM_SHA3_224_RSA_PKCS_PSS,
        CKM_SHA3_256_RSA_PKCS_PSS,
        CKM_SHA3_384_RSA_PKCS_PSS,
        CKM_SHA3_512_RSA_PKCS_PSS,
    ];
    let mgf = [CKG_MGF1_SHA3_224, CKG_MGF1_SHA3_256, CKG_MGF1_SHA3_384, CKG_MGF1_SHA3_512];
    for ((kind, digest), mgf) in pss.into_iter().zip(SHA3).zip(mgf) {
        let parameter = CK_RSA_PKCS_PSS_PARAMS { hashAlg: digest, mgf, sLen: 28 };
        session.check_signatures(Mechanism::with(kind, &parameter), public, private, b"data");
    }
    let generator = Mechanism::plain(CKM_EC_KEY_PAIR_GEN);
    let (public, private) =
        session.generate_key_pair(generator, &[(CKA_EC_PARAMS, super::P256)], &[]).unwrap();
    for kind in [CKM_ECDSA_SHA3_224, CKM_ECDSA_SHA3_256, CKM_ECDSA_SHA3_384, CKM_ECDSA_SHA3_512] {
        session.check_signatures(Mechanism::plain(kind), public, private, b"data");
    }
}

fn oaep(digest: CK_MECHANISM_TYPE, mgf: CK_RSA_PKCS_MGF_TYPE) -> CK_RSA_PKCS_OAEP_PARAMS {
    CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: digest,
        mgf,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: std::ptr::null_mut(),
        ulSourceDataLen: 0,
    }
}

#[test]
fn rsa_wraps_keys_of_any_length_by_way_of_aes() {
    let session = RawSession::new();
    let (public, private) = session
        .generate_key_pair(
            Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN),
            &[(CKA_MODULUS_BITS, &ulong(2048))],
            &[],
        )
        .unwrap();
    let long = session.secret(CKK_GENERIC_SECRET, &[9; 1001]);
    let (class, key_type) = (ulong(CKO_SECRET_KEY), ulong(CKK_GENERIC_SECRET));
    let template = [&[(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type)], OPEN].concat();
    for (digest, mgf) in [(CKM_SHA256, CKG_MGF1_SHA256), (CKM_SHA3_256, CKG_MGF1_SHA3_256)] {
        let mut oaep = oaep(digest, mgf);
        let encrypted = session.encrypt(Mechanism::with(CKM_RSA_PKCS_OAEP, &oaep), public, b"data").unwrap();
        assert_eq!(
            session.decrypt(Mechanism::with(CKM_RSA_PKCS_OAEP, &oaep), private, &encrypted).unwrap(),
            b"data"
        );
        let parameter = CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits: 256, pOAEPParams: &raw mut oaep };
        let mechanism = Mechanism::with(CKM_RSA_AES_KEY_WRAP, &parameter);
        let wrapped = session.wrap(mechanism, public, long).unwrap();
        assert_eq!(wrapped.len(), 256 + 1008 + 8);
        let back = session.unwrap(mechanism, private, &wrapped, &template).unwrap();
        assert_eq!(session.value(back), [9; 1001]);
        let mut altered = wrapped.clone();
        altered[300] ^= 1;
        assert_eq!(session.unwrap(mechanism, private, &altered, &template), Err(CKR_WRAPPED_KEY_INVALID));
        assert_eq!(
            session.unwrap(mechanism, private, &wrapped[..200], &template),
            Err(CKR_WRAPPED_KEY_LEN_RANGE)
        );
        let other_size = CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits: 128, pOAEPParams: &raw mut oaep };
        let other_size = Mechanism::with(CKM_RSA_AES_KEY_WRAP, &other_size);
        assert_eq!(session.unwrap(other_size, private, &wrapped, &template), Err(CKR_WRAPPED_KEY_INVALID));
    }
    let nothing = CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits: 256, pOAEPParams: std::ptr::null_mut() };
    let refused = session.wrap(Mechanism::with(CKM_RSA_AES_KEY_WRAP, &nothing), public, long);
    assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
}
