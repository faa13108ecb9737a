//! The one error of the crypto units: a PKCS #11 return code and a sentence for people.

use std::borrow::Cow;
use std::fmt;

use cryptoki_sys::CK_RV;

/// Codes and mechanisms of IBM's EP11.
pub mod vendor {
    use cryptoki_sys::{CK_MECHANISM_TYPE, CK_RV};

    /// Key derivation after BIP 32 and SLIP 10.
    pub const CKM_IBM_BTC_DERIVE: CK_MECHANISM_TYPE = 0x8007_0001;
    /// Schnorr signatures.
    pub const CKM_IBM_ECDSA_OTHER: CK_MECHANISM_TYPE = 0x8001_0031;
    /// Ed25519: IBM's name for `CKM_EDDSA` without parameter.
    pub const CKM_IBM_ED25519_SHA512: CK_MECHANISM_TYPE = 0x8001_001c;
    /// The blob is sealed under a master key that is not the current one.
    pub const CKR_IBM_WKID_MISMATCH: CK_RV = 0x8001_0001;
    /// The current master key register is empty.
    pub const CKR_IBM_WK_NOT_INITIALIZED: CK_RV = 0x8001_0009;
    /// The blob is not a key blob, or it was altered (EP11's name for both).
    pub const CKR_IBM_BLOBKEY_CONFLICT: CK_RV = 0x8001_000d;
    /// An importer key, a sealed state file or a transported master key does not authenticate.
    pub const CKR_IBM_TRANSPORT_INVALID: CK_RV = 0x8001_0101;
}

/// What went wrong inside a unit or a token.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({})", code_name(*.code))]
pub struct Error {
    /// `CKR_*`, standard or IBM's.
    pub code: CK_RV,
    /// What was wrong, with which object, what to do. Never a secret.
    pub message: Cow<'static, str>,
    /// May the same call succeed when it is repeated?
    pub retry: bool,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// An error with its return code.
    pub fn new(code: CK_RV, message: impl Into<Cow<'static, str>>) -> Self {
        let retry = code == vendor::CKR_IBM_WK_NOT_INITIALIZED;
        Self { code, message: message.into(), retry }
    }

    /// An error that may be gone at the next try.
    pub fn passing(code: CK_RV, message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry: true, ..Self::new(code, message) }
    }
}

/// The result of everything in a unit.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Defines the table of codes that people get to see by name.
macro_rules! names {
    ($($name:ident)*) => {
        /// The name of a return code, or its number.
        pub fn code_name(code: CK_RV) -> Cow<'static, str> {
            match code {
                $(cryptoki_sys::$name => stringify!($name).into(),)*
                vendor::CKR_IBM_WKID_MISMATCH => "CKR_IBM_WKID_MISMATCH".into(),
                vendor::CKR_IBM_WK_NOT_INITIALIZED => "CKR_IBM_WK_NOT_INITIALIZED".into(),
                vendor::CKR_IBM_BLOBKEY_CONFLICT => "CKR_IBM_BLOBKEY_CONFLICT".into(),
                vendor::CKR_IBM_TRANSPORT_INVALID => "CKR_IBM_TRANSPORT_INVALID".into(),
                other => format!("CKR {other:#x}").into(),
            }
        }
    };
}

names! {
    CKR_OK CKR_CANCEL CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED
    CKR_ARGUMENTS_BAD CKR_NO_EVENT CKR_NEED_TO_CREATE_THREADS CKR_CANT_LOCK CKR_ATTRIBUTE_READ_ONLY
    CKR_ATTRIBUTE_SENSITIVE CKR_ATTRIBUTE_TYPE_INVALID CKR_ATTRIBUTE_VALUE_INVALID CKR_ACTION_PROHIBITED
    CKR_DATA_INVALID CKR_DATA_LEN_RANGE CKR_DEVICE_ERROR CKR_DEVICE_MEMORY CKR_DEVICE_REMOVED
    CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE CKR_AEAD_DECRYPT_FAILED CKR_FUNCTION_CANCELED
    CKR_FUNCTION_NOT_PARALLEL CKR_FUNCTION_NOT_SUPPORTED CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE
    CKR_KEY_TYPE_INCONSISTENT CKR_KEY_NOT_NEEDED CKR_KEY_CHANGED CKR_KEY_NEEDED CKR_KEY_INDIGESTIBLE
    CKR_KEY_FUNCTION_NOT_PERMITTED CKR_KEY_NOT_WRAPPABLE CKR_KEY_UNEXTRACTABLE CKR_MECHANISM_INVALID
    CKR_MECHANISM_PARAM_INVALID CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE CKR_OPERATION_NOT_INITIALIZED
    CKR_PIN_INCORRECT CKR_PIN_INVALID CKR_PIN_LEN_RANGE CKR_PIN_EXPIRED CKR_PIN_LOCKED CKR_SESSION_CLOSED
    CKR_SESSION_COUNT CKR_SESSION_HANDLE_INVALID CKR_SESSION_PARALLEL_NOT_SUPPORTED CKR_SESSION_READ_ONLY
    CKR_SESSION_EXISTS CKR_SESSION_READ_ONLY_EXISTS CKR_SESSION_READ_WRITE_SO_EXISTS CKR_SIGNATURE_INVALID
    CKR_SIGNATURE_LEN_RANGE CKR_TEMPLATE_INCOMPLETE CKR_TEMPLATE_INCONSISTENT CKR_TOKEN_NOT_PRESENT
    CKR_TOKEN_NOT_RECOGNIZED CKR_TOKEN_WRITE_PROTECTED CKR_UNWRAPPING_KEY_HANDLE_INVALID
    CKR_UNWRAPPING_KEY_SIZE_RANGE CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT CKR_USER_ALREADY_LOGGED_IN
    CKR_USER_NOT_LOGGED_IN CKR_USER_PIN_NOT_INITIALIZED CKR_USER_TYPE_INVALID
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN CKR_USER_TOO_MANY_TYPES CKR_WRAPPED_KEY_INVALID
    CKR_WRAPPED_KEY_LEN_RANGE CKR_WRAPPING_KEY_HANDLE_INVALID CKR_WRAPPING_KEY_SIZE_RANGE
    CKR_WRAPPING_KEY_TYPE_INCONSISTENT CKR_RANDOM_SEED_NOT_SUPPORTED CKR_RANDOM_NO_RNG
    CKR_DOMAIN_PARAMS_INVALID CKR_CURVE_NOT_SUPPORTED CKR_BUFFER_TOO_SMALL CKR_SAVED_STATE_INVALID
    CKR_INFORMATION_SENSITIVE CKR_STATE_UNSAVEABLE CKR_CRYPTOKI_NOT_INITIALIZED
    CKR_CRYPTOKI_ALREADY_INITIALIZED CKR_MUTEX_BAD CKR_MUTEX_NOT_LOCKED CKR_EXCEEDED_MAX_ITERATIONS
    CKR_PIN_TOO_WEAK CKR_PUBLIC_KEY_INVALID CKR_FUNCTION_REJECTED CKR_TOKEN_RESOURCE_EXCEEDED
    CKR_OPERATION_CANCEL_FAILED CKR_KEY_EXHAUSTED CKR_SESSION_ASYNC_NOT_SUPPORTED CKR_SEED_RANDOM_REQUIRED
    CKR_OPERATION_NOT_VALIDATED CKR_TOKEN_NOT_INITIALIZED CKR_PARAMETER_SET_NOT_SUPPORTED
}
