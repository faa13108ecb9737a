//! Numbers of Diffie-Hellman and DSA keys: attributes as big integers, and their bounds.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CKA_PRIME, CKA_PRIME_BITS, CKA_VALUE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_KEY_SIZE_RANGE,
};
use openssl::bn::{BigNum, BigNumRef};

use super::secret_number::SecretNumber;
use super::{incomplete, openssl_error};
use crate::units::{Attributes, Error, Result};

/// A big integer among attributes.
///
/// # Errors
/// `CKR_TEMPLATE_INCOMPLETE`.
pub(super) fn number(attributes: &Attributes, kind: CK_ATTRIBUTE_TYPE, name: &str) -> Result<BigNum> {
    BigNum::from_slice(attributes.get(kind).ok_or_else(|| incomplete(name))?).map_err(openssl_error)
}

/// The private exponent: the value of a private key.
///
/// # Errors
/// `CKR_TEMPLATE_INCOMPLETE`.
pub(super) fn exponent(secret: &Attributes) -> Result<SecretNumber> {
    SecretNumber::from_slice(secret.get(CKA_VALUE).ok_or_else(|| incomplete("CKA_VALUE"))?)
}

/// The prime, of `sizes` bits: what is computed costs the more the longer it is.
///
/// # Errors
/// `CKR_TEMPLATE_INCOMPLETE`, `CKR_KEY_SIZE_RANGE`, `CKR_ATTRIBUTE_VALUE_INVALID`.
pub(super) fn prime(attributes: &Attributes, sizes: (u32, u32)) -> Result<BigNum> {
    let prime = number(attributes, CKA_PRIME, "CKA_PRIME")?;
    check_bits(prime.num_bits() as u64, sizes)?;
    if !prime.is_odd() {
        return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_PRIME is no prime"));
    }
    Ok(prime)
}

/// How long the prime of new parameters is to be.
///
/// # Errors
/// `CKR_TEMPLATE_INCOMPLETE`, `CKR_KEY_SIZE_RANGE`.
pub(super) fn prime_bits(attributes: &Attributes, sizes: (u32, u32)) -> Result<u32> {
    let bits = attributes.ulong(CKA_PRIME_BITS).ok_or_else(|| incomplete("CKA_PRIME_BITS"))?;
    check_bits(bits, sizes)
}

/// Is it more than 1, and less than `limit` - 1? What is not would give every secret away.
///
/// # Errors
/// `CKR_ATTRIBUTE_VALUE_INVALID`.
pub(super) fn check_element(value: &BigNumRef, limit: &BigNumRef, name: &str) -> Result<()> {
    let mut highest = limit.to_owned().map_err(openssl_error)?;
    highest.sub_word(1).map_err(openssl_error)?;
    if value.num_bits() > 1 && *value < *highest {
        return Ok(());
    }
    Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, format!("{name} is out of range")))
}

/// Is it a private exponent below `limit`?
///
/// # Errors
/// `CKR_ATTRIBUTE_VALUE_INVALID`.
pub(super) fn check_exponent(value: &BigNumRef, limit: &BigNumRef) -> Result<()> {
    if value.num_bits() > 0 && *value < *limit {
        return Ok(());
    }
    Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_VALUE of the private key is out of range"))
}

/// A number, with zeros before it up to so many bytes.
pub(super) fn padded(number: &BigNumRef, bytes: usize) -> Result<Vec<u8>> {
    number.to_vec_padded(bytes as i32).map_err(openssl_error)
}

fn check_bits(bits: u64, (least, most): (u32, u32)) -> Result<u32> {
    match u32::try_from(bits) {
        Ok(bits) if (least..=most).contains(&bits) => Ok(bits),
        _ => Err(Error::new(CKR_KEY_SIZE_RANGE, format!("the prime has {least} to {most} bits"))),
    }
}
