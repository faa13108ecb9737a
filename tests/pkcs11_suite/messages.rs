//! Message-based encryption and signatures, signatures that come first, and authenticated wrapping.

use std::ptr;

use cryptoki_sys::*;

use super::USER_PIN;
use super::functions::{aes_key, plain, raw, rsa_pair, template, twice, ulong, user};

/// The parameter of a message, and what it points at.
struct Message {
    iv: [u8; 12],
    tag: [u8; 16],
}

impl Message {
    fn parameter(&mut self, fixed_bits: u64, generator: CK_GENERATOR_FUNCTION) -> CK_GCM_MESSAGE_PARAMS {
        CK_GCM_MESSAGE_PARAMS {
            pIv: self.iv.as_mut_ptr(),
            ulIvLen: 12,
            ulIvFixedBits: fixed_bits,
            ivGenerator: generator,
            pTag: self.tag.as_mut_ptr(),
            ulTagBits: 128,
        }
    }
}

const PARAMETER_LEN: CK_ULONG = size_of::<CK_GCM_MESSAGE_PARAMS>() as CK_ULONG;

fn encrypt(
    session: CK_SESSION_HANDLE,
    parameter: &mut CK_GCM_MESSAGE_PARAMS,
    aad: &str,
    data: &str,
) -> Result<Vec<u8>, CK_RV> {
    let (mut aad, mut data) = (aad.as_bytes().to_vec(), data.as_bytes().to_vec());
    twice(|out, len| {
        raw!(C_EncryptMessage(
            session,
            ptr::from_mut(parameter).cast(),
            PARAMETER_LEN,
            aad.as_mut_ptr(),
            aad.len() as CK_ULONG,
            data.as_mut_ptr(),
            data.len() as CK_ULONG,
            out,
            len
        ))
    })
}

fn decrypt(
    session: CK_SESSION_HANDLE,
    parameter: &mut CK_GCM_MESSAGE_PARAMS,
    aad: &str,
    data: &[u8],
) -> Result<Vec<u8>, CK_RV> {
    let (mut aad, mut data) = (aad.as_bytes().to_vec(), data.to_vec());
    twice(|out, len| {
        raw!(C_DecryptMessage(
            session,
            ptr::from_mut(parameter).cast(),
            PARAMETER_LEN,
            aad.as_mut_ptr(),
            aad.len() as CK_ULONG,
            data.as_mut_ptr(),
            data.len() as CK_ULONG,
            out,
            len
        ))
    })
}

/// A session that encrypts and decrypts messages with one key.
fn messages(label: &str) -> (CK_SESSION_HANDLE, CK_OBJECT_HANDLE) {
    let session = user(label);
    let key = aes_key(session);
    let mut gcm = plain(CKM_AES_GCM);
    assert_eq!(raw!(C_MessageEncryptInit(session, &raw mut gcm, key)), CKR_OK);
    assert_eq!(raw!(C_MessageEncryptInit(session, &raw mut gcm, key)), CKR_OPERATION_ACTIVE);
    assert_eq!(raw!(C_MessageDecryptInit(session, &raw mut gcm, key)), CKR_OK);
    (session, key)
}

#[test]
fn many_messages_need_one_initialisation() {
    let (session, key) = messages("messages");
    let mut message = Message { iv: [7; 12], tag: [0; 16] };
    let mut parameter = message.parameter(0, CKG_NO_GENERATE);
    let sealed = encrypt(session, &mut parameter, "header", "text").unwrap();
    // What C_Encrypt makes of the same.
    let mut aad = *b"header";
    let mut gcm = CK_GCM_PARAMS {
        pIv: message.iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: aad.as_mut_ptr(),
        ulAADLen: 6,
        ulTagBits: 128,
    };
    let mut mechanism = CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::from_mut(&mut gcm).cast(),
        ulParameterLen: size_of_val(&gcm) as CK_ULONG,
    };
    assert_eq!(raw!(C_EncryptInit(session, &raw mut mechanism, key)), CKR_OK);
    let mut text = *b"text";
    let whole = twice(|out, len| raw!(C_Encrypt(session, text.as_mut_ptr(), 4, out, len))).unwrap();
    assert_eq!(whole, [&sealed[..], &message.tag].concat());

    assert_eq!(decrypt(session, &mut parameter, "header", &sealed).unwrap(), b"text");
    // An altered message is refused, and the next one is decrypted.
    assert_eq!(decrypt(session, &mut parameter, "Header", &sealed), Err(CKR_AEAD_DECRYPT_FAILED));
    assert_eq!(decrypt(session, &mut parameter, "header", &sealed).unwrap(), b"text");
    assert_eq!(encrypt(session, &mut parameter, "", "").unwrap(), b"");
    assert_eq!(decrypt(session, &mut parameter, "", b"").unwrap(), b"");
    parameter.ulTagBits = 24;
    assert_eq!(encrypt(session, &mut parameter, "", "x"), Err(CKR_MECHANISM_PARAM_INVALID));
    assert_eq!(raw!(C_MessageEncryptFinal(session)), CKR_OK);
    assert_eq!(raw!(C_MessageEncryptFinal(session)), CKR_OPERATION_NOT_INITIALIZED);
    assert_eq!(raw!(C_MessageDecryptFinal(session)), CKR_OK);
}

#[test]
fn nonces_are_made() {
    let (session, key) = messages("nonces");
    let mut message = Message { iv: [9; 12], tag: [0; 16] };
    let mut parameter = message.parameter(32, CKG_GENERATE_COUNTER);
    let mut seen = std::collections::HashSet::new();
    let mut last = None;
    for _ in 0..3 {
        let sealed = encrypt(session, &mut parameter, "", "text").unwrap();
        assert_eq!(decrypt(session, &mut parameter, "", &sealed).unwrap(), b"text");
        let counter = u64::from_be_bytes(message.iv[4..].try_into().unwrap());
        assert_eq!(message.iv[..4], [9; 4]);
        assert!(last.is_none_or(|last: u64| last.wrapping_add(1) == counter));
        last = Some(counter);
        seen.insert(message.iv);
    }
    parameter.ivGenerator = CKG_GENERATE_RANDOM;
    // The first 31 bits stay; with more, too few are left for chance.
    parameter.ulIvFixedBits = 31;
    message.iv = [0xff; 12];
    encrypt(session, &mut parameter, "", "text").unwrap();
    assert_eq!(message.iv[..3], [0xff; 3]);
    assert_eq!(message.iv[3] & 0xfe, 0xfe);
    parameter.ulIvFixedBits = 33;
    assert_eq!(encrypt(session, &mut parameter, "", "text"), Err(CKR_MECHANISM_PARAM_INVALID));
    assert!(seen.insert(message.iv));
    // The counter is mixed with the first nonce, and begins with each operation.
    let mut gcm = plain(CKM_AES_GCM);
    assert_eq!(raw!(C_MessageEncryptFinal(session)), CKR_OK);
    assert_eq!(raw!(C_MessageEncryptInit(session, &raw mut gcm, key)), CKR_OK);
    parameter.ivGenerator = CKG_GENERATE_COUNTER_XOR;
    parameter.ulIvFixedBits = 0;
    message.iv = [1; 12];
    let made: Vec<_> = (0..3)
        .map(|_| {
            encrypt(session, &mut parameter, "", "text").unwrap();
            message.iv[11]
        })
        .collect();
    assert_eq!(made, [1, 0, 3]);
    parameter.ivGenerator = 77;
    assert_eq!(encrypt(session, &mut parameter, "", "text"), Err(CKR_MECHANISM_PARAM_INVALID));
    parameter.ivGenerator = CKG_GENERATE_RANDOM;
    parameter.ulIvFixedBits = 97;
    assert_eq!(encrypt(session, &mut parameter, "", "text"), Err(CKR_MECHANISM_PARAM_INVALID));
}

#[test]
fn a_message_comes_in_parts() {
    let (session, _) = messages("parts of messages");
    let mut message = Message { iv: [3; 12], tag: [0; 16] };
    let mut parameter = message.parameter(0, CKG_GENERATE_RANDOM);
    let pointer = ptr::from_mut(&mut parameter).cast();
    let (mut aad, mut first, mut second) = (*b"head", *b"first ", *b"second");
    let next = |data: &mut [u8], out: &mut [u8], flags| {
        let mut len = out.len() as CK_ULONG;
        let data_len = data.len() as CK_ULONG;
        let out = out.as_mut_ptr();
        let code = raw!(C_EncryptMessageNext(
            session,
            pointer,
            PARAMETER_LEN,
            data.as_mut_ptr(),
            data_len,
            out,
            &raw mut len,
            flags
        ));
        (code, len)
    };
    let mut out = [0; 12];
    assert_eq!(next(&mut first, &mut out, 0).0, CKR_OPERATION_NOT_INITIALIZED);
    let begin = || raw!(C_EncryptMessageBegin(session, pointer, PARAMETER_LEN, aad.as_ptr().cast_mut(), 4));
    assert_eq!(begin(), CKR_OK);
    assert_eq!(begin(), CKR_OPERATION_ACTIVE);
    assert_eq!(next(&mut first, &mut out, 0), (CKR_OK, 0));
    assert_eq!(next(&mut second, &mut out[..11], CKF_END_OF_MESSAGE), (CKR_BUFFER_TOO_SMALL, 12));
    assert_eq!(next(&mut second, &mut out, CKF_END_OF_MESSAGE), (CKR_OK, 12));
    assert_eq!(decrypt(session, &mut parameter, "head", &out).unwrap(), b"first second");

    let mut plain = [0; 12];
    let mut len = 12;
    let code = raw!(C_DecryptMessageBegin(session, pointer, PARAMETER_LEN, aad.as_mut_ptr(), 4));
    assert_eq!(code, CKR_OK);
    let (out, plain_out) = (out.as_mut_ptr(), plain.as_mut_ptr());
    assert_eq!(
        raw!(C_DecryptMessageNext(
            session,
            pointer,
            PARAMETER_LEN,
            out,
            12,
            plain_out,
            &raw mut len,
            CKF_END_OF_MESSAGE
        )),
        CKR_OK
    );
    assert_eq!(&plain, b"first second");
}

#[test]
fn messages_are_signed_one_after_the_other() {
    let session = user("signed messages");
    let (public, private) = rsa_pair(session, CK_FALSE);
    let mut mechanism = plain(CKM_SHA256_RSA_PKCS);
    assert_eq!(raw!(C_MessageSignInit(session, &raw mut mechanism, private)), CKR_OK);
    assert_eq!(raw!(C_MessageVerifyInit(session, &raw mut mechanism, public)), CKR_OK);
    let none = ptr::null_mut();
    for text in ["one", "two"] {
        let mut text = text.as_bytes().to_vec();
        let data = text.as_mut_ptr();
        let mut signature =
            twice(|out, len| raw!(C_SignMessage(session, none, 0, data, 3, out, len))).unwrap();
        let mut verify =
            |len| raw!(C_VerifyMessage(session, none, 0, data, len, signature.as_mut_ptr(), 256));
        assert_eq!(verify(3), CKR_OK);
        assert_eq!(verify(2), CKR_SIGNATURE_INVALID);
        // In parts.
        assert_eq!(
            raw!(C_SignMessageNext(session, none, 0, data, 1, none.cast(), ptr::null_mut())),
            CKR_OPERATION_NOT_INITIALIZED
        );
        assert_eq!(raw!(C_SignMessageBegin(session, none, 0)), CKR_OK);
        let mut len = 0;
        assert_eq!(
            raw!(C_SignMessage(session, none, 0, data, 3, none.cast(), &raw mut len)),
            CKR_OPERATION_ACTIVE
        );
        assert_eq!(raw!(C_SignMessageNext(session, none, 0, data, 1, none.cast(), ptr::null_mut())), CKR_OK);
        let rest = data.wrapping_add(1);
        let in_parts =
            twice(|out, len| raw!(C_SignMessageNext(session, none, 0, rest, 2, out, len))).unwrap();
        assert_eq!(in_parts, signature);
        assert_eq!(raw!(C_VerifyMessageBegin(session, none, 0)), CKR_OK);
        assert_eq!(raw!(C_VerifyMessageNext(session, none, 0, data, 1, none.cast(), 0)), CKR_OK);
        assert_eq!(raw!(C_VerifyMessageNext(session, none, 0, rest, 2, signature.as_mut_ptr(), 256)), CKR_OK);
    }
    assert_eq!(raw!(C_SignMessageBegin(session, none, 1)), CKR_MECHANISM_PARAM_INVALID);
    assert_eq!(raw!(C_MessageSignFinal(session)), CKR_OK);
    assert_eq!(raw!(C_MessageVerifyFinal(session)), CKR_OK);
    // RSA itself takes one part.
    let mut mechanism = plain(CKM_RSA_PKCS);
    assert_eq!(raw!(C_MessageSignInit(session, &raw mut mechanism, private)), CKR_OK);
    assert_eq!(raw!(C_SignMessageBegin(session, none, 0)), CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn each_message_wants_its_login_if_the_key_does() {
    let session = user("login for each message");
    let (_, private) = rsa_pair(session, CK_TRUE);
    let mut mechanism = plain(CKM_SHA256_RSA_PKCS);
    let mut data = *b"data";
    let sign = || {
        twice(|out, len| {
            raw!(C_SignMessage(session, ptr::null_mut(), 0, data.as_ptr().cast_mut(), 4, out, len))
        })
    };
    let mut pin = USER_PIN.as_bytes().to_vec();
    let mut login = || raw!(C_Login(session, CKU_CONTEXT_SPECIFIC, pin.as_mut_ptr(), 4));
    assert_eq!(raw!(C_MessageSignInit(session, &raw mut mechanism, private)), CKR_OK);
    assert_eq!(sign(), Err(CKR_USER_NOT_LOGGED_IN));
    assert_eq!(login(), CKR_OK);
    assert!(sign().is_ok());
    assert_eq!(sign(), Err(CKR_USER_NOT_LOGGED_IN));
    assert_eq!(login(), CKR_OK);
    assert!(sign().is_ok());
    // A state with such a key can't be saved.
    assert_eq!(raw!(C_SignInit(session, &raw mut mechanism, private)), CKR_OK);
    assert_eq!(raw!(C_MessageSignFinal(session)), CKR_OK);
    let mut len = 0;
    assert_eq!(raw!(C_GetOperationState(session, ptr::null_mut(), &raw mut len)), CKR_STATE_UNSAVEABLE);
    assert_eq!(raw!(C_SignUpdate(session, data.as_mut_ptr(), 4)), CKR_OK);
}

#[test]
fn a_signature_may_come_before_the_data() {
    let session = user("signature first");
    let (public, private) = rsa_pair(session, CK_FALSE);
    let mut mechanism = plain(CKM_SHA256_RSA_PKCS);
    let mut data = *b"data";
    assert_eq!(raw!(C_SignInit(session, &raw mut mechanism, private)), CKR_OK);
    let mut signature = twice(|out, len| raw!(C_Sign(session, data.as_mut_ptr(), 4, out, len))).unwrap();
    let mut init =
        |len| raw!(C_VerifySignatureInit(session, &raw mut mechanism, public, signature.as_mut_ptr(), len));
    assert_eq!(init(255), CKR_SIGNATURE_LEN_RANGE);
    assert_eq!(init(256), CKR_OK);
    assert_eq!(raw!(C_VerifySignature(session, data.as_mut_ptr(), 4)), CKR_OK);
    assert_eq!(init(256), CKR_OK);
    assert_eq!(raw!(C_VerifySignature(session, data.as_mut_ptr(), 3)), CKR_SIGNATURE_INVALID);
    assert_eq!(init(256), CKR_OK);
    assert_eq!(raw!(C_VerifySignatureUpdate(session, data.as_mut_ptr(), 2)), CKR_OK);
    assert_eq!(raw!(C_VerifySignatureUpdate(session, data[2..].as_mut_ptr(), 2)), CKR_OK);
    assert_eq!(raw!(C_VerifySignatureFinal(session)), CKR_OK);
    assert_eq!(raw!(C_VerifySignatureFinal(session)), CKR_OPERATION_NOT_INITIALIZED);
    // The two ways don't mix.
    assert_eq!(init(256), CKR_OK);
    assert_eq!(raw!(C_VerifyUpdate(session, data.as_mut_ptr(), 2)), CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn wrapping_is_authenticated() {
    let session = user("authenticated wrap");
    let (wrapping, key) = (aes_key(session), aes_key(session));
    let mut iv = [0; 12];
    let parameter = |iv: &mut [u8; 12], generator| CK_GCM_WRAP_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvFixedBits: 0,
        ivGenerator: generator,
        pAAD: ptr::null_mut(),
        ulAADLen: 0,
        ulTagBits: 128,
    };
    let mechanism = |wrap: &mut CK_GCM_WRAP_PARAMS| CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::from_mut(wrap).cast(),
        ulParameterLen: size_of_val(wrap) as CK_ULONG,
    };
    let mut wrap = parameter(&mut iv, CKG_GENERATE_RANDOM);
    let mut making = mechanism(&mut wrap);
    let mut aad = *b"name";
    let mut wrapped = twice(|out, len| {
        raw!(C_WrapKeyAuthenticated(session, &raw mut making, wrapping, key, aad.as_mut_ptr(), 4, out, len))
    })
    .unwrap();
    assert_eq!(wrapped.len(), 32 + 16);
    assert_ne!(iv, [0; 12]);
    let mut unwrap = parameter(&mut iv, CKG_NO_GENERATE);
    let mut given = mechanism(&mut unwrap);
    let mut unwrap = |aad: &mut [u8]| {
        let mut values = [(CKA_CLASS, ulong(CKO_SECRET_KEY)), (CKA_KEY_TYPE, ulong(CKK_AES))];
        let mut template = template(&mut values);
        let (mut unwrapped, aad_len, len) = (0, aad.len() as CK_ULONG, wrapped.len() as CK_ULONG);
        let (wrapped, aad) = (wrapped.as_mut_ptr(), aad.as_mut_ptr());
        raw!(C_UnwrapKeyAuthenticated(
            session,
            &raw mut given,
            wrapping,
            wrapped,
            len,
            template.as_mut_ptr(),
            2,
            aad,
            aad_len,
            &raw mut unwrapped
        ))
    };
    assert_eq!(unwrap(&mut aad), CKR_OK);
    assert_eq!(unwrap(&mut aad[..3]), CKR_WRAPPED_KEY_INVALID);
    let mut ecb = plain(CKM_AES_ECB);
    let mut len = 0;
    assert_eq!(
        raw!(C_WrapKeyAuthenticated(
            session,
            &raw mut ecb,
            wrapping,
            key,
            aad.as_mut_ptr(),
            4,
            ptr::null_mut(),
            &raw mut len
        )),
        CKR_MECHANISM_INVALID
    );
}
