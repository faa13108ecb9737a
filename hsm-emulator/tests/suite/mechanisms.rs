//! What a unit does with PKCS #11 keys, checked against published vectors and against OpenSSL.

use crate::common::unit;
use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Attributes, CryptoUnit, KeyBlob};
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::PKey;

const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

fn hex(digits: &str) -> Vec<u8> {
    hex::decode(digits).expect("hex")
}

fn aes(unit: &CryptoUnit, value: &[u8]) -> KeyBlob {
    let template = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_AES)
        .with_bool(CKA_SENSITIVE, false)
        .with_bool(CKA_EXTRACTABLE, true)
        .with(CKA_VALUE, value);
    unit.create_object(&template).expect("AES key")
}

fn with_iv(kind: u64, iv: &[u8]) -> Mechanism {
    Mechanism { kind, parameter: Parameter::Bytes(iv.to_vec()) }
}

fn rsa(unit: &CryptoUnit, bits: u64) -> (KeyBlob, KeyBlob) {
    let public = Attributes::new().with_ulong(CKA_MODULUS_BITS, bits);
    unit.generate_key_pair(&Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN), &public, &Attributes::new())
        .expect("RSA")
}

fn ec(unit: &CryptoUnit, curve: &[u8], private: &Attributes) -> (KeyBlob, KeyBlob) {
    let public = Attributes::new().with(CKA_EC_PARAMS, curve);
    unit.generate_key_pair(&Mechanism::plain(CKM_EC_KEY_PAIR_GEN), &public, private).expect("EC")
}

fn code<T: std::fmt::Debug>(outcome: Result<T, hsm_emulator::units::Error>) -> u64 {
    outcome.expect_err("must be refused").code
}

/// SP 800-38A F.1.1, F.2.1 and F.5.1; SP 800-38D test cases 3 and 4 of the original GCM paper.
#[test]
fn aes_modes_give_the_published_ciphertexts() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let key = aes(&unit, &hex("2b7e151628aed2a6abf7158809cf4f3c"));
    let plaintext = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    let ctr = Parameter::Ctr {
        counter_bits: 128,
        counter_block: hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().expect("16 bytes"),
    };
    let cases = [
        (Mechanism::plain(CKM_AES_ECB), "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf"),
        (
            with_iv(CKM_AES_CBC, &hex("000102030405060708090a0b0c0d0e0f")),
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
        ),
        (
            Mechanism { kind: CKM_AES_CTR, parameter: ctr },
            "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
        ),
    ];
    for (mechanism, expected) in cases {
        let ciphertext = unit.encrypt(&mechanism, &key, &plaintext).expect("encrypt");
        assert_eq!(hex::encode(&ciphertext), expected, "{mechanism:?}");
        assert_eq!(*unit.decrypt(&mechanism, &key, &ciphertext).expect("decrypt"), plaintext);
    }
    let key = aes(&unit, &hex("feffe9928665731c6d6a8f9467308308"));
    let gcm = |aad: &str, tag_bits| Mechanism {
        kind: CKM_AES_GCM,
        parameter: Parameter::Gcm { iv: hex("cafebabefacedbaddecaf888"), aad: hex(aad), tag_bits },
    };
    let plaintext = hex(concat!(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    ));
    let mechanism = gcm("feedfacedeadbeeffeedfacedeadbeefabaddad2", 128);
    let ciphertext = unit.encrypt(&mechanism, &key, &plaintext).expect("encrypt");
    assert_eq!(
        hex::encode(&ciphertext),
        concat!(
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e",
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            "5bc94fbc3221a5db94fae95ae7121a47"
        )
    );
    assert_eq!(*unit.decrypt(&mechanism, &key, &ciphertext).expect("decrypt"), plaintext);
    for position in 0..ciphertext.len() {
        let mut altered = ciphertext.clone();
        altered[position] ^= 1;
        assert_eq!(code(unit.decrypt(&mechanism, &key, &altered)), CKR_ENCRYPTED_DATA_INVALID);
    }
    assert_eq!(code(unit.decrypt(&gcm("", 128), &key, &ciphertext)), CKR_ENCRYPTED_DATA_INVALID);
    let short_tag = unit.encrypt(&gcm("", 96), &key, b"").expect("encrypt");
    assert_eq!(short_tag.len(), 12);
    assert_eq!(code(unit.encrypt(&gcm("", 136), &key, b"")), CKR_MECHANISM_PARAM_INVALID);
}

#[test]
fn cbc_pad_refuses_bad_lengths_and_bad_padding() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let key = aes(&unit, &[1; 32]);
    let mechanism = with_iv(CKM_AES_CBC_PAD, &[0; 16]);
    for len in [0, 1, 15, 16, 17, 1000] {
        let ciphertext = unit.encrypt(&mechanism, &key, &vec![7; len]).expect("encrypt");
        assert_eq!(ciphertext.len(), (len / 16 + 1) * 16);
        assert_eq!(*unit.decrypt(&mechanism, &key, &ciphertext).expect("decrypt"), vec![7; len]);
    }
    assert_eq!(code(unit.decrypt(&mechanism, &key, &[0; 15])), CKR_ENCRYPTED_DATA_LEN_RANGE);
    assert_eq!(code(unit.decrypt(&mechanism, &key, &[])), CKR_ENCRYPTED_DATA_LEN_RANGE);
    assert_eq!(code(unit.encrypt(&with_iv(CKM_AES_CBC, &[0; 16]), &key, &[0; 15])), CKR_DATA_LEN_RANGE);
    assert_eq!(
        code(unit.encrypt(&with_iv(CKM_AES_CBC_PAD, &[0; 8]), &key, b"x")),
        CKR_MECHANISM_PARAM_INVALID
    );
    assert_eq!(code(unit.encrypt(&Mechanism::plain(CKM_RSA_PKCS), &key, b"x")), CKR_MECHANISM_INVALID);
}

/// RFC 3394 section 4.6 and RFC 5649 section 6.
#[test]
fn key_wrap_gives_the_published_ciphertexts() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let kek = aes(&unit, &hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"));
    let key = aes(&unit, &hex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"));
    let mechanism = Mechanism::plain(CKM_AES_KEY_WRAP);
    let wrapped = unit.wrap_key(&mechanism, &kek, &key).expect("wrap");
    assert_eq!(
        hex::encode(&wrapped),
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    );
    let template = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_AES)
        .with_bool(CKA_SENSITIVE, false)
        .with_bool(CKA_EXTRACTABLE, true);
    let unwrapped = unit.unwrap_key(&mechanism, &kek, &wrapped, &template).expect("unwrap");
    let value = |blob| unit.attribute(blob, CKA_VALUE).expect("value");
    assert_eq!(value(&unwrapped), value(&key));
    let attributes = unwrapped.attributes().expect("attributes");
    assert_eq!(attributes.bool(CKA_LOCAL), Some(false));
    assert_eq!(attributes.bool(CKA_NEVER_EXTRACTABLE), Some(false));

    let kek = aes(&unit, &hex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"));
    let generic = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
        .with_bool(CKA_EXTRACTABLE, true)
        .with(CKA_VALUE, hex("466f7250617369"));
    let key = unit.create_object(&generic).expect("generic secret");
    let wrapped = unit.wrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_KWP), &kek, &key).expect("wrap");
    assert_eq!(hex::encode(&wrapped), "afbeb0f07dfbf5419200f2ccb50bb24f");
    for position in 0..wrapped.len() {
        let mut altered = wrapped.clone();
        altered[position] ^= 1;
        let outcome = unit.unwrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_KWP), &kek, &altered, &template);
        assert_eq!(code(outcome), CKR_WRAPPED_KEY_INVALID);
    }
}

#[test]
fn private_keys_travel_wrapped_and_come_back_the_same() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let kek = aes(&unit, &[9; 32]);
    let extractable = Attributes::new().with_bool(CKA_EXTRACTABLE, true);
    let (public, private) = ec(&unit, P384, &extractable);
    let wrapped = unit.wrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_PAD), &kek, &private).expect("wrap");
    let template = Attributes::new().with_ulong(CKA_CLASS, CKO_PRIVATE_KEY).with_ulong(CKA_KEY_TYPE, CKK_EC);
    let back =
        unit.unwrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_PAD), &kek, &wrapped, &template).expect("unwrap");
    let signature = unit.sign(&Mechanism::plain(CKM_ECDSA_SHA384), &back, b"data").expect("sign");
    unit.verify(&Mechanism::plain(CKM_ECDSA_SHA384), &public, b"data", &signature).expect("verify");
    let wrong = Attributes::new().with_ulong(CKA_CLASS, CKO_PRIVATE_KEY).with_ulong(CKA_KEY_TYPE, CKK_RSA);
    let outcome = unit.unwrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_PAD), &kek, &wrapped, &wrong);
    assert_eq!(code(outcome), CKR_WRAPPED_KEY_INVALID);

    let (_, unextractable) = ec(&unit, P256, &Attributes::new());
    let outcome = unit.wrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_PAD), &kek, &unextractable);
    assert_eq!(code(outcome), CKR_KEY_UNEXTRACTABLE);
    assert_eq!(code(unit.attribute(&unextractable, CKA_VALUE)), CKR_ATTRIBUTE_SENSITIVE);
}

#[test]
fn openssl_verifies_what_a_unit_signs() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let (public, private) = rsa(&unit, 2048);
    let attributes = public.attributes().expect("attributes");
    let number = |kind| openssl::bn::BigNum::from_slice(attributes.get(kind).expect("part")).expect("number");
    let key = openssl::rsa::Rsa::from_public_components(number(CKA_MODULUS), number(CKA_PUBLIC_EXPONENT));
    let key = PKey::from_rsa(key.expect("RSA")).expect("key");
    for (mechanism, digest) in [
        (CKM_SHA1_RSA_PKCS, MessageDigest::sha1()),
        (CKM_SHA224_RSA_PKCS, MessageDigest::sha224()),
        (CKM_SHA256_RSA_PKCS, MessageDigest::sha256()),
        (CKM_SHA384_RSA_PKCS, MessageDigest::sha384()),
        (CKM_SHA512_RSA_PKCS, MessageDigest::sha512()),
    ] {
        let signature = unit.sign(&Mechanism::plain(mechanism), &private, b"data").expect("sign");
        let mut verifier = openssl::sign::Verifier::new(digest, &key).expect("verifier");
        assert!(verifier.verify_oneshot(&signature, b"data").expect("verify"), "{mechanism:#x}");
        unit.verify(&Mechanism::plain(mechanism), &public, b"data", &signature).expect("verify");
        let outcome = unit.verify(&Mechanism::plain(mechanism), &public, b"Data", &signature);
        assert_eq!(code(outcome), CKR_SIGNATURE_INVALID);
        let outcome = unit.verify(&Mechanism::plain(mechanism), &public, b"data", &signature[1..]);
        assert_eq!(code(outcome), CKR_SIGNATURE_LEN_RANGE);
    }
    for curve in [P256, P384, P521] {
        let (public, private) = ec(&unit, curve, &Attributes::new());
        let digest = hash(MessageDigest::sha256(), b"data").expect("hash");
        let signature = unit.sign(&Mechanism::plain(CKM_ECDSA), &private, &digest).expect("sign");
        let key =
            hsm_emulator::units::mechanism::asymmetric::public_key(&public.attributes().expect("attributes"));
        let key = key.expect("key").ec_key().expect("EC");
        let (r, s) = signature.split_at(signature.len() / 2);
        let number = |bytes| openssl::bn::BigNum::from_slice(bytes).expect("number");
        let parsed =
            openssl::ecdsa::EcdsaSig::from_private_components(number(r), number(s)).expect("signature");
        assert!(parsed.verify(&digest, &key).expect("verify"));
        unit.verify(&Mechanism::plain(CKM_ECDSA_SHA256), &public, b"data", &signature).expect("verify");
        assert_eq!(
            code(unit.sign(&Mechanism::plain(CKM_SHA256_RSA_PKCS), &private, b"x")),
            CKR_KEY_TYPE_INCONSISTENT
        );
    }
}

#[test]
fn pss_and_oaep_round_trip_and_refuse_wrong_parameters() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let (public, private) = rsa(&unit, 2048);
    let pss = |mgf, salt_len| Mechanism {
        kind: CKM_SHA256_RSA_PKCS_PSS,
        parameter: Parameter::Pss { digest: CKM_SHA256, mgf, salt_len },
    };
    let signature = unit.sign(&pss(CKG_MGF1_SHA256, 32), &private, b"data").expect("sign");
    unit.verify(&pss(CKG_MGF1_SHA256, 32), &public, b"data", &signature).expect("verify");
    for wrong in [pss(CKG_MGF1_SHA256, 20), pss(CKG_MGF1_SHA1, 32)] {
        assert_eq!(code(unit.verify(&wrong, &public, b"data", &signature)), CKR_SIGNATURE_INVALID);
    }
    assert_eq!(code(unit.sign(&pss(99, 32), &private, b"data")), CKR_MECHANISM_PARAM_INVALID);
    for digest in [(CKM_SHA_1, CKG_MGF1_SHA1), (CKM_SHA256, CKG_MGF1_SHA256), (CKM_SHA512, CKG_MGF1_SHA512)] {
        let oaep = |label: &[u8]| Mechanism {
            kind: CKM_RSA_PKCS_OAEP,
            parameter: Parameter::Oaep { digest: digest.0, mgf: digest.1, label: label.to_vec() },
        };
        let ciphertext = unit.encrypt(&oaep(b"label"), &public, b"secret").expect("encrypt");
        assert_eq!(
            unit.decrypt(&oaep(b"label"), &private, &ciphertext).expect("decrypt").as_slice(),
            b"secret"
        );
        assert_eq!(code(unit.decrypt(&oaep(b""), &private, &ciphertext)), CKR_ENCRYPTED_DATA_INVALID);
        assert_eq!(code(unit.encrypt(&oaep(b""), &public, &[0; 250])), CKR_DATA_LEN_RANGE);
    }
    // A PKCS #1 v1.5 ciphertext with broken padding must not be told from a good one.
    let ciphertext = unit.encrypt(&Mechanism::plain(CKM_RSA_PKCS), &public, b"secret").expect("encrypt");
    assert_eq!(
        unit.decrypt(&Mechanism::plain(CKM_RSA_PKCS), &private, &ciphertext).expect("decrypt").as_slice(),
        b"secret"
    );
    let mut altered = ciphertext;
    altered[100] ^= 1;
    let garbage =
        unit.decrypt(&Mechanism::plain(CKM_RSA_PKCS), &private, &altered).expect("implicit rejection");
    assert_ne!(garbage.as_slice(), b"secret");
}

#[test]
fn ecdh_gives_both_sides_the_same_key() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let ((public_a, private_a), (public_b, private_b)) =
        (ec(&unit, P256, &Attributes::new()), ec(&unit, P256, &Attributes::new()));
    let point =
        |blob: &KeyBlob| blob.attributes().expect("attributes").get(CKA_EC_POINT).expect("point").to_vec();
    let template = Attributes::new()
        .with_ulong(CKA_KEY_TYPE, CKK_AES)
        .with_ulong(CKA_VALUE_LEN, 32)
        .with_bool(CKA_SENSITIVE, false)
        .with_bool(CKA_EXTRACTABLE, true);
    for kdf in [CKD_NULL, CKD_SHA1_KDF, CKD_SHA256_KDF, CKD_SHA512_KDF] {
        let derive = |private: &KeyBlob, peer: Vec<u8>| {
            let parameter = Parameter::Ecdh1 { kdf, shared_data: Vec::new(), public_data: peer };
            let mechanism = Mechanism { kind: CKM_ECDH1_DERIVE, parameter };
            let key = unit.derive_key(&mechanism, private, &template).expect("derive");
            unit.attribute(&key, CKA_VALUE).expect("value")
        };
        let raw = point(&public_b)[2..].to_vec();
        assert_eq!(derive(&private_a, raw), derive(&private_b, point(&public_a)));
    }
    // A shorter key is the trailing end of the secret (v3.1 section 6.3.20).
    let derive = |len| {
        let parameter =
            Parameter::Ecdh1 { kdf: CKD_NULL, shared_data: Vec::new(), public_data: point(&public_b) };
        let template = template.clone().with_ulong(CKA_VALUE_LEN, len);
        let key = unit.derive_key(&Mechanism { kind: CKM_ECDH1_DERIVE, parameter }, &private_a, &template);
        unit.attribute(&key.expect("derive"), CKA_VALUE).expect("value").to_vec()
    };
    assert_eq!(derive(16), derive(32)[16..]);
    let parameter = Parameter::Ecdh1 { kdf: CKD_NULL, shared_data: Vec::new(), public_data: vec![4; 65] };
    let outcome = unit.derive_key(&Mechanism { kind: CKM_ECDH1_DERIVE, parameter }, &private_a, &template);
    assert_eq!(code(outcome), CKR_MECHANISM_PARAM_INVALID);
}

/// A raw point whose second byte equals the number of bytes after it looks like a DER OCTET STRING.
#[test]
fn a_raw_point_that_looks_like_der_is_taken_for_what_it_is() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let raw = loop {
        let (public, _) = ec(&unit, P256, &Attributes::new());
        let point = public.attributes().expect("attributes").get(CKA_EC_POINT).expect("point")[2..].to_vec();
        if point[1] == 63 {
            break point;
        }
    };
    let template = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_EC)
        .with(CKA_EC_PARAMS, P256)
        .with(CKA_EC_POINT, raw.clone());
    let key = unit.create_object(&template).expect("public key").attributes().expect("attributes");
    assert_eq!(key.get(CKA_EC_POINT).expect("point")[2..], raw);
}

#[test]
fn values_that_are_no_keys_are_refused_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let scalar = |value: Vec<u8>| {
        Attributes::new()
            .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_EC)
            .with(CKA_EC_PARAMS, P256)
            .with(CKA_VALUE, value)
    };
    for value in [vec![0; 32], vec![0xff; 32], vec![0xff; 100]] {
        assert_eq!(code(unit.create_object(&scalar(value))), CKR_ATTRIBUTE_VALUE_INVALID);
    }
    // Testing a number of a million digits for primality would take for ever.
    let parts =
        [CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_COEFFICIENT];
    let mut rsa = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_RSA)
        .with(CKA_MODULUS, vec![0xff; 256])
        .with(CKA_PUBLIC_EXPONENT, [1, 0, 1]);
    for part in parts {
        rsa.set(part, vec![0xff; 1 << 20]);
    }
    assert_eq!(code(unit.create_object(&rsa)), CKR_ATTRIBUTE_VALUE_INVALID);
}

#[test]
fn a_counter_never_wraps() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let key = aes(&unit, &[1; 16]);
    let mut counter_block = [0; 16];
    counter_block[15] = 0xfe;
    let mechanism =
        Mechanism { kind: CKM_AES_CTR, parameter: Parameter::Ctr { counter_bits: 8, counter_block } };
    unit.encrypt(&mechanism, &key, &[0; 32]).expect("two blocks are left");
    assert_eq!(code(unit.encrypt(&mechanism, &key, &[0; 33])), CKR_DATA_LEN_RANGE);
}

/// RFC 4231 test case 2.
#[test]
fn hmac_gives_the_published_mac() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let template = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
        .with(CKA_VALUE, *b"Jefe");
    let key = unit.create_object(&template).expect("key");
    let mechanism = Mechanism::plain(CKM_SHA256_HMAC);
    let mac = unit.sign(&mechanism, &key, b"what do ya want for nothing?").expect("sign");
    assert_eq!(hex::encode(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    unit.verify(&mechanism, &key, b"what do ya want for nothing?", &mac).expect("verify");
    assert_eq!(code(unit.verify(&mechanism, &key, b"else", &mac)), CKR_SIGNATURE_INVALID);
}

/// FIPS 113: half of the last block of the CBC over the data, filled up with zeros.
#[test]
fn aes_mac_is_the_end_of_the_cbc() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let template = Attributes::new().with_ulong(CKA_VALUE_LEN, 32);
    let key = unit.generate_key(&Mechanism::plain(CKM_AES_KEY_GEN), &template).expect("key");
    let cbc = Mechanism { kind: CKM_AES_CBC, parameter: Parameter::Bytes(vec![0; 16]) };
    for len in [0, 1, 16, 20] {
        let data = vec![7; len];
        let mut padded = data.clone();
        padded.resize(len.max(1).next_multiple_of(16), 0);
        let encrypted = unit.encrypt(&cbc, &key, &padded).expect("encrypt");
        let mac = unit.sign(&Mechanism::plain(CKM_AES_MAC), &key, &data).expect("sign");
        assert_eq!(mac, encrypted[padded.len() - 16..][..8]);
        unit.verify(&Mechanism::plain(CKM_AES_MAC), &key, &data, &mac).expect("verify");
    }
    let hmac = Mechanism::plain(CKM_SHA256_HMAC);
    assert_eq!(code(unit.sign(&hmac, &key, b"data")), CKR_KEY_TYPE_INCONSISTENT);
    assert_eq!(code(unit.verify(&hmac, &key, b"data", &[0; 32])), CKR_KEY_TYPE_INCONSISTENT);
}

#[test]
fn keys_are_derived_by_encrypting_data() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let template = Attributes::new().with_ulong(CKA_VALUE_LEN, 16).with_bool(CKA_DERIVE, true);
    let base = unit.generate_key(&Mechanism::plain(CKM_AES_KEY_GEN), &template).expect("key");
    let shown = Attributes::new().with_bool(CKA_SENSITIVE, false).with_bool(CKA_EXTRACTABLE, true);
    let ecb = |data: &[u8]| Mechanism {
        kind: CKM_AES_ECB_ENCRYPT_DATA,
        parameter: Parameter::Bytes(data.to_vec()),
    };
    // Without a type it is a generic secret, and without a length all of it.
    let derived = unit.derive_key(&ecb(&[3; 48]), &base, &shown).expect("derive");
    let expected = unit.encrypt(&Mechanism::plain(CKM_AES_ECB), &base, &[3; 48]).expect("encrypt");
    assert_eq!(unit.attribute(&derived, CKA_VALUE).expect("value").as_slice(), expected);
    let attributes = derived.attributes().expect("attributes");
    assert_eq!(attributes.ulong(CKA_KEY_TYPE), Some(CKK_GENERIC_SECRET));
    for data in [&[][..], &[3; 15], &[3; 17]] {
        assert_eq!(code(unit.derive_key(&ecb(data), &base, &shown)), CKR_MECHANISM_PARAM_INVALID);
    }
    let forbidden = unit.generate_key(
        &Mechanism::plain(CKM_AES_KEY_GEN),
        &Attributes::new().with_ulong(CKA_VALUE_LEN, 16).with_bool(CKA_DERIVE, false),
    );
    let unknown = unit.derive_key(&Mechanism::plain(CKM_AES_ECB), &base, &Attributes::new());
    assert_eq!(code(unknown), CKR_MECHANISM_INVALID);
    let refused = unit.derive_key(&ecb(&[3; 16]), &forbidden.expect("key"), &shown);
    assert_eq!(code(refused), CKR_KEY_FUNCTION_NOT_PERMITTED);
}

/// `CK_EDDSA_PARAMS` that say nothing are as good as none for Ed448, and no others are taken.
#[test]
fn eddsa_takes_no_context() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let context = |bytes: &[u8]| Mechanism { kind: CKM_EDDSA, parameter: Parameter::Bytes(bytes.to_vec()) };
    for (curve, empty_is_good) in [(b"\x06\x03\x2b\x65\x71", true), (b"\x06\x03\x2b\x65\x70", false)] {
        let params = Attributes::new().with(CKA_EC_PARAMS, *curve);
        let generate = Mechanism::plain(CKM_EC_EDWARDS_KEY_PAIR_GEN);
        let (public, private) =
            unit.generate_key_pair(&generate, &params, &Attributes::new()).expect("key pair");
        let signature = unit.sign(&Mechanism::plain(CKM_EDDSA), &private, b"data").expect("sign");
        assert_eq!(unit.verify(&context(b""), &public, b"data", &signature).is_ok(), empty_is_good);
        assert_eq!(unit.sign(&context(b""), &private, b"data").is_ok(), empty_is_good);
        let refused = unit.verify(&context(b"context"), &public, b"data", &signature);
        assert_eq!(code(refused), CKR_MECHANISM_PARAM_INVALID);
    }
}

#[test]
fn attributes_follow_the_standard() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let generated = unit
        .generate_key(&Mechanism::plain(CKM_AES_KEY_GEN), &Attributes::new().with_ulong(CKA_VALUE_LEN, 32))
        .expect("generate")
        .attributes()
        .expect("attributes");
    for (kind, expected) in [
        (CKA_LOCAL, true),
        (CKA_PRIVATE, true),
        (CKA_SENSITIVE, true),
        (CKA_ALWAYS_SENSITIVE, true),
        (CKA_EXTRACTABLE, false),
        (CKA_NEVER_EXTRACTABLE, true),
        (CKA_ENCRYPT, true),
        (CKA_TOKEN, false),
    ] {
        assert_eq!(generated.bool(kind), Some(expected), "{kind:#x}");
    }
    assert!(!generated.contains(CKA_VALUE));
    let generate = |template: Attributes| unit.generate_key(&Mechanism::plain(CKM_AES_KEY_GEN), &template);
    let len = |len| Attributes::new().with_ulong(CKA_VALUE_LEN, len);
    assert_eq!(code(generate(Attributes::new())), CKR_TEMPLATE_INCOMPLETE);
    assert_eq!(code(generate(len(17))), CKR_KEY_SIZE_RANGE);
    assert_eq!(code(generate(len(32).with_bool(CKA_LOCAL, true))), CKR_ATTRIBUTE_READ_ONLY);
    assert_eq!(code(generate(len(32).with(CKA_SENSITIVE, [2]))), CKR_ATTRIBUTE_VALUE_INVALID);
    assert_eq!(code(generate(len(32).with_ulong(CKA_MODULUS_BITS, 1))), CKR_ATTRIBUTE_TYPE_INVALID);
    assert_eq!(code(generate(len(32).with_ulong(CKA_CLASS, CKO_PUBLIC_KEY))), CKR_TEMPLATE_INCONSISTENT);

    let key = aes(&unit, &[1; 16]);
    let change = |key: &KeyBlob, kind, value| {
        unit.change_object(key, &Attributes::new().with_bool(kind, value), false)
    };
    let locked = change(&key, CKA_EXTRACTABLE, false).expect("lock");
    assert_eq!(code(change(&locked, CKA_EXTRACTABLE, true)), CKR_ATTRIBUTE_READ_ONLY);
    let sensitive = change(&key, CKA_SENSITIVE, true).expect("make sensitive");
    assert_eq!(code(change(&sensitive, CKA_SENSITIVE, false)), CKR_ATTRIBUTE_READ_ONLY);
    let no_encrypt = change(&key, CKA_ENCRYPT, false).expect("change");
    let outcome = unit.encrypt(&Mechanism::plain(CKM_AES_ECB), &no_encrypt, &[0; 16]);
    assert_eq!(code(outcome), CKR_KEY_FUNCTION_NOT_PERMITTED);
    let frozen =
        unit.change_object(&key, &Attributes::new().with_bool(CKA_MODIFIABLE, false), true).expect("copy");
    assert_eq!(code(change(&frozen, CKA_ENCRYPT, false)), CKR_ACTION_PROHIBITED);
    let only_gcm = unit.create_object(
        &Attributes::new()
            .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_AES)
            .with(CKA_VALUE, [1; 16])
            .with(CKA_ALLOWED_MECHANISMS, CKM_AES_GCM.to_le_bytes()),
    );
    let outcome = unit.encrypt(&Mechanism::plain(CKM_AES_ECB), &only_gcm.expect("create"), &[0; 16]);
    assert_eq!(code(outcome), CKR_MECHANISM_INVALID);
}

#[test]
fn a_root_key_is_no_pkcs11_key_and_the_other_way_round() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let root_key = unit.create_root_key(b"id", None).expect("root key");
    let ecb = Mechanism::plain(CKM_AES_ECB);
    assert_eq!(code(unit.encrypt(&ecb, &root_key, &[0; 16])), CKR_KEY_FUNCTION_NOT_PERMITTED);
    assert_eq!(code(unit.attribute(&root_key, CKA_VALUE)), CKR_OBJECT_HANDLE_INVALID);
    let changes = Attributes::new().with_bool(CKA_ENCRYPT, true);
    assert_eq!(code(unit.change_object(&root_key, &changes, false)), CKR_OBJECT_HANDLE_INVALID);
    let key = aes(&unit, &[1; 32]);
    assert_eq!(code(unit.wrap_data_key(&key, b"id", &[], b"data key")), CKR_KEY_TYPE_INCONSISTENT);
    assert_eq!(code(unit.wrap_data_key(&root_key, b"other id", &[], b"data key")), CKR_KEY_TYPE_INCONSISTENT);
}

/// RFC 8032 section 7.1, test 3.
#[test]
fn ed25519_gives_the_published_signature() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let eddsa = Mechanism::plain(CKM_EDDSA);
    let value = hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
    let point = hex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
    let common = |class| {
        Attributes::new()
            .with_ulong(CKA_CLASS, class)
            .with_ulong(CKA_KEY_TYPE, CKK_EC_EDWARDS)
            .with(CKA_EC_PARAMS, [0x06, 0x03, 0x2b, 0x65, 0x70])
    };
    let private = common(CKO_PRIVATE_KEY).with_bool(CKA_EXTRACTABLE, true).with(CKA_VALUE, value.as_slice());
    let private = unit.create_object(&private).expect("private key");
    let signature = unit.sign(&eddsa, &private, &[0xaf, 0x82]).expect("sign");
    assert_eq!(
        hex::encode(&signature),
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
         18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    );
    // The point as the standard has it, and raw.
    for point in [[&[0x04, 0x20], point.as_slice()].concat(), point] {
        let public =
            unit.create_object(&common(CKO_PUBLIC_KEY).with(CKA_EC_POINT, point)).expect("public key");
        unit.verify(&eddsa, &public, &[0xaf, 0x82], &signature).expect("verify");
        assert_eq!(code(unit.verify(&eddsa, &public, &[0xaf], &signature)), CKR_SIGNATURE_INVALID);
        let short = &signature[1..];
        assert_eq!(code(unit.verify(&eddsa, &public, &[0xaf], short)), CKR_SIGNATURE_LEN_RANGE);
        assert_eq!(
            code(unit.verify(&Mechanism::plain(CKM_ECDSA), &public, &[0], &signature)),
            CKR_KEY_TYPE_INCONSISTENT
        );
    }
    // Wrapped and unwrapped, it is the same key.
    let wrapping = aes(&unit, &[7; 32]);
    let wrapped = unit.wrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_KWP), &wrapping, &private).expect("wrap");
    let template = common(CKO_PRIVATE_KEY);
    let again = unit.unwrap_key(&Mechanism::plain(CKM_AES_KEY_WRAP_KWP), &wrapping, &wrapped, &template);
    assert_eq!(unit.sign(&eddsa, &again.expect("unwrap"), &[0xaf, 0x82]).expect("sign"), signature);
    // Another curve's name, and Ed25519ctx.
    let wrong = common(CKO_PRIVATE_KEY).with(CKA_EC_PARAMS, P256).with(CKA_VALUE, [1; 32]);
    assert_eq!(code(unit.create_object(&wrong)), CKR_CURVE_NOT_SUPPORTED);
    let context = Mechanism { kind: CKM_EDDSA, parameter: Parameter::Bytes(vec![1]) };
    assert_eq!(code(unit.sign(&context, &private, b"")), CKR_MECHANISM_PARAM_INVALID);
}

fn post_quantum_pair(unit: &CryptoUnit, generator: u64, set: u64) -> (KeyBlob, KeyBlob) {
    let public = Attributes::new().with_ulong(CKA_PARAMETER_SET, set);
    unit.generate_key_pair(&Mechanism::plain(generator), &public, &Attributes::new()).expect("key pair")
}

/// Keys by OpenSSL, encapsulation by AWS-LC.
#[test]
fn ml_kem_gives_both_sides_the_same_key() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    let mechanism = Mechanism::plain(CKM_ML_KEM);
    let template = |len| {
        Attributes::new()
            .with_ulong(CKA_KEY_TYPE, CKK_AES)
            .with_ulong(CKA_VALUE_LEN, len)
            .with_bool(CKA_SENSITIVE, false)
            .with_bool(CKA_EXTRACTABLE, true)
    };
    let value = |blob: &KeyBlob| unit.attribute(blob, CKA_VALUE).expect("value");
    for (set, bytes) in [(CKP_ML_KEM_512, 768), (CKP_ML_KEM_768, 1088), (CKP_ML_KEM_1024, 1568)] {
        let (public, private) = post_quantum_pair(&unit, CKM_ML_KEM_KEY_PAIR_GEN, set);
        for len in [16, 32] {
            let (encapsulated, key) =
                unit.encapsulate_key(&mechanism, &public, &template(len)).expect("encapsulate");
            assert_eq!(encapsulated.len(), bytes);
            let same = unit
                .decapsulate_key(&mechanism, &private, &encapsulated, &template(len))
                .expect("decapsulate");
            assert_eq!(value(&same), value(&key));
            assert_eq!(value(&same).len() as u64, len);
            let mut altered = encapsulated.clone();
            altered[7] ^= 1;
            let other =
                unit.decapsulate_key(&mechanism, &private, &altered, &template(len)).expect("another key");
            assert_ne!(value(&other), value(&key));
            let short = unit.decapsulate_key(&mechanism, &private, &encapsulated[1..], &template(len));
            assert_eq!(code(short), CKR_WRAPPED_KEY_LEN_RANGE);
        }
        let refused = |outcome: Result<(Vec<u8>, KeyBlob), _>| code(outcome);
        assert_eq!(
            refused(unit.encapsulate_key(&mechanism, &private, &template(16))),
            CKR_KEY_FUNCTION_NOT_PERMITTED
        );
        let wrong = Mechanism::plain(CKM_ML_DSA);
        assert_eq!(refused(unit.encapsulate_key(&wrong, &public, &template(16))), CKR_MECHANISM_INVALID);
        let silent = Attributes::new();
        assert_eq!(refused(unit.encapsulate_key(&mechanism, &public, &silent)), CKR_TEMPLATE_INCOMPLETE);
    }
}

#[test]
fn aws_lc_verifies_what_openssl_signs_with_ml_dsa() {
    use aws_lc_rs::signature::{ML_DSA_44, ML_DSA_65, ML_DSA_87, UnparsedPublicKey};
    let dir = tempfile::tempdir().expect("dir");
    let unit = unit(dir.path());
    for (set, algorithm) in
        [(CKP_ML_DSA_44, &ML_DSA_44), (CKP_ML_DSA_65, &ML_DSA_65), (CKP_ML_DSA_87, &ML_DSA_87)]
    {
        let (public, private) = post_quantum_pair(&unit, CKM_ML_DSA_KEY_PAIR_GEN, set);
        let signature = unit.sign(&Mechanism::plain(CKM_ML_DSA), &private, b"data").expect("sign");
        let attributes = public.attributes().expect("attributes");
        let key = UnparsedPublicKey::new(algorithm, attributes.get(CKA_VALUE).expect("value"));
        key.verify(b"data", &signature).expect("verify");
        assert!(key.verify(b"Data", &signature).is_err());
    }
}

/// A password is in a parameter, which may end in a log.
#[test]
fn a_parameter_does_not_show_its_password() {
    use hsm_emulator::units::mechanism::{Secret, kdf::Pbkdf2};
    let password = Secret::new(b"swordfish");
    let parameter = Parameter::Pbkdf2(Pbkdf2 {
        prf: CKP_PKCS5_PBKD2_HMAC_SHA256,
        salt: Vec::new(),
        iterations: 1,
        password,
    });
    let shown = format!("{:?}", Mechanism { kind: CKM_PKCS5_PBKD2, parameter });
    assert!(!shown.contains("swordfish") && !shown.contains("115, 119"), "{shown}");
}
