//! What needs no secret is computed here, not in the HSM: digests, and operations with public keys.

use cryptoki_sys::*;
pub use hsm_emulator::units::mechanism::digest::hash_by as digest;
use hsm_emulator::units::mechanism::{Mechanism, asymmetric, digest, rsa};
use hsm_emulator::units::{Attributes, Error, Result};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};

pub use openssl::hash::Hasher;

/// The digest function of a digest mechanism.
///
/// # Errors
/// `CKR_MECHANISM_INVALID`.
pub fn digest_function(mechanism: CK_MECHANISM_TYPE) -> Result<MessageDigest> {
    digest::message_digest(mechanism)
}

/// A fresh digest state.
///
/// # Errors
/// `CKR_FUNCTION_FAILED`.
pub fn hasher(function: MessageDigest) -> Result<Hasher> {
    Hasher::new(function).map_err(failed)
}

/// A public key, parsed.
pub struct PublicKey {
    key_type: CK_KEY_TYPE,
    key: PKey<Public>,
}

impl PublicKey {
    /// Parses the attributes of a public key object.
    ///
    /// # Errors
    /// `CKR_KEY_TYPE_INCONSISTENT` if it is none that can be used.
    pub fn parse(attributes: &Attributes) -> Result<Self> {
        let key_type = attributes.ulong(CKA_KEY_TYPE).unwrap_or(CK_UNAVAILABLE_INFORMATION);
        Ok(Self { key_type, key: asymmetric::public_key(attributes)? })
    }

    /// Verifies a signature with a mechanism that does not hash.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_LEN_RANGE`, `CKR_SIGNATURE_INVALID`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn verify(&self, mechanism: &Mechanism, data: &[u8], signature: &[u8]) -> Result<()> {
        asymmetric::verify(mechanism, self.key_type, &self.key, data, signature)
    }

    /// Recovers the data from an RSA signature.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_LEN_RANGE`, `CKR_SIGNATURE_INVALID`.
    pub fn verify_recover(&self, mechanism: &Mechanism, signature: &[u8]) -> Result<Vec<u8>> {
        rsa::verify_recover(mechanism, &self.key, signature)
    }

    /// Encrypts with an RSA mechanism.
    ///
    /// # Errors
    /// `CKR_DATA_LEN_RANGE`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn encrypt(&self, mechanism: &Mechanism, plaintext: &[u8]) -> Result<Vec<u8>> {
        rsa::encrypt(mechanism, &self.key, plaintext)
    }
}

/// The error of a cryptographic library that failed where it should not.
pub fn failed(_: ErrorStack) -> Error {
    Error::new(CKR_FUNCTION_FAILED, "the cryptographic library failed")
}
