//! What a unit does with a key: encrypt, decrypt, sign, verify, wrap, unwrap. Each call is complete in
//! itself (GREP11's `*Single`), so any unit with the same master key can answer it.

use cryptoki_sys::*;
use openssl::pkey::Id;
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};
use super::key_cache::{Key, OpenObject};
use super::mechanism::{Mechanism, asymmetric, inconsistent, mac, rsa, rsa_aes_wrap, secret_key_wrap};
use super::nested_template;

impl CryptoUnit {
    /// Single-part encryption.
    ///
    /// # Errors
    /// `CKR_KEY_FUNCTION_NOT_PERMITTED`, `CKR_KEY_TYPE_INCONSISTENT`, `CKR_MECHANISM_INVALID`,
    /// `CKR_MECHANISM_PARAM_INVALID`, `CKR_DATA_LEN_RANGE`, and those of opening the key.
    pub fn encrypt(&self, mechanism: &Mechanism, key: &KeyBlob, plaintext: &[u8]) -> Result<Vec<u8>> {
        let object = self.usable(key, CKA_ENCRYPT, mechanism)?;
        match &object.key {
            Key::Secret(key) => key.encrypt(mechanism, object.key_type(), plaintext),
            Key::Public(key) if key.id() == Id::RSA => rsa::encrypt(mechanism, key, plaintext),
            _ => Err(inconsistent()),
        }
    }

    /// Single-part decryption.
    ///
    /// # Errors
    /// As [`Self::encrypt`], and `CKR_ENCRYPTED_DATA_INVALID`, `CKR_ENCRYPTED_DATA_LEN_RANGE`.
    pub fn decrypt(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let object = self.usable(key, CKA_DECRYPT, mechanism)?;
        match &object.key {
            Key::Secret(key) => key.decrypt(mechanism, object.key_type(), ciphertext),
            Key::Private(key) if key.id() == Id::RSA => rsa::decrypt(mechanism, key, ciphertext),
            _ => Err(inconsistent()),
        }
    }

    /// Single-part signature or MAC.
    ///
    /// # Errors
    /// As [`Self::encrypt`].
    pub fn sign(&self, mechanism: &Mechanism, key: &KeyBlob, data: &[u8]) -> Result<Vec<u8>> {
        let object = self.usable(key, CKA_SIGN, mechanism)?;
        match &object.key {
            Key::Secret(key) => key.sign(mechanism, object.key_type(), data),
            Key::Private(key) => {
                asymmetric::check_parameter(mechanism, &object.attributes)?;
                let (mechanism, data) = asymmetric::prehashed(mechanism, data)?;
                asymmetric::sign(&mechanism, object.key_type(), key, &data)
            }
            _ => Err(inconsistent()),
        }
    }

    /// Single-part verification of a signature or MAC.
    ///
    /// # Errors
    /// As [`Self::encrypt`], and `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
    pub fn verify(&self, mechanism: &Mechanism, key: &KeyBlob, data: &[u8], signature: &[u8]) -> Result<()> {
        let object = self.usable(key, CKA_VERIFY, mechanism)?;
        match &object.key {
            Key::Secret(key) => mac::compare(&key.sign(mechanism, object.key_type(), data)?, signature),
            Key::Public(key) => {
                asymmetric::check_parameter(mechanism, &object.attributes)?;
                let (mechanism, data) = asymmetric::prehashed(mechanism, data)?;
                asymmetric::verify(&mechanism, object.key_type(), key, &data, signature)
            }
            _ => Err(inconsistent()),
        }
    }

    /// Wraps a key with another.
    ///
    /// # Errors
    /// `CKR_KEY_UNEXTRACTABLE`, `CKR_KEY_NOT_WRAPPABLE`, `CKR_KEY_HANDLE_INVALID`, `CKR_WRAPPING_KEY_TYPE_INCONSISTENT`,
    /// `CKR_KEY_SIZE_RANGE`.
    pub fn wrap_key(&self, mechanism: &Mechanism, wrapping_key: &KeyBlob, key: &KeyBlob) -> Result<Vec<u8>> {
        let wrapping = self.usable(wrapping_key, CKA_WRAP, mechanism)?;
        let material = self.exported(&wrapping.attributes, key)?;
        match &wrapping.key {
            Key::Secret(value) if secret_key_wrap::takes(mechanism.kind, wrapping.key_type()) => {
                secret_key_wrap::wrap(mechanism, wrapping.key_type(), value, &material)
            }
            Key::Public(key) if key.id() == Id::RSA => {
                let wrapped = match mechanism.kind {
                    CKM_RSA_AES_KEY_WRAP => rsa_aes_wrap::wrap(mechanism, key, &material),
                    _ => rsa::encrypt(mechanism, key, &material),
                };
                wrapped.map_err(|error| match error.code {
                    CKR_DATA_LEN_RANGE => {
                        Error::new(CKR_KEY_SIZE_RANGE, "the key is too long for the wrapping key")
                    }
                    _ => error,
                })
            }
            _ => Err(Error::new(
                CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
                "the wrapping key does not fit the mechanism",
            )),
        }
    }

    /// Unwraps a key.
    ///
    /// # Errors
    /// `CKR_WRAPPED_KEY_INVALID`, `CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT`, and those of the template.
    pub fn unwrap_key(
        &self,
        mechanism: &Mechanism,
        unwrapping_key: &KeyBlob,
        wrapped: &[u8],
        template: &Attributes,
    ) -> Result<KeyBlob> {
        let unwrapping = self.usable(unwrapping_key, CKA_UNWRAP, mechanism)?;
        let template = nested_template::completed(&unwrapping.attributes, CKA_UNWRAP_TEMPLATE, template)?;
        let bytes = match &unwrapping.key {
            Key::Secret(value) if secret_key_wrap::takes(mechanism.kind, unwrapping.key_type()) => {
                secret_key_wrap::unwrap(mechanism, unwrapping.key_type(), value, wrapped)?
            }
            Key::Private(key) if key.id() == Id::RSA => {
                let material = match mechanism.kind {
                    CKM_RSA_AES_KEY_WRAP => rsa_aes_wrap::unwrap(mechanism, key, wrapped),
                    _ => rsa::decrypt(mechanism, key, wrapped),
                };
                material.map_err(|error| match error.code {
                    CKR_ENCRYPTED_DATA_INVALID => Error::new(CKR_WRAPPED_KEY_INVALID, error.message),
                    CKR_ENCRYPTED_DATA_LEN_RANGE => Error::new(CKR_WRAPPED_KEY_LEN_RANGE, error.message),
                    _ => error,
                })?
            }
            _ => {
                let message = "the unwrapping key does not fit the mechanism";
                return Err(Error::new(CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, message));
            }
        };
        self.import_unwrapped(&template, &bytes)
    }

    /// The key, if it may be used like this.
    pub(super) fn usable(
        &self,
        key: &KeyBlob,
        usage: CK_ATTRIBUTE_TYPE,
        mechanism: &Mechanism,
    ) -> Result<std::sync::Arc<OpenObject>> {
        self.permit_mechanism(mechanism.kind)?;
        let object = self.object(key)?;
        // Without hashing, a signature is one from which the data are recovered.
        let recovers = usage == CKA_SIGN
            && matches!(mechanism.kind, CKM_RSA_PKCS | CKM_RSA_X_509)
            && object.attributes.bool(CKA_SIGN_RECOVER) == Some(true);
        if !recovers && object.attributes.bool(usage) != Some(true) {
            return Err(Error::new(
                CKR_KEY_FUNCTION_NOT_PERMITTED,
                "the key's attributes do not permit this use",
            ));
        }
        if let Some(allowed) = object.attributes.get(CKA_ALLOWED_MECHANISMS)
            && !allowed.is_empty()
            && !allowed.chunks(8).any(|kind| kind == mechanism.kind.to_le_bytes())
        {
            return Err(Error::new(
                CKR_MECHANISM_INVALID,
                "CKA_ALLOWED_MECHANISMS of the key excludes the mechanism",
            ));
        }
        Ok(object)
    }
}
