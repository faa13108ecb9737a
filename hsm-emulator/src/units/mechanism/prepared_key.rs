//! A secret key that is open, with what its first use has made ready for the next ones.

use std::ops::Deref;
use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, cipher, mac};
use crate::units::{Error, Result};

/// The bytes of a secret key. What is made ready of them is wiped with them.
pub(in crate::units) struct SecretKey {
    value: Zeroizing<Vec<u8>>,
    gcm: OnceLock<Option<LessSafeKey>>,
    /// For the first digest that the key is used with: most keys know no other.
    hmac: OnceLock<hmac::Key>,
}

impl SecretKey {
    pub fn new(value: &[u8]) -> Self {
        Self { value: Zeroizing::new(value.to_vec()), gcm: OnceLock::new(), hmac: OnceLock::new() }
    }

    /// As [`cipher::encrypt`].
    pub fn encrypt(&self, mechanism: &Mechanism, key_type: CK_KEY_TYPE, plaintext: &[u8]) -> Result<Vec<u8>> {
        let Some(Gcm { key, nonce, aad }) =
            self.gcm(mechanism, key_type).filter(|_| plaintext.len() <= MAX_BYTES)
        else {
            return cipher::encrypt(mechanism, key_type, self, plaintext);
        };
        let mut out = Vec::with_capacity(plaintext.len() + TAG_BYTES);
        out.extend_from_slice(plaintext);
        let tag = key
            .seal_in_place_separate_tag(nonce, aad, &mut out)
            .map_err(|_| Error::new(CKR_FUNCTION_FAILED, "the cryptographic library failed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// As [`cipher::decrypt`].
    pub fn decrypt(
        &self,
        mechanism: &Mechanism,
        key_type: CK_KEY_TYPE,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let fits = (TAG_BYTES..=MAX_BYTES).contains(&ciphertext.len());
        let Some(Gcm { key, nonce, aad }) = self.gcm(mechanism, key_type).filter(|_| fits) else {
            return cipher::decrypt(mechanism, key_type, self, ciphertext);
        };
        let mut out = Zeroizing::new(ciphertext.to_vec());
        let len = key
            .open_in_place(nonce, aad, &mut out)
            .map_err(|_| Error::new(CKR_ENCRYPTED_DATA_INVALID, "the ciphertext does not decrypt"))?
            .len();
        out.truncate(len);
        Ok(out)
    }

    /// As [`mac::sign`].
    pub fn sign(&self, mechanism: &Mechanism, key_type: CK_KEY_TYPE, data: &[u8]) -> Result<Vec<u8>> {
        mac::sign(mechanism, key_type, self, data, &self.hmac)
    }

    /// GCM with the usual lengths: the key is expanded once.
    fn gcm<'a>(&'a self, mechanism: &'a Mechanism, key_type: CK_KEY_TYPE) -> Option<Gcm<'a>> {
        let (CKM_AES_GCM, CKK_AES, Parameter::Gcm { iv, aad, tag_bits: 128 }) =
            (mechanism.kind, key_type, &mechanism.parameter)
        else {
            return None;
        };
        let nonce = Nonce::try_assume_unique_for_key(iv).ok()?;
        let expand = || {
            let algorithm = match self.value.len() {
                16 => &AES_128_GCM,
                24 => &AES_192_GCM,
                32 => &AES_256_GCM,
                _ => return None,
            };
            UnboundKey::new(algorithm, &self.value).ok().map(LessSafeKey::new)
        };
        Some(Gcm { key: self.gcm.get_or_init(expand).as_ref()?, nonce, aad: Aad::from(aad.as_slice()) })
    }
}

impl Deref for SecretKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.value
    }
}

struct Gcm<'a> {
    key: &'a LessSafeKey,
    nonce: Nonce,
    aad: Aad<&'a [u8]>,
}

const TAG_BYTES: usize = 16;
/// As everywhere: one call takes 1 GiB at most.
const MAX_BYTES: usize = 1 << 30;
