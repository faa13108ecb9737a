//! More modes of AES, and ChaCha20-Poly1305.

use cryptoki_sys::*;

use super::raw::{Mechanism, OPEN, RawSession, ulong};

const KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const IV: &str = "000102030405060708090a0b0c0d0e0f";
const PLAIN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";

fn bytes(digits: &str) -> Vec<u8> {
    hex::decode(digits).unwrap()
}

/// SP 800-38A, F.3.7 (18 bytes), F.3.13 and F.4.1.
#[test]
fn key_streams_are_the_published_ones() {
    let session = RawSession::new();
    let key = session.secret(CKK_AES, &bytes(KEY));
    let iv = bytes(IV);
    for (kind, len, expected) in [
        (CKM_AES_CFB8, 18, "3b79424c9c0dd436bace9e0ed4586a4f32b9"),
        (CKM_AES_CFB128, 32, "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b"),
        (CKM_AES_OFB, 32, "3b3fd92eb72dad20333449f8e83cfb4a7789508d16918f03f53c52dac54ed825"),
    ] {
        let plain = &bytes(PLAIN)[..len];
        let mechanism = Mechanism::bytes(kind, &iv);
        let encrypted = session.encrypt(mechanism, key, plain).unwrap();
        assert_eq!(hex::encode(&encrypted), expected);
        assert_eq!(session.decrypt(mechanism, key, &encrypted).unwrap(), plain);
        for len in [0, 1, 15, 17, 31] {
            let encrypted = session.encrypt_parts(mechanism, key, &plain[..len.min(plain.len())], 7).unwrap();
            assert_eq!(hex::encode(&encrypted), expected[..2 * len.min(plain.len())]);
        }
        let short = Mechanism::bytes(kind, &iv[1..]);
        assert_eq!(session.encrypt(short, key, plain), Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

/// The addendum to SP 800-38A: CBC for whole blocks; else the last two blocks share the last bytes.
#[test]
fn ciphertext_stealing_adds_nothing() {
    let session = RawSession::new();
    let key = session.secret(CKK_AES, &bytes(KEY));
    let (iv, plain) = (bytes(IV), bytes(PLAIN));
    let (cts, cbc) = (Mechanism::bytes(CKM_AES_CTS, &iv), Mechanism::bytes(CKM_AES_CBC, &iv));
    for len in [16, 32] {
        let whole = session.encrypt(cts, key, &plain[..len]).unwrap();
        assert_eq!(whole, session.encrypt(cbc, key, &plain[..len]).unwrap());
        assert_eq!(session.decrypt(cts, key, &whole).unwrap(), plain[..len]);
    }
    let encrypted = session.encrypt(cts, key, &plain[..20]).unwrap();
    let padded = [&plain[..20], &[0; 12]].concat();
    let blocks = session.encrypt(cbc, key, &padded).unwrap();
    assert_eq!(encrypted, [&blocks[..4], &blocks[16..]].concat());
    assert_eq!(session.decrypt_parts(cts, key, &encrypted, 6).unwrap(), plain[..20]);
    assert_eq!(session.encrypt(cts, key, &plain[..15]), Err(CKR_DATA_LEN_RANGE));
    assert_eq!(session.decrypt(cts, key, &plain[..15]), Err(CKR_ENCRYPTED_DATA_LEN_RANGE));
}

fn ccm(nonce: &[u8], aad: &[u8], data_len: usize, mac_len: CK_ULONG) -> CK_CCM_PARAMS {
    CK_CCM_PARAMS {
        ulDataLen: data_len as CK_ULONG,
        pNonce: nonce.as_ptr().cast_mut(),
        ulNonceLen: nonce.len() as CK_ULONG,
        pAAD: aad.as_ptr().cast_mut(),
        ulAADLen: aad.len() as CK_ULONG,
        ulMACLen: mac_len,
    }
}

/// SP 800-38C, examples 1 and 2.
#[test]
fn ccm_gives_the_published_ciphertext_and_detects_changes() {
    let session = RawSession::new();
    let key = session.secret(CKK_AES, &(0x40..=0x4f).collect::<Vec<u8>>());
    let plain: Vec<u8> = (0x20..=0x37).collect();
    let nonce: Vec<u8> = (0x10..=0x1b).collect();
    let aad: Vec<u8> = (0..=0x13).collect();
    for (nonce, aad, len, mac_len, expected) in [
        (&nonce[..7], &aad[..8], 4, 4, "7162015b4dac255d"),
        (&nonce[..8], &aad[..16], 16, 6, "d2a1f0e051ea5f62081a7792073d593d1fc64fbfaccd"),
        (&nonce, &aad, 24, 8, "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5484392fbc1b09951"),
    ] {
        let parameter = ccm(nonce, aad, len, mac_len);
        let mechanism = Mechanism::with(CKM_AES_CCM, &parameter);
        let encrypted = session.encrypt(mechanism, key, &plain[..len]).unwrap();
        assert_eq!(hex::encode(&encrypted), expected);
        assert_eq!(session.encrypt_parts(mechanism, key, &plain[..len], 3).unwrap(), encrypted);
        assert_eq!(session.decrypt(mechanism, key, &encrypted).unwrap(), plain[..len]);
        for position in 0..encrypted.len() {
            let mut altered = encrypted.clone();
            altered[position] ^= 1;
            assert_eq!(session.decrypt(mechanism, key, &altered), Err(CKR_ENCRYPTED_DATA_INVALID));
        }
        let other = ccm(nonce, aad, len + 1, mac_len);
        let other = Mechanism::with(CKM_AES_CCM, &other);
        assert_eq!(session.encrypt(other, key, &plain[..len]), Err(CKR_DATA_LEN_RANGE));
    }
    let nothing = ccm(&nonce, &aad, 0, 8);
    let mechanism = Mechanism::with(CKM_AES_CCM, &nothing);
    let mut tag = session.encrypt(mechanism, key, &[]).unwrap();
    assert_eq!(tag.len(), 8);
    assert!(session.decrypt(mechanism, key, &tag).unwrap().is_empty());
    tag[0] ^= 1;
    assert_eq!(session.decrypt(mechanism, key, &tag), Err(CKR_ENCRYPTED_DATA_INVALID));
    for wrong in [ccm(&nonce[..6], &[], 4, 4), ccm(&nonce, &[], 4, 5), ccm(&nonce, &[], 4, 18)] {
        let wrong = Mechanism::with(CKM_AES_CCM, &wrong);
        assert_eq!(session.encrypt(wrong, key, &plain[..4]), Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

/// IEEE 1619, vector 15.
#[test]
fn xts_gives_the_published_ciphertext() {
    let session = RawSession::new();
    let value = bytes("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0");
    let key = session.secret(CKK_AES_XTS, &value);
    let tweak = bytes("9a785634120000000000000000000000");
    let mechanism = Mechanism::bytes(CKM_AES_XTS, &tweak);
    let plain = bytes("000102030405060708090a0b0c0d0e0f10");
    let encrypted = session.encrypt(mechanism, key, &plain).unwrap();
    assert_eq!(hex::encode(&encrypted), "6c1625db4671522d3d7599601de7ca09ed");
    assert_eq!(session.decrypt_parts(mechanism, key, &encrypted, 5).unwrap(), plain);
    assert_eq!(session.encrypt(mechanism, key, &plain[..15]), Err(CKR_DATA_LEN_RANGE));
    let (class, key_type) = (ulong(CKO_SECRET_KEY), ulong(CKK_AES_XTS));
    let create =
        |value: &[u8]| session.create(&[(CKA_CLASS, &class), (CKA_KEY_TYPE, &key_type), (CKA_VALUE, value)]);
    assert_eq!(create(&[1; 32]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(create(&value[..24]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    let generator = Mechanism::plain(CKM_AES_XTS_KEY_GEN);
    let key = session.generate_key(generator, &[(CKA_VALUE_LEN, &ulong(64))]).unwrap();
    let encrypted = session.encrypt(mechanism, key, &plain).unwrap();
    assert_eq!(session.decrypt(mechanism, key, &encrypted).unwrap(), plain);
}

/// RFC 8439, section 2.8.2.
#[test]
fn chacha20_poly1305_gives_the_published_ciphertext() {
    let session = RawSession::new();
    let key = session.secret(CKK_CHACHA20, &(0x80..=0x9f).collect::<Vec<u8>>());
    let (mut nonce, mut aad) = (bytes("070000004041424344454647"), bytes("50515253c0c1c2c3c4c5c6c7"));
    let parameter = CK_SALSA20_CHACHA20_POLY1305_PARAMS {
        pNonce: nonce.as_mut_ptr(),
        ulNonceLen: 12,
        pAAD: aad.as_mut_ptr(),
        ulAADLen: 12,
    };
    let mechanism = Mechanism::with(CKM_CHACHA20_POLY1305, &parameter);
    let plain =
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                  sunscreen would be it.";
    let encrypted = session.encrypt(mechanism, key, plain).unwrap();
    assert_eq!(
        hex::encode(&encrypted),
        concat!(
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b",
            "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
            "3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691"
        )
    );
    assert_eq!(session.decrypt_parts(mechanism, key, &encrypted, 9).unwrap(), plain);
    let mut altered = encrypted;
    altered[3] ^= 1;
    assert_eq!(session.decrypt(mechanism, key, &altered), Err(CKR_ENCRYPTED_DATA_INVALID));
    let short = CK_SALSA20_CHACHA20_POLY1305_PARAMS { ulNonceLen: 8, ..parameter };
    let short = Mechanism::with(CKM_CHACHA20_POLY1305, &short);
    assert_eq!(session.encrypt(short, key, plain), Err(CKR_MECHANISM_PARAM_INVALID));
    let generated = session.generate_key(Mechanism::plain(CKM_CHACHA20_KEY_GEN), OPEN).unwrap();
    assert_eq!(session.value(generated).len(), 32);
}

/// The tag of GCM over nothing but additional data: the GCM specification's test case 1 for no data at all.
#[test]
fn gmac_is_gcm_without_a_plaintext() {
    let session = RawSession::new();
    let key = session.secret(CKK_AES, &[0; 16]);
    let gmac = Mechanism::bytes(CKM_AES_GMAC, &[0; 12]);
    assert_eq!(hex::encode(session.sign(gmac, key, &[]).unwrap()), "58e2fccefa7e3061367f1d57a4e7455a");
    let mut aad = *b"some data";
    let mut iv = [0; 12];
    let gcm = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: aad.as_mut_ptr(),
        ulAADLen: 9,
        ulTagBits: 128,
    };
    let tag = session.encrypt(Mechanism::with(CKM_AES_GCM, &gcm), key, &[]).unwrap();
    assert_eq!(session.sign_parts(gmac, key, b"some data", 4).unwrap(), tag);
    session.check_signatures(gmac, key, key, b"some data");
    assert_eq!(session.sign(Mechanism::plain(CKM_AES_GMAC), key, &[]), Err(CKR_MECHANISM_PARAM_INVALID));
}

#[test]
fn macs_have_the_length_that_is_asked_for() {
    let session = RawSession::new();
    let key = session.secret(CKK_AES, &bytes(KEY));
    for (full, general) in [(CKM_AES_CMAC, CKM_AES_CMAC_GENERAL), (CKM_AES_MAC, CKM_AES_MAC_GENERAL)] {
        let whole = session.sign(Mechanism::plain(full), key, b"data").unwrap();
        for length in [1, 4, 8] {
            let length: CK_ULONG = length;
            let mac = session.sign(Mechanism::with(general, &length), key, b"data").unwrap();
            assert_eq!(mac, whole[..length as usize]);
        }
        let length: CK_ULONG = 17;
        let refused = session.sign(Mechanism::with(general, &length), key, b"data");
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
    }
}
