//! Objects that another HSM had: made as `C_CreateObject` makes them, with what was known of them kept.

use cryptoki_sys::*;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};

impl CryptoUnit {
    /// An object as another HSM had it, with its history: where a key was made, whether it has always been sensitive
    /// and never extractable, whether it is trusted. No application can say such things of an object. Whoever calls
    /// this vouches for them: it is not offered to callers of the HSM.
    ///
    /// # Errors
    /// As [`Self::create_object`]; `CKR_ATTRIBUTE_VALUE_INVALID` for a history that contradicts the object.
    pub fn restore_object(&self, object: &Attributes) -> Result<KeyBlob> {
        let mut template = object.clone();
        let history: Vec<_> =
            HISTORY.iter().filter_map(|kind| template.remove(*kind).map(|value| (*kind, value))).collect();
        let blob = self.create_object(&template)?;
        let (mut clear, secret) = self.unseal_pkcs11(&blob)?;
        for (kind, value) in history {
            // What the class has, the unit has filled in.
            if clear.get(kind).is_none_or(|made| made.len() != value.len()) {
                return Err(invalid(format!(
                    "attribute {kind:#x} is not for this object, or of a wrong kind"
                )));
            }
            clear.set(kind, value.as_slice());
        }
        let says = |kind| clear.bool(kind) == Some(true);
        if says(CKA_ALWAYS_SENSITIVE) && !says(CKA_SENSITIVE)
            || says(CKA_NEVER_EXTRACTABLE) && says(CKA_EXTRACTABLE)
        {
            return Err(invalid("what the key has always been is not what it is".to_owned()));
        }
        self.seal(&clear, &secret)
    }
}

fn invalid(message: String) -> Error {
    Error::new(CKR_ATTRIBUTE_VALUE_INVALID, message)
}

/// What an HSM alone says of an object.
const HISTORY: [CK_ATTRIBUTE_TYPE; 5] =
    [CKA_TRUSTED, CKA_LOCAL, CKA_KEY_GEN_MECHANISM, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE];
