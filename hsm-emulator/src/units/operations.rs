//! What a unit does with a key: encrypt, decrypt, sign, verify, wrap, unwrap, derive. Each call is complete in
//! itself (GREP11's `*Single`), so any unit with the same master key can answer it.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use cryptoki_sys::*;
use openssl::pkey::{Id, PKeyRef, Private};
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::vendor::CKM_IBM_ED25519_SHA512;
use super::error::{Error, Result};
use super::key_cache::{Key, OpenObject};
use super::mechanism::{Mechanism, Parameter, aes, digest, ec, edwards, hmac, rsa};
use super::template::{Draft, Origin};

impl CryptoUnit {
    /// Single-part encryption.
    ///
    /// # Errors
    /// `CKR_KEY_FUNCTION_NOT_PERMITTED`, `CKR_KEY_TYPE_INCONSISTENT`, `CKR_MECHANISM_INVALID`,
    /// `CKR_MECHANISM_PARAM_INVALID`, `CKR_DATA_LEN_RANGE`, and those of opening the key.
    pub fn encrypt(&self, mechanism: &Mechanism, key: &KeyBlob, plaintext: &[u8]) -> Result<Vec<u8>> {
        let object = self.usable(key, CKA_ENCRYPT, mechanism)?;
        match &object.key {
            Key::Secret(value) if is_aes(&object) => aes::encrypt(mechanism, value, plaintext),
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
            Key::Secret(value) if is_aes(&object) => aes::decrypt(mechanism, value, ciphertext),
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
            Key::Secret(value) => mac(mechanism, value, is_aes(&object), data),
            Key::Private(key) => {
                let (mechanism, data) = prehashed(mechanism, data)?;
                match (key.id(), mechanism.kind) {
                    (Id::ED25519, CKM_IBM_ED25519_SHA512) | (Id::ED25519 | Id::ED448, CKM_EDDSA) => {
                        edwards::check_parameter(&mechanism.parameter, &object.attributes)?;
                        edwards::sign(key, &data)
                    }
                    (Id::RSA, kind) if kind != CKM_ECDSA => rsa::sign(&mechanism, key, &data),
                    (Id::EC, CKM_ECDSA) => ec::sign(key, &data),
                    _ => Err(inconsistent()),
                }
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
            Key::Secret(value) => hmac::compare(&mac(mechanism, value, is_aes(&object), data)?, signature),
            Key::Public(key) => {
                let (mechanism, data) = prehashed(mechanism, data)?;
                match (key.id(), mechanism.kind) {
                    (Id::ED25519, CKM_IBM_ED25519_SHA512) | (Id::ED25519 | Id::ED448, CKM_EDDSA) => {
                        edwards::check_parameter(&mechanism.parameter, &object.attributes)?;
                        edwards::verify(key, &data, signature)
                    }
                    (Id::RSA, kind) if kind != CKM_ECDSA => rsa::verify(&mechanism, key, &data, signature),
                    (Id::EC, CKM_ECDSA) => ec::verify(key, &data, signature),
                    _ => Err(inconsistent()),
                }
            }
            _ => Err(inconsistent()),
        }
    }

    /// Wraps a key with another.
    ///
    /// # Errors
    /// `CKR_KEY_UNEXTRACTABLE`, `CKR_KEY_NOT_WRAPPABLE`, `CKR_WRAPPING_KEY_TYPE_INCONSISTENT`, `CKR_KEY_SIZE_RANGE`.
    pub fn wrap_key(&self, mechanism: &Mechanism, wrapping_key: &KeyBlob, key: &KeyBlob) -> Result<Vec<u8>> {
        let wrapping = self.usable(wrapping_key, CKA_WRAP, mechanism)?;
        let material = self.exported(key)?;
        match &wrapping.key {
            Key::Secret(value) if is_aes(&wrapping) => aes::wrap(mechanism, value, &material),
            Key::Public(key) if key.id() == Id::RSA => {
                rsa::encrypt(mechanism, key, &material).map_err(|error| match error.code {
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
        let bytes = match &unwrapping.key {
            Key::Secret(value) if is_aes(&unwrapping) => aes::unwrap(mechanism, value, wrapped)?,
            Key::Private(key) if key.id() == Id::RSA => {
                rsa::decrypt(mechanism, key, wrapped).map_err(|error| match error.code {
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
        self.import_unwrapped(template, &bytes)
    }

    /// Derives a key: `CKM_ECDH1_DERIVE`, `CKM_AES_ECB_ENCRYPT_DATA`, `CKM_AES_CBC_ENCRYPT_DATA`.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_MECHANISM_PARAM_INVALID`, `CKR_KEY_TYPE_INCONSISTENT`, and those of the template.
    pub fn derive_key(
        &self,
        mechanism: &Mechanism,
        base: &KeyBlob,
        template: &Attributes,
    ) -> Result<KeyBlob> {
        let object = self.usable(base, CKA_DERIVE, mechanism)?;
        let encrypts = matches!(mechanism.kind, CKM_AES_ECB_ENCRYPT_DATA | CKM_AES_CBC_ENCRYPT_DATA);
        if !encrypts && mechanism.kind != CKM_ECDH1_DERIVE {
            return Err(Error::new(CKR_MECHANISM_INVALID, "no key is derived by this mechanism"));
        }
        let origin = Origin::Derived {
            always_sensitive: object.attributes.bool(CKA_ALWAYS_SENSITIVE) == Some(true),
            never_extractable: object.attributes.bool(CKA_NEVER_EXTRACTABLE) == Some(true),
        };
        // "As per the SHA-1 key derivation": a generic secret, unless the template says otherwise.
        let key_type = encrypts.then(|| template.ulong(CKA_KEY_TYPE).unwrap_or(CKK_GENERIC_SECRET));
        let draft = Draft::new(template, Some(CKO_SECRET_KEY), key_type, origin)?;
        match (mechanism.kind, &object.key) {
            (CKM_ECDH1_DERIVE, Key::Private(key)) if key.id() == Id::EC => {
                let wanted = draft.clear.ulong(CKA_VALUE_LEN).map(|len| len as usize);
                let bytes = ecdh(mechanism, key, wanted)?;
                self.seal_derived_value(draft, &bytes, CKR_KEY_SIZE_RANGE)
            }
            // "The part discarded will be from the trailing end" (v3.1 section 6.27.3).
            (_, Key::Secret(key)) if encrypts && is_aes(&object) => {
                let bytes = aes::encrypt_data(mechanism, key)?;
                self.seal_derived_value(draft, &bytes, CKR_DATA_LEN_RANGE)
            }
            _ => Err(inconsistent()),
        }
    }

    /// The key, if it may be used like this.
    fn usable(
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

/// The MAC by a secret key: HMAC, or what AES offers.
fn mac(mechanism: &Mechanism, key: &[u8], is_aes: bool, data: &[u8]) -> Result<Vec<u8>> {
    match digest::hmac_digest(mechanism.kind) {
        Some(digest) if !is_aes => hmac::sign(digest, key, data),
        None if is_aes && aes::mac_bytes(mechanism.kind).is_some() => aes::mac(mechanism, key, data),
        _ => Err(inconsistent()),
    }
}

/// Mechanisms that hash first become what signs the hash.
fn prehashed<'a>(mechanism: &Mechanism, data: &'a [u8]) -> Result<(Mechanism, std::borrow::Cow<'a, [u8]>)> {
    match digest::hash_and_sign(mechanism.kind) {
        Some((digest, raw)) => {
            let parameter = mechanism.parameter.clone();
            Ok((Mechanism { kind: raw, parameter }, digest::prehash(digest, raw, data)?.into()))
        }
        None => Ok((mechanism.clone(), data.into())),
    }
}

/// What two keys share, by the parameter's key derivation function; `wanted` bytes if that is known.
fn ecdh(mechanism: &Mechanism, key: &PKeyRef<Private>, wanted: Option<usize>) -> Result<Zeroizing<Vec<u8>>> {
    let Parameter::Ecdh1 { kdf, shared_data, public_data } = &mechanism.parameter else {
        return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "CK_ECDH1_DERIVE_PARAMS are missing"));
    };
    let shared = ec::derive(key, public_data)?;
    let wanted = wanted.unwrap_or(shared.len());
    match *kdf {
        // "The truncation removes bytes from the leading end of the secret value" (v3.1 section 6.3.20).
        CKD_NULL if shared_data.is_empty() => {
            let surplus = shared.len().checked_sub(wanted).ok_or_else(|| {
                Error::new(CKR_KEY_SIZE_RANGE, "CKA_VALUE_LEN is more than the curve gives")
            })?;
            Ok(Zeroizing::new(shared[surplus..].to_vec()))
        }
        CKD_SHA1_KDF => x963(&SHA1_FOR_LEGACY_USE_ONLY, &shared, shared_data, wanted),
        CKD_SHA256_KDF => x963(&SHA256, &shared, shared_data, wanted),
        CKD_SHA384_KDF => x963(&SHA384, &shared, shared_data, wanted),
        CKD_SHA512_KDF => x963(&SHA512, &shared, shared_data, wanted),
        _ => Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the key derivation function is not supported")),
    }
}

/// ANSI X9.63: hashes of secret, counter and shared data, one after the other.
fn x963(
    algorithm: &'static aws_lc_rs::digest::Algorithm,
    secret: &[u8],
    shared_data: &[u8],
    len: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    if len > super::objects::MAX_SECRET_BYTES as usize {
        return Err(Error::new(CKR_KEY_SIZE_RANGE, "a secret key has 1 to 4096 bytes"));
    }
    let blocks = len.div_ceil(algorithm.output_len());
    let mut out = Zeroizing::new(Vec::with_capacity(blocks * algorithm.output_len()));
    for counter in 1..=blocks as u32 {
        let mut context = Context::new(algorithm);
        context.update(secret);
        context.update(&counter.to_be_bytes());
        context.update(shared_data);
        out.extend_from_slice(context.finish().as_ref());
    }
    out.truncate(len);
    Ok(out)
}

fn is_aes(object: &OpenObject) -> bool {
    object.attributes.ulong(CKA_KEY_TYPE) == Some(CKK_AES)
}

fn inconsistent() -> Error {
    Error::new(CKR_KEY_TYPE_INCONSISTENT, "the key's type does not fit the mechanism")
}
