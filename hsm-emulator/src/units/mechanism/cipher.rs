//! Encryption with secret keys in one part, whichever cipher does it.

use std::borrow::Cow;

use cryptoki_sys::*;
use openssl::cipher::CipherRef;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, aes, aes_xts, chacha20, des, inconsistent, openssl_error};
use crate::units::{Error, Result};

/// A mechanism made ready for OpenSSL.
pub(super) struct Job<'a> {
    pub cipher: &'static CipherRef,
    pub key: Cow<'a, [u8]>,
    pub iv: Option<&'a [u8]>,
    pub aad: &'a [u8],
    /// Bytes of the tag behind the ciphertext; 0 if there is none.
    pub tag_bytes: usize,
    pub padded: bool,
    /// The data are a whole number of so many bytes, unless they are padded.
    pub multiple: usize,
    /// They are so many at least.
    pub least: usize,
    /// Bytes of the plaintext, as the parameter says: CCM must know this, and the tag's length, before anything else.
    pub declared_len: Option<u64>,
}

impl<'a> Job<'a> {
    /// Whole blocks in a mode without padding, as long as nothing else is said.
    pub fn blocks(cipher: &'static CipherRef, key: impl Into<Cow<'a, [u8]>>, iv: Option<&'a [u8]>) -> Self {
        let multiple = cipher.block_size();
        let key = key.into();
        Self {
            cipher,
            key,
            iv,
            aad: &[],
            tag_bytes: 0,
            padded: false,
            multiple,
            least: 0,
            declared_len: None,
        }
    }

    fn of(mechanism: &'a Mechanism, key_type: CK_KEY_TYPE, key: &'a [u8], data_len: usize) -> Result<Self> {
        match key_type {
            CKK_AES => aes::job(mechanism, key, data_len),
            CKK_DES2 | CKK_DES3 => des::job(mechanism, key),
            CKK_AES_XTS => aes_xts::job(mechanism, key, data_len),
            CKK_CHACHA20 => chacha20::job(mechanism, key),
            _ => Err(inconsistent()),
        }
    }

    /// Sets key and IV. The IV's length must be known before.
    fn set_up(
        &self,
        context: &mut CipherCtx,
        data_len: usize,
        init: impl FnOnce(&mut CipherCtx, Option<&[u8]>, Option<&[u8]>) -> Result<(), ErrorStack>,
    ) -> Result<(), ErrorStack> {
        if let Some(iv) = self.iv
            && iv.len() != context.iv_length()
        {
            context.set_iv_length(iv.len())?;
        }
        if self.declared_len.is_some() {
            context.set_tag_length(self.tag_bytes)?;
        }
        init(context, Some(&self.key), self.iv)?;
        context.set_padding(self.padded);
        if self.declared_len.is_some() {
            context.set_data_len(data_len)?;
        }
        if !self.aad.is_empty() {
            context.cipher_update(self.aad, None)?;
        }
        Ok(())
    }
}

impl Drop for Job<'_> {
    /// A key that was put together for the job is wiped; a lent one is its owner's.
    fn drop(&mut self) {
        if let Cow::Owned(key) = &mut self.key {
            zeroize::Zeroize::zeroize(key);
        }
    }
}

/// Encrypts in one part.
pub(in crate::units) fn encrypt(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    if plaintext.len() > MAX_BYTES {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "one call takes 1 GiB at most"));
    }
    let job = Job::of(mechanism, key_type, key, plaintext.len())?;
    if !job.padded && (!plaintext.len().is_multiple_of(job.multiple) || plaintext.len() < job.least) {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "the data is not a whole number of blocks, or too short"));
    }
    if job.declared_len.is_some_and(|declared| declared != plaintext.len() as u64) {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "the data is not as long as the parameter says"));
    }
    let mut context = CipherCtx::new().map_err(openssl_error)?;
    context.encrypt_init(Some(job.cipher), None, None).map_err(openssl_error)?;
    job.set_up(&mut context, plaintext.len(), |context, key, iv| context.encrypt_init(None, key, iv))
        .map_err(openssl_error)?;
    let mut out = vec![0; plaintext.len() + MAX_BLOCK_BYTES];
    let mut len = context.cipher_update(plaintext, Some(&mut out)).map_err(openssl_error)?;
    len += context.cipher_final(&mut out[len..]).map_err(openssl_error)?;
    out.truncate(len);
    if job.tag_bytes > 0 {
        out.resize(len + job.tag_bytes, 0);
        context.tag(&mut out[len..]).map_err(openssl_error)?;
    }
    Ok(out)
}

/// Decrypts in one part. Nothing of an altered ciphertext is returned, if there is a tag that shows it.
pub(in crate::units) fn decrypt(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    if ciphertext.len() > MAX_BYTES {
        return Err(Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, "one call takes 1 GiB at most"));
    }
    let job = Job::of(mechanism, key_type, key, ciphertext.len()).map_err(|error| match error.code {
        CKR_DATA_LEN_RANGE => Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, error.message),
        _ => error,
    })?;
    let Some(body_len) = ciphertext.len().checked_sub(job.tag_bytes) else {
        return Err(Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, "the ciphertext is shorter than its tag"));
    };
    if !body_len.is_multiple_of(job.multiple) || body_len < job.least || (job.padded && body_len == 0) {
        let message = "the ciphertext is not a whole number of blocks, or too short";
        return Err(Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, message));
    }
    if job.declared_len.is_some_and(|declared| declared != body_len as u64) {
        let message = "the ciphertext is not as long as the parameter says";
        return Err(Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, message));
    }
    let (body, tag) = ciphertext.split_at(body_len);
    let mut context = CipherCtx::new().map_err(openssl_error)?;
    context.decrypt_init(Some(job.cipher), None, None).map_err(openssl_error)?;
    // CCM wants the tag before the data, which it checks with them; for the others this is as good a time.
    if !tag.is_empty() {
        context.set_iv_length(job.iv.map_or(0, <[u8]>::len)).map_err(openssl_error)?;
        context.set_tag(tag).map_err(openssl_error)?;
    }
    job.set_up(&mut context, body_len, |context, key, iv| context.decrypt_init(None, key, iv))
        .map_err(openssl_error)?;
    let mut out = Zeroizing::new(vec![0; body_len + MAX_BLOCK_BYTES]);
    let mut finish = || {
        let len = context.cipher_update(body, Some(&mut out))?;
        Ok(len + context.cipher_final(&mut out[len..])?)
    };
    let len = finish()
        .map_err(|_: ErrorStack| Error::new(CKR_ENCRYPTED_DATA_INVALID, "the ciphertext does not decrypt"))?;
    out.truncate(len);
    Ok(out)
}

/// What `CKM_*_ECB_ENCRYPT_DATA` and `CKM_*_CBC_ENCRYPT_DATA` make a key of. Their parameter is the data, after the IV.
pub(in crate::units) fn encrypt_data(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let bad = || {
        let message = "the data to derive a key from are whole blocks of the cipher, at least one";
        Error::new(CKR_MECHANISM_PARAM_INVALID, message)
    };
    let Parameter::Bytes(given) = &mechanism.parameter else { return Err(bad()) };
    let (kind, iv_bytes, block) = match mechanism.kind {
        CKM_AES_ECB_ENCRYPT_DATA => (CKM_AES_ECB, 0, aes::BLOCK_BYTES),
        CKM_AES_CBC_ENCRYPT_DATA => (CKM_AES_CBC, aes::BLOCK_BYTES, aes::BLOCK_BYTES),
        CKM_DES3_ECB_ENCRYPT_DATA => (CKM_DES3_ECB, 0, des::BLOCK_BYTES),
        CKM_DES3_CBC_ENCRYPT_DATA => (CKM_DES3_CBC, des::BLOCK_BYTES, des::BLOCK_BYTES),
        _ => return Err(super::not_for(mechanism, "deriving a key by encrypting data")),
    };
    let (iv, data) = given.split_at_checked(iv_bytes).ok_or_else(bad)?;
    if data.is_empty() || !data.len().is_multiple_of(block) {
        return Err(bad());
    }
    let parameter = if iv.is_empty() { Parameter::None } else { Parameter::Bytes(iv.to_vec()) };
    encrypt(&Mechanism { kind, parameter }, key_type, key, data).map(Zeroizing::new)
}

/// More than any cipher's block.
const MAX_BLOCK_BYTES: usize = 16;

/// The cryptographic library counts bytes in 31 bits.
pub(super) const MAX_BYTES: usize = 1 << 30;
