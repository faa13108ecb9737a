//! Random sequences of calls: only the codes that the standard allows, and an operation that is active exactly
//! when its rules say so.
#![allow(clippy::unwrap_used)]

mod support;

use std::ptr::null_mut;
use std::sync::OnceLock;

use cryptoki_sys::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Encrypt,
    Decrypt,
    Digest,
    Sign,
    Verify,
}

#[derive(Clone, Copy, Debug)]
enum Room {
    Query,
    Small,
    Enough,
}

#[derive(Clone, Debug)]
enum Step {
    Init(Family, usize, usize),
    Cancel(Family),
    Single(Family, usize, Room),
    Update(Family, usize, Room),
    Final(Family, Room),
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![
        Just(Family::Encrypt),
        Just(Family::Decrypt),
        Just(Family::Digest),
        Just(Family::Sign),
        Just(Family::Verify)
    ]
}

fn room() -> impl Strategy<Value = Room> {
    prop_oneof![1 => Just(Room::Query), 1 => Just(Room::Small), 2 => Just(Room::Enough)]
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0usize), Just(16), Just(32), 1usize..200];
    prop_oneof![
        4 => (family(), 0..MECHANISMS.len(), 0..8usize).prop_map(|(f, m, k)| Step::Init(f, m, k)),
        1 => family().prop_map(Step::Cancel),
        2 => (family(), len.clone(), room()).prop_map(|(f, l, r)| Step::Single(f, l, r)),
        4 => (family(), len, room()).prop_map(|(f, l, r)| Step::Update(f, l, r)),
        2 => (family(), room()).prop_map(|(f, r)| Step::Final(f, r)),
    ]
}

const MECHANISMS: [CK_MECHANISM_TYPE; 19] = [
    CKM_AES_ECB,
    CKM_AES_CBC,
    CKM_AES_CBC_PAD,
    CKM_AES_CTR,
    CKM_AES_GCM,
    CKM_AES_KEY_WRAP,
    CKM_RSA_PKCS,
    CKM_RSA_PKCS_OAEP,
    CKM_RSA_PKCS_PSS,
    CKM_SHA256_RSA_PKCS,
    CKM_SHA256_RSA_PKCS_PSS,
    CKM_ECDSA,
    CKM_ECDSA_SHA256,
    CKM_SHA256_HMAC,
    CKM_SHA_1,
    CKM_SHA512,
    CKM_SHA3_256,
    CKM_ECDH1_DERIVE,
    0x8765_4321,
];

fn keys() -> &'static (CK_SESSION_HANDLE, [CK_OBJECT_HANDLE; 8]) {
    static KEYS: OnceLock<(CK_SESSION_HANDLE, [CK_OBJECT_HANDLE; 8])> = OnceLock::new();
    KEYS.get_or_init(|| {
        let session = support::open(support::token());
        let [a, b, c, d, e, f] = support::session_keys(session);
        (session, [a, b, c, d, e, f, 0, CK_ULONG::MAX])
    })
}

fn init(session: CK_SESSION_HANDLE, family: Family, kind: CK_MECHANISM_TYPE, key: CK_OBJECT_HANDLE) -> CK_RV {
    let mut iv = [7u8; 16];
    let mut ctr = [CK_AES_CTR_PARAMS { ulCounterBits: 32, cb: iv }];
    let mut gcm = [CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: null_mut(),
        ulAADLen: 0,
        ulTagBits: 128,
    }];
    let mut oaep = [CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA_1,
        mgf: CKG_MGF1_SHA1,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: null_mut(),
        ulSourceDataLen: 0,
    }];
    let mut pss = [CK_RSA_PKCS_PSS_PARAMS { hashAlg: CKM_SHA256, mgf: CKG_MGF1_SHA256, sLen: 32 }];
    let mut mechanism = match kind {
        CKM_AES_CBC | CKM_AES_CBC_PAD => support::mechanism(kind, &mut iv),
        CKM_AES_CTR => support::mechanism(kind, &mut ctr),
        CKM_AES_GCM => support::mechanism(kind, &mut gcm),
        CKM_RSA_PKCS_OAEP => support::mechanism(kind, &mut oaep),
        CKM_RSA_PKCS_PSS | CKM_SHA256_RSA_PKCS_PSS => support::mechanism(kind, &mut pss),
        _ => support::mechanism::<u8>(kind, &mut []),
    };
    let mechanism = &raw mut mechanism;
    match family {
        Family::Encrypt => call!(C_EncryptInit(session, mechanism, key)),
        Family::Decrypt => call!(C_DecryptInit(session, mechanism, key)),
        Family::Digest => call!(C_DigestInit(session, mechanism)),
        Family::Sign => call!(C_SignInit(session, mechanism, key)),
        Family::Verify => call!(C_VerifyInit(session, mechanism, key)),
    }
}

fn cancel(session: CK_SESSION_HANDLE, family: Family) -> CK_RV {
    match family {
        Family::Encrypt => call!(C_EncryptInit(session, null_mut(), 0)),
        Family::Decrypt => call!(C_DecryptInit(session, null_mut(), 0)),
        Family::Digest => call!(C_DigestInit(session, null_mut())),
        Family::Sign => call!(C_SignInit(session, null_mut(), 0)),
        Family::Verify => call!(C_VerifyInit(session, null_mut(), 0)),
    }
}

/// The code, and whether the operation must be over.
fn run(session: CK_SESSION_HANDLE, step: &Step) -> (CK_RV, bool) {
    let mut data = [0x5a_u8; 256];
    let mut out = [0u8; 1024];
    let place = |room, out: &mut [u8; 1024]| match room {
        Room::Query => (null_mut(), 0),
        Room::Small => (out.as_mut_ptr(), 1),
        Room::Enough => (out.as_mut_ptr(), 1024),
    };
    let data_pointer = data.as_mut_ptr();
    match *step {
        Step::Init(..) | Step::Cancel(_) => unreachable!("handled by the caller"),
        Step::Single(family, len, room) => {
            let (pointer, mut room_len) = place(room, &mut out);
            let (n, room_len) = (len as CK_ULONG, &raw mut room_len);
            let code = match family {
                Family::Encrypt => call!(C_Encrypt(session, data_pointer, n, pointer, room_len)),
                Family::Decrypt => call!(C_Decrypt(session, data_pointer, n, pointer, room_len)),
                Family::Digest => call!(C_Digest(session, data_pointer, n, pointer, room_len)),
                Family::Sign => call!(C_Sign(session, data_pointer, n, pointer, room_len)),
                Family::Verify => call!(C_Verify(session, data_pointer, n, data_pointer, 64)),
            };
            let query = pointer.is_null() && family != Family::Verify;
            (code, !(code == CKR_BUFFER_TOO_SMALL || code == CKR_OK && query))
        }
        Step::Update(family, len, room) => {
            let (pointer, mut room_len) = place(room, &mut out);
            let (n, room_len) = (len as CK_ULONG, &raw mut room_len);
            let code = match family {
                Family::Encrypt => call!(C_EncryptUpdate(session, data_pointer, n, pointer, room_len)),
                Family::Decrypt => call!(C_DecryptUpdate(session, data_pointer, n, pointer, room_len)),
                Family::Digest => call!(C_DigestUpdate(session, data_pointer, n)),
                Family::Sign => call!(C_SignUpdate(session, data_pointer, n)),
                Family::Verify => call!(C_VerifyUpdate(session, data_pointer, n)),
            };
            (code, code != CKR_OK && code != CKR_BUFFER_TOO_SMALL)
        }
        Step::Final(family, room) => {
            let (pointer, mut room_len) = place(room, &mut out);
            let room_len = &raw mut room_len;
            let code = match family {
                Family::Encrypt => call!(C_EncryptFinal(session, pointer, room_len)),
                Family::Decrypt => call!(C_DecryptFinal(session, pointer, room_len)),
                Family::Digest => call!(C_DigestFinal(session, pointer, room_len)),
                Family::Sign => call!(C_SignFinal(session, pointer, room_len)),
                Family::Verify => call!(C_VerifyFinal(session, data_pointer, 64)),
            };
            let query = pointer.is_null() && family != Family::Verify;
            (code, !(code == CKR_BUFFER_TOO_SMALL || code == CKR_OK && query))
        }
    }
}

fn family_of(step: &Step) -> Family {
    match step {
        Step::Init(family, ..)
        | Step::Cancel(family)
        | Step::Single(family, ..)
        | Step::Update(family, ..)
        | Step::Final(family, _) => *family,
    }
}

const INIT_CODES: [CK_RV; 7] = [
    CKR_OK,
    CKR_OPERATION_ACTIVE,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_KEY_HANDLE_INVALID,
    CKR_KEY_FUNCTION_NOT_PERMITTED,
    CKR_KEY_TYPE_INCONSISTENT,
];
const STEP_CODES: [CK_RV; 10] = [
    CKR_OK,
    CKR_BUFFER_TOO_SMALL,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_DATA_INVALID,
    CKR_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_INVALID,
    CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_SIGNATURE_INVALID,
    CKR_SIGNATURE_LEN_RANGE,
    CKR_MECHANISM_PARAM_INVALID,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn operations_are_active_exactly_when_the_standard_says(steps in prop::collection::vec(step(), 1..30)) {
        let (_, keys) = keys();
        let session = support::open(support::token());
        let mut active = [false; 5];
        for step in &steps {
            let family = family_of(step);
            let active = &mut active[family as usize];
            match *step {
                Step::Init(family, mechanism, key) => {
                    let code = init(session, family, MECHANISMS[mechanism], keys[key]);
                    prop_assert!(INIT_CODES.contains(&code), "{step:?} gave {code:#x}");
                    prop_assert_eq!(code == CKR_OPERATION_ACTIVE, *active, "{:?} of {:?}", step, steps);
                    *active |= code == CKR_OK;
                }
                Step::Cancel(family) => {
                    let code = cancel(session, family);
                    prop_assert_eq!(code, if *active { CKR_OK } else { CKR_ARGUMENTS_BAD });
                    *active = false;
                }
                _ => {
                    let (code, over) = run(session, step);
                    prop_assert!(STEP_CODES.contains(&code), "{step:?} gave {code:#x} in {steps:?}");
                    if !*active {
                        prop_assert_eq!(code, CKR_OPERATION_NOT_INITIALIZED, "{:?} of {:?}", step, steps);
                    }
                    *active &= !over;
                }
            }
        }
        prop_assert_eq!(call!(C_CloseSession(session)), CKR_OK);
    }
}
