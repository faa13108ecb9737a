//! AES: ECB, CBC, CTS, CTR, OFB, CFB, GCM, CCM (PKCS #11 v3.1 sections 6.11 to 6.13).

use std::sync::LazyLock;

use aes_kw::KeyInit;
use aes_kw::aes::{Aes128, Aes192, Aes256};
use aes_kw::cipher::{Block, BlockCipherEncrypt};
use cryptoki_sys::*;
use openssl::cipher::{Cipher, CipherRef};

use super::cipher::Job;
use super::{Mechanism, Parameter};
use crate::units::{Error, Result};

/// CBC with ciphertext stealing, in the order of SP 800-38A's addendum that leaves whole blocks as they are (CS1).
fn ciphertext_stealing(key_bytes: usize) -> Result<&'static CipherRef> {
    let cipher = match key_bytes {
        16 => &CIPHERTEXT_STEALING[0],
        24 => &CIPHERTEXT_STEALING[1],
        32 => &CIPHERTEXT_STEALING[2],
        _ => return Err(bad_key()),
    };
    let lacking = || Error::new(CKR_MECHANISM_INVALID, "the cryptographic library lacks the cipher");
    cipher.as_deref().ok_or_else(lacking)
}

/// By the length of the key, looked up once.
pub(super) static CIPHERTEXT_STEALING: LazyLock<[Option<Cipher>; 3]> = LazyLock::new(|| {
    [128, 192, 256].map(|bits| Cipher::fetch(None, &format!("AES-{bits}-CBC-CTS"), None).ok())
});

/// A counter that would wrap would repeat its key stream, or carry into the nonce beside it.
fn check_counter(bits: u32, block: &[u8; BLOCK_BYTES], data_len: usize) -> Result<()> {
    let room = match 1u128.checked_shl(bits) {
        Some(period) => period - (u128::from_be_bytes(*block) & (period - 1)),
        None => return Ok(()),
    };
    if data_len.div_ceil(BLOCK_BYTES) as u128 <= room {
        return Ok(());
    }
    Err(Error::new(CKR_DATA_LEN_RANGE, "the data is longer than the counter lasts"))
}

/// A block of zeros, encrypted: what a check value is made of.
pub(super) fn zero_block(key: &[u8]) -> Result<Vec<u8>> {
    fn encrypt<C: KeyInit + BlockCipherEncrypt>(key: &[u8]) -> Result<Vec<u8>> {
        let mut block = Block::<C>::default();
        C::new_from_slice(key).map_err(|_| bad_key())?.encrypt_block(&mut block);
        Ok(block.to_vec())
    }
    match key.len() {
        16 => encrypt::<Aes128>(key),
        24 => encrypt::<Aes192>(key),
        _ => encrypt::<Aes256>(key),
    }
}

fn bad_key() -> Error {
    Error::new(CKR_KEY_SIZE_RANGE, "an AES key has 16, 24 or 32 bytes")
}

pub(super) fn job<'a>(mechanism: &'a Mechanism, key: &'a [u8], data_len: usize) -> Result<Job<'a>> {
    let bad_parameter =
        || Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter does not fit the AES mechanism");
    let by_size = |ciphers: [&'static CipherRef; 3]| match key.len() {
        16 => Ok(ciphers[0]),
        24 => Ok(ciphers[1]),
        32 => Ok(ciphers[2]),
        _ => Err(bad_key()),
    };
    let mut job = match (mechanism.kind, &mechanism.parameter) {
        (CKM_AES_ECB, Parameter::None) => {
            let cipher = by_size([Cipher::aes_128_ecb(), Cipher::aes_192_ecb(), Cipher::aes_256_ecb()])?;
            Job::blocks(cipher, key, None)
        }
        (CKM_AES_CBC | CKM_AES_CBC_PAD, Parameter::Bytes(iv)) if iv.len() == BLOCK_BYTES => {
            let cipher = by_size([Cipher::aes_128_cbc(), Cipher::aes_192_cbc(), Cipher::aes_256_cbc()])?;
            Job::blocks(cipher, key, Some(iv))
        }
        (CKM_AES_CTR, Parameter::Ctr { counter_bits: counter_bits @ 1..=128, counter_block }) => {
            check_counter(*counter_bits, counter_block, data_len)?;
            let cipher = by_size([Cipher::aes_128_ctr(), Cipher::aes_192_ctr(), Cipher::aes_256_ctr()])?;
            Job::blocks(cipher, key, Some(counter_block))
        }
        (CKM_AES_GCM, Parameter::Gcm { iv, aad, tag_bits }) => {
            let tag_fits = (32..=128).contains(tag_bits) && tag_bits.is_multiple_of(8);
            if !(1..=128).contains(&iv.len()) || !tag_fits {
                return Err(bad_parameter());
            }
            let cipher = by_size([Cipher::aes_128_gcm(), Cipher::aes_192_gcm(), Cipher::aes_256_gcm()])?;
            let mut job = Job::blocks(cipher, key, Some(iv));
            (job.aad, job.tag_bytes) = (aad, *tag_bits as usize / 8);
            job
        }
        (CKM_AES_OFB | CKM_AES_CFB8 | CKM_AES_CFB128, Parameter::Bytes(iv)) if iv.len() == BLOCK_BYTES => {
            let cipher = by_size(match mechanism.kind {
                CKM_AES_OFB => [Cipher::aes_128_ofb(), Cipher::aes_192_ofb(), Cipher::aes_256_ofb()],
                CKM_AES_CFB8 => [Cipher::aes_128_cfb8(), Cipher::aes_192_cfb8(), Cipher::aes_256_cfb8()],
                _ => [Cipher::aes_128_cfb128(), Cipher::aes_192_cfb128(), Cipher::aes_256_cfb128()],
            })?;
            Job::blocks(cipher, key, Some(iv))
        }
        (CKM_AES_CTS, Parameter::Bytes(iv)) if iv.len() == BLOCK_BYTES => {
            let mut job = Job::blocks(ciphertext_stealing(key.len())?, key, Some(iv));
            (job.multiple, job.least) = (1, BLOCK_BYTES);
            job
        }
        (CKM_AES_CCM, Parameter::Ccm { data_len, nonce, aad, tag_bytes }) => {
            let tag_fits = (4..=16).contains(tag_bytes) && tag_bytes.is_multiple_of(2);
            if !(7..=13).contains(&nonce.len()) || !tag_fits {
                return Err(bad_parameter());
            }
            // The nonce leaves 15 bytes less its own for the length.
            if data_len >> (8 * (15 - nonce.len()).min(7)) != 0 {
                return Err(Error::new(CKR_DATA_LEN_RANGE, "the data are too long for the nonce"));
            }
            let cipher = by_size([Cipher::aes_128_ccm(), Cipher::aes_192_ccm(), Cipher::aes_256_ccm()])?;
            let mut job = Job::blocks(cipher, key, Some(nonce));
            (job.aad, job.tag_bytes, job.declared_len) = (aad, *tag_bytes as usize, Some(*data_len));
            job
        }
        (
            CKM_AES_ECB | CKM_AES_CBC | CKM_AES_CBC_PAD | CKM_AES_CTR | CKM_AES_GCM | CKM_AES_CCM
            | CKM_AES_OFB | CKM_AES_CFB8 | CKM_AES_CFB128 | CKM_AES_CTS,
            _,
        ) => return Err(bad_parameter()),
        _ => return Err(super::not_for(mechanism, "an AES key")),
    };
    job.padded = mechanism.kind == CKM_AES_CBC_PAD;
    Ok(job)
}

pub(super) const BLOCK_BYTES: usize = 16;
