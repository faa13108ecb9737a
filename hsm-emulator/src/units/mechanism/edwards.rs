//! Ed25519 and Ed448 signatures (PKCS #11 v3.1 section 6.3; RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use cryptoki_sys::{CKR_MECHANISM_PARAM_INVALID, CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE};
use openssl::pkey::{Id, PKeyRef, Private, Public};
use openssl::sign::{Signer, Verifier};
use zeroize::Zeroizing;

use super::raw_curve::Curve;
use super::{Parameter, inconsistent, openssl_error};
use crate::units::{Attributes, Error, Result};

/// Bytes of a signature by the key that these attributes describe.
pub(super) fn signature_bytes(key: &Attributes) -> usize {
    Curve::of(key).map_or(0, |curve| curve.signature_bytes)
}

/// Ed25519ph, Ed25519ctx and Ed448ph are not offered, nor a context. Ed448 comes with `CK_EDDSA_PARAMS` or without.
///
/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID`.
pub(super) fn check_parameter(parameter: &Parameter, key: &Attributes) -> Result<()> {
    match parameter {
        Parameter::None => Ok(()),
        Parameter::Bytes(context) if context.is_empty() && Curve::of(key)?.id == Id::ED448 => Ok(()),
        _ => Err(Error::new(
            CKR_MECHANISM_PARAM_INVALID,
            "EdDSA is offered without pre-hashing and without a context; Ed25519 takes no CK_EDDSA_PARAMS",
        )),
    }
}

/// A signature over the message itself.
pub(super) fn sign(key: &PKeyRef<Private>, message: &[u8]) -> Result<Vec<u8>> {
    if key.id() == Id::ED25519 {
        // AWS-LC has it in assembly.
        let seed = Zeroizing::new(key.raw_private_key().map_err(openssl_error)?);
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| inconsistent())?;
        return Ok(key.sign(message).as_ref().to_vec());
    }
    let mut signer = Signer::new_without_digest(key).map_err(openssl_error)?;
    signer.sign_oneshot_to_vec(message).map_err(openssl_error)
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub(super) fn verify(key: &PKeyRef<Public>, message: &[u8], signature: &[u8]) -> Result<()> {
    if Curve::of_key(key).is_none_or(|curve| curve.signature_bytes != signature.len()) {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature is not as long as its curve's are"));
    }
    let wrong = || Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong");
    if key.id() == Id::ED25519 {
        let key = UnparsedPublicKey::new(&ED25519, key.raw_public_key().map_err(openssl_error)?);
        return key.verify(message, signature).map_err(|_| wrong());
    }
    let mut verifier = Verifier::new_without_digest(key).map_err(openssl_error)?;
    match verifier.verify_oneshot(signature, message) {
        Ok(true) => Ok(()),
        _ => Err(wrong()),
    }
}
