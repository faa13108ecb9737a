//! The library as an application has it: through its function list, on a fresh state directory.
#![allow(unsafe_code, dead_code, reason = "C interface; each test uses a part")]

use std::ptr;
use std::sync::{Mutex, OnceLock};

use cryptoki_sys::*;

pub const SO_PIN: &[u8] = b"12345678";
pub const USER_PIN: &[u8] = b"1234";

/// The function list.
pub fn functions() -> &'static CK_FUNCTION_LIST {
    let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: the pointer is valid, and the list is static.
    unsafe {
        assert_eq!(hsm_pkcs11::exports::interfaces::C_GetFunctionList(&raw mut list), CKR_OK);
        &*list
    }
}

/// Calls a function of the list.
#[macro_export]
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let function = $crate::support::functions().$name.expect("every function is in the list");
        // SAFETY: the tests give NULL or pointers at live values.
        #[allow(unsafe_code, clippy::macro_metavars_in_unsafe)]
        unsafe { function($($argument),*) }
    }};
}

static STATE: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);

/// Puts the state of this test process into a directory of its own.
pub fn use_own_state() {
    STATE.lock().expect("no panic").get_or_insert_with(|| {
        let dir = tempfile::tempdir().expect("temporary directory");
        // SAFETY: done while no other thread of the test runs.
        unsafe { std::env::set_var("HSM_PKCS11_STATE", dir.path()) };
        dir
    });
}

/// Deletes it; the next test gets another.
pub fn forget_state() {
    drop(STATE.lock().expect("no panic").take());
}

/// Initialises the library and a token, once for the process. The token's slot.
pub fn token() -> CK_SLOT_ID {
    static SLOT: OnceLock<CK_SLOT_ID> = OnceLock::new();
    *SLOT.get_or_init(|| {
        use_own_state();
        assert_eq!(call!(C_Initialize(ptr::null_mut())), CKR_OK);
        let (mut slot, mut count) = (0, 1);
        assert_eq!(call!(C_GetSlotList(CK_TRUE, &raw mut slot, &raw mut count)), CKR_OK);
        let mut label = *b"test                            ";
        let mut pin = SO_PIN.to_vec();
        assert_eq!(call!(C_InitToken(slot, pin.as_mut_ptr(), 8, label.as_mut_ptr())), CKR_OK);
        let session = open(slot);
        assert_eq!(call!(C_Login(session, CKU_SO, pin.as_mut_ptr(), 8)), CKR_OK);
        let mut pin = USER_PIN.to_vec();
        assert_eq!(call!(C_InitPIN(session, pin.as_mut_ptr(), 4)), CKR_OK);
        assert_eq!(call!(C_Logout(session)), CKR_OK);
        assert_eq!(login(session), CKR_OK);
        slot
    })
}

/// A read-write session.
pub fn open(slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    assert_eq!(call!(C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut session)), CKR_OK);
    session
}

/// The user logs in.
pub fn login(session: CK_SESSION_HANDLE) -> CK_RV {
    let mut pin = USER_PIN.to_vec();
    call!(C_Login(session, CKU_USER, pin.as_mut_ptr(), 4))
}

/// An attribute that borrows its value.
pub fn attribute<T>(type_: CK_ATTRIBUTE_TYPE, value: &mut [T]) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_, pValue: value.as_mut_ptr().cast(), ulValueLen: size_of_val(value) as CK_ULONG }
}

/// A mechanism that borrows its parameter.
pub fn mechanism<T>(mechanism: CK_MECHANISM_TYPE, parameter: &mut [T]) -> CK_MECHANISM {
    let (pointer, len) = match parameter {
        [] => (ptr::null_mut(), 0),
        some => (some.as_mut_ptr().cast(), size_of_val(some) as CK_ULONG),
    };
    CK_MECHANISM { mechanism, pParameter: pointer, ulParameterLen: len }
}

/// Session keys of every type: AES, generic secret, RSA public and private, EC public and private.
pub fn session_keys(session: CK_SESSION_HANDLE) -> [CK_OBJECT_HANDLE; 6] {
    let mut len = [32 as CK_ULONG];
    let mut template = [attribute(CKA_VALUE_LEN, &mut len)];
    let secret = |kind, template: &mut [CK_ATTRIBUTE]| {
        let mut key = 0;
        let mut mechanism = mechanism::<u8>(kind, &mut []);
        let made = call!(C_GenerateKey(session, &raw mut mechanism, template.as_mut_ptr(), 1, &raw mut key));
        assert_eq!(made, CKR_OK);
        key
    };
    let aes = secret(CKM_AES_KEY_GEN, &mut template);
    let generic = secret(CKM_GENERIC_SECRET_KEY_GEN, &mut template);
    let pair = |kind, template: &mut [CK_ATTRIBUTE]| {
        let (mut public, mut private) = (0, 0);
        let mut mechanism = mechanism::<u8>(kind, &mut []);
        let made = call!(C_GenerateKeyPair(
            session,
            &raw mut mechanism,
            template.as_mut_ptr(),
            1,
            ptr::null_mut(),
            0,
            &raw mut public,
            &raw mut private,
        ));
        assert_eq!(made, CKR_OK);
        (public, private)
    };
    let rsa = pair(CKM_RSA_PKCS_KEY_PAIR_GEN, &mut [attribute(CKA_MODULUS_BITS, &mut [1024 as CK_ULONG])]);
    let mut p256 = [0x06_u8, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let ec = pair(CKM_EC_KEY_PAIR_GEN, &mut [attribute(CKA_EC_PARAMS, &mut p256)]);
    [aes, generic, rsa.0, rsa.1, ec.0, ec.1]
}
