//! Root keys: AES keys that wrap data keys, and never leave a unit.
//!
//! A data key is wrapped with AES Key Wrap with Padding (RFC 5649, SP 800-38F) under a key derived by
//! HKDF-SHA256 from the root key, with the additional authenticated data as `info`. So wrapping needs no
//! nonce, and a ciphertext opens only with the same root key version and the same AAD.

use aes_kw::{KeyInit, KwpAes256};
use aws_lc_rs::hkdf;
use cryptoki_sys::{
    CKA_CLASS, CKA_EXTRACTABLE, CKA_ID, CKA_KEY_TYPE, CKA_SENSITIVE, CKA_VALUE, CKA_VALUE_LEN, CKK_AES,
    CKO_SECRET_KEY, CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR, CKR_ENCRYPTED_DATA_INVALID, CKR_KEY_SIZE_RANGE,
    CKR_KEY_TYPE_INCONSISTENT,
};
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};
use super::key_cache::Key;
use super::random;

impl CryptoUnit {
    /// Seals a root key: given material of 16, 24 or 32 bytes, or 32 random bytes. `id` is authenticated with it.
    ///
    /// # Errors
    /// `CKR_KEY_SIZE_RANGE` for other lengths.
    pub fn create_root_key(&self, id: &[u8], material: Option<&[u8]>) -> Result<KeyBlob> {
        let value = match material {
            Some(material) if !matches!(material.len(), 16 | 24 | 32) => {
                return Err(Error::new(CKR_KEY_SIZE_RANGE, "a root key has 16, 24 or 32 bytes"));
            }
            Some(material) => Zeroizing::new(material.to_vec()),
            None => Zeroizing::new(random::array::<32>()?.to_vec()),
        };
        let clear = Attributes::new()
            .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_AES)
            .with_ulong(CKA_VALUE_LEN, value.len() as u64)
            .with(CKA_ID, id)
            .with_bool(CKA_SENSITIVE, true)
            .with_bool(CKA_EXTRACTABLE, false)
            .with(ROOT_KEY, []);
        self.seal(&clear, &Attributes::new().with(CKA_VALUE, value.as_slice()))
    }

    /// Wraps a data key of 1 to 4096 bytes. `id` must be the one that the root key was sealed with.
    ///
    /// # Errors
    /// `CKR_DATA_LEN_RANGE`, or those of opening the root key.
    pub fn wrap_data_key(
        &self,
        root_key: &KeyBlob,
        id: &[u8],
        aad: &[String],
        data_key: &[u8],
    ) -> Result<Vec<u8>> {
        if !(1..=MAX_DATA_KEY_BYTES).contains(&data_key.len()) {
            return Err(Error::new(CKR_DATA_LEN_RANGE, "a data key has 1 to 4096 bytes"));
        }
        let kek = self.wrapping_key(root_key, id, aad)?;
        let mut wrapped = vec![0; data_key.len().next_multiple_of(8) + 8];
        kek.wrap_key(data_key, &mut wrapped)
            .map_err(|_| Error::new(CKR_DEVICE_ERROR, "wrapping the data key failed"))?;
        Ok(wrapped)
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// `CKR_ENCRYPTED_DATA_INVALID` for another root key, another AAD, or an altered ciphertext.
    pub fn unwrap_data_key(
        &self,
        root_key: &KeyBlob,
        id: &[u8],
        aad: &[String],
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let refused = || Error::new(CKR_ENCRYPTED_DATA_INVALID, "the ciphertext does not unwrap");
        // RFC 5649 wraps one byte or more, which gives two blocks or more.
        if !(16..=MAX_DATA_KEY_BYTES + 8).contains(&wrapped.len()) {
            return Err(refused());
        }
        let kek = self.wrapping_key(root_key, id, aad)?;
        let mut data_key = Zeroizing::new(vec![0; wrapped.len().saturating_sub(8)]);
        let len = kek.unwrap_key(wrapped, &mut data_key).map_err(|_| refused())?.len();
        data_key.truncate(len);
        Ok(data_key)
    }

    fn wrapping_key(&self, root_key: &KeyBlob, id: &[u8], aad: &[String]) -> Result<KwpAes256> {
        let object = self.object(root_key)?;
        let Key::Secret(value) = &object.key else { return Err(not_a_root_key()) };
        if !object.attributes.contains(ROOT_KEY) || object.attributes.get(CKA_ID) != Some(id) {
            return Err(not_a_root_key());
        }
        let mut info = Vec::with_capacity(INFO.len() + aad.iter().map(|a| a.len() + 4).sum::<usize>());
        info.extend_from_slice(INFO);
        for item in aad {
            info.extend_from_slice(&(item.len() as u32).to_be_bytes());
            info.extend_from_slice(item.as_bytes());
        }
        let mut kek = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(value)
            .expand(&[&info], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(kek.as_mut_slice()))
            .map_err(|_| Error::new(CKR_DEVICE_ERROR, "deriving the wrapping key failed"))?;
        Ok(KwpAes256::new(&(*kek).into()))
    }
}

fn not_a_root_key() -> Error {
    Error::new(CKR_KEY_TYPE_INCONSISTENT, "the blob is not this root key")
}

/// The most that one call wraps.
pub const MAX_DATA_KEY_BYTES: usize = 4096;
const INFO: &[u8] = b"hsm-emulator data key wrap 1";
/// Marks a blob as a root key, so that no PKCS #11 operation accepts it and no other key passes for one.
const ROOT_KEY: u64 = cryptoki_sys::CKA_VENDOR_DEFINED | 0x4853_0001;
