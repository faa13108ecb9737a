//! Digests, and the mechanisms that hash before they sign.

use cryptoki_sys::*;
use openssl::hash::{MessageDigest, hash};

use super::openssl_error;
use crate::units::{Error, Result};

/// The digest of a `CKM_*` digest mechanism.
///
/// # Errors
/// `CKR_MECHANISM_INVALID`.
pub fn message_digest(mechanism: CK_MECHANISM_TYPE) -> Result<MessageDigest> {
    Ok(match mechanism {
        CKM_SHA_1 => MessageDigest::sha1(),
        CKM_SHA224 => MessageDigest::sha224(),
        CKM_SHA256 => MessageDigest::sha256(),
        CKM_SHA384 => MessageDigest::sha384(),
        CKM_SHA512 => MessageDigest::sha512(),
        CKM_SHA3_224 => MessageDigest::sha3_224(),
        CKM_SHA3_256 => MessageDigest::sha3_256(),
        CKM_SHA3_384 => MessageDigest::sha3_384(),
        CKM_SHA3_512 => MessageDigest::sha3_512(),
        _ => return Err(Error::new(CKR_MECHANISM_INVALID, format!("mechanism {mechanism:#x} is no digest"))),
    })
}

/// Splits a mechanism that hashes and signs into its digest and what signs the hash.
/// For `CKM_SHA*_RSA_PKCS` the hash must be put into a DigestInfo first: see [`digest_info`].
pub fn hash_and_sign(mechanism: CK_MECHANISM_TYPE) -> Option<(CK_MECHANISM_TYPE, CK_MECHANISM_TYPE)> {
    Some(match mechanism {
        CKM_SHA1_RSA_PKCS => (CKM_SHA_1, CKM_RSA_PKCS),
        CKM_SHA224_RSA_PKCS => (CKM_SHA224, CKM_RSA_PKCS),
        CKM_SHA256_RSA_PKCS => (CKM_SHA256, CKM_RSA_PKCS),
        CKM_SHA384_RSA_PKCS => (CKM_SHA384, CKM_RSA_PKCS),
        CKM_SHA512_RSA_PKCS => (CKM_SHA512, CKM_RSA_PKCS),
        CKM_SHA1_RSA_PKCS_PSS => (CKM_SHA_1, CKM_RSA_PKCS_PSS),
        CKM_SHA224_RSA_PKCS_PSS => (CKM_SHA224, CKM_RSA_PKCS_PSS),
        CKM_SHA256_RSA_PKCS_PSS => (CKM_SHA256, CKM_RSA_PKCS_PSS),
        CKM_SHA384_RSA_PKCS_PSS => (CKM_SHA384, CKM_RSA_PKCS_PSS),
        CKM_SHA512_RSA_PKCS_PSS => (CKM_SHA512, CKM_RSA_PKCS_PSS),
        CKM_ECDSA_SHA1 => (CKM_SHA_1, CKM_ECDSA),
        CKM_ECDSA_SHA224 => (CKM_SHA224, CKM_ECDSA),
        CKM_ECDSA_SHA256 => (CKM_SHA256, CKM_ECDSA),
        CKM_ECDSA_SHA384 => (CKM_SHA384, CKM_ECDSA),
        CKM_ECDSA_SHA512 => (CKM_SHA512, CKM_ECDSA),
        _ => return None,
    })
}

/// The digest of an HMAC mechanism.
pub fn hmac_digest(mechanism: CK_MECHANISM_TYPE) -> Option<CK_MECHANISM_TYPE> {
    Some(match mechanism {
        CKM_SHA_1_HMAC => CKM_SHA_1,
        CKM_SHA224_HMAC => CKM_SHA224,
        CKM_SHA256_HMAC => CKM_SHA256,
        CKM_SHA384_HMAC => CKM_SHA384,
        CKM_SHA512_HMAC => CKM_SHA512,
        _ => return None,
    })
}

/// The DER of a DigestInfo (RFC 8017 section 9.2, notes): what `CKM_RSA_PKCS` signs.
///
/// # Errors
/// `CKR_MECHANISM_INVALID` for a digest that has none here.
pub fn digest_info(digest: CK_MECHANISM_TYPE, hash: &[u8]) -> Result<Vec<u8>> {
    let prefix: &[u8] = match digest {
        CKM_SHA_1 => {
            &[0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14]
        }
        CKM_SHA224 => &sha2_prefix(0x2d, 0x04, 0x1c),
        CKM_SHA256 => &sha2_prefix(0x31, 0x01, 0x20),
        CKM_SHA384 => &sha2_prefix(0x41, 0x02, 0x30),
        CKM_SHA512 => &sha2_prefix(0x51, 0x03, 0x40),
        _ => return Err(Error::new(CKR_MECHANISM_INVALID, "the digest has no DigestInfo")),
    };
    Ok([prefix, hash].concat())
}

const fn sha2_prefix(len: u8, oid_end: u8, hash_len: u8) -> [u8; 19] {
    [
        0x30, len, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, oid_end, 0x05,
        0x00, 0x04, hash_len,
    ]
}

/// What the raw mechanism signs for this data: hash, or hash in a DigestInfo.
pub(in crate::units) fn prehash(
    digest: CK_MECHANISM_TYPE,
    raw: CK_MECHANISM_TYPE,
    data: &[u8],
) -> Result<Vec<u8>> {
    let hash = hash(message_digest(digest)?, data).map_err(openssl_error)?;
    if raw == CKM_RSA_PKCS { digest_info(digest, &hash) } else { Ok(hash.to_vec()) }
}
