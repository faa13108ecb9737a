//! Wrapping keys with secret keys: SP 800-38F, or encryption (PKCS #11 v3.1 section 6.14).

use aes_kw::aes::{Aes128, Aes192, Aes256};
use aes_kw::{AesKw, AesKwp, KeyInit};
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::{Mechanism, aes, cipher, des, not_for};
use crate::units::{Error, Result};

/// Is it a mechanism that wraps with keys of this type?
pub(in crate::units) fn takes(mechanism: CK_MECHANISM_TYPE, key_type: CK_KEY_TYPE) -> bool {
    match mechanism {
        CKM_AES_KEY_WRAP | CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP | CKM_AES_CBC | CKM_AES_CBC_PAD
        | CKM_AES_ECB | CKM_AES_GCM => key_type == CKK_AES,
        CKM_DES3_CBC | CKM_DES3_CBC_PAD | CKM_DES3_ECB => matches!(key_type, CKK_DES2 | CKK_DES3),
        _ => false,
    }
}

/// Wraps key material: SP 800-38F, or encryption. Ciphers of whole blocks that have no padding of their own get zeros
/// behind it.
pub(in crate::units) fn wrap(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    kek: &[u8],
    material: &[u8],
) -> Result<Vec<u8>> {
    let mut out = vec![0; material.len().next_multiple_of(8) + 8];
    let len_error =
        || Error::new(CKR_KEY_SIZE_RANGE, "this mechanism wraps 16 bytes or more, in multiples of 8");
    match mechanism.kind {
        CKM_AES_KEY_WRAP => {
            mechanism.without_parameter()?;
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
            mechanism.without_parameter()?;
            match kek.len() {
                16 => kwp::<Aes128>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
                24 => kwp::<Aes192>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
                _ => kwp::<Aes256>(kek)?.wrap_key(material, &mut out).map(<[u8]>::len),
            }
            .map_err(|_| len_error())?;
        }
        CKM_AES_CBC | CKM_AES_ECB => {
            return cipher::encrypt(mechanism, key_type, kek, &zero_padded(material, aes::BLOCK_BYTES));
        }
        CKM_DES3_CBC | CKM_DES3_ECB => {
            return cipher::encrypt(mechanism, key_type, kek, &zero_padded(material, des::BLOCK_BYTES));
        }
        CKM_AES_CBC_PAD | CKM_AES_GCM | CKM_DES3_CBC_PAD => {
            return cipher::encrypt(mechanism, key_type, kek, material);
        }
        _ => return Err(not_for(mechanism, "wrapping with a secret key")),
    }
    Ok(out)
}

fn zero_padded(material: &[u8], block_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; material.len().next_multiple_of(block_bytes)]);
    padded[..material.len()].copy_from_slice(material);
    padded
}

/// Undoes [`wrap`], but for zeros behind the material.
pub(in crate::units) fn unwrap(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    kek: &[u8],
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let invalid = || Error::new(CKR_WRAPPED_KEY_INVALID, "the wrapped key does not unwrap with this key");
    let mut out = Zeroizing::new(vec![0; wrapped.len()]);
    let len = match mechanism.kind {
        CKM_AES_KEY_WRAP | CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP
            if wrapped.len() < shortest(mechanism.kind) || !wrapped.len().is_multiple_of(8) =>
        {
            return Err(Error::new(
                CKR_WRAPPED_KEY_LEN_RANGE,
                "a wrapped key has 24 bytes or more (with padding, 16), in multiples of 8",
            ));
        }
        CKM_AES_KEY_WRAP => {
            mechanism.without_parameter()?;
            match kek.len() {
                16 => kw::<Aes128>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                24 => kw::<Aes192>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                _ => kw::<Aes256>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
            }
        }
        CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP => {
            mechanism.without_parameter()?;
            match kek.len() {
                16 => kwp::<Aes128>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                24 => kwp::<Aes192>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
                _ => kwp::<Aes256>(kek)?.unwrap_key(wrapped, &mut out).map(<[u8]>::len),
            }
        }
        CKM_AES_CBC | CKM_AES_CBC_PAD | CKM_AES_ECB | CKM_AES_GCM | CKM_DES3_CBC | CKM_DES3_CBC_PAD
        | CKM_DES3_ECB => {
            return cipher::decrypt(mechanism, key_type, kek, wrapped).map_err(|error| match error.code {
                CKR_ENCRYPTED_DATA_LEN_RANGE => Error::new(CKR_WRAPPED_KEY_LEN_RANGE, error.message),
                CKR_ENCRYPTED_DATA_INVALID => invalid(),
                _ => error,
            });
        }
        _ => return Err(not_for(mechanism, "unwrapping with a secret key")),
    }
    .map_err(|_| invalid())?;
    out.truncate(len);
    Ok(out)
}

/// The length of the smallest wrapped key.
fn shortest(kind: CK_MECHANISM_TYPE) -> usize {
    if kind == CKM_AES_KEY_WRAP { 24 } else { 16 }
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

fn bad_key() -> Error {
    Error::new(CKR_KEY_SIZE_RANGE, "an AES key has 16, 24 or 32 bytes")
}
