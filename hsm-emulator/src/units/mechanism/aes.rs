//! AES: ECB, CBC, CTR, GCM, MACs, key wrap and key derivation (PKCS #11 v3.1 sections 6.11 to 6.15, and 6.27).

use aes_kw::aes::{Aes128, Aes192, Aes256};
use aes_kw::{AesKw, AesKwp, KeyInit};
use cryptoki_sys::*;
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, openssl_error};
use crate::units::{Error, Result};

/// Encrypts in one part.
pub(in crate::units) fn encrypt(mechanism: &Mechanism, key: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    let job = Job::new(mechanism, key, plaintext.len())?;
    if job.whole_blocks && !plaintext.len().is_multiple_of(BLOCK_BYTES) {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "the data is not a whole number of 16-byte blocks"));
    }
    let mut context = CipherCtx::new().map_err(openssl_error)?;
    context.encrypt_init(Some(job.cipher), None, None).map_err(openssl_error)?;
    job.set_up(&mut context, |context, iv| context.encrypt_init(None, Some(key), iv))?;
    if !job.aad.is_empty() {
        context.cipher_update(job.aad, None).map_err(openssl_error)?;
    }
    let mut out = vec![0; plaintext.len() + BLOCK_BYTES];
    let mut len = context.cipher_update(plaintext, Some(&mut out)).map_err(openssl_error)?;
    len += context.cipher_final(&mut out[len..]).map_err(openssl_error)?;
    out.truncate(len);
    if job.tag_bytes > 0 {
        out.resize(len + job.tag_bytes, 0);
        context.tag(&mut out[len..]).map_err(openssl_error)?;
    }
    Ok(out)
}

/// Decrypts in one part. Nothing of an altered GCM ciphertext is returned.
pub(in crate::units) fn decrypt(
    mechanism: &Mechanism,
    key: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let job = Job::new(mechanism, key, ciphertext.len())?;
    let Some(body_len) = ciphertext.len().checked_sub(job.tag_bytes) else {
        return Err(Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, "the ciphertext is shorter than its tag"));
    };
    let blocks_needed = job.whole_blocks || job.padded;
    if blocks_needed && (!body_len.is_multiple_of(BLOCK_BYTES) || (job.padded && body_len == 0)) {
        return Err(Error::new(
            CKR_ENCRYPTED_DATA_LEN_RANGE,
            "the ciphertext is not a whole number of blocks",
        ));
    }
    let (body, tag) = ciphertext.split_at(body_len);
    let mut context = CipherCtx::new().map_err(openssl_error)?;
    context.decrypt_init(Some(job.cipher), None, None).map_err(openssl_error)?;
    job.set_up(&mut context, |context, iv| context.decrypt_init(None, Some(key), iv))?;
    if !job.aad.is_empty() {
        context.cipher_update(job.aad, None).map_err(openssl_error)?;
    }
    if !tag.is_empty() {
        context.set_tag(tag).map_err(openssl_error)?;
    }
    let mut out = Zeroizing::new(vec![0; body_len + BLOCK_BYTES]);
    let mut len = context.cipher_update(body, Some(&mut out)).map_err(openssl_error)?;
    len += context
        .cipher_final(&mut out[len..])
        .map_err(|_| Error::new(CKR_ENCRYPTED_DATA_INVALID, "the ciphertext does not decrypt"))?;
    out.truncate(len);
    Ok(out)
}

/// Wraps key material: SP 800-38F, or encryption with CBC padding.
pub(in crate::units) fn wrap(mechanism: &Mechanism, kek: &[u8], material: &[u8]) -> Result<Vec<u8>> {
    let mut out = vec![0; material.len().next_multiple_of(8) + 8];
    let len_error =
        || Error::new(CKR_KEY_SIZE_RANGE, "this mechanism wraps 16 bytes or more, in multiples of 8");
    match mechanism.kind {
        CKM_AES_KEY_WRAP => {
            no_parameter(mechanism)?;
            if material.len() < 16 || !material.len().is_multiple_of(8) {
                return Err(len_error());
            }
            match kek.len() {
                16 => kw::<Aes128>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
                24 => kw::<Aes192>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
                _ => kw::<Aes256>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
            }
            .map_err(|_| len_error())?;
        }
        CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP => {
            no_parameter(mechanism)?;
            match kek.len() {
                16 => kwp::<Aes128>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
                24 => kwp::<Aes192>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
                _ => kwp::<Aes256>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
            }
            .map_err(|_| len_error())?;
        }
        CKM_AES_CBC | CKM_AES_CBC_PAD | CKM_AES_ECB | CKM_AES_GCM => {
            return encrypt(mechanism, kek, material);
        }
        _ => return Err(super::not_for(mechanism, "wrapping with an AES key")),
    }
    Ok(out)
}

/// Undoes [`wrap`].
pub(in crate::units) fn unwrap(
    mechanism: &Mechanism,
    kek: &[u8],
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let invalid = || Error::new(CKR_WRAPPED_KEY_INVALID, "the wrapped key does not unwrap with this key");
    let mut out = Zeroizing::new(vec![0; wrapped.len()]);
    let len = match mechanism.kind {
        CKM_AES_KEY_WRAP | CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP if wrapped.len() < 16 => {
            return Err(Error::new(CKR_WRAPPED_KEY_LEN_RANGE, "a wrapped key has 16 bytes or more"));
        }
        CKM_AES_KEY_WRAP => {
            no_parameter(mechanism)?;
            match kek.len() {
                16 => kw::<Aes128>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                24 => kw::<Aes192>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                _ => kw::<Aes256>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
            }
        }
        CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP => {
            no_parameter(mechanism)?;
            match kek.len() {
                16 => kwp::<Aes128>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                24 => kwp::<Aes192>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                _ => kwp::<Aes256>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
            }
        }
        CKM_AES_CBC | CKM_AES_CBC_PAD | CKM_AES_ECB | CKM_AES_GCM => {
            return decrypt(mechanism, kek, wrapped).map_err(|_| invalid());
        }
        _ => return Err(super::not_for(mechanism, "unwrapping with an AES key")),
    }
    .map_err(|_| invalid())?;
    out.truncate(len);
    Ok(out)
}

/// `CKM_AES_CMAC` (SP 800-38B), and `CKM_AES_MAC`: half of the last block of the CBC over the zero-padded data (FIPS 113).
pub(in crate::units) fn mac(mechanism: &Mechanism, key: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let bytes = mac_bytes(mechanism.kind).ok_or_else(|| super::not_for(mechanism, "an AES key"))?;
    if mechanism.parameter != Parameter::None {
        return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "this MAC takes no parameter"));
    }
    let mut mac = if mechanism.kind == CKM_AES_CMAC {
        let cipher = match key.len() {
            16 => openssl::symm::Cipher::aes_128_cbc(),
            24 => openssl::symm::Cipher::aes_192_cbc(),
            32 => openssl::symm::Cipher::aes_256_cbc(),
            _ => return Err(bad_key()),
        };
        let key = PKey::cmac(&cipher, key).map_err(openssl_error)?;
        let mut signer = Signer::new_without_digest(&key).map_err(openssl_error)?;
        signer.update(data).map_err(openssl_error)?;
        signer.sign_to_vec().map_err(openssl_error)?
    } else {
        let mut padded = Zeroizing::new(vec![0; data.len().max(1).next_multiple_of(BLOCK_BYTES)]);
        padded[..data.len()].copy_from_slice(data);
        let cbc = Mechanism { kind: CKM_AES_CBC, parameter: Parameter::Bytes(vec![0; BLOCK_BYTES]) };
        let mut encrypted = encrypt(&cbc, key, &padded)?;
        encrypted.split_off(encrypted.len() - BLOCK_BYTES)
    };
    mac.truncate(bytes);
    Ok(mac)
}

/// Bytes of the MAC that a mechanism of AES makes; `None` if it makes none.
pub fn mac_bytes(mechanism: CK_MECHANISM_TYPE) -> Option<usize> {
    match mechanism {
        CKM_AES_CMAC => Some(BLOCK_BYTES),
        CKM_AES_MAC => Some(BLOCK_BYTES / 2),
        _ => None,
    }
}

/// What `CKM_AES_ECB_ENCRYPT_DATA` and `CKM_AES_CBC_ENCRYPT_DATA` make a key of. Their parameter is the data, after the IV.
pub(in crate::units) fn encrypt_data(mechanism: &Mechanism, key: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let bad = || {
        let message = "the data to derive a key from are whole blocks of 16 bytes, at least one";
        Error::new(CKR_MECHANISM_PARAM_INVALID, message)
    };
    let Parameter::Bytes(given) = &mechanism.parameter else { return Err(bad()) };
    let (cipher, data) = match mechanism.kind {
        CKM_AES_CBC_ENCRYPT_DATA => {
            let (iv, data) = given.split_at_checked(BLOCK_BYTES).ok_or_else(bad)?;
            (Mechanism { kind: CKM_AES_CBC, parameter: Parameter::Bytes(iv.to_vec()) }, data)
        }
        _ => (Mechanism::plain(CKM_AES_ECB), &given[..]),
    };
    if data.is_empty() || !data.len().is_multiple_of(BLOCK_BYTES) {
        return Err(bad());
    }
    encrypt(&cipher, key, data).map(Zeroizing::new)
}

/// `CKA_CHECK_VALUE`: the first three bytes of a zero block encrypted in ECB.
pub(in crate::units) fn check_value(key: &[u8]) -> Result<Vec<u8>> {
    let mut block = encrypt(&Mechanism::plain(CKM_AES_ECB), key, &[0; BLOCK_BYTES])?;
    block.truncate(3);
    Ok(block)
}

fn kw<C: aes_kw::cipher::BlockCipherEncrypt + KeyInit>(kek: &[u8]) -> Result<AesKw<C>>
where
    AesKw<C>: KeyInit,
{
    AesKw::new_from_slice(kek).map_err(|_| bad_key())
}

fn kwp<C: aes_kw::cipher::BlockCipherEncrypt + KeyInit>(kek: &[u8]) -> Result<AesKwp<C>>
where
    AesKwp<C>: KeyInit,
{
    AesKwp::new_from_slice(kek).map_err(|_| bad_key())
}

fn no_parameter(mechanism: &Mechanism) -> Result<()> {
    match &mechanism.parameter {
        Parameter::None => Ok(()),
        _ => Err(Error::new(
            CKR_MECHANISM_PARAM_INVALID,
            "this key wrap takes no parameter (the standard's IV is used)",
        )),
    }
}

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

fn bad_key() -> Error {
    Error::new(CKR_KEY_SIZE_RANGE, "an AES key has 16, 24 or 32 bytes")
}

/// A mechanism made ready for OpenSSL.
struct Job<'a> {
    cipher: &'static CipherRef,
    iv: Option<&'a [u8]>,
    aad: &'a [u8],
    tag_bytes: usize,
    padded: bool,
    whole_blocks: bool,
}

impl<'a> Job<'a> {
    fn new(mechanism: &'a Mechanism, key: &[u8], data_len: usize) -> Result<Self> {
        let bad_parameter =
            || Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter does not fit the AES mechanism");
        let by_size = |ciphers: [&'static CipherRef; 3]| match key.len() {
            16 => Ok(ciphers[0]),
            24 => Ok(ciphers[1]),
            32 => Ok(ciphers[2]),
            _ => Err(bad_key()),
        };
        let plain =
            |cipher, iv| Job { cipher, iv, aad: &[], tag_bytes: 0, padded: false, whole_blocks: true };
        match (mechanism.kind, &mechanism.parameter) {
            (CKM_AES_ECB, Parameter::None) => Ok(plain(
                by_size([Cipher::aes_128_ecb(), Cipher::aes_192_ecb(), Cipher::aes_256_ecb()])?,
                None,
            )),
            (CKM_AES_CBC | CKM_AES_CBC_PAD, Parameter::Bytes(iv)) if iv.len() == BLOCK_BYTES => {
                let cipher = by_size([Cipher::aes_128_cbc(), Cipher::aes_192_cbc(), Cipher::aes_256_cbc()])?;
                let padded = mechanism.kind == CKM_AES_CBC_PAD;
                Ok(Job { padded, whole_blocks: !padded, ..plain(cipher, Some(iv)) })
            }
            (CKM_AES_CTR, Parameter::Ctr { counter_bits: counter_bits @ 1..=128, counter_block }) => {
                check_counter(*counter_bits, counter_block, data_len)?;
                let cipher = by_size([Cipher::aes_128_ctr(), Cipher::aes_192_ctr(), Cipher::aes_256_ctr()])?;
                Ok(Job { whole_blocks: false, ..plain(cipher, Some(counter_block)) })
            }
            (CKM_AES_GCM, Parameter::Gcm { iv, aad, tag_bits }) => {
                if !(1..=128).contains(&iv.len())
                    || !(32..=128).contains(tag_bits)
                    || !tag_bits.is_multiple_of(8)
                {
                    return Err(bad_parameter());
                }
                let cipher = by_size([Cipher::aes_128_gcm(), Cipher::aes_192_gcm(), Cipher::aes_256_gcm()])?;
                let tag_bytes = *tag_bits as usize / 8;
                Ok(Job { aad, tag_bytes, whole_blocks: false, ..plain(cipher, Some(iv)) })
            }
            (CKM_AES_ECB | CKM_AES_CBC | CKM_AES_CBC_PAD | CKM_AES_CTR | CKM_AES_GCM, _) => {
                Err(bad_parameter())
            }
            _ => Err(super::not_for(mechanism, "an AES key")),
        }
    }

    /// The IV's length must be known before key and IV are.
    fn set_up(
        &self,
        context: &mut CipherCtx,
        init: impl FnOnce(&mut CipherCtx, Option<&[u8]>) -> std::result::Result<(), openssl::error::ErrorStack>,
    ) -> Result<()> {
        if let Some(iv) = self.iv
            && iv.len() != context.iv_length()
        {
            context.set_iv_length(iv.len()).map_err(openssl_error)?;
        }
        init(context, self.iv).map_err(openssl_error)?;
        context.set_padding(self.padded);
        Ok(())
    }
}

const BLOCK_BYTES: usize = 16;
