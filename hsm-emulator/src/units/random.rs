//! Randomness of the operating system, through the seeded generator of aws-lc.

use cryptoki_sys::CKR_DEVICE_ERROR;

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
