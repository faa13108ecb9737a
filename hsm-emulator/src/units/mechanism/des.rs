//! Triple DES with two or three keys: ECB and CBC (PKCS #11 v3.1 section 6.17; SP 800-67).

use cryptoki_sys::*;
use openssl::cipher::Cipher;
use zeroize::Zeroizing;

use super::cipher::Job;
use super::{Mechanism, Parameter};
use crate::units::{Error, Result};

pub(super) fn job<'a>(mechanism: &'a Mechanism, key: &'a [u8]) -> Result<Job<'a>> {
    // Only where a job takes the key over, which wipes it.
    let key = || Ok(std::mem::take(&mut *three_keys(key)?));
    match (mechanism.kind, &mechanism.parameter) {
        (CKM_DES3_ECB, Parameter::None) => Ok(Job::blocks(Cipher::des_ede3_ecb(), key()?, None)),
        (CKM_DES3_CBC | CKM_DES3_CBC_PAD, Parameter::Bytes(iv)) if iv.len() == BLOCK_BYTES => {
            let padded = mechanism.kind == CKM_DES3_CBC_PAD;
            let mut job = Job::blocks(Cipher::des_ede3_cbc(), key()?, Some(iv));
            job.padded = padded;
            Ok(job)
        }
        (CKM_DES3_ECB | CKM_DES3_CBC | CKM_DES3_CBC_PAD, _) => Err(Error::new(
            CKR_MECHANISM_PARAM_INVALID,
            "triple DES takes an IV of 8 bytes in CBC, and no parameter in ECB",
        )),
        _ => Err(super::not_for(mechanism, "a DES key")),
    }
}

/// With two keys, the first one is the third as well.
pub(super) fn three_keys(key: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    match key.len() {
        24 => Ok(Zeroizing::new(key.to_vec())),
        16 => Ok(Zeroizing::new([key, &key[..8]].concat())),
        _ => Err(Error::new(CKR_KEY_SIZE_RANGE, "a triple DES key has 16 or 24 bytes")),
    }
}

/// Is the lowest bit of each byte such that the byte has an odd number of ones?
pub(in crate::units) fn has_odd_parity(key: &[u8]) -> bool {
    key.iter().fold(1, |odd, byte| odd & byte.count_ones()) & 1 == 1
}

/// Sets the lowest bit of each byte so.
pub(in crate::units) fn set_odd_parity(key: &mut [u8]) {
    for byte in key {
        *byte ^= 1 & !(byte.count_ones() as u8);
    }
}

pub(super) const BLOCK_BYTES: usize = 8;
