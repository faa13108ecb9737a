//! Control points: what a unit's firmware offers beyond the usual only after its administrators have enabled it.

use cryptoki_sys::{
    CK_MECHANISM_TYPE, CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKM_EDDSA,
    CKR_MECHANISM_INVALID,
};

use super::administration::control_point;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result, vendor};

/// The control point that a mechanism depends on.
fn needed(mechanism: CK_MECHANISM_TYPE) -> Option<u32> {
    match mechanism {
        CKM_EDDSA
        | CKM_EC_EDWARDS_KEY_PAIR_GEN
        | CKM_EC_MONTGOMERY_KEY_PAIR_GEN
        | vendor::CKM_IBM_ED25519_SHA512 => Some(control_point::ALG_EC_25519),
        vendor::CKM_IBM_BTC_DERIVE => Some(control_point::BTC),
        vendor::CKM_IBM_ECDSA_OTHER => Some(control_point::ECDSA_OTHER),
        _ => None,
    }
}

impl CryptoUnit {
    /// Have the administrators enabled what the mechanism depends on?
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, naming the control point.
    pub(super) fn permit_mechanism(&self, mechanism: CK_MECHANISM_TYPE) -> Result<()> {
        let Some(point) = needed(mechanism) else { return Ok(()) };
        if self.has_control_point(point) {
            return Ok(());
        }
        let name =
            control_point::ALL.iter().find(|(number, _)| *number == point).map_or("", |(_, name)| name);
        Err(Error::new(
            CKR_MECHANISM_INVALID,
            format!(
                "mechanism {mechanism:#x} needs control point {point} ({name}): set it with 'tke cryptounit-cp {point}'"
            ),
        ))
    }
}
