//! Elliptic curve keys: ECDSA and ECDH (PKCS #11 v3.1 section 6.3).

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKA_VALUE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED,
    CKR_MECHANISM_PARAM_INVALID, CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE, CKR_TEMPLATE_INCOMPLETE,
};
use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcGroupRef, EcKey, EcPoint, PointConversionForm};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private, Public};
use zeroize::Zeroizing;

use super::prepared_key::PreparedPrivateKey;
use super::secret_number::SecretNumber;
use super::{octet_string, openssl_error};
use crate::units::{Attributes, Error, Result};

/// A curve.
struct Curve {
    nid: Nid,
    /// DER of its object identifier, as `CKA_EC_PARAMS` carries it.
    oid: &'static [u8],
    /// Bytes of its order.
    order_bytes: usize,
}

const CURVES: [Curve; 10] = [
    curve(Nid::X9_62_PRIME256V1, b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 32),
    curve(Nid::SECP384R1, b"\x06\x05\x2b\x81\x04\x00\x22", 48),
    curve(Nid::SECP521R1, b"\x06\x05\x2b\x81\x04\x00\x23", LARGEST_ORDER_BYTES),
    curve(Nid::SECP256K1, b"\x06\x05\x2b\x81\x04\x00\x0a", 32),
    curve(Nid::SECP224R1, b"\x06\x05\x2b\x81\x04\x00\x21", 28),
    curve(Nid::X9_62_PRIME192V1, b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01", 24),
    curve(Nid::BRAINPOOL_P256R1, b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x07", 32),
    curve(Nid::BRAINPOOL_P320R1, b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x09", 40),
    curve(Nid::BRAINPOOL_P384R1, b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0b", 48),
    curve(Nid::BRAINPOOL_P512R1, b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0d", 64),
];

const fn curve(nid: Nid, oid: &'static [u8], order_bytes: usize) -> Curve {
    Curve { nid, oid, order_bytes }
}

/// Bytes of the order of the curve that `CKA_EC_PARAMS` names, which is half a signature; [`LARGEST_ORDER_BYTES`] for
/// an unknown one.
pub fn order_bytes(key: &Attributes) -> usize {
    let params = key.get(CKA_EC_PARAMS);
    let found = CURVES.iter().find(|curve| Some(curve.oid) == params);
    found.map_or(LARGEST_ORDER_BYTES, |curve| curve.order_bytes)
}

/// P-521's.
pub const LARGEST_ORDER_BYTES: usize = 66;

/// The curve that `CKA_EC_PARAMS` names.
///
/// # Errors
/// `CKR_CURVE_NOT_SUPPORTED`, `CKR_TEMPLATE_INCOMPLETE`.
pub(in crate::units) fn group(attributes: &Attributes) -> Result<EcGroup> {
    let params = attributes
        .get(CKA_EC_PARAMS)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_PARAMS is missing"))?;
    let curve = CURVES.iter().find(|curve| curve.oid == params).ok_or_else(|| {
        Error::new(
            CKR_CURVE_NOT_SUPPORTED,
            "CKA_EC_PARAMS names none of P-192 to P-521, secp256k1, brainpoolP256r1 to brainpoolP512r1",
        )
    })?;
    EcGroup::from_curve_name(curve.nid).map_err(openssl_error)
}

/// The private key that these attributes describe. Its public point is computed from the scalar.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let group = group(clear)?;
    let value = secret
        .get(CKA_VALUE)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_VALUE of the EC private key is missing"))?;
    let scalar = SecretNumber::from_slice(value)?;
    let mut point = EcPoint::new(&group).map_err(openssl_error)?;
    let mut context = BigNumContext::new().map_err(openssl_error)?;
    point.mul_generator2(&group, &scalar, &mut context).map_err(openssl_error)?;
    let key = EcKey::from_private_components(&group, &scalar, &point).and_then(|key| {
        key.check_key()?;
        Ok(key)
    });
    let no_key = |_| Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is no private key of the curve");
    PKey::from_ec_key(key.map_err(no_key)?).map_err(openssl_error)
}

/// The public key that these attributes describe. `CKA_EC_POINT` is a DER OCTET STRING.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let group = group(attributes)?;
    let point = attributes
        .get(CKA_EC_POINT)
        .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_EC_POINT of the EC public key is missing"))?;
    let mut context = BigNumContext::new().map_err(openssl_error)?;
    let key = EcPoint::from_bytes(&group, point_bytes(&group, point), &mut context)
        .and_then(|point| EcKey::from_public_key(&group, &point))
        .and_then(|key| {
            key.check_key()?;
            Ok(key)
        })
        .map_err(|_| Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_EC_POINT is no point of the curve"))?;
    PKey::from_ec_key(key).map_err(openssl_error)
}

/// The point inside a DER OCTET STRING; callers that pass it raw are understood too. The length decides: the
/// DER form of a point is never as long as a raw one.
pub(in crate::units) fn point_bytes<'a>(group: &EcGroupRef, der: &'a [u8]) -> &'a [u8] {
    let field = field_bytes(group);
    match der {
        raw if raw.len() == 2 * field + 1 || raw.len() == field + 1 => raw,
        [0x04, len, point @ ..] if *len < 0x80 && point.len() == *len as usize => point,
        [0x04, 0x81, len, point @ ..] if point.len() == *len as usize => point,
        other => other,
    }
}

/// A key pair on the curve of the public template.
pub(super) fn generate(public: &mut Attributes, secret: &mut Attributes) -> Result<()> {
    let key = EcKey::generate(&*group(public)?).map_err(openssl_error)?;
    let mut context = BigNumContext::new().map_err(openssl_error)?;
    let form = PointConversionForm::UNCOMPRESSED;
    let point = key.public_key().to_bytes(key.group(), form, &mut context).map_err(openssl_error)?;
    public.set(CKA_EC_POINT, octet_string(&point));
    describe(&key, secret)
}

/// Puts the scalar into attributes.
fn describe(key: &EcKey<Private>, secret: &mut Attributes) -> Result<()> {
    let len = field_bytes(key.group());
    secret.set(CKA_VALUE, key.private_key().to_vec_padded(len as i32).map_err(openssl_error)?);
    Ok(())
}

/// Puts the DER of the curve and the scalar of a key that came in PKCS #8 into attributes.
pub(in crate::units) fn describe_imported(
    key: &EcKey<Private>,
    clear: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let nid = key.group().curve_name();
    let curve = CURVES.iter().find(|curve| Some(curve.nid) == nid).ok_or_else(|| {
        Error::new(CKR_CURVE_NOT_SUPPORTED, "the wrapped key is on a curve that is not supported")
    })?;
    clear.set(CKA_EC_PARAMS, curve.oid);
    describe(key, secret)
}

/// ECDSA over a hash: r and s, each as long as the order.
pub(in crate::units) fn sign(key: &PKeyRef<Private>, hash: &[u8]) -> Result<Vec<u8>> {
    let key = key.ec_key().map_err(openssl_error)?;
    let len = group_order_bytes(key.group());
    let signature = EcdsaSig::sign(hash, &key).map_err(openssl_error)?;
    let mut bytes = signature.r().to_vec_padded(len as i32).map_err(openssl_error)?;
    bytes.extend(signature.s().to_vec_padded(len as i32).map_err(openssl_error)?);
    Ok(bytes)
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify(key: &PKeyRef<Public>, hash: &[u8], signature: &[u8]) -> Result<()> {
    let key = key.ec_key().map_err(openssl_error)?;
    let len = group_order_bytes(key.group());
    if signature.len() != 2 * len {
        return Err(Error::new(
            CKR_SIGNATURE_LEN_RANGE,
            "the signature is not twice as long as the curve's order",
        ));
    }
    let (r, s) = signature.split_at(len);
    let number = |bytes| BigNum::from_slice(bytes).map_err(openssl_error);
    let signature = EcdsaSig::from_private_components(number(r)?, number(s)?).map_err(openssl_error)?;
    match signature.verify(hash, &key) {
        Ok(true) => Ok(()),
        _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong")),
    }
}

/// ECDH: the x-coordinate of the shared point.
pub(in crate::units) fn derive(key: &PreparedPrivateKey, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let invalid =
        || Error::new(CKR_MECHANISM_PARAM_INVALID, "the other party's public key is no point of the curve");
    let ec_key = key.ec_key().map_err(openssl_error)?;
    let group = ec_key.group();
    let peer = point_bytes(group, peer);
    if let Some(shared) = key.agree(peer) {
        return Ok(shared);
    }
    let mut context = BigNumContext::new().map_err(openssl_error)?;
    let point = EcPoint::from_bytes(group, peer, &mut context).map_err(|_| invalid())?;
    // A point of the curve has been read. As the cofactor is 1, any but infinity is one of the group (SP 800-56A, 5.6.2.3.3).
    if point.is_infinity(group) {
        return Err(invalid());
    }
    let peer = EcKey::from_public_key(group, &point).map_err(|_| invalid())?;
    let peer = PKey::from_ec_key(peer).map_err(openssl_error)?;
    let mut deriver = Deriver::new(key).map_err(openssl_error)?;
    deriver.set_peer_ex(&peer, false).map_err(|_| invalid())?;
    Ok(Zeroizing::new(deriver.derive_to_vec().map_err(openssl_error)?))
}

fn field_bytes(group: &EcGroupRef) -> usize {
    (group.degree() as usize).div_ceil(8)
}

fn group_order_bytes(group: &EcGroupRef) -> usize {
    (group.order_bits() as usize).div_ceil(8)
}
