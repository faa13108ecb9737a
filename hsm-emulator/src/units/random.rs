//! Randomness of the operating system, through the seeded generator of aws-lc.

use cryptoki_sys::CKR_DEVICE_ERROR;

use zeroize::Zeroizing;

use super::error::{Error, Result};

/// Fills `out` with random bytes.
///
/// # Errors
/// `CKR_DEVICE_ERROR` if the system has none to give.
pub fn fill(out: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(out).map_err(|_| Error::new(CKR_DEVICE_ERROR, "the random number generator failed"))
}

/// An array of random bytes.
///
/// # Errors
/// As [`fill`].
pub fn array<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    fill(&mut out)?;
    Ok(out)
}

/// A random scalar of P-521, taken by the first `accept` that finds it in range.
///
/// # Errors
/// As [`fill`].
pub(super) fn p521_scalar<T, E>(accept: impl Fn(&[u8]) -> std::result::Result<T, E>) -> Result<T> {
    // A random 521-bit string is a scalar below the order with a probability of nearly one.
    for _ in 0..128 {
        let mut bytes = Zeroizing::new(array::<66>()?);
        bytes[0] &= 1;
        if let Ok(scalar) = accept(bytes.as_slice()) {
            return Ok(scalar);
        }
    }
    Err(Error::new(CKR_DEVICE_ERROR, "the random number generator gives no valid scalar"))
}
