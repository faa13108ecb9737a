//! AES and RSA encryption, key wrap, digests.

use cryptoki::error::RvError;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::ekdf::AesCbcDeriveParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::{aes_key, refusal, rsa_pair, user_session};

fn import(session: &Session, hex_key: &str) -> ObjectHandle {
    session
        .create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Value(hex::decode(hex_key).unwrap()),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
        ])
        .unwrap()
}

fn hex_array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// SP 800-38A, F.2.1.
#[test]
fn aes_cbc_gives_the_published_ciphertext() {
    let session = user_session("cbc vector");
    let key = import(&session, "2b7e151628aed2a6abf7158809cf4f3c");
    let mechanism = Mechanism::AesCbc(hex_array("000102030405060708090a0b0c0d0e0f"));
    let plain = hex::decode("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51").unwrap();
    let expected = "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2";
    assert_eq!(hex::encode(session.encrypt(&mechanism, key, &plain).unwrap()), expected);
    assert_eq!(refusal(session.encrypt(&mechanism, key, &plain[1..])), RvError::DataLenRange);
    assert_eq!(refusal(session.decrypt(&mechanism, key, &plain[1..])), RvError::EncryptedDataLenRange);
}

/// The GCM specification's test case 4.
#[test]
fn aes_gcm_gives_the_published_ciphertext_and_detects_changes() {
    let session = user_session("gcm vector");
    let key = import(&session, "feffe9928665731c6d6a8f9467308308");
    let mut iv: [u8; 12] = hex_array("cafebabefacedbaddecaf888");
    let aad: [u8; 20] = hex_array("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = hex::decode(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
         b16aedf5aa0de657ba637b39",
    )
    .unwrap();
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, &aad, 128.into()).unwrap());
    let mut encrypted = session.encrypt(&mechanism, key, &plain).unwrap();
    assert_eq!(
        hex::encode(&encrypted),
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05\
         1ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47"
    );
    assert_eq!(session.decrypt(&mechanism, key, &encrypted).unwrap(), plain);
    encrypted[5] ^= 1;
    assert_eq!(refusal(session.decrypt(&mechanism, key, &encrypted)), RvError::EncryptedDataInvalid);
    // In parts: not a byte is given out before the tag is verified.
    session.decrypt_init(&mechanism, key).unwrap();
    assert!(session.decrypt_update(&encrypted[..40]).unwrap().is_empty());
    assert!(session.decrypt_update(&encrypted[40..]).unwrap().is_empty());
    assert_eq!(refusal(session.decrypt_final()), RvError::EncryptedDataInvalid);
    assert_eq!(refusal(session.decrypt_final()), RvError::OperationNotInitialized);
}

#[repr(C)]
struct CtrParameter {
    counter_bits: std::ffi::c_ulong,
    block: [u8; 16],
}

/// Data in parts of every awkward size give what they give in one part.
#[test]
fn parts_give_the_same_as_the_whole() {
    let session = user_session("parts");
    let key = aes_key(&session);
    let mut iv = [9; 12];
    // Its low 32 bits are about to overflow.
    let ctr = CtrParameter { counter_bits: 128, block: hex_array("000102030405060708090a0bfffffffe") };
    let modes = [
        (Mechanism::AesEcb, 16),
        (Mechanism::AesCbc([3; 16]), 16),
        (Mechanism::AesCbcPad([3; 16]), 1),
        (Mechanism::AesGcm(GcmParams::new(&mut iv, b"aad", 96.into()).unwrap()), 1),
        (Mechanism::VendorDefined(VendorDefinedMechanism::new(MechanismType::AES_CTR, Some(&ctr))), 1),
    ];
    for (mechanism, multiple) in &modes {
        for len in [0usize, 1, 15, 16, 17, 31, 32, 33, 48, 160, 1000] {
            let len = len.next_multiple_of(*multiple);
            let plain = session.generate_random_vec(len as u32).unwrap();
            let whole = session.encrypt(mechanism, key, &plain).unwrap();
            for part in [1usize, 7, 15, 16, 17, 32, 40] {
                session.encrypt_init(mechanism, key).unwrap();
                let mut parts: Vec<u8> =
                    plain.chunks(part).flat_map(|chunk| session.encrypt_update(chunk).unwrap()).collect();
                parts.extend(session.encrypt_final().unwrap());
                assert_eq!(parts, whole, "{mechanism:?} of {len} in {part}");
                session.decrypt_init(mechanism, key).unwrap();
                let mut back: Vec<u8> =
                    whole.chunks(part).flat_map(|chunk| session.decrypt_update(chunk).unwrap()).collect();
                back.extend(session.decrypt_final().unwrap());
                assert_eq!(back, plain, "{mechanism:?} of {len} in {part}");
            }
            assert_eq!(session.decrypt(mechanism, key, &whole).unwrap(), plain);
        }
    }
}

#[test]
fn unfinished_blocks_are_refused_at_the_end() {
    let session = user_session("unfinished");
    let key = aes_key(&session);
    session.encrypt_init(&Mechanism::AesCbc([0; 16]), key).unwrap();
    assert_eq!(session.encrypt_update(&[0; 17]).unwrap().len(), 16);
    assert_eq!(refusal(session.encrypt_final()), RvError::DataLenRange);
    session.decrypt_init(&Mechanism::AesCbcPad([0; 16]), key).unwrap();
    session.decrypt_update(&[0; 17]).unwrap();
    assert_eq!(refusal(session.decrypt_final()), RvError::EncryptedDataLenRange);
}

#[test]
fn large_data_pass_in_one_part() {
    let session = user_session("large");
    let key = aes_key(&session);
    let mut iv = [9; 12];
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, &[], 128.into()).unwrap());
    let plain = session.generate_random_vec(10 << 20).unwrap();
    let encrypted = session.encrypt(&mechanism, key, &plain).unwrap();
    assert!(session.decrypt(&mechanism, key, &encrypted).unwrap() == plain);
}

#[test]
fn keys_are_used_as_they_permit() {
    let session = user_session("permissions");
    let key = session
        .generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(16.into()), Attribute::Encrypt(false)])
        .unwrap();
    let generic =
        session.generate_key(&Mechanism::GenericSecretKeyGen, &[Attribute::ValueLen(16.into())]).unwrap();
    assert_eq!(refusal(session.encrypt_init(&Mechanism::AesEcb, key)), RvError::KeyFunctionNotPermitted);
    assert_eq!(refusal(session.sign_init(&Mechanism::Sha256RsaPkcs, generic)), RvError::KeyTypeInconsistent);
    assert_eq!(refusal(session.encrypt_init(&Mechanism::Sha256, key)), RvError::MechanismInvalid);
    let allowed = session
        .generate_key(
            &Mechanism::AesKeyGen,
            &[Attribute::ValueLen(16.into()), Attribute::AllowedMechanisms(vec![MechanismType::AES_CBC_PAD])],
        )
        .unwrap();
    assert_eq!(refusal(session.encrypt_init(&Mechanism::AesEcb, allowed)), RvError::MechanismInvalid);
    let mechanism = Mechanism::AesCbcPad([1; 16]);
    let whole = session.encrypt(&mechanism, allowed, &[5; 40]).unwrap();
    session.encrypt_init(&mechanism, allowed).unwrap();
    let mut parts = session.encrypt_update(&[5; 20]).unwrap();
    parts.extend(session.encrypt_update(&[5; 20]).unwrap());
    parts.extend(session.encrypt_final().unwrap());
    assert_eq!(parts, whole);
}

/// RFC 3394, section 4.6.
#[test]
fn key_wrap_gives_the_published_ciphertext() {
    let session = user_session("wrap vector");
    let wrapping = import(&session, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    let key = import(&session, "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, wrapping, key).unwrap();
    assert_eq!(
        hex::encode(&wrapped),
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    );
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    let back = session.unwrap_key(&Mechanism::AesKeyWrap, wrapping, &wrapped, &template).unwrap();
    let value = |key| session.get_attributes(key, &[AttributeType::Value]).unwrap();
    assert_eq!(value(back), value(key));
    let mut damaged = wrapped;
    damaged[0] ^= 1;
    assert_eq!(
        refusal(session.unwrap_key(&Mechanism::AesKeyWrap, wrapping, &damaged, &template)),
        RvError::WrappedKeyInvalid
    );
}

#[test]
fn private_keys_are_wrapped_and_work_again() {
    let session = user_session("wrap private");
    let wrapping = aes_key(&session);
    let public = [Attribute::ModulusBits(2048.into())];
    let (public, private) = session
        .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &[Attribute::Extractable(true)])
        .unwrap();
    for mechanism in [Mechanism::AesKeyWrapPad, Mechanism::AesCbcPad([2; 16])] {
        let wrapped = session.wrap_key(&mechanism, wrapping, private).unwrap();
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)];
        let back = session.unwrap_key(&mechanism, wrapping, &wrapped, &template).unwrap();
        let signature = session.sign(&Mechanism::Sha256RsaPkcs, back, b"data").unwrap();
        session.verify(&Mechanism::Sha256RsaPkcs, public, b"data", &signature).unwrap();
    }
    let fixed = rsa_pair(&session).1;
    assert_eq!(
        refusal(session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, fixed)),
        RvError::KeyUnextractable
    );
}

#[test]
fn rsa_encrypts_with_the_public_key_and_decrypts_with_the_private() {
    let session = user_session("rsa");
    let (public, private) = rsa_pair(&session);
    let oaep = |digest, mgf, label| Mechanism::RsaPkcsOaep(PkcsOaepParams::new(digest, mgf, label));
    let mechanisms = [
        Mechanism::RsaPkcs,
        oaep(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, PkcsOaepSource::empty()),
        oaep(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, PkcsOaepSource::data_specified(b"label")),
        oaep(MechanismType::SHA512, PkcsMgfType::MGF1_SHA1, PkcsOaepSource::empty()),
    ];
    for mechanism in &mechanisms {
        let encrypted = session.encrypt(mechanism, public, b"secret").unwrap();
        assert_eq!(session.decrypt(mechanism, private, &encrypted).unwrap(), b"secret", "{mechanism:?}");
        assert_eq!(refusal(session.encrypt(mechanism, public, &[0; 250])), RvError::DataLenRange);
    }
    let encrypted = session.encrypt(&mechanisms[2], public, b"secret").unwrap();
    assert_eq!(refusal(session.decrypt(&mechanisms[1], private, &encrypted)), RvError::EncryptedDataInvalid);
    assert_eq!(refusal(session.encrypt_init(&mechanisms[0], private)), RvError::KeyFunctionNotPermitted);
}

#[test]
fn digests_are_the_published_ones_in_one_part_and_in_many() {
    let session = user_session("digests");
    let cases = [
        (Mechanism::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (Mechanism::Sha224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        (Mechanism::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            Mechanism::Sha384,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            Mechanism::Sha512,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
             454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ];
    for (mechanism, expected) in cases {
        assert_eq!(hex::encode(session.digest(&mechanism, b"abc").unwrap()), expected);
        session.digest_init(&mechanism).unwrap();
        session.digest_update(b"a").unwrap();
        session.digest_update(b"bc").unwrap();
        assert_eq!(hex::encode(session.digest_final().unwrap()), expected);
    }
}

#[test]
fn keys_are_digested_if_their_values_may_be_known() {
    let session = user_session("digested keys");
    let key = import(&session, "2b7e151628aed2a6abf7158809cf4f3c");
    let expected = session.digest(
        &Mechanism::Sha256,
        b"before\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3cafter",
    );
    session.digest_init(&Mechanism::Sha256).unwrap();
    session.digest_update(b"before").unwrap();
    session.digest_key(key).unwrap();
    assert_eq!(refusal(session.digest_key(aes_key(&session))), RvError::KeyIndigestible);
    session.digest_update(b"after").unwrap();
    assert_eq!(session.digest_final().unwrap(), expected.unwrap());
    assert_eq!(refusal(session.digest_key(key)), RvError::OperationNotInitialized);
}

/// PKCS #11 v3.1 section 6.27: the key is what the data encrypt to, without what is too much at the end.
#[test]
fn keys_are_derived_by_encrypting_data() {
    let session = user_session("encrypted data");
    let base = import(&session, "2b7e151628aed2a6abf7158809cf4f3c");
    session.update_attributes(base, &[Attribute::Derive(true)]).unwrap();
    let data = [7; 32];
    let iv = [9; 16];
    let cbc = || Mechanism::AesCbcEncryptData(AesCbcDeriveParams::new(iv, &data));
    let derive = |mechanism: &Mechanism, len: u64| {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::ValueLen(len.into()),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
        ];
        let key = session.derive_key(mechanism, base, &template)?;
        let value = session.get_attributes(key, &[AttributeType::Value])?;
        assert!(matches!(&value[..], [Attribute::Value(_)]));
        match value.into_iter().next() {
            Some(Attribute::Value(value)) => Ok(value),
            _ => Ok(Vec::new()),
        }
    };
    let expected = session.encrypt(&Mechanism::AesCbc(iv), base, &data).unwrap();
    assert_eq!(derive(&cbc(), 32).unwrap(), expected);
    assert_eq!(derive(&cbc(), 20).unwrap(), expected[..20]);
    assert_eq!(refusal(derive(&cbc(), 33)), RvError::DataLenRange);
    let short = Mechanism::AesCbcEncryptData(AesCbcDeriveParams::new(iv, &data[1..]));
    assert_eq!(refusal(derive(&short, 16)), RvError::MechanismParamInvalid);
}
