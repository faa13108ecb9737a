//! Keys with a public and a private half, each type by its own family.

use cryptoki_sys::*;
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};

use super::{
    Mechanism, dh, digest, dsa, ec, edwards, incomplete, inconsistent, octet_string, openssl_error,
    post_quantum, raw_curve, rsa,
};
use crate::units::error::vendor::CKM_IBM_ED25519_SHA512;
use crate::units::{Attributes, Error, Result};

/// The public key that these attributes describe.
///
/// # Errors
/// `CKR_KEY_TYPE_INCONSISTENT`, `CKR_TEMPLATE_INCOMPLETE`, `CKR_ATTRIBUTE_VALUE_INVALID`, `CKR_KEY_SIZE_RANGE`,
/// `CKR_CURVE_NOT_SUPPORTED`.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    match attributes.ulong(CKA_KEY_TYPE) {
        Some(CKK_RSA) => rsa::public_key(attributes),
        Some(CKK_EC) => ec::public_key(attributes),
        Some(CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => raw_curve::public_key(attributes),
        Some(CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA) => post_quantum::public_key(attributes),
        Some(CKK_DH) => dh::public_key(attributes),
        Some(CKK_DSA) => dsa::public_key(attributes),
        _ => Err(inconsistent()),
    }
}

/// The private key that these attributes describe.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    match clear.ulong(CKA_KEY_TYPE) {
        Some(CKK_RSA) => rsa::private_key(clear, secret),
        Some(CKK_EC) => ec::private_key(clear, secret),
        Some(CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => raw_curve::private_key(clear, secret),
        Some(CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA) => post_quantum::private_key(clear, secret),
        Some(CKK_DH) => dh::private_key(clear, secret),
        Some(CKK_DSA) => dsa::private_key(clear, secret),
        _ => Err(inconsistent()),
    }
}

/// The type of the key pairs that a mechanism generates; `None` if it generates none.
pub(in crate::units) fn generated_type(mechanism: CK_MECHANISM_TYPE) -> Option<CK_KEY_TYPE> {
    match mechanism {
        CKM_RSA_PKCS_KEY_PAIR_GEN => Some(CKK_RSA),
        CKM_EC_KEY_PAIR_GEN => Some(CKK_EC),
        CKM_EC_MONTGOMERY_KEY_PAIR_GEN => Some(CKK_EC_MONTGOMERY),
        CKM_ML_DSA_KEY_PAIR_GEN => Some(CKK_ML_DSA),
        CKM_ML_KEM_KEY_PAIR_GEN => Some(CKK_ML_KEM),
        CKM_SLH_DSA_KEY_PAIR_GEN => Some(CKK_SLH_DSA),
        CKM_EC_EDWARDS_KEY_PAIR_GEN => Some(CKK_EC_EDWARDS),
        CKM_DH_PKCS_KEY_PAIR_GEN => Some(CKK_DH),
        CKM_DSA_KEY_PAIR_GEN => Some(CKK_DSA),
        _ => None,
    }
}

/// What generates keys on a curve: IBM's clients ask for all of them as if they were of `CKK_EC`.
pub(in crate::units) fn generator(mechanism: CK_MECHANISM_TYPE, public: &Attributes) -> CK_MECHANISM_TYPE {
    match (mechanism, public.get(CKA_EC_PARAMS).and_then(raw_curve::key_type)) {
        (CKM_EC_KEY_PAIR_GEN, Some(CKK_EC_EDWARDS)) => CKM_EC_EDWARDS_KEY_PAIR_GEN,
        (CKM_EC_KEY_PAIR_GEN, Some(CKK_EC_MONTGOMERY)) => CKM_EC_MONTGOMERY_KEY_PAIR_GEN,
        _ => mechanism,
    }
}

/// Generates a key pair into its attributes: `secret` are the sealed ones of the private key.
pub(in crate::units) fn generate(
    key_type: CK_KEY_TYPE,
    public: &mut Attributes,
    private: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    if let CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY = key_type {
        let params = public.get(CKA_EC_PARAMS).ok_or_else(|| incomplete("CKA_EC_PARAMS"))?.to_vec();
        if private.get(CKA_EC_PARAMS).is_some_and(|other| other != params) {
            return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, "the two templates name different curves"));
        }
        private.set(CKA_EC_PARAMS, params);
    }
    match key_type {
        CKK_RSA => rsa::generate(public, private, secret),
        CKK_EC => ec::generate(public, secret),
        CKK_EC_EDWARDS | CKK_EC_MONTGOMERY => raw_curve::generate(public, secret),
        CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA => post_quantum::generate(public, private, secret),
        CKK_DH => dh::generate(public, private, secret),
        CKK_DSA => dsa::generate(public, private, secret),
        _ => Err(inconsistent()),
    }
}

/// The type of the keys for which a mechanism generates domain parameters; `None` if it generates none.
pub(in crate::units) fn parameters_type(mechanism: CK_MECHANISM_TYPE) -> Option<CK_KEY_TYPE> {
    match mechanism {
        CKM_DH_PKCS_PARAMETER_GEN => Some(CKK_DH),
        CKM_DSA_PARAMETER_GEN => Some(CKK_DSA),
        _ => None,
    }
}

/// Generates domain parameters into their attributes.
pub(in crate::units) fn generate_parameters(
    key_type: CK_KEY_TYPE,
    attributes: &mut Attributes,
) -> Result<()> {
    match key_type {
        CKK_DH => dh::generate_parameters(attributes),
        CKK_DSA => dsa::generate_parameters(attributes),
        _ => Err(inconsistent()),
    }
}

/// Checks domain parameters that come from outside, and adds what follows from them.
pub(in crate::units) fn complete_parameters(attributes: &mut Attributes) -> Result<()> {
    let prime_bits = match attributes.ulong(CKA_KEY_TYPE) {
        Some(CKK_DH) => dh::parameters(attributes)?.prime_p().num_bits(),
        Some(CKK_DSA) => {
            let parameters = dsa::parameters(attributes)?;
            attributes.set_ulong(CKA_SUBPRIME_BITS, parameters.q().num_bits() as u64);
            parameters.p().num_bits()
        }
        _ => return Err(inconsistent()),
    };
    attributes.set_ulong(CKA_PRIME_BITS, prime_bits as u64);
    Ok(())
}

/// Checks a public key that comes from outside, and adds what follows from it.
pub(in crate::units) fn complete_public(attributes: &mut Attributes) -> Result<()> {
    if attributes.ulong(CKA_KEY_TYPE) == Some(CKK_RSA) {
        // Of any size: keys that are too small or too large are kept, and refused when somebody uses them.
        let bits = rsa::modulus_bits(attributes)?;
        attributes.set_ulong(CKA_MODULUS_BITS, bits);
        return Ok(());
    }
    let key = public_key(attributes)?;
    match attributes.ulong(CKA_KEY_TYPE) {
        Some(CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => raw_curve::describe_public(&key, attributes)?,
        Some(CKK_EC) => {
            let group = ec::group(attributes)?;
            let point = attributes.get(CKA_EC_POINT).unwrap_or_default();
            attributes.set(CKA_EC_POINT, octet_string(ec::point_bytes(&group, point)));
        }
        _ => {}
    }
    Ok(())
}

/// Checks a private key that comes from outside, and adds what follows from it.
pub(in crate::units) fn complete_private(clear: &mut Attributes, secret: &mut Attributes) -> Result<()> {
    match clear.ulong(CKA_KEY_TYPE) {
        Some(CKK_RSA) => rsa::check_private_key(clear, secret),
        Some(CKK_DH) => {
            let key = private_key(clear, secret)?.dh().map_err(openssl_error)?;
            dh::describe(&key, clear, secret);
            Ok(())
        }
        Some(CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA) => post_quantum::complete_private(clear, secret),
        _ => private_key(clear, secret).map(drop),
    }
}

/// Puts a key that came in PKCS #8 into attributes, if it is of the type that they say.
pub(in crate::units) fn describe_imported(
    key: &PKeyRef<Private>,
    clear: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let invalid =
        |_| Error::new(CKR_WRAPPED_KEY_INVALID, "the unwrapped bytes are no private key of this type");
    match clear.ulong(CKA_KEY_TYPE) {
        Some(CKK_RSA) => rsa::describe(&key.rsa().map_err(invalid)?, clear, secret),
        Some(CKK_EC) => ec::describe_imported(&key.ec_key().map_err(invalid)?, clear, secret)?,
        Some(CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => raw_curve::describe_imported(key, clear, secret)?,
        Some(CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA) => {
            post_quantum::describe_imported(key, clear, secret)?;
        }
        Some(CKK_DH) => dh::describe(&key.dh().map_err(invalid)?, clear, secret),
        Some(CKK_DSA) => dsa::describe(&key.dsa().map_err(invalid)?, clear, secret),
        _ => return Err(inconsistent()),
    }
    complete_private(clear, secret)
}

/// Does the parameter of a mechanism that signs, or encrypts with RSA, fit the key?
///
/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID`.
pub fn check_parameter(mechanism: &Mechanism, key: &Attributes) -> Result<()> {
    match mechanism.kind {
        CKM_EDDSA | CKM_IBM_ED25519_SHA512 => edwards::check_parameter(&mechanism.parameter, key),
        CKM_ML_DSA | CKM_SLH_DSA => post_quantum::check_parameter(&mechanism.parameter),
        _ => rsa::check_parameter(mechanism, key),
    }
}

/// Signs with a mechanism that does not hash, whose parameter fits the key.
pub(in crate::units) fn sign(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &PKeyRef<Private>,
    data: &[u8],
) -> Result<Vec<u8>> {
    match (key_type, mechanism.kind) {
        (CKK_RSA, CKM_RSA_PKCS | CKM_RSA_X_509 | CKM_RSA_PKCS_PSS) => rsa::sign(mechanism, key, data),
        (CKK_EC, CKM_ECDSA) => mechanism.without_parameter().and_then(|()| ec::sign(key, data)),
        (CKK_EC_EDWARDS, CKM_EDDSA) => edwards::sign(key, data),
        (CKK_EC_EDWARDS, CKM_IBM_ED25519_SHA512) if key.id() == Id::ED25519 => edwards::sign(key, data),
        (CKK_DSA, CKM_DSA) => mechanism.without_parameter().and_then(|()| dsa::sign(key, data)),
        (CKK_ML_DSA, CKM_ML_DSA) | (CKK_SLH_DSA, CKM_SLH_DSA) => post_quantum::sign(mechanism, key, data),
        _ => Err(inconsistent()),
    }
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`, `CKR_KEY_TYPE_INCONSISTENT`.
pub fn verify(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &PKeyRef<Public>,
    data: &[u8],
    signature: &[u8],
) -> Result<()> {
    match (key_type, mechanism.kind) {
        (CKK_RSA, CKM_RSA_PKCS | CKM_RSA_X_509 | CKM_RSA_PKCS_PSS) => {
            rsa::verify(mechanism, key, data, signature)
        }
        (CKK_EC, CKM_ECDSA) => mechanism.without_parameter().and_then(|()| ec::verify(key, data, signature)),
        (CKK_EC_EDWARDS, CKM_EDDSA) => edwards::verify(key, data, signature),
        (CKK_EC_EDWARDS, CKM_IBM_ED25519_SHA512) if key.id() == Id::ED25519 => {
            edwards::verify(key, data, signature)
        }
        (CKK_DSA, CKM_DSA) => mechanism.without_parameter().and_then(|()| dsa::verify(key, data, signature)),
        (CKK_ML_DSA, CKM_ML_DSA) | (CKK_SLH_DSA, CKM_SLH_DSA) => {
            post_quantum::verify(mechanism, key, data, signature)
        }
        _ => Err(inconsistent()),
    }
}

/// Bytes of a signature by the key that these attributes describe.
pub fn signature_bytes(key: &Attributes) -> usize {
    match key.ulong(CKA_KEY_TYPE) {
        Some(CKK_RSA) => modulus_bytes(key),
        Some(CKK_EC_EDWARDS) => edwards::signature_bytes(key),
        Some(CKK_DSA) => dsa::signature_bytes(key),
        Some(CKK_ML_DSA | CKK_SLH_DSA) => post_quantum::output_bytes(key),
        _ => 2 * ec::order_bytes(key),
    }
}

/// The length of an RSA modulus: big integers may have zeros before them, which are none of it.
pub fn modulus_bytes(key: &Attributes) -> usize {
    let modulus = key.get(CKA_MODULUS).unwrap_or_default();
    modulus.len() - modulus.iter().take_while(|byte| **byte == 0).count()
}

/// Mechanisms that hash first become what signs the hash.
pub(in crate::units) fn prehashed<'a>(
    mechanism: &Mechanism,
    data: &'a [u8],
) -> Result<(Mechanism, std::borrow::Cow<'a, [u8]>)> {
    match digest::hash_and_sign(mechanism.kind) {
        Some((digest, raw)) => {
            let parameter = mechanism.parameter.clone();
            Ok((Mechanism { kind: raw, parameter }, digest::prehash(digest, raw, data)?.into()))
        }
        None => Ok((mechanism.clone(), data.into())),
    }
}
