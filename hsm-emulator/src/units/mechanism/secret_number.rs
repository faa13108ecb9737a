//! Big integers that are secret.

use std::mem;
use std::ops::Deref;

use openssl::bn::{BigNum, BigNumRef};

use super::openssl_error;
use crate::units::Result;

/// A number that is wiped when it is dropped, as it is when its key is refused.
pub(super) struct SecretNumber(BigNum);

impl SecretNumber {
    /// Reads a big-endian number. The time that a modular exponentiation with it takes does not depend on it.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let mut number = BigNum::from_slice(bytes).map_err(openssl_error)?;
        number.set_const_time();
        Ok(Self(number))
    }

    /// Hands the number over to a key of OpenSSL's, which wipes it as well.
    pub fn into_key(mut self) -> Result<BigNum> {
        Ok(mem::replace(&mut self.0, BigNum::new().map_err(openssl_error)?))
    }
}

impl Deref for SecretNumber {
    type Target = BigNumRef;

    fn deref(&self) -> &BigNumRef {
        &self.0
    }
}

impl Drop for SecretNumber {
    fn drop(&mut self) {
        self.0.clear();
    }
}
