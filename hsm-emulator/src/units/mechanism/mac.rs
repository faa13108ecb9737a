//! Message authentication codes: HMAC (PKCS #11 v3.1 section 6.22 and following), CMAC (SP 800-38B), and the MAC of
//! FIPS 113 (sections 6.16 and 6.17).

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use cryptoki_sys::*;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, aes, cipher, des, digest, inconsistent, openssl_error};
use crate::units::{Error, Result};

/// How a MAC is computed.
#[derive(Clone, Copy)]
enum Function {
    /// With the digest of this mechanism.
    Hmac(CK_MECHANISM_TYPE),
    Cmac(BlockCipher),
    /// GCM's tag over additional data alone.
    Gmac,
    /// The last block of the CBC over the zero-padded data (FIPS 113).
    Cbc(BlockCipher),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BlockCipher {
    Aes,
    Des,
}

/// How much of it is the MAC.
#[derive(Clone, Copy)]
enum Length {
    /// So many bytes.
    Fixed(usize),
    /// As many as the parameter says, at most so many.
    General(usize),
    /// So many, and the parameter is an IV.
    WithIv(usize),
}

/// A mechanism that makes MACs.
struct Mac {
    function: Function,
    length: Length,
}

impl Mac {
    fn of(kind: CK_MECHANISM_TYPE) -> Option<Self> {
        use BlockCipher::{Aes, Des};
        use Function::{Cbc, Cmac, Gmac, Hmac};
        use Length::{Fixed, General, WithIv};
        let (function, length) = match kind {
            CKM_AES_CMAC => (Cmac(Aes), Fixed(aes::BLOCK_BYTES)),
            CKM_AES_CMAC_GENERAL => (Cmac(Aes), General(aes::BLOCK_BYTES)),
            CKM_AES_MAC => (Cbc(Aes), Fixed(aes::BLOCK_BYTES / 2)),
            CKM_AES_MAC_GENERAL => (Cbc(Aes), General(aes::BLOCK_BYTES)),
            CKM_AES_GMAC => (Gmac, WithIv(aes::BLOCK_BYTES)),
            CKM_DES3_CMAC => (Cmac(Des), Fixed(des::BLOCK_BYTES)),
            CKM_DES3_CMAC_GENERAL => (Cmac(Des), General(des::BLOCK_BYTES)),
            CKM_DES3_MAC => (Cbc(Des), Fixed(des::BLOCK_BYTES / 2)),
            CKM_DES3_MAC_GENERAL => (Cbc(Des), General(des::BLOCK_BYTES)),
            _ => {
                let family = digest::Family::of_hmac(kind)?;
                let bytes = digest::message_digest(family.digest).ok()?.size();
                let general = family.hmac_general == Some(kind);
                (Hmac(family.digest), if general { General(bytes) } else { Fixed(bytes) })
            }
        };
        Some(Self { function, length })
    }

    /// Bytes of the MAC.
    fn bytes(&self, parameter: &Parameter) -> Result<usize> {
        match (self.length, parameter) {
            (Length::Fixed(bytes), Parameter::None) | (Length::WithIv(bytes), Parameter::Bytes(_)) => {
                Ok(bytes)
            }
            (Length::General(most), Parameter::Number(bytes)) if (1..=most as u64).contains(bytes) => {
                Ok(*bytes as usize)
            }
            (Length::WithIv(_), _) => Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "this MAC takes an IV")),
            (Length::Fixed(_), _) => {
                Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "this MAC takes no parameter"))
            }
            (Length::General(most), _) => Err(Error::new(
                CKR_MECHANISM_PARAM_INVALID,
                format!("the length of this MAC is 1 to {most} bytes"),
            )),
        }
    }
}

/// Bytes of the MAC that a mechanism makes; `None` if it makes none.
///
/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID`.
pub fn bytes(mechanism: &Mechanism) -> Option<Result<usize>> {
    Mac::of(mechanism.kind).map(|mac| mac.bytes(&mechanism.parameter))
}

/// Is it a MAC that key derivation may be built on: HMAC or CMAC of full length?
pub(super) fn is_prf(kind: CK_MECHANISM_TYPE) -> bool {
    matches!(
        Mac::of(kind),
        Some(Mac { function: Function::Hmac(_) | Function::Cmac(_), length: Length::Fixed(_) })
    )
}

/// The MAC of the data by a secret key. `ready` keeps what an HMAC key makes of itself.
pub(in crate::units) fn sign(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &[u8],
    data: &[u8],
    ready: &OnceLock<hmac::Key>,
) -> Result<Vec<u8>> {
    let mac = Mac::of(mechanism.kind).ok_or_else(inconsistent)?;
    let bytes = mac.bytes(&mechanism.parameter)?;
    let key_fits = match (mac.function, key_type) {
        (Function::Cmac(cipher) | Function::Cbc(cipher), CKK_AES) => cipher == BlockCipher::Aes,
        (Function::Cmac(cipher) | Function::Cbc(cipher), CKK_DES2 | CKK_DES3) => cipher == BlockCipher::Des,
        (Function::Gmac, key_type) => key_type == CKK_AES,
        (Function::Hmac(digest), key_type) => digest::Family::of(digest)?.takes_hmac_key(key_type),
        _ => false,
    };
    if !key_fits {
        return Err(inconsistent());
    }
    let mut value = match mac.function {
        Function::Hmac(digest) => {
            let algorithm = hmac_algorithm(digest);
            let ready = algorithm.map(|algorithm| ready.get_or_init(|| hmac::Key::new(algorithm, key)));
            match ready.filter(|ready| Some(ready.algorithm()) == algorithm) {
                Some(ready) => hmac::sign(ready, data).as_ref().to_vec(),
                None => hmac(digest, key, data)?,
            }
        }
        Function::Cmac(cipher) => cmac(cipher, key, data)?,
        Function::Cbc(cipher) => cbc_mac(cipher, key_type, key, data)?,
        Function::Gmac => gmac(&mechanism.parameter, key, data)?,
    };
    value.truncate(bytes);
    Ok(value)
}

/// Compares a MAC with the right one, in constant time.
///
/// # Errors
/// `CKR_SIGNATURE_LEN_RANGE`, `CKR_SIGNATURE_INVALID`.
pub(in crate::units) fn compare(expected: &[u8], mac: &[u8]) -> Result<()> {
    if expected.len() != mac.len() {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the MAC has a wrong length"));
    }
    if bool::from(expected.ct_eq(mac)) {
        return Ok(());
    }
    Err(Error::new(CKR_SIGNATURE_INVALID, "the MAC is wrong"))
}

/// HMAC with the digest of this mechanism.
pub(super) fn hmac(digest: CK_MECHANISM_TYPE, key: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    if let Some(algorithm) = hmac_algorithm(digest) {
        // A tenth of the time that OpenSSL takes to make ready.
        return Ok(hmac::sign(&hmac::Key::new(algorithm, key), data).as_ref().to_vec());
    }
    let key = PKey::hmac(key).map_err(openssl_error)?;
    let mut signer = Signer::new(digest::message_digest(digest)?, &key).map_err(openssl_error)?;
    signer.sign_oneshot_to_vec(data).map_err(openssl_error)
}

fn hmac_algorithm(digest: CK_MECHANISM_TYPE) -> Option<hmac::Algorithm> {
    match digest {
        CKM_SHA_1 => Some(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        CKM_SHA224 => Some(hmac::HMAC_SHA224),
        CKM_SHA256 => Some(hmac::HMAC_SHA256),
        CKM_SHA384 => Some(hmac::HMAC_SHA384),
        CKM_SHA512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn cmac(cipher: BlockCipher, key: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let key = match cipher {
        BlockCipher::Des => PKey::cmac(&symm::Cipher::des_ede3_cbc(), &des::three_keys(key)?),
        BlockCipher::Aes => match key.len() {
            16 => PKey::cmac(&symm::Cipher::aes_128_cbc(), key),
            24 => PKey::cmac(&symm::Cipher::aes_192_cbc(), key),
            _ => PKey::cmac(&symm::Cipher::aes_256_cbc(), key),
        },
    };
    let key = key.map_err(openssl_error)?;
    let mut signer = Signer::new_without_digest(&key).map_err(openssl_error)?;
    signer.update(data).map_err(openssl_error)?;
    signer.sign_to_vec().map_err(openssl_error)
}

fn cbc_mac(cipher: BlockCipher, key_type: CK_KEY_TYPE, key: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let (kind, block) = match cipher {
        BlockCipher::Aes => (CKM_AES_CBC, aes::BLOCK_BYTES),
        BlockCipher::Des => (CKM_DES3_CBC, des::BLOCK_BYTES),
    };
    let mut padded = Zeroizing::new(vec![0; data.len().max(1).next_multiple_of(block)]);
    padded[..data.len()].copy_from_slice(data);
    let cbc = Mechanism { kind, parameter: Parameter::Bytes(vec![0; block]) };
    let mut encrypted = cipher::encrypt(&cbc, key_type, key, &padded)?;
    Ok(encrypted.split_off(encrypted.len() - block))
}

fn gmac(parameter: &Parameter, key: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let iv = match parameter {
        Parameter::Bytes(iv) => iv.clone(),
        _ => Vec::new(),
    };
    let parameter = Parameter::Gcm { iv, aad: data.to_vec(), tag_bits: 128 };
    cipher::encrypt(&Mechanism { kind: CKM_AES_GCM, parameter }, CKK_AES, key, &[])
}
