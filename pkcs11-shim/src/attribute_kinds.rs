//! Which representation the value of an attribute has (section 4 of the standard).

use cryptoki_sys::*;
use hsm_emulator::units::nested_template::is_template;

/// How the C interface represents an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// `CK_BBOOL`, one byte.
    Bool,
    /// `CK_ULONG` or a type made of it, eight bytes.
    Ulong,
    /// An array of `CK_ULONG`.
    Ulongs,
    /// A nested template: an array of `CK_ATTRIBUTE`, with pointers.
    Template,
    /// Bytes, strings, big integers, dates.
    Bytes,
}

/// The representation of an attribute's value.
pub fn representation(kind: CK_ATTRIBUTE_TYPE) -> Representation {
    match kind {
        CKA_TOKEN
        | CKA_PRIVATE
        | CKA_TRUSTED
        | CKA_SENSITIVE
        | CKA_ENCRYPT
        | CKA_DECRYPT
        | CKA_WRAP
        | CKA_UNWRAP
        | CKA_SIGN
        | CKA_SIGN_RECOVER
        | CKA_VERIFY
        | CKA_VERIFY_RECOVER
        | CKA_DERIVE
        | CKA_EXTRACTABLE
        | CKA_LOCAL
        | CKA_NEVER_EXTRACTABLE
        | CKA_ALWAYS_SENSITIVE
        | CKA_MODIFIABLE
        | CKA_COPYABLE
        | CKA_DESTROYABLE
        | CKA_ALWAYS_AUTHENTICATE
        | CKA_WRAP_WITH_TRUSTED
        | CKA_ENCAPSULATE
        | CKA_DECAPSULATE => Representation::Bool,
        CKA_CLASS
        | CKA_KEY_TYPE
        | CKA_CERTIFICATE_TYPE
        | CKA_CERTIFICATE_CATEGORY
        | CKA_JAVA_MIDP_SECURITY_DOMAIN
        | CKA_NAME_HASH_ALGORITHM
        | CKA_MODULUS_BITS
        | CKA_PRIME_BITS
        | CKA_SUBPRIME_BITS
        | CKA_VALUE_BITS
        | CKA_VALUE_LEN
        | CKA_KEY_GEN_MECHANISM
        | CKA_PARAMETER_SET
        | CKA_MECHANISM_TYPE
        | CKA_PROFILE_ID => Representation::Ulong,
        CKA_ALLOWED_MECHANISMS => Representation::Ulongs,
        kind if is_template(kind) => Representation::Template,
        _ => Representation::Bytes,
    }
}
