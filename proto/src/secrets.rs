//! Messages that hold keys, PINs or what proves a login show no more than their name. `build.rs` has the same list.

use std::fmt;

use crate::{failover, grep11, kms, tokens};

macro_rules! opaque {
    ($($message:ty)*) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($message))
            }
        })*
    };
}

opaque! {
    grep11::AttributeValue
    grep11::attribute_value::OneAttr
    grep11::DecryptSingleResponse
    grep11::EncryptSingleRequest
    grep11::GenerateRandomResponse
    grep11::Pbkdf2Parm
    failover::InviteResponse
    kms::CreateRootKeyRequest
    kms::RotateRequest
    kms::UnwrapResponse
    kms::WrapRequest
    kms::WrapResponse
    tokens::ChangesRequest
    tokens::DeleteObjectRequest
    tokens::InitPinRequest
    tokens::InitTokenRequest
    tokens::LoginRequest
    tokens::LoginResponse
    tokens::PutObjectRequest
    tokens::SetPinRequest
    tokens::TrustObjectRequest
}
