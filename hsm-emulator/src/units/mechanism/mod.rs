//! Mechanisms: what a unit can do with a key. One module for each family.

pub mod aes;
pub mod digest;
pub mod ec;
pub mod edwards;
pub(in crate::units) mod hmac;
pub mod rsa;

use cryptoki_sys::{CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE, CKR_FUNCTION_FAILED, CKR_MECHANISM_INVALID};

use super::error::Error;

/// A mechanism with its parameter, checked for shape but not yet against a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// `CKM_*`.
    pub kind: CK_MECHANISM_TYPE,
    /// Its parameter.
    pub parameter: Parameter,
}

/// Parameters of mechanisms. None is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// No parameter.
    None,
    /// Plain bytes: the IV of AES-CBC, the IV of a key wrap, the data that a key is derived from, after their IV if there is
    /// one; the context of EdDSA.
    Bytes(Vec<u8>),
    /// `CK_GCM_PARAMS`.
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
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss {
        /// `CKM_*` of the digest.
        digest: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_*`.
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// Bytes.
        salt_len: u64,
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
}

/// OpenSSL's refusal of something that was not foreseen: its reason names no secret.
fn openssl_error(stack: openssl::error::ErrorStack) -> Error {
    let reason = stack.errors().first().and_then(|e| e.reason()).unwrap_or("unknown reason");
    Error::new(CKR_FUNCTION_FAILED, format!("the cryptographic library failed: {reason}"))
}

fn not_for(mechanism: &Mechanism, what: &str) -> Error {
    Error::new(CKR_MECHANISM_INVALID, format!("mechanism {:#x} is not one for {what}", mechanism.kind))
}
