//! HMAC (PKCS #11 v3.1 section 6.22 and following).

use cryptoki_sys::{CK_MECHANISM_TYPE, CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE};
use openssl::pkey::PKey;
use openssl::sign::Signer;
use subtle::ConstantTimeEq;

use super::{digest, openssl_error};
use crate::units::{Error, Result};

/// The MAC of the data; `digest` is the digest's mechanism.
pub(in crate::units) fn sign(digest: CK_MECHANISM_TYPE, key: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let key = PKey::hmac(key).map_err(openssl_error)?;
    let mut signer = Signer::new(digest::message_digest(digest)?, &key).map_err(openssl_error)?;
    signer.sign_oneshot_to_vec(data).map_err(openssl_error)
}

/// Compares a MAC with the right one, in constant time.
pub(in crate::units) fn compare(expected: &[u8], mac: &[u8]) -> Result<()> {
    if expected.len() != mac.len() {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the MAC has a wrong length"));
    }
    if bool::from(expected.ct_eq(mac)) {
        return Ok(());
    }
    Err(Error::new(CKR_SIGNATURE_INVALID, "the MAC is wrong"))
}
