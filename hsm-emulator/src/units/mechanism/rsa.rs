//! RSA keys: PKCS #1 v1.5, OAEP, PSS (PKCS #11 v3.1 section 6.1).

use cryptoki_sys::{
    CKA_COEFFICIENT, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_MODULUS, CKA_PRIME_1, CKA_PRIME_2,
    CKA_PRIVATE_EXPONENT, CKA_PUBLIC_EXPONENT, CKR_TEMPLATE_INCOMPLETE,
};
use openssl::bn::BigNum;
use openssl::pkey::{PKey, Private, Public};
use openssl::rsa::Rsa;

use super::openssl_error;
use crate::units::{Attributes, Error, Result};

/// The private key that these attributes describe.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let number = |kind| {
        let bytes = secret.get(kind).or_else(|| clear.get(kind)).ok_or_else(|| missing("RSA private key"))?;
        BigNum::from_slice(bytes).map_err(openssl_error)
    };
    let rsa = Rsa::from_private_components(
        number(CKA_MODULUS)?,
        number(CKA_PUBLIC_EXPONENT)?,
        number(CKA_PRIVATE_EXPONENT)?,
        number(CKA_PRIME_1)?,
        number(CKA_PRIME_2)?,
        number(CKA_EXPONENT_1)?,
        number(CKA_EXPONENT_2)?,
        number(CKA_COEFFICIENT)?,
    )
    .map_err(openssl_error)?;
    PKey::from_rsa(rsa).map_err(openssl_error)
}

/// The public key that these attributes describe.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let number = |kind| {
        let bytes = attributes.get(kind).ok_or_else(|| missing("RSA public key"))?;
        BigNum::from_slice(bytes).map_err(openssl_error)
    };
    let rsa = Rsa::from_public_components(number(CKA_MODULUS)?, number(CKA_PUBLIC_EXPONENT)?)
        .map_err(openssl_error)?;
    PKey::from_rsa(rsa).map_err(openssl_error)
}

fn missing(what: &str) -> Error {
    Error::new(CKR_TEMPLATE_INCOMPLETE, format!("a component of the {what} is missing"))
}
