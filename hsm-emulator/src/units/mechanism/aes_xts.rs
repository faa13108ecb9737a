//! AES-XTS (PKCS #11 v3.1 section 6.15; SP 800-38E).

use cryptoki_sys::*;
use openssl::cipher::Cipher;

use super::cipher::Job;
use super::{Mechanism, Parameter, aes, not_for};
use crate::units::{Error, Result};

pub(super) fn job<'a>(mechanism: &'a Mechanism, key: &'a [u8], data_len: usize) -> Result<Job<'a>> {
    if mechanism.kind != CKM_AES_XTS {
        return Err(not_for(mechanism, "an AES-XTS key"));
    }
    let Parameter::Bytes(tweak) = &mechanism.parameter else { return Err(bad_parameter()) };
    if tweak.len() != aes::BLOCK_BYTES {
        return Err(bad_parameter());
    }
    if data_len > MAX_DATA_UNIT_BYTES {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "a data unit of AES-XTS has at most 16 MiB"));
    }
    let cipher = match key.len() {
        32 => Cipher::aes_128_xts(),
        64 => Cipher::aes_256_xts(),
        _ => return Err(Error::new(CKR_KEY_SIZE_RANGE, "an AES-XTS key has 32 or 64 bytes")),
    };
    let mut job = Job::blocks(cipher, key, Some(tweak));
    (job.multiple, job.least) = (1, aes::BLOCK_BYTES);
    Ok(job)
}

fn bad_parameter() -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, "AES-XTS takes a data unit's number of 16 bytes")
}

/// 2^20 blocks (SP 800-38E section 4).
const MAX_DATA_UNIT_BYTES: usize = aes::BLOCK_BYTES << 20;
