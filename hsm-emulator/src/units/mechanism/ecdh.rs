//! Agreement on a secret over elliptic curves (PKCS #11 v3.1 sections 6.3.20 and 6.3.21). The curves that know a cofactor
//! here have 1, so both mechanisms give the same.

use cryptoki_sys::*;
use openssl::derive::Deriver;
use openssl::hash::Hasher;
use openssl::pkey::{PKeyRef, Private};
use zeroize::Zeroizing;

use super::prepared_key::PreparedPrivateKey;
use super::raw_curve::Curve;
use super::{Mechanism, Parameter, digest, ec, inconsistent, kdf, openssl_error, secret_key};
use crate::units::{Error, Result};

/// What two keys share, by the parameter's key derivation function; `wanted` bytes if that is known.
pub(in crate::units) fn derive(
    mechanism: &Mechanism,
    key_type: CK_KEY_TYPE,
    key: &PreparedPrivateKey,
    wanted: Option<usize>,
) -> Result<Zeroizing<Vec<u8>>> {
    let Parameter::Ecdh1 { kdf, shared_data, public_data } = &mechanism.parameter else {
        return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "CK_ECDH1_DERIVE_PARAMS are missing"));
    };
    let shared = match key_type {
        CKK_EC => ec::derive(key, public_data)?,
        CKK_EC_MONTGOMERY if mechanism.kind == CKM_ECDH1_DERIVE => montgomery(key, public_data)?,
        _ => return Err(inconsistent()),
    };
    let wanted = wanted.unwrap_or(shared.len());
    match (*kdf, kdf_digest(*kdf)) {
        // "The truncation removes bytes from the leading end of the secret value".
        (CKD_NULL, _) if shared_data.is_empty() => {
            let surplus = shared.len().checked_sub(wanted).ok_or_else(|| {
                Error::new(CKR_KEY_SIZE_RANGE, "CKA_VALUE_LEN is more than the curve gives")
            })?;
            Ok(Zeroizing::new(shared[surplus..].to_vec()))
        }
        (_, Some(digest)) => x963(digest, &shared, shared_data, wanted),
        _ => Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the key derivation function is not supported")),
    }
}

/// X25519 and X448 (RFC 7748).
fn montgomery(key: &PKeyRef<Private>, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let invalid =
        || Error::new(CKR_MECHANISM_PARAM_INVALID, "the other party's public key does not fit the curve");
    let curve = Curve::of_key(key).ok_or_else(inconsistent)?;
    let peer = curve.parse_public(peer).ok_or_else(invalid)?;
    let mut deriver = Deriver::new(key).map_err(openssl_error)?;
    deriver.set_peer(&peer).map_err(|_| invalid())?;
    // A point of small order gives nothing but zeros, which OpenSSL refuses.
    Ok(Zeroizing::new(deriver.derive_to_vec().map_err(|_| invalid())?))
}

fn kdf_digest(kdf: CK_EC_KDF_TYPE) -> Option<CK_MECHANISM_TYPE> {
    match kdf {
        CKD_SHA1_KDF => Some(CKM_SHA_1),
        CKD_SHA224_KDF => Some(CKM_SHA224),
        CKD_SHA256_KDF => Some(CKM_SHA256),
        CKD_SHA384_KDF => Some(CKM_SHA384),
        CKD_SHA512_KDF => Some(CKM_SHA512),
        CKD_SHA3_224_KDF => Some(CKM_SHA3_224),
        CKD_SHA3_256_KDF => Some(CKM_SHA3_256),
        CKD_SHA3_384_KDF => Some(CKM_SHA3_384),
        CKD_SHA3_512_KDF => Some(CKM_SHA3_512),
        _ => None,
    }
}

/// ANSI X9.63: hashes of secret, counter and shared data, one after the other.
fn x963(
    digest: CK_MECHANISM_TYPE,
    secret: &[u8],
    shared_data: &[u8],
    len: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    if len > secret_key::MAX_BYTES as usize {
        return Err(Error::new(CKR_KEY_SIZE_RANGE, "a secret key has 1 to 4096 bytes"));
    }
    if shared_data.len() > kdf::MAX_INPUT_BYTES {
        return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the shared data have at most 64 KiB"));
    }
    let function = digest::message_digest(digest)?;
    let blocks = len.div_ceil(function.size());
    let mut out = Zeroizing::new(Vec::with_capacity(blocks * function.size()));
    for counter in 1..=blocks as u32 {
        let mut hasher = Hasher::new(function).map_err(openssl_error)?;
        for part in [secret, &counter.to_be_bytes(), shared_data] {
            hasher.update(part).map_err(openssl_error)?;
        }
        out.extend_from_slice(&hasher.finish().map_err(openssl_error)?);
    }
    out.truncate(len);
    Ok(out)
}
