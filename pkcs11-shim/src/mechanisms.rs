//! The mechanisms on offer: for `C_GetMechanismList`, and for the checks that `C_*Init` makes without a round trip.

use std::sync::LazyLock;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, Parameter, digest, mac};
use hsm_emulator::units::{Error, Result};

use crate::{module, signing};

mod table;

pub use table::MECHANISMS;

/// What is known of a mechanism before any key is.
pub struct MechanismInfo {
    /// `CKM_*`.
    pub kind: CK_MECHANISM_TYPE,
    /// The keys it works with, or makes. Empty: none, or any.
    pub key_types: &'static [CK_KEY_TYPE],
    /// Smallest and largest key: bits for RSA, EC, DSA and Diffie-Hellman, bytes for secret keys (section 5.5), but bits
    /// where generic secret keys are generated, as that mechanism's own section has it.
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
    /// A `CK_ULONG`: the length of a MAC, the first bit of a key within another.
    Number,
    /// An initialisation vector of so many bytes.
    Iv(usize),
    /// Bytes of any length: the other party's public value, the IV of GMAC.
    Value,
    /// `CK_GCM_PARAMS`.
    Gcm,
    /// `CK_AES_CTR_PARAMS`.
    Ctr,
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep,
    /// `CK_RSA_AES_KEY_WRAP_PARAMS`.
    RsaAes,
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss,
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh1,
    /// `CK_EDDSA_PARAMS`, or none.
    Eddsa,
    /// `CK_CCM_PARAMS`.
    Ccm,
    /// `CK_SALSA20_CHACHA20_POLY1305_PARAMS`.
    ChaCha20Poly1305,
    /// A `CK_OBJECT_HANDLE`.
    Key,
    /// `CK_HKDF_PARAMS`.
    Hkdf,
    /// `CK_SP800_108_KDF_PARAMS`.
    Sp800108,
    /// `CK_SP800_108_FEEDBACK_KDF_PARAMS`.
    Sp800108Feedback,
    /// `CK_PKCS5_PBKD2_PARAMS2`.
    Pbkdf2,
    /// `CK_SIGN_ADDITIONAL_CONTEXT`, or none.
    SignContext,
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
        mac::bytes(mechanism).transpose()?;
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
        if flags & CKF_SIGN != 0 {
            flags |= CKF_MESSAGE_SIGN | CKF_MESSAGE_VERIFY;
            if signing::takes_parts(&Mechanism::plain(self.kind)) {
                flags |= CKF_MULTI_MESSAGE;
            }
        }
        if matches!(self.kind, CKM_AES_GCM | CKM_AES_CCM | CKM_CHACHA20_POLY1305) {
            flags |= CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT | CKF_MULTI_MESSAGE;
        }
        flags
    }

    /// Finds a mechanism.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`.
    pub fn of(kind: CK_MECHANISM_TYPE) -> Result<&'static Self> {
        let found = BY_KIND.binary_search_by_key(&kind, |info| info.kind).ok().map(|i| BY_KIND[i]);
        found
            .filter(|_| module::offers(kind))
            .ok_or_else(|| Error::new(CKR_MECHANISM_INVALID, "no such mechanism"))
    }

    /// Can the mechanism work with keys of this type?
    pub fn takes(&self, key_type: CK_KEY_TYPE) -> bool {
        self.key_types.contains(&key_type)
            && digest::Family::of_hmac(self.kind).is_none_or(|family| family.takes_hmac_key(key_type))
    }
}

/// Makes ready what a thread must not be making just when the process forks.
pub fn warm_up() {
    LazyLock::force(&BY_KIND);
}

/// To be found without a walk over all.
static BY_KIND: LazyLock<Vec<&MechanismInfo>> = LazyLock::new(|| {
    let mut sorted: Vec<_> = MECHANISMS.iter().collect();
    sorted.sort_by_key(|info| info.kind);
    sorted
});

impl Shape {
    fn fits(self, parameter: &Parameter) -> bool {
        match (self, parameter) {
            (Shape::None, Parameter::None) => true,
            (Shape::Number, Parameter::Number(_)) => true,
            (Shape::Iv(len), Parameter::Bytes(iv)) => iv.len() == len,
            (Shape::Value, Parameter::Bytes(_)) => true,
            (Shape::Gcm, Parameter::Gcm { .. }) => true,
            (Shape::Ctr, Parameter::Ctr { .. }) => true,
            (Shape::Oaep, Parameter::Oaep { .. }) => true,
            (Shape::RsaAes, Parameter::RsaAes { .. }) => true,
            (Shape::Ecdh1, Parameter::Ecdh1 { .. }) => true,
            (Shape::Eddsa, Parameter::None | Parameter::Bytes(_)) => true,
            (Shape::Ccm, Parameter::Ccm { .. }) => true,
            (Shape::ChaCha20Poly1305, Parameter::Gcm { .. }) => true,
            (Shape::Key, Parameter::Key(_)) => true,
            (Shape::Hkdf, Parameter::Hkdf(_)) => true,
            (Shape::Sp800108 | Shape::Sp800108Feedback, Parameter::Sp800108(_)) => true,
            (Shape::Pbkdf2, Parameter::Pbkdf2(_)) => true,
            (Shape::SignContext, Parameter::None | Parameter::SignContext { .. }) => true,
            (Shape::Data(iv), Parameter::Bytes(bytes)) => bytes.len() > iv,
            (Shape::Pss, Parameter::Pss { .. }) => true,
            _ => false,
        }
    }
}
