//! Keys derived from keys, and from passwords.

use std::ptr::null_mut;

use cryptoki_sys::*;

use super::raw::{FALSE, Mechanism, OPEN, Outcome, RawSession, TRUE, ulong};

/// A generic secret of so many bytes, whose value may be looked at.
fn derive(
    session: &RawSession,
    mechanism: Mechanism<'_>,
    base: CK_OBJECT_HANDLE,
    len: Option<CK_ULONG>,
) -> Outcome<Vec<u8>> {
    let (key_type, len) = (ulong(CKK_GENERIC_SECRET), len.map(ulong));
    let mut template = vec![(CKA_KEY_TYPE, &key_type[..])];
    template.extend(len.iter().map(|len| (CKA_VALUE_LEN, &len[..])));
    template.extend(OPEN);
    Ok(session.value(session.derive(mechanism, base, &template)?))
}

fn hkdf(extract: bool, expand: bool, salt: &[u8], info: &[u8]) -> CK_HKDF_PARAMS {
    CK_HKDF_PARAMS {
        bExtract: u8::from(extract),
        bExpand: u8::from(expand),
        prfHashMechanism: CKM_SHA256,
        ulSaltType: if salt.is_empty() { CKF_HKDF_SALT_NULL } else { CKF_HKDF_SALT_DATA },
        pSalt: salt.as_ptr().cast_mut(),
        ulSaltLen: salt.len() as CK_ULONG,
        hSaltKey: 0,
        pInfo: info.as_ptr().cast_mut(),
        ulInfoLen: info.len() as CK_ULONG,
    }
}

/// RFC 5869, appendices A.1 and A.3.
#[test]
fn hkdf_gives_the_published_keys() {
    let session = RawSession::new();
    let base = session.secret(CKK_HKDF, &[0x0b; 22]);
    let salt: Vec<u8> = (0..=0x0c).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    let prk = "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5";
    let okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    let both = hkdf(true, true, &salt, &info);
    let mechanism = Mechanism::with(CKM_HKDF_DERIVE, &both);
    assert_eq!(hex::encode(derive(&session, mechanism, base, Some(42)).unwrap()), okm);
    let extract = hkdf(true, false, &salt, &[]);
    let extracted = derive(&session, Mechanism::with(CKM_HKDF_DERIVE, &extract), base, None).unwrap();
    assert_eq!(hex::encode(&extracted), prk);
    let expand = hkdf(false, true, &[], &info);
    let prk = session.secret(CKK_GENERIC_SECRET, &extracted);
    let expanded = derive(&session, Mechanism::with(CKM_HKDF_DERIVE, &expand), prk, Some(42));
    assert_eq!(hex::encode(expanded.unwrap()), okm);
    let no_salt = hkdf(true, true, &[], &[]);
    let okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    let derived = derive(&session, Mechanism::with(CKM_HKDF_DERIVE, &no_salt), base, Some(42)).unwrap();
    assert_eq!(hex::encode(derived), okm);
    // The salt may be a key.
    let salt_key = session.secret(CKK_GENERIC_SECRET, &salt);
    let with_key = CK_HKDF_PARAMS { ulSaltType: CKF_HKDF_SALT_KEY, hSaltKey: salt_key, ..both };
    let derived = derive(&session, Mechanism::with(CKM_HKDF_DERIVE, &with_key), base, Some(42)).unwrap();
    assert_eq!(
        hex::encode(&derived),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    );
    let no_key = CK_HKDF_PARAMS { hSaltKey: 0, ..with_key };
    let refused = derive(&session, Mechanism::with(CKM_HKDF_DERIVE, &no_key), base, Some(42));
    assert_eq!(refused, Err(CKR_KEY_HANDLE_INVALID));
    // Data instead of a key.
    let data =
        session.derive(Mechanism::with(CKM_HKDF_DATA, &both), base, &[(CKA_VALUE_LEN, &ulong(42))]).unwrap();
    assert_eq!(session.attribute(data, CKA_CLASS).unwrap(), ulong(CKO_DATA));
    assert_eq!(session.value(data), derived);
    let neither = hkdf(false, false, &[], &[]);
    let refused = derive(&session, Mechanism::with(CKM_HKDF_DERIVE, &neither), base, Some(42));
    assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
}

fn part<T>(kind: CK_PRF_DATA_TYPE, value: &T) -> CK_PRF_DATA_PARAM {
    let pointer: *const T = value;
    CK_PRF_DATA_PARAM {
        type_: kind,
        pValue: pointer.cast_mut().cast(),
        ulValueLen: size_of::<T>() as CK_ULONG,
    }
}

const ITERATION: CK_PRF_DATA_PARAM =
    CK_PRF_DATA_PARAM { type_: CK_SP800_108_ITERATION_VARIABLE, pValue: null_mut(), ulValueLen: 0 };

fn sp800_108(prf: CK_MECHANISM_TYPE, parts: &mut [CK_PRF_DATA_PARAM]) -> CK_SP800_108_KDF_PARAMS {
    CK_SP800_108_KDF_PARAMS {
        prfType: prf,
        ulNumberOfDataParams: parts.len() as CK_ULONG,
        pDataParams: parts.as_mut_ptr(),
        ulAdditionalDerivedKeys: 0,
        pAdditionalDerivedKeys: null_mut(),
    }
}

/// Each mode against the same put together of MACs (SP 800-108r1, sections 4.1 to 4.3).
#[test]
fn sp800_108_is_what_its_macs_say() {
    let session = RawSession::new();
    let base = session.secret(CKK_GENERIC_SECRET, b"a key derivation key");
    let hmac = |data: &[u8]| session.sign(Mechanism::plain(CKM_SHA256_HMAC), base, data).unwrap();
    let counter = CK_SP800_108_COUNTER_FORMAT { bLittleEndian: 0, ulWidthInBits: 32 };
    let little = CK_SP800_108_COUNTER_FORMAT { bLittleEndian: 1, ulWidthInBits: 16 };
    let length = CK_SP800_108_DKM_LENGTH_FORMAT {
        dkmLengthMethod: CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
        bLittleEndian: 0,
        ulWidthInBits: 32,
    };
    let label = *b"label\0context";
    let fixed = [&label[..], &[0, 0, 1, 0x40]].concat();
    let text = part(CK_SP800_108_BYTE_ARRAY, &label);
    let length = part(CK_SP800_108_DKM_LENGTH, &length);
    // 40 bytes: two blocks, 320 bits.
    let mut parts = [part(CK_SP800_108_ITERATION_VARIABLE, &counter), text, length];
    let parameter = sp800_108(CKM_SHA256_HMAC, &mut parts);
    let derived =
        derive(&session, Mechanism::with(CKM_SP800_108_COUNTER_KDF, &parameter), base, Some(40)).unwrap();
    let blocks = [hmac(&[&[0, 0, 0, 1], &fixed[..]].concat()), hmac(&[&[0, 0, 0, 2], &fixed[..]].concat())];
    assert_eq!(derived, blocks.concat()[..40]);

    let mut parts = [ITERATION, part(CK_SP800_108_COUNTER, &little), text, length];
    let common = sp800_108(CKM_SHA256_HMAC, &mut parts);
    let mut iv = *b"first";
    let parameter = CK_SP800_108_FEEDBACK_KDF_PARAMS {
        prfType: common.prfType,
        ulNumberOfDataParams: common.ulNumberOfDataParams,
        pDataParams: common.pDataParams,
        ulIVLen: 5,
        pIV: iv.as_mut_ptr(),
        ulAdditionalDerivedKeys: 0,
        pAdditionalDerivedKeys: null_mut(),
    };
    let derived =
        derive(&session, Mechanism::with(CKM_SP800_108_FEEDBACK_KDF, &parameter), base, Some(40)).unwrap();
    let first = hmac(&[&b"first"[..], &[1, 0], &fixed].concat());
    let second = hmac(&[&first[..], &[2, 0], &fixed].concat());
    assert_eq!(derived, [first, second].concat()[..40]);

    let parameter = sp800_108(CKM_SHA256_HMAC, &mut parts);
    let mechanism = Mechanism::with(CKM_SP800_108_DOUBLE_PIPELINE_KDF, &parameter);
    let derived = derive(&session, mechanism, base, Some(40)).unwrap();
    let a1 = hmac(&fixed);
    let a2 = hmac(&a1);
    let (first, second) =
        (hmac(&[&a1[..], &[1, 0], &fixed].concat()), hmac(&[&a2[..], &[2, 0], &fixed].concat()));
    assert_eq!(derived, [first, second].concat()[..40]);

    // With a block cipher's MAC, and with what is not allowed.
    let aes = session.secret(CKK_AES, &[7; 16]);
    let mut parts = [part(CK_SP800_108_ITERATION_VARIABLE, &counter), text];
    let parameter = sp800_108(CKM_AES_CMAC, &mut parts);
    let mechanism = Mechanism::with(CKM_SP800_108_COUNTER_KDF, &parameter);
    let derived = derive(&session, mechanism, aes, None).unwrap();
    let input = [&[0, 0, 0, 1], &label[..]].concat();
    assert_eq!(derived, session.sign(Mechanism::plain(CKM_AES_CMAC), aes, &input).unwrap());
    assert_eq!(derive(&session, mechanism, base, None), Err(CKR_KEY_TYPE_INCONSISTENT));
    for mut wrong in [vec![text], vec![ITERATION, text], vec![parts[0], parts[0]]] {
        let parameter = sp800_108(CKM_AES_CMAC, &mut wrong);
        let mechanism = Mechanism::with(CKM_SP800_108_COUNTER_KDF, &parameter);
        assert_eq!(derive(&session, mechanism, aes, None), Err(CKR_MECHANISM_PARAM_INVALID));
    }
    for prf in [CKM_SHA256, CKM_AES_MAC, CKM_AES_CMAC_GENERAL] {
        let parameter = sp800_108(prf, &mut parts);
        let mechanism = Mechanism::with(CKM_SP800_108_COUNTER_KDF, &parameter);
        assert_eq!(derive(&session, mechanism, aes, None), Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

/// RFC 6070, the second and the fifth test.
#[test]
fn keys_come_from_passwords() {
    let session = RawSession::new();
    let parameter = |password: &[u8], salt: &[u8], iterations| CK_PKCS5_PBKD2_PARAMS2 {
        saltSource: CKZ_SALT_SPECIFIED,
        pSaltSourceData: salt.as_ptr().cast_mut().cast(),
        ulSaltSourceDataLen: salt.len() as CK_ULONG,
        iterations,
        prf: CKP_PKCS5_PBKD2_HMAC_SHA1,
        pPrfData: null_mut(),
        ulPrfDataLen: 0,
        pPassword: password.as_ptr().cast_mut(),
        ulPasswordLen: password.len() as CK_ULONG,
    };
    let generate = |parameter: CK_PKCS5_PBKD2_PARAMS2, len| {
        let (key_type, len) = (ulong(CKK_GENERIC_SECRET), ulong(len));
        let template = [&[(CKA_KEY_TYPE, &key_type[..]), (CKA_VALUE_LEN, &len)], OPEN].concat();
        session.generate_key(Mechanism::with(CKM_PKCS5_PBKD2, &parameter), &template)
    };
    let key = generate(parameter(b"password", b"salt", 2), 20).unwrap();
    assert_eq!(hex::encode(session.value(key)), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
    let salt = b"saltSALTsaltSALTsaltSALTsaltSALTsalt";
    let key = generate(parameter(b"passwordPASSWORDpassword", salt, 4096), 25).unwrap();
    assert_eq!(hex::encode(session.value(key)), "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
    for wrong in [
        parameter(b"password", b"salt", 0),
        parameter(b"password", b"salt", CK_ULONG::MAX),
        parameter(b"password", b"salt", 10_000_001),
        CK_PKCS5_PBKD2_PARAMS2 { prf: 99, ..parameter(b"password", b"salt", 1) },
        CK_PKCS5_PBKD2_PARAMS2 { saltSource: 0, ..parameter(b"password", b"salt", 1) },
    ] {
        assert_eq!(generate(wrong, 20), Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

fn text(data: &[u8]) -> CK_KEY_DERIVATION_STRING_DATA {
    CK_KEY_DERIVATION_STRING_DATA { pData: data.as_ptr().cast_mut(), ulLen: data.len() as CK_ULONG }
}

#[test]
fn bits_of_keys_are_joined_combined_and_cut_out() {
    let session = RawSession::new();
    let base = session.secret(CKK_GENERIC_SECRET, &[0x32, 0x9f, 0x84, 0xa9]);
    let data = text(&[0x01, 0x02]);
    let case = |kind, len| derive(&session, Mechanism::with(kind, &data), base, len);
    assert_eq!(case(CKM_CONCATENATE_BASE_AND_DATA, None).unwrap(), [0x32, 0x9f, 0x84, 0xa9, 1, 2]);
    assert_eq!(case(CKM_CONCATENATE_DATA_AND_BASE, None).unwrap(), [1, 2, 0x32, 0x9f, 0x84, 0xa9]);
    assert_eq!(case(CKM_CONCATENATE_DATA_AND_BASE, Some(3)).unwrap(), [1, 2, 0x32]);
    assert_eq!(case(CKM_XOR_BASE_AND_DATA, None).unwrap(), [0x33, 0x9d]);
    assert_eq!(case(CKM_XOR_BASE_AND_DATA, Some(3)), Err(CKR_KEY_SIZE_RANGE));
    let other = session.secret(CKK_AES, &[5; 16]);
    let joined = derive(&session, Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, &other), base, None).unwrap();
    assert_eq!(joined, [&[0x32, 0x9f, 0x84, 0xa9], &[5; 16][..]].concat());
    // The standard's own example: 0x329f84a9 from bit 21 on is 0x9526.
    let extract =
        |first: CK_ULONG, len| derive(&session, Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, &first), base, len);
    assert_eq!(extract(21, Some(2)).unwrap(), [0x95, 0x26]);
    assert_eq!(extract(0, None).unwrap(), [0x32, 0x9f, 0x84, 0xa9]);
    assert_eq!(extract(32, Some(1)), Err(CKR_MECHANISM_PARAM_INVALID));
    assert_eq!(extract(0, Some(5)), Err(CKR_KEY_SIZE_RANGE));
    let hashed = derive(&session, Mechanism::plain(CKM_SHA256_KEY_DERIVATION), base, None).unwrap();
    assert_eq!(hashed, session.digest(Mechanism::plain(CKM_SHA256), &[0x32, 0x9f, 0x84, 0xa9]).unwrap());
    let long = derive(&session, Mechanism::plain(CKM_SHA256_KEY_DERIVATION), base, Some(33));
    assert_eq!(long, Err(CKR_KEY_SIZE_RANGE));
}

/// Or anybody could read a sensitive key by deriving one that is not.
#[test]
fn what_is_made_of_a_keys_bits_is_as_sensitive() {
    let session = RawSession::new();
    let template = [(CKA_VALUE_LEN, &ulong(16)[..]), (CKA_DERIVE, TRUE)];
    let base = session.generate_key(Mechanism::plain(CKM_GENERIC_SECRET_KEY_GEN), &template).unwrap();
    let open = session.secret(CKK_GENERIC_SECRET, &[1; 16]);
    let (zero, data): (CK_ULONG, _) = (0, text(&[0; 16]));
    for mechanism in [
        Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, &zero),
        Mechanism::with(CKM_XOR_BASE_AND_DATA, &data),
        Mechanism::with(CKM_CONCATENATE_BASE_AND_DATA, &data),
        Mechanism::with(CKM_CONCATENATE_DATA_AND_BASE, &data),
        Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, &open),
    ] {
        for weaker in [(CKA_SENSITIVE, FALSE), (CKA_EXTRACTABLE, TRUE)] {
            assert_eq!(session.derive(mechanism, base, &[weaker]), Err(CKR_TEMPLATE_INCONSISTENT));
        }
        let derived = session.derive(mechanism, base, &[]).unwrap();
        assert_eq!(session.attribute(derived, CKA_VALUE), Err(CKR_ATTRIBUTE_SENSITIVE));
    }
    // The second key counts as much as the first.
    let mechanism = Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, &base);
    assert_eq!(session.derive(mechanism, open, OPEN), Err(CKR_TEMPLATE_INCONSISTENT));
}
