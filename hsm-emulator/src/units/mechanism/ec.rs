//! Elliptic curve keys: ECDSA and ECDH (PKCS #11 v3.1 section 6.3).

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKA_VALUE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED,
    CKR_TEMPLATE_INCOMPLETE,
};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private, Public};

use super::openssl_error;
use crate::units::{Attributes, Error, Result};

/// The curves, with the DER of their object identifiers as `CKA_EC_PARAMS` carries it.
const CURVES: [(Nid, &[u8]); 5] = [
    (Nid::X9_62_PRIME256V1, &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
    (Nid::SECP384R1, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]),
    (Nid::SECP521R1, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23]),
    (Nid::SECP256K1, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a]),
    (Nid::SECP224R1, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21]),
];

/// The curve that `CKA_EC_PARAMS` names.
///
/// # Errors
/// `CKR_CURVE_NOT_SUPPORTED`, `CKR_TEMPLATE_INCOMPLETE`.
pub(in crate::units) fn group(attributes: &Attributes) -> Result<EcGroup> {
    let params = attributes
        .get(CKA_EC_PARAMS)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_PARAMS is missing"))?;
    let (nid, _) = CURVES.iter().find(|(_, oid)| *oid == params).ok_or_else(|| {
        Error::new(
            CKR_CURVE_NOT_SUPPORTED,
            "CKA_EC_PARAMS names none of P-224, P-256, P-384, P-521, secp256k1",
        )
    })?;
    EcGroup::from_curve_name(*nid).map_err(openssl_error)
}

/// The private key that these attributes describe. Its public point is computed from the scalar.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let group = group(clear)?;
    let value = secret
        .get(CKA_VALUE)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_VALUE of the EC private key is missing"))?;
    let scalar = BigNum::from_slice(value).map_err(openssl_error)?;
    let mut point = EcPoint::new(&group).map_err(openssl_error)?;
    let mut context = BigNumContext::new().map_err(openssl_error)?;
    point.mul_generator2(&group, &scalar, &mut context).map_err(openssl_error)?;
    let key = EcKey::from_private_components(&group, &scalar, &point).map_err(openssl_error)?;
    key.check_key().map_err(openssl_error)?;
    PKey::from_ec_key(key).map_err(openssl_error)
}

/// The public key that these attributes describe. `CKA_EC_POINT` is a DER OCTET STRING.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let group = group(attributes)?;
    let point = attributes
        .get(CKA_EC_POINT)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_POINT of the EC public key is missing"))?;
    let mut context = BigNumContext::new().map_err(openssl_error)?;
    let point = EcPoint::from_bytes(&group, point_bytes(point), &mut context)
        .map_err(|_| Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_EC_POINT is no point of the curve"))?;
    let key = EcKey::from_public_key(&group, &point).map_err(openssl_error)?;
    PKey::from_ec_key(key).map_err(openssl_error)
}

/// The point inside a DER OCTET STRING; callers that pass it raw are understood too.
pub(in crate::units) fn point_bytes(der: &[u8]) -> &[u8] {
    match der {
        [0x04, len, point @ ..] if *len < 0x80 && point.len() == *len as usize => point,
        [0x04, 0x81, len, point @ ..] if point.len() == *len as usize => point,
        raw => raw,
    }
}

/// A DER OCTET STRING.
pub(in crate::units) fn octet_string(point: &[u8]) -> Vec<u8> {
    let mut der = vec![0x04];
    if point.len() >= 0x80 {
        der.push(0x81);
    }
    der.push(point.len() as u8);
    der.extend_from_slice(point);
    der
}
