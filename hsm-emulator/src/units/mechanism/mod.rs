//! Mechanisms: what a unit can do with a key. One module for each family.

mod aes;
mod aes_xts;
pub mod asymmetric;
mod chacha20;
pub(in crate::units) mod cipher;
mod des;
pub(in crate::units) mod dh;
pub mod digest;
mod dsa;
mod ec;
pub(in crate::units) mod ecdh;
mod edwards;
mod finite_field;
pub mod kdf;
pub(in crate::units) mod key_bits;
pub mod mac;
pub mod post_quantum;
pub(in crate::units) mod prepared_key;
mod raw_curve;
pub mod rsa;
pub(in crate::units) mod rsa_aes_wrap;
pub(in crate::units) mod secret_key;
pub(in crate::units) mod secret_key_wrap;
mod secret_number;

use std::fmt;

use cryptoki_sys::{
    CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE, CKR_FUNCTION_FAILED, CKR_KEY_TYPE_INCONSISTENT,
    CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_TEMPLATE_INCOMPLETE,
};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::blob::KeyBlob;
use super::error::{Error, Result};

/// Has the cryptographic libraries make what they would make at the first use.
///
/// # Errors
/// `CKR_FUNCTION_FAILED` and `CKR_DEVICE_ERROR` if they do not work.
pub fn warm_up() -> Result<()> {
    openssl::init();
    std::sync::LazyLock::force(&aes::CIPHERTEXT_STEALING);
    openssl::hash::hash(openssl::hash::MessageDigest::sha256(), &[]).map_err(openssl_error)?;
    super::random::fill(&mut [0])
}

/// A mechanism with its parameter, checked for shape but not yet against a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// `CKM_*`.
    pub kind: CK_MECHANISM_TYPE,
    /// Its parameter.
    pub parameter: Parameter,
}

/// Parameters of mechanisms. Never to be logged: the password of PBKDF2 is a secret, and so are the data of
/// `CKM_CONCATENATE_*_DATA` and `CKM_XOR_BASE_AND_DATA`, of which a key is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// No parameter.
    None,
    /// Plain bytes: the IV of AES-CBC, the IV of a key wrap, the data that a key is derived from, after their IV if there is
    /// one; the context of EdDSA; the other party's public value of Diffie-Hellman.
    Bytes(Vec<u8>),
    /// A plain number: the length of a MAC in bytes, or the first bit of a key within another one.
    Number(u64),
    /// A second key.
    Key(OtherKey),
    /// `CK_CCM_PARAMS`.
    Ccm {
        /// Bytes of the plaintext.
        data_len: u64,
        /// 7 to 13 bytes.
        nonce: Vec<u8>,
        /// Additional authenticated data.
        aad: Vec<u8>,
        /// Bytes of the tag: 4 to 16, even.
        tag_bytes: u64,
    },
    /// `CK_HKDF_PARAMS`.
    Hkdf(kdf::Hkdf),
    /// `CK_SP800_108_KDF_PARAMS`, or those of feedback mode.
    Sp800108(kdf::Sp800108),
    /// `CK_PKCS5_PBKD2_PARAMS2`.
    Pbkdf2(kdf::Pbkdf2),
    /// `CK_GCM_PARAMS`; also the nonce and the data of ChaCha20-Poly1305, whose tag has 128 bits.
    Gcm {
        /// 1 to 128 bytes, as many as OpenSSL takes.
        iv: Vec<u8>,
        /// Additional authenticated data.
        aad: Vec<u8>,
        /// 32 to 128 bits, a multiple of 8.
        tag_bits: u32,
    },
    /// `CK_AES_CTR_PARAMS`.
    Ctr {
        /// 1 to 128.
        counter_bits: u32,
        /// The first counter block.
        counter_block: [u8; 16],
    },
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep {
        /// `CKM_*` of the digest.
        digest: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_*`.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// Empty if there is none.
        label: Vec<u8>,
    },
    /// `CK_RSA_AES_KEY_WRAP_PARAMS`.
    RsaAes {
        /// Bits of the temporary AES key.
        aes_bits: u64,
        /// The other three are OAEP's.
        digest: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_*`.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// Empty if there is none.
        label: Vec<u8>,
    },
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss {
        /// `CKM_*` of the digest.
        digest: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_*`.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// Bytes.
        salt_len: u64,
    },
    /// `CK_SIGN_ADDITIONAL_CONTEXT`.
    SignContext {
        /// `CKH_*`.
        hedge: u64,
        /// Up to 255 bytes.
        context: Vec<u8>,
    },
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh1 {
        /// `CKD_*`.
        kdf: u64,
        /// Input of the key derivation function.
        shared_data: Vec<u8>,
        /// The other party's point, raw or as a DER OCTET STRING.
        public_data: Vec<u8>,
    },
}

impl Mechanism {
    /// A mechanism without parameter.
    pub fn plain(kind: CK_MECHANISM_TYPE) -> Self {
        Self { kind, parameter: Parameter::None }
    }

    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID` if there is a parameter.
    pub(super) fn without_parameter(&self) -> Result<()> {
        match self.parameter {
            Parameter::None => Ok(()),
            _ => Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the mechanism takes no parameter")),
        }
    }
}

impl Parameter {
    /// The keys besides the one that the mechanism is used with, in their order.
    pub fn other_keys(&mut self) -> Vec<&mut OtherKey> {
        match self {
            Self::Key(key) | Self::Hkdf(kdf::Hkdf { salt: kdf::Salt::Key(key), .. }) => vec![key],
            Self::Sp800108(parameter) => {
                fn key(segment: &mut kdf::Segment) -> Option<&mut OtherKey> {
                    match segment {
                        kdf::Segment::Key(key) => Some(key),
                        _ => None,
                    }
                }
                parameter.segments.iter_mut().filter_map(key).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A key within a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherKey {
    /// As the C interface names it, which a unit does not know.
    Handle(u64),
    /// As a unit opens it.
    Blob(KeyBlob),
}

/// Bytes that are wiped, and never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A copy of these.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The bytes.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// OpenSSL's refusal of something that was not foreseen: its reason names no secret.
fn openssl_error(stack: openssl::error::ErrorStack) -> Error {
    let reason = stack.errors().first().and_then(|e| e.reason()).unwrap_or("unknown reason");
    Error::new(CKR_FUNCTION_FAILED, format!("the cryptographic library failed: {reason}"))
}

fn not_for(mechanism: &Mechanism, what: &str) -> Error {
    Error::new(CKR_MECHANISM_INVALID, format!("mechanism {:#x} is not one for {what}", mechanism.kind))
}

pub(in crate::units) fn incomplete(what: &str) -> Error {
    Error::new(CKR_TEMPLATE_INCOMPLETE, format!("{what} is missing"))
}

pub(in crate::units) fn inconsistent() -> Error {
    Error::new(CKR_KEY_TYPE_INCONSISTENT, "the key's type does not fit the mechanism")
}

/// A DER OCTET STRING of less than 256 bytes.
fn octet_string(bytes: &[u8]) -> Vec<u8> {
    let mut der = vec![0x04];
    if bytes.len() >= 0x80 {
        der.push(0x81);
    }
    der.push(bytes.len() as u8);
    der.extend_from_slice(bytes);
    der
}
