//! Keys that are plain bytes on a curve of their own: Ed25519 and Ed448 (RFC 8032), X25519 and X448 (RFC 7748).

use cryptoki_sys::*;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};

use super::{incomplete, octet_string, openssl_error};
use crate::units::{Attributes, Error, Result};

/// An Edwards or a Montgomery curve.
pub(super) struct Curve {
    pub id: Id,
    name: &'static str,
    key_type: CK_KEY_TYPE,
    /// DER of its object identifier, as `CKA_EC_PARAMS` carries it.
    oid: &'static [u8],
    /// The same curve by its name, a PrintableString.
    printable: &'static [u8],
    /// Of a public key, and of a private one.
    key_bytes: usize,
    /// 0: its keys do not sign.
    pub signature_bytes: usize,
}

const CURVES: [Curve; 4] = [
    Curve {
        id: Id::ED25519,
        name: "Ed25519",
        key_type: CKK_EC_EDWARDS,
        oid: b"\x06\x03\x2b\x65\x70",
        printable: b"\x13\x0cedwards25519",
        key_bytes: 32,
        signature_bytes: 64,
    },
    Curve {
        id: Id::ED448,
        name: "Ed448",
        key_type: CKK_EC_EDWARDS,
        oid: b"\x06\x03\x2b\x65\x71",
        printable: b"\x13\x0aedwards448",
        key_bytes: 57,
        signature_bytes: 114,
    },
    Curve {
        id: Id::X25519,
        name: "X25519",
        key_type: CKK_EC_MONTGOMERY,
        oid: b"\x06\x03\x2b\x65\x6e",
        printable: b"\x13\x0acurve25519",
        key_bytes: 32,
        signature_bytes: 0,
    },
    Curve {
        id: Id::X448,
        name: "X448",
        key_type: CKK_EC_MONTGOMERY,
        oid: b"\x06\x03\x2b\x65\x6f",
        printable: b"\x13\x08curve448",
        key_bytes: 56,
        signature_bytes: 0,
    },
];

impl Curve {
    /// The curve that `CKA_EC_PARAMS` names.
    fn named(params: &[u8]) -> Option<&'static Self> {
        CURVES.iter().find(|curve| params == curve.oid || params == curve.printable)
    }

    /// The curve of a key's attributes.
    ///
    /// # Errors
    /// `CKR_TEMPLATE_INCOMPLETE`, `CKR_CURVE_NOT_SUPPORTED`.
    pub fn of(attributes: &Attributes) -> Result<&'static Self> {
        let params = attributes.get(CKA_EC_PARAMS).ok_or_else(|| incomplete("CKA_EC_PARAMS"))?;
        let key_type = attributes.ulong(CKA_KEY_TYPE);
        Self::named(params).filter(|curve| Some(curve.key_type) == key_type).ok_or_else(|| {
            Error::new(CKR_CURVE_NOT_SUPPORTED, "CKA_EC_PARAMS names no curve for this type of key")
        })
    }

    /// The curve of a key.
    pub fn of_key<T>(key: &PKeyRef<T>) -> Option<&'static Self> {
        CURVES.iter().find(|curve| curve.id == key.id())
    }

    /// A public key, raw or in a DER OCTET STRING.
    pub fn parse_public(&self, point: &[u8]) -> Option<PKey<Public>> {
        let raw = match point {
            [0x04, len, raw @ ..] if usize::from(*len) == raw.len() && raw.len() == self.key_bytes => raw,
            raw => raw,
        };
        PKey::public_key_from_raw_bytes(raw, self.id).ok()
    }

    fn wrong_length(&self, attribute: &str) -> Error {
        let message = format!("{attribute} of an {} key has {} bytes", self.name, self.key_bytes);
        Error::new(CKR_ATTRIBUTE_VALUE_INVALID, message)
    }
}

/// The type of the keys on the curve that `CKA_EC_PARAMS` names, if it is one of these.
pub(super) fn key_type(params: &[u8]) -> Option<CK_KEY_TYPE> {
    Curve::named(params).map(|curve| curve.key_type)
}

/// The private key that these attributes describe.
pub(super) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let curve = Curve::of(clear)?;
    let value = secret.get(CKA_VALUE).ok_or_else(|| incomplete("CKA_VALUE"))?;
    PKey::private_key_from_raw_bytes(value, curve.id).map_err(|_| curve.wrong_length("CKA_VALUE"))
}

/// The public key that these attributes describe. `CKA_EC_POINT` is a DER OCTET STRING, or raw.
pub(super) fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let curve = Curve::of(attributes)?;
    let point = attributes.get(CKA_EC_POINT).ok_or_else(|| incomplete("CKA_EC_POINT"))?;
    curve.parse_public(point).ok_or_else(|| curve.wrong_length("CKA_EC_POINT"))
}

/// A key pair on the curve of the public template.
pub(super) fn generate(public: &mut Attributes, secret: &mut Attributes) -> Result<()> {
    let key = match Curve::of(public)?.id {
        Id::ED448 => PKey::generate_ed448(),
        Id::X25519 => PKey::generate_x25519(),
        Id::X448 => PKey::generate_x448(),
        _ => PKey::generate_ed25519(),
    }
    .map_err(openssl_error)?;
    describe_public(&key, public)?;
    secret.set(CKA_VALUE, key.raw_private_key().map_err(openssl_error)?);
    Ok(())
}

/// Puts a public key into attributes.
pub(super) fn describe_public<T: HasPublic>(key: &PKeyRef<T>, attributes: &mut Attributes) -> Result<()> {
    attributes.set(CKA_EC_POINT, octet_string(&key.raw_public_key().map_err(openssl_error)?));
    Ok(())
}

/// Puts the DER of the curve and the secret of a key that came in PKCS #8 into attributes, which say its type.
pub(super) fn describe_imported(
    key: &PKeyRef<Private>,
    clear: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let key_type = clear.ulong(CKA_KEY_TYPE);
    let curve = Curve::of_key(key).filter(|curve| Some(curve.key_type) == key_type);
    let curve = curve
        .ok_or_else(|| Error::new(CKR_WRAPPED_KEY_INVALID, "the wrapped key is on no curve for this type"))?;
    clear.set(CKA_EC_PARAMS, curve.oid);
    secret.set(CKA_VALUE, key.raw_private_key().map_err(openssl_error)?);
    Ok(())
}
