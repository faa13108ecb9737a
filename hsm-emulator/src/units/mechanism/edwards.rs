//! Ed25519 keys and signatures (PKCS #11 v3.1 section 6.3; RFC 8032).

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKA_VALUE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED,
    CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE, CKR_TEMPLATE_INCOMPLETE,
};
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};
use openssl::sign::{Signer, Verifier};

use super::{ec, openssl_error};
use crate::units::{Attributes, Error, Result};

/// DER of the curve's object identifier, 1.3.101.112, as `CKA_EC_PARAMS` carries it.
pub(in crate::units) const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// The same curve by its name, a PrintableString.
const EDWARDS25519: &[u8] = b"\x13\x0cedwards25519";

/// Does `CKA_EC_PARAMS` name this curve?
pub(in crate::units) fn is_curve(params: &[u8]) -> bool {
    params == ED25519 || params == EDWARDS25519
}

fn check_curve(attributes: &Attributes) -> Result<()> {
    let params = attributes
        .get(CKA_EC_PARAMS)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_PARAMS is missing"))?;
    if is_curve(params) {
        return Ok(());
    }
    Err(Error::new(CKR_CURVE_NOT_SUPPORTED, "CKA_EC_PARAMS of an Edwards key does not name Ed25519"))
}

/// The private key that these attributes describe.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    check_curve(clear)?;
    let value = secret
        .get(CKA_VALUE)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_VALUE of the private key is missing"))?;
    PKey::private_key_from_raw_bytes(value, Id::ED25519)
        .map_err(|_| Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_VALUE of an Ed25519 key has 32 bytes"))
}

/// The public key that these attributes describe. `CKA_EC_POINT` is a DER OCTET STRING, or raw.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    check_curve(attributes)?;
    let point = attributes
        .get(CKA_EC_POINT)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_POINT of the public key is missing"))?;
    let raw = match point {
        [0x04, 0x20, raw @ ..] if raw.len() == PUBLIC_KEY_BYTES => raw,
        raw => raw,
    };
    PKey::public_key_from_raw_bytes(raw, Id::ED25519)
        .map_err(|_| Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_EC_POINT of an Ed25519 key has 32 bytes"))
}

/// A new key on the curve of the template.
pub(in crate::units) fn generate(template: &Attributes) -> Result<PKey<Private>> {
    check_curve(template)?;
    PKey::generate_ed25519().map_err(openssl_error)
}

/// Puts a key into attributes; the private part only if there is a place for it.
pub(in crate::units) fn describe(
    key: &PKeyRef<Private>,
    clear: &mut Attributes,
    secret: Option<&mut Attributes>,
) -> Result<()> {
    match secret {
        Some(secret) => secret.set(CKA_VALUE, key.raw_private_key().map_err(openssl_error)?),
        None => {
            let point = key.raw_public_key().map_err(openssl_error)?;
            clear.set(CKA_EC_POINT, ec::octet_string(&point));
        }
    }
    Ok(())
}

/// Ed25519 over the message itself.
pub(in crate::units) fn sign(key: &PKeyRef<Private>, message: &[u8]) -> Result<Vec<u8>> {
    let mut signer = Signer::new_without_digest(key).map_err(openssl_error)?;
    signer.sign_oneshot_to_vec(message).map_err(openssl_error)
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify(key: &PKeyRef<Public>, message: &[u8], signature: &[u8]) -> Result<()> {
    if signature.len() != SIGNATURE_BYTES {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "an Ed25519 signature has 64 bytes"));
    }
    let mut verifier = Verifier::new_without_digest(key).map_err(openssl_error)?;
    match verifier.verify_oneshot(signature, message) {
        Ok(true) => Ok(()),
        _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong")),
    }
}

const PUBLIC_KEY_BYTES: usize = 32;
/// Of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
