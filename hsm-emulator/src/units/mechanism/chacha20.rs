//! ChaCha20-Poly1305 (PKCS #11 v3.1 section 6.47; RFC 8439).

use cryptoki_sys::*;
use openssl::cipher::Cipher;

use super::cipher::Job;
use super::{Mechanism, Parameter, not_for};
use crate::units::{Error, Result};

pub(super) fn job<'a>(mechanism: &'a Mechanism, key: &'a [u8]) -> Result<Job<'a>> {
    match (mechanism.kind, &mechanism.parameter) {
        (CKM_CHACHA20_POLY1305, Parameter::Gcm { iv, aad, tag_bits: 128 }) if iv.len() == NONCE_BYTES => {
            let mut job = Job::blocks(Cipher::chacha20_poly1305(), key, Some(iv));
            (job.aad, job.tag_bytes) = (aad, 16);
            Ok(job)
        }
        (CKM_CHACHA20_POLY1305, _) => {
            Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "ChaCha20-Poly1305 takes a nonce of 12 bytes"))
        }
        _ => Err(not_for(mechanism, "a ChaCha20 key")),
    }
}

const NONCE_BYTES: usize = 12;
