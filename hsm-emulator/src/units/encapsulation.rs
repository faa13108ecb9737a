//! `C_EncapsulateKey` and `C_DecapsulateKey`: keys that two parties share by a key encapsulation mechanism
//! (PKCS #11 v3.2 section 5.18).

use cryptoki_sys::*;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};
use super::key_cache::Key;
use super::mechanism::{Mechanism, inconsistent, post_quantum};
use super::nested_template;
use super::template::{Draft, Origin};

impl CryptoUnit {
    /// `C_EncapsulateKey`: a new secret key, and what the owner of the private key makes it of: (encapsulated, key).
    ///
    /// # Errors
    /// `CKR_KEY_FUNCTION_NOT_PERMITTED`, `CKR_KEY_TYPE_INCONSISTENT`, `CKR_MECHANISM_INVALID`, and those of the template.
    pub fn encapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        template: &Attributes,
    ) -> Result<(Vec<u8>, KeyBlob)> {
        let object = self.usable(key, CKA_ENCAPSULATE, mechanism)?;
        let template = nested_template::completed(&object.attributes, CKA_ENCAPSULATE_TEMPLATE, template)?;
        mechanism.without_parameter()?;
        let draft = Draft::new(&template, Some(CKO_SECRET_KEY), None, Origin::Unwrapped)?;
        match (mechanism.kind, &object.key) {
            (CKM_ML_KEM, Key::Public(key)) => {
                let (encapsulated, secret) = post_quantum::encapsulate(&object.attributes, key)?;
                Ok((encapsulated, self.seal_made_value(draft, &secret, CKR_KEY_SIZE_RANGE)?))
            }
            (CKM_ML_KEM, _) => Err(inconsistent()),
            _ => Err(Error::new(CKR_MECHANISM_INVALID, "no key is encapsulated by this mechanism")),
        }
    }

    /// `C_DecapsulateKey`: the key of [`Self::encapsulate_key`] out of what it encapsulated.
    ///
    /// # Errors
    /// As there, and `CKR_WRAPPED_KEY_LEN_RANGE`.
    pub fn decapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        encapsulated: &[u8],
        template: &Attributes,
    ) -> Result<KeyBlob> {
        let object = self.usable(key, CKA_DECAPSULATE, mechanism)?;
        let template = nested_template::completed(&object.attributes, CKA_DECAPSULATE_TEMPLATE, template)?;
        mechanism.without_parameter()?;
        let draft = Draft::new(&template, Some(CKO_SECRET_KEY), None, Origin::Unwrapped)?;
        match (mechanism.kind, &object.key) {
            (CKM_ML_KEM, Key::Private(key)) => {
                let secret = post_quantum::decapsulate(&object.attributes, key, encapsulated)?;
                self.seal_made_value(draft, &secret, CKR_KEY_SIZE_RANGE)
            }
            (CKM_ML_KEM, _) => Err(inconsistent()),
            _ => Err(Error::new(CKR_MECHANISM_INVALID, "no key is decapsulated by this mechanism")),
        }
    }
}
