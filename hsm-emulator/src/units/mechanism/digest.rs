//! Digests, and the mechanisms that hash before they sign.

use cryptoki_sys::*;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;

use super::openssl_error;
use crate::units::{Error, Result};

/// A digest, and the mechanisms that are built on it.
pub struct Family {
    /// `CKM_*` of the digest itself.
    pub digest: CK_MECHANISM_TYPE,
    function: fn() -> Option<MessageDigest>,
    /// HMAC of full length.
    hmac: Option<CK_MECHANISM_TYPE>,
    /// HMAC of a length that the parameter says.
    pub hmac_general: Option<CK_MECHANISM_TYPE>,
    /// The type of keys for HMAC with this digest alone.
    pub hmac_key: Option<CK_KEY_TYPE>,
    hmac_key_gen: Option<CK_MECHANISM_TYPE>,
    key_derivation: Option<CK_MECHANISM_TYPE>,
    rsa_pkcs: Option<CK_MECHANISM_TYPE>,
    rsa_pss: Option<CK_MECHANISM_TYPE>,
    mgf: Option<CK_RSA_PKCS_MGF_TYPE>,
    ecdsa: Option<CK_MECHANISM_TYPE>,
    dsa: Option<CK_MECHANISM_TYPE>,
    /// The DER that comes before a hash in its DigestInfo.
    info: &'static [u8],
}

/// Nothing is built on it.
const BARE: Family = Family {
    digest: CK_UNAVAILABLE_INFORMATION,
    function: || None,
    hmac: None,
    hmac_general: None,
    hmac_key: None,
    hmac_key_gen: None,
    key_derivation: None,
    rsa_pkcs: None,
    rsa_pss: None,
    mgf: None,
    ecdsa: None,
    dsa: None,
    info: &[],
};

static FAMILIES: [Family; 12] = [
    Family {
        digest: CKM_MD5,
        function: || Some(MessageDigest::md5()),
        hmac: Some(CKM_MD5_HMAC),
        hmac_general: Some(CKM_MD5_HMAC_GENERAL),
        hmac_key: Some(CKK_MD5_HMAC),
        key_derivation: Some(CKM_MD5_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_MD5_RSA_PKCS),
        info: b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10",
        ..BARE
    },
    Family {
        digest: CKM_SHA_1,
        function: || Some(MessageDigest::sha1()),
        hmac: Some(CKM_SHA_1_HMAC),
        hmac_general: Some(CKM_SHA_1_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA_1_HMAC),
        hmac_key_gen: Some(CKM_SHA_1_KEY_GEN),
        key_derivation: Some(CKM_SHA1_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA1_RSA_PKCS),
        rsa_pss: Some(CKM_SHA1_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA1),
        ecdsa: Some(CKM_ECDSA_SHA1),
        dsa: Some(CKM_DSA_SHA1),
        info: b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
    },
    Family {
        digest: CKM_SHA224,
        function: || Some(MessageDigest::sha224()),
        hmac: Some(CKM_SHA224_HMAC),
        hmac_general: Some(CKM_SHA224_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA224_HMAC),
        hmac_key_gen: Some(CKM_SHA224_KEY_GEN),
        key_derivation: Some(CKM_SHA224_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA224_RSA_PKCS),
        rsa_pss: Some(CKM_SHA224_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA224),
        ecdsa: Some(CKM_ECDSA_SHA224),
        dsa: Some(CKM_DSA_SHA224),
        info: &nist_info(4, 28),
    },
    Family {
        digest: CKM_SHA256,
        function: || Some(MessageDigest::sha256()),
        hmac: Some(CKM_SHA256_HMAC),
        hmac_general: Some(CKM_SHA256_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA256_HMAC),
        hmac_key_gen: Some(CKM_SHA256_KEY_GEN),
        key_derivation: Some(CKM_SHA256_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA256_RSA_PKCS),
        rsa_pss: Some(CKM_SHA256_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA256),
        ecdsa: Some(CKM_ECDSA_SHA256),
        dsa: Some(CKM_DSA_SHA256),
        info: &nist_info(1, 32),
    },
    Family {
        digest: CKM_SHA384,
        function: || Some(MessageDigest::sha384()),
        hmac: Some(CKM_SHA384_HMAC),
        hmac_general: Some(CKM_SHA384_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA384_HMAC),
        hmac_key_gen: Some(CKM_SHA384_KEY_GEN),
        key_derivation: Some(CKM_SHA384_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA384_RSA_PKCS),
        rsa_pss: Some(CKM_SHA384_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA384),
        ecdsa: Some(CKM_ECDSA_SHA384),
        dsa: Some(CKM_DSA_SHA384),
        info: &nist_info(2, 48),
    },
    Family {
        digest: CKM_SHA512,
        function: || Some(MessageDigest::sha512()),
        hmac: Some(CKM_SHA512_HMAC),
        hmac_general: Some(CKM_SHA512_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA512_HMAC),
        hmac_key_gen: Some(CKM_SHA512_KEY_GEN),
        key_derivation: Some(CKM_SHA512_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA512_RSA_PKCS),
        rsa_pss: Some(CKM_SHA512_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA512),
        ecdsa: Some(CKM_ECDSA_SHA512),
        dsa: Some(CKM_DSA_SHA512),
        info: &nist_info(3, 64),
    },
    Family {
        digest: CKM_SHA512_224,
        function: || MessageDigest::from_name("SHA512-224"),
        hmac: Some(CKM_SHA512_224_HMAC),
        hmac_general: Some(CKM_SHA512_224_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA512_224_HMAC),
        hmac_key_gen: Some(CKM_SHA512_224_KEY_GEN),
        key_derivation: Some(CKM_SHA512_224_KEY_DERIVATION),
        ..BARE
    },
    Family {
        digest: CKM_SHA512_256,
        function: || MessageDigest::from_name("SHA512-256"),
        hmac: Some(CKM_SHA512_256_HMAC),
        hmac_general: Some(CKM_SHA512_256_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA512_256_HMAC),
        hmac_key_gen: Some(CKM_SHA512_256_KEY_GEN),
        key_derivation: Some(CKM_SHA512_256_KEY_DERIVATION),
        ..BARE
    },
    Family {
        digest: CKM_SHA3_224,
        function: || Some(MessageDigest::sha3_224()),
        hmac: Some(CKM_SHA3_224_HMAC),
        hmac_general: Some(CKM_SHA3_224_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA3_224_HMAC),
        hmac_key_gen: Some(CKM_SHA3_224_KEY_GEN),
        key_derivation: Some(CKM_SHA3_224_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA3_224_RSA_PKCS),
        rsa_pss: Some(CKM_SHA3_224_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA3_224),
        ecdsa: Some(CKM_ECDSA_SHA3_224),
        dsa: Some(CKM_DSA_SHA3_224),
        info: &nist_info(7, 28),
    },
    Family {
        digest: CKM_SHA3_256,
        function: || Some(MessageDigest::sha3_256()),
        hmac: Some(CKM_SHA3_256_HMAC),
        hmac_general: Some(CKM_SHA3_256_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA3_256_HMAC),
        hmac_key_gen: Some(CKM_SHA3_256_KEY_GEN),
        key_derivation: Some(CKM_SHA3_256_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA3_256_RSA_PKCS),
        rsa_pss: Some(CKM_SHA3_256_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA3_256),
        ecdsa: Some(CKM_ECDSA_SHA3_256),
        dsa: Some(CKM_DSA_SHA3_256),
        info: &nist_info(8, 32),
    },
    Family {
        digest: CKM_SHA3_384,
        function: || Some(MessageDigest::sha3_384()),
        hmac: Some(CKM_SHA3_384_HMAC),
        hmac_general: Some(CKM_SHA3_384_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA3_384_HMAC),
        hmac_key_gen: Some(CKM_SHA3_384_KEY_GEN),
        key_derivation: Some(CKM_SHA3_384_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA3_384_RSA_PKCS),
        rsa_pss: Some(CKM_SHA3_384_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA3_384),
        ecdsa: Some(CKM_ECDSA_SHA3_384),
        dsa: Some(CKM_DSA_SHA3_384),
        info: &nist_info(9, 48),
    },
    Family {
        digest: CKM_SHA3_512,
        function: || Some(MessageDigest::sha3_512()),
        hmac: Some(CKM_SHA3_512_HMAC),
        hmac_general: Some(CKM_SHA3_512_HMAC_GENERAL),
        hmac_key: Some(CKK_SHA3_512_HMAC),
        hmac_key_gen: Some(CKM_SHA3_512_KEY_GEN),
        key_derivation: Some(CKM_SHA3_512_KEY_DERIVATION),
        rsa_pkcs: Some(CKM_SHA3_512_RSA_PKCS),
        rsa_pss: Some(CKM_SHA3_512_RSA_PKCS_PSS),
        mgf: Some(CKG_MGF1_SHA3_512),
        ecdsa: Some(CKM_ECDSA_SHA3_512),
        dsa: Some(CKM_DSA_SHA3_512),
        info: &nist_info(10, 64),
    },
];

impl Family {
    /// The family of a digest.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`.
    pub fn of(digest: CK_MECHANISM_TYPE) -> Result<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| family.digest == digest)
            .ok_or_else(|| Error::new(CKR_MECHANISM_INVALID, format!("mechanism {digest:#x} is no digest")))
    }

    /// The family of an HMAC mechanism.
    pub fn of_hmac(mechanism: CK_MECHANISM_TYPE) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| [family.hmac, family.hmac_general].contains(&Some(mechanism)))
    }

    /// The family of a mechanism that generates keys for HMAC.
    pub fn of_key_gen(mechanism: CK_MECHANISM_TYPE) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.hmac_key_gen == Some(mechanism))
    }

    /// The family of a mechanism that hashes a key into another one.
    pub fn of_key_derivation(mechanism: CK_MECHANISM_TYPE) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.key_derivation == Some(mechanism))
    }

    /// The family of a mask generation function.
    pub fn of_mgf(mgf: CK_RSA_PKCS_MGF_TYPE) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.mgf == Some(mgf))
    }

    /// May a key of this type be used for HMAC with this digest?
    pub fn takes_hmac_key(&self, key_type: CK_KEY_TYPE) -> bool {
        key_type == CKK_GENERIC_SECRET || self.hmac_key == Some(key_type)
    }

    /// Is there a mask generation function with this digest?
    pub fn has_mgf(&self) -> bool {
        self.mgf.is_some()
    }
}

/// May a key of this type be one of HMAC?
pub fn is_hmac_key_type(key_type: CK_KEY_TYPE) -> bool {
    FAMILIES.iter().any(|family| family.takes_hmac_key(key_type))
}

/// The digest of data that are there as a whole. AWS-LC's functions need no state to be made for a few bytes.
///
/// # Errors
/// `CKR_FUNCTION_FAILED`.
pub fn hash_by(function: MessageDigest, data: &[u8]) -> Result<Vec<u8>> {
    let algorithm = match function.type_() {
        Nid::SHA1 => &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        Nid::SHA224 => &aws_lc_rs::digest::SHA224,
        Nid::SHA256 => &aws_lc_rs::digest::SHA256,
        Nid::SHA384 => &aws_lc_rs::digest::SHA384,
        Nid::SHA512 => &aws_lc_rs::digest::SHA512,
        _ => return Ok(openssl::hash::hash(function, data).map_err(openssl_error)?.to_vec()),
    };
    Ok(aws_lc_rs::digest::digest(algorithm, data).as_ref().to_vec())
}

/// The digest of a `CKM_*` digest mechanism.
///
/// # Errors
/// `CKR_MECHANISM_INVALID`.
pub fn message_digest(mechanism: CK_MECHANISM_TYPE) -> Result<MessageDigest> {
    (Family::of(mechanism)?.function)()
        .ok_or_else(|| Error::new(CKR_MECHANISM_INVALID, "the cryptographic library lacks the digest"))
}

/// Splits a mechanism that hashes and signs into its digest and what signs the hash.
/// For `CKM_SHA*_RSA_PKCS` the hash must be put into a DigestInfo first: see [`digest_info`].
pub fn hash_and_sign(mechanism: CK_MECHANISM_TYPE) -> Option<(CK_MECHANISM_TYPE, CK_MECHANISM_TYPE)> {
    let found = Some(mechanism);
    FAMILIES.iter().find_map(|family| {
        let raw = match found {
            _ if family.rsa_pkcs == found => CKM_RSA_PKCS,
            _ if family.rsa_pss == found => CKM_RSA_PKCS_PSS,
            _ if family.ecdsa == found => CKM_ECDSA,
            _ if family.dsa == found => CKM_DSA,
            _ => return None,
        };
        Some((family.digest, raw))
    })
}

/// The DER of a DigestInfo (RFC 8017 section 9.2, notes): what `CKM_RSA_PKCS` signs.
///
/// # Errors
/// `CKR_MECHANISM_INVALID` for a digest that has none here.
pub fn digest_info(digest: CK_MECHANISM_TYPE, hash: &[u8]) -> Result<Vec<u8>> {
    match Family::of(digest)?.info {
        [] => Err(Error::new(CKR_MECHANISM_INVALID, "the digest has no DigestInfo")),
        prefix => Ok([prefix, hash].concat()),
    }
}

/// The same for the digests of NIST, whose object identifiers differ in the last number.
const fn nist_info(oid_end: u8, hash_bytes: u8) -> [u8; 19] {
    [
        0x30,
        hash_bytes + 17,
        0x30,
        0x0d,
        0x06,
        0x09,
        0x60,
        0x86,
        0x48,
        0x01,
        0x65,
        0x03,
        0x04,
        0x02,
        oid_end,
        0x05,
        0x00,
        0x04,
        hash_bytes,
    ]
}

/// The hash of the data.
///
/// # Errors
/// `CKR_MECHANISM_INVALID`.
pub(in crate::units) fn hash(digest: CK_MECHANISM_TYPE, data: &[u8]) -> Result<Vec<u8>> {
    hash_by(message_digest(digest)?, data)
}

/// What the raw mechanism signs for this data: hash, or hash in a DigestInfo.
pub(in crate::units) fn prehash(
    digest: CK_MECHANISM_TYPE,
    raw: CK_MECHANISM_TYPE,
    data: &[u8],
) -> Result<Vec<u8>> {
    let hash = hash(digest, data)?;
    if raw == CKM_RSA_PKCS { digest_info(digest, &hash) } else { Ok(hash) }
}
