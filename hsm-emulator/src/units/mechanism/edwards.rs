//! Ed25519 and Ed448 keys and signatures (PKCS #11 v3.1 section 6.3; RFC 8032).

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKA_VALUE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED,
    CKR_MECHANISM_PARAM_INVALID, CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE, CKR_TEMPLATE_INCOMPLETE,
};
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};
use openssl::sign::{Signer, Verifier};

use super::{Parameter, ec, openssl_error};
use crate::units::{Attributes, Error, Result};

/// An Edwards curve.
pub(in crate::units) struct Curve {
    id: Id,
    name: &'static str,
    /// DER of its object identifier, as `CKA_EC_PARAMS` carries it.
    oid: &'static [u8],
    /// The same curve by its name, a PrintableString.
    printable: &'static [u8],
    /// Of a public key, and of a private one.
    key_bytes: usize,
    signature_bytes: usize,
}

const CURVES: [Curve; 2] = [
    Curve {
        id: Id::ED25519,
        name: "Ed25519",
        oid: b"\x06\x03\x2b\x65\x70",
        printable: b"\x13\x0cedwards25519",
        key_bytes: 32,
        signature_bytes: 64,
    },
    Curve {
        id: Id::ED448,
        name: "Ed448",
        oid: b"\x06\x03\x2b\x65\x71",
        printable: b"\x13\x0aedwards448",
        key_bytes: 57,
        signature_bytes: 114,
    },
];

fn named(params: &[u8]) -> Option<&'static Curve> {
    CURVES.iter().find(|curve| params == curve.oid || params == curve.printable)
}

fn of_key<T>(key: &PKeyRef<T>) -> Option<&'static Curve> {
    CURVES.iter().find(|curve| curve.id == key.id())
}

/// Does `CKA_EC_PARAMS` name an Edwards curve?
pub(in crate::units) fn is_curve(params: &[u8]) -> bool {
    named(params).is_some()
}

/// Is it a key of an Edwards curve?
pub fn is_key<T>(key: &PKeyRef<T>) -> bool {
    of_key(key).is_some()
}

/// Bytes of a signature by the key that these attributes describe.
pub fn signature_bytes(key: &Attributes) -> usize {
    key.get(CKA_EC_PARAMS).and_then(named).unwrap_or(&CURVES[0]).signature_bytes
}

/// Ed25519ph, Ed25519ctx and Ed448ph are not offered, nor a context. Ed448 comes with `CK_EDDSA_PARAMS` or without.
///
/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID`.
pub fn check_parameter(parameter: &Parameter, key: &Attributes) -> Result<()> {
    match parameter {
        Parameter::None => Ok(()),
        Parameter::Bytes(context) if context.is_empty() && curve(key)?.id == Id::ED448 => Ok(()),
        _ => Err(Error::new(
            CKR_MECHANISM_PARAM_INVALID,
            "EdDSA is offered without pre-hashing and without a context; Ed25519 takes no CK_EDDSA_PARAMS",
        )),
    }
}

fn curve(attributes: &Attributes) -> Result<&'static Curve> {
    let params = attributes
        .get(CKA_EC_PARAMS)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_PARAMS is missing"))?;
    named(params).ok_or_else(|| {
        let message = "CKA_EC_PARAMS of an Edwards key names neither Ed25519 nor Ed448";
        Error::new(CKR_CURVE_NOT_SUPPORTED, message)
    })
}

fn wrong_length(curve: &Curve, attribute: &str) -> Error {
    let message = format!("{attribute} of an {} key has {} bytes", curve.name, curve.key_bytes);
    Error::new(CKR_ATTRIBUTE_VALUE_INVALID, message)
}

/// The private key that these attributes describe.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let curve = curve(clear)?;
    let value = secret
        .get(CKA_VALUE)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_VALUE of the private key is missing"))?;
    PKey::private_key_from_raw_bytes(value, curve.id).map_err(|_| wrong_length(curve, "CKA_VALUE"))
}

/// The public key that these attributes describe. `CKA_EC_POINT` is a DER OCTET STRING, or raw.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let curve = curve(attributes)?;
    let point = attributes
        .get(CKA_EC_POINT)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_POINT of the public key is missing"))?;
    let raw = match point {
        [0x04, len, raw @ ..] if usize::from(*len) == raw.len() && raw.len() == curve.key_bytes => raw,
        raw => raw,
    };
    PKey::public_key_from_raw_bytes(raw, curve.id).map_err(|_| wrong_length(curve, "CKA_EC_POINT"))
}

/// A new key on the curve of the template.
pub(in crate::units) fn generate(template: &Attributes) -> Result<PKey<Private>> {
    let generated = match curve(template)?.id {
        Id::ED448 => PKey::generate_ed448(),
        _ => PKey::generate_ed25519(),
    };
    generated.map_err(openssl_error)
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

/// Puts the DER of the curve and the secret of a key that came in PKCS #8 into attributes.
pub(in crate::units) fn describe_imported(
    key: &PKeyRef<Private>,
    clear: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let curve = of_key(key)
        .ok_or_else(|| Error::new(CKR_CURVE_NOT_SUPPORTED, "the wrapped key is on no Edwards curve"))?;
    clear.set(CKA_EC_PARAMS, curve.oid);
    describe(key, clear, Some(secret))
}

/// A signature over the message itself.
pub(in crate::units) fn sign(key: &PKeyRef<Private>, message: &[u8]) -> Result<Vec<u8>> {
    let mut signer = Signer::new_without_digest(key).map_err(openssl_error)?;
    signer.sign_oneshot_to_vec(message).map_err(openssl_error)
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify(key: &PKeyRef<Public>, message: &[u8], signature: &[u8]) -> Result<()> {
    if of_key(key).is_none_or(|curve| curve.signature_bytes != signature.len()) {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature is not as long as its curve's are"));
    }
    let mut verifier = Verifier::new_without_digest(key).map_err(openssl_error)?;
    match verifier.verify_oneshot(signature, message) {
        Ok(true) => Ok(()),
        _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong")),
    }
}
