//! The types of secret keys: how long they are, what makes them, how they are checked.

use cryptoki_sys::*;
use subtle::ConstantTimeEq;

use super::{Mechanism, aes, cipher, des, digest};
use crate::units::attributes::Attributes;
use crate::units::{Error, Result};

/// Is it a type of secret key that a unit knows?
pub(in crate::units) fn is_type(key_type: CK_KEY_TYPE) -> bool {
    matches!(key_type, CKK_AES | CKK_AES_XTS | CKK_CHACHA20 | CKK_DES2 | CKK_DES3 | CKK_HKDF)
        || digest::is_hmac_key_type(key_type)
}

/// The type of the keys that a mechanism generates; `None` if it generates none. Where there is a choice, the template
/// has it.
pub(in crate::units) fn generated_type(
    mechanism: CK_MECHANISM_TYPE,
    template: &Attributes,
) -> Option<CK_KEY_TYPE> {
    match mechanism {
        CKM_AES_KEY_GEN => Some(CKK_AES),
        CKM_AES_XTS_KEY_GEN => Some(CKK_AES_XTS),
        CKM_CHACHA20_KEY_GEN => Some(CKK_CHACHA20),
        CKM_HKDF_KEY_GEN => Some(CKK_HKDF),
        CKM_DES2_KEY_GEN => Some(CKK_DES2),
        CKM_DES3_KEY_GEN => Some(CKK_DES3),
        // The template may narrow it down to an HMAC key.
        CKM_GENERIC_SECRET_KEY_GEN => {
            let wanted = template.ulong(CKA_KEY_TYPE).filter(|wanted| digest::is_hmac_key_type(*wanted));
            Some(wanted.unwrap_or(CKK_GENERIC_SECRET))
        }
        _ => digest::Family::of_key_gen(mechanism)?.hmac_key,
    }
}

/// The one length that keys of a type have, in bytes; `None` if they come in several.
pub(in crate::units) fn only_len(key_type: CK_KEY_TYPE) -> Option<u64> {
    match key_type {
        CKK_DES2 => Some(16),
        CKK_DES3 => Some(24),
        CKK_CHACHA20 => Some(32),
        _ => None,
    }
}

/// Can a key of this type have so many bytes?
///
/// # Errors
/// `CKR_KEY_SIZE_RANGE`.
pub(in crate::units) fn check_len(key_type: CK_KEY_TYPE, len: u64) -> Result<()> {
    let refused = |message: &'static str| Err(Error::new(CKR_KEY_SIZE_RANGE, message));
    match key_type {
        CKK_AES if !matches!(len, 16 | 24 | 32) => refused("an AES key has 16, 24 or 32 bytes"),
        CKK_AES_XTS if !matches!(len, 32 | 64) => refused("an AES-XTS key has 32 or 64 bytes"),
        CKK_CHACHA20 if len != 32 => refused("a ChaCha20 key has 32 bytes"),
        CKK_DES2 if len != 16 => refused("a DES2 key has 16 bytes"),
        CKK_DES3 if len != 24 => refused("a DES3 key has 24 bytes"),
        _ if !(1..=MAX_BYTES).contains(&len) => refused("a secret key has 1 to 4096 bytes"),
        _ => Ok(()),
    }
}

/// Bytes that are brought in, or made by a mechanism, must be a key of this type. Their number has been checked.
///
/// # Errors
/// `CKR_ATTRIBUTE_VALUE_INVALID`.
pub(in crate::units) fn check_value(key_type: CK_KEY_TYPE, value: &[u8]) -> Result<()> {
    match key_type {
        CKK_DES2 | CKK_DES3 if !des::has_odd_parity(value) => {
            Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "each byte of a DES key has odd parity"))
        }
        // "Key_1 and Key_2 shall be different" (FIPS 140-3 IG C.I).
        CKK_AES_XTS if bool::from(value[..value.len() / 2].ct_eq(&value[value.len() / 2..])) => {
            Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "the halves of an AES-XTS key are different"))
        }
        _ => Ok(()),
    }
}

/// Makes a key of bytes that are as good as random.
pub(in crate::units) fn adjust(key_type: CK_KEY_TYPE, value: &mut [u8]) {
    if let CKK_DES2 | CKK_DES3 = key_type {
        des::set_odd_parity(value);
    }
}

/// `CKA_CHECK_VALUE`: the first three bytes of a zero block encrypted in ECB, or of the key's SHA-1 if it is no cipher's
/// (PKCS #11 v3.1 section 4.10.2).
pub(in crate::units) fn kcv(key_type: CK_KEY_TYPE, value: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = match key_type {
        CKK_AES => aes::zero_block(value)?,
        CKK_DES2 | CKK_DES3 => cipher::encrypt(&Mechanism::plain(CKM_DES3_ECB), key_type, value, &[0; 8])?,
        _ => digest::hash(CKM_SHA_1, value)?,
    };
    bytes.truncate(3);
    Ok(bytes)
}

/// The longest secret key, in bytes.
pub const MAX_BYTES: u64 = 4096;
