//! The mechanisms on offer: for `C_GetMechanismList`, and for the checks that `C_*Init` makes without a round trip.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Error, Result};

use crate::{local, module, signing};

/// What is known of a mechanism before any key is.
pub struct MechanismInfo {
    /// `CKM_*`.
    pub kind: CK_MECHANISM_TYPE,
    /// The keys it works with, or makes. Empty: none, or any.
    pub key_types: &'static [CK_KEY_TYPE],
    /// Smallest and largest key: bits for RSA and EC, bytes for secret keys (section 5.5).
    pub key_sizes: (CK_ULONG, CK_ULONG),
    /// `CKF_*`.
    pub flags: CK_FLAGS,
    /// The parameter it wants.
    pub shape: Shape,
}

/// The parameter that a mechanism wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// None.
    None,
    /// An initialisation vector of so many bytes.
    Iv(usize),
    /// `CK_GCM_PARAMS`.
    Gcm,
    /// `CK_AES_CTR_PARAMS`.
    Ctr,
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep,
    /// `CK_RSA_PKCS_PSS_PARAMS`; with this digest, if the mechanism hashes itself.
    Pss(Option<CK_MECHANISM_TYPE>),
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh1,
    /// `CK_EDDSA_PARAMS`, or none.
    Eddsa,
    /// Data, after so many bytes of an initialisation vector.
    Data(usize),
}

impl MechanismInfo {
    /// Finds a mechanism that can do what `flag` (`CKF_*`) says, and checks its parameter's shape.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn for_use(mechanism: &Mechanism, flag: CK_FLAGS) -> Result<&'static Self> {
        let info = Self::with_flag(mechanism.kind, flag)?;
        if !info.shape.fits(&mechanism.parameter) {
            return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "not the parameter this mechanism wants"));
        }
        Ok(info)
    }

    /// Finds a mechanism that can do what `flag` (`CKF_*`) says.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`.
    pub fn with_flag(kind: CK_MECHANISM_TYPE, flag: CK_FLAGS) -> Result<&'static Self> {
        let info = Self::of(kind)?;
        if info.all_flags() & flag == 0 {
            return Err(Error::new(CKR_MECHANISM_INVALID, "the mechanism is not for this function"));
        }
        Ok(info)
    }

    /// What the mechanism can do (`CKF_*`): what signs, signs messages too.
    pub fn all_flags(&self) -> CK_FLAGS {
        let mut flags = self.flags;
        if flags & SIGNATURE != 0 {
            flags |= CKF_MESSAGE_SIGN | CKF_MESSAGE_VERIFY;
            if signing::takes_parts(self.kind) {
                flags |= CKF_MULTI_MESSAGE;
            }
        }
        if self.kind == CKM_AES_GCM {
            flags |= CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT | CKF_MULTI_MESSAGE;
        }
        flags
    }

    /// Finds a mechanism.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`.
    pub fn of(kind: CK_MECHANISM_TYPE) -> Result<&'static Self> {
        MECHANISMS
            .iter()
            .find(|info| info.kind == kind && module::offers(kind))
            .ok_or_else(|| Error::new(CKR_MECHANISM_INVALID, "no such mechanism"))
    }

    /// Can the mechanism work with keys of this type?
    pub fn takes(&self, key_type: CK_KEY_TYPE) -> bool {
        self.key_types.contains(&key_type)
    }
}

impl Shape {
    fn fits(self, parameter: &Parameter) -> bool {
        match (self, parameter) {
            (Shape::None, Parameter::None) => true,
            (Shape::Iv(len), Parameter::Bytes(iv)) => iv.len() == len,
            (Shape::Gcm, Parameter::Gcm { .. }) => true,
            (Shape::Ctr, Parameter::Ctr { .. }) => true,
            (Shape::Oaep, Parameter::Oaep { .. }) => true,
            (Shape::Ecdh1, Parameter::Ecdh1 { .. }) => true,
            (Shape::Eddsa, Parameter::None | Parameter::Bytes(_)) => true,
            (Shape::Data(iv), Parameter::Bytes(bytes)) => bytes.len() > iv,
            (Shape::Pss(None), Parameter::Pss { digest, .. }) => local::digest_function(*digest).is_ok(),
            (Shape::Pss(Some(own)), Parameter::Pss { digest, .. }) => *digest == own,
            _ => false,
        }
    }
}

/// All mechanisms, in the order of `C_GetMechanismList`.
pub static MECHANISMS: &[MechanismInfo] = &[
    rsa(CKM_RSA_PKCS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    rsa(CKM_RSA_PKCS, CIPHER | WRAPPING | SIGNATURE | RECOVERY, Shape::None),
    rsa(CKM_RSA_X_509, CIPHER | WRAPPING | SIGNATURE | RECOVERY, Shape::None),
    rsa(CKM_RSA_PKCS_OAEP, CIPHER | WRAPPING, Shape::Oaep),
    rsa(CKM_RSA_PKCS_PSS, SIGNATURE, Shape::Pss(None)),
    rsa(CKM_SHA1_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA224_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA256_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA384_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA512_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA1_RSA_PKCS_PSS, SIGNATURE, Shape::Pss(Some(CKM_SHA_1))),
    rsa(CKM_SHA224_RSA_PKCS_PSS, SIGNATURE, Shape::Pss(Some(CKM_SHA224))),
    rsa(CKM_SHA256_RSA_PKCS_PSS, SIGNATURE, Shape::Pss(Some(CKM_SHA256))),
    rsa(CKM_SHA384_RSA_PKCS_PSS, SIGNATURE, Shape::Pss(Some(CKM_SHA384))),
    rsa(CKM_SHA512_RSA_PKCS_PSS, SIGNATURE, Shape::Pss(Some(CKM_SHA512))),
    ec(CKM_EC_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    ec(CKM_ECDSA, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA1, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA224, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA256, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA384, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA512, SIGNATURE, Shape::None),
    edwards(CKM_EC_EDWARDS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    edwards(CKM_EDDSA, SIGNATURE, Shape::Eddsa),
    ec(CKM_ECDH1_DERIVE, CKF_DERIVE, Shape::Ecdh1),
    aes(CKM_AES_KEY_GEN, CKF_GENERATE, Shape::None),
    aes(CKM_AES_ECB, CIPHER | WRAPPING, Shape::None),
    aes(CKM_AES_CBC, CIPHER | WRAPPING, Shape::Iv(16)),
    aes(CKM_AES_CBC_PAD, CIPHER | WRAPPING, Shape::Iv(16)),
    aes(CKM_AES_CTR, CIPHER, Shape::Ctr),
    aes(CKM_AES_GCM, CIPHER | WRAPPING, Shape::Gcm),
    aes(CKM_AES_CMAC, SIGNATURE, Shape::None),
    aes(CKM_AES_MAC, SIGNATURE, Shape::None),
    aes(CKM_AES_ECB_ENCRYPT_DATA, CKF_DERIVE, Shape::Data(0)),
    aes(CKM_AES_CBC_ENCRYPT_DATA, CKF_DERIVE, Shape::Data(16)),
    aes(CKM_AES_KEY_WRAP, WRAPPING, Shape::None),
    aes(CKM_AES_KEY_WRAP_PAD, WRAPPING, Shape::None),
    aes(CKM_AES_KEY_WRAP_KWP, WRAPPING, Shape::None),
    generic(CKM_GENERIC_SECRET_KEY_GEN, CKF_GENERATE),
    generic(CKM_SHA_1_HMAC, SIGNATURE),
    generic(CKM_SHA224_HMAC, SIGNATURE),
    generic(CKM_SHA256_HMAC, SIGNATURE),
    generic(CKM_SHA384_HMAC, SIGNATURE),
    generic(CKM_SHA512_HMAC, SIGNATURE),
    digest(CKM_SHA_1),
    digest(CKM_SHA224),
    digest(CKM_SHA256),
    digest(CKM_SHA384),
    digest(CKM_SHA512),
    digest(CKM_SHA3_224),
    digest(CKM_SHA3_256),
    digest(CKM_SHA3_384),
    digest(CKM_SHA3_512),
];

const fn rsa(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_RSA], key_sizes: (1024, 8192), flags, shape }
}

const fn ec(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    let flags = flags | CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS;
    MechanismInfo { kind, key_types: &[CKK_EC], key_sizes: (192, 521), flags, shape }
}

const fn edwards(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    let flags = flags | CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_COMPRESS;
    MechanismInfo { kind, key_types: &[CKK_EC_EDWARDS], key_sizes: (256, 456), flags, shape }
}

const fn aes(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_AES], key_sizes: (16, 32), flags, shape }
}

const fn generic(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS) -> MechanismInfo {
    const HMAC_KEYS: &[CK_KEY_TYPE] = &[
        CKK_GENERIC_SECRET,
        CKK_SHA_1_HMAC,
        CKK_SHA224_HMAC,
        CKK_SHA256_HMAC,
        CKK_SHA384_HMAC,
        CKK_SHA512_HMAC,
    ];
    MechanismInfo { kind, key_types: HMAC_KEYS, key_sizes: (1, 4096), flags, shape: Shape::None }
}

const fn digest(kind: CK_MECHANISM_TYPE) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[], key_sizes: (0, 0), flags: CKF_DIGEST, shape: Shape::None }
}

const SIGNATURE: CK_FLAGS = CKF_SIGN | CKF_VERIFY;
const RECOVERY: CK_FLAGS = CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER;
const WRAPPING: CK_FLAGS = CKF_WRAP | CKF_UNWRAP;
const CIPHER: CK_FLAGS = CKF_ENCRYPT | CKF_DECRYPT;
