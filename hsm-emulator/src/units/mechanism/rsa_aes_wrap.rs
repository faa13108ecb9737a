//! `CKM_RSA_AES_KEY_WRAP`: any key under an AES key, which is under an RSA key (PKCS #11 v3.1 section 6.1.14).

use cryptoki_sys::*;
use openssl::pkey::{PKeyRef, Private, Public};
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, rsa, secret_key_wrap};
use crate::units::{Error, Result, random};

/// The RSA-OAEP ciphertext of a fresh AES key, and the key material wrapped with that.
pub(in crate::units) fn wrap(
    mechanism: &Mechanism,
    key: &PKeyRef<Public>,
    material: &[u8],
) -> Result<Vec<u8>> {
    let (aes_bytes, oaep) = parts(mechanism)?;
    let mut aes_key = Zeroizing::new(vec![0; aes_bytes]);
    random::fill(&mut aes_key)?;
    let mut wrapped = rsa::encrypt(&oaep, key, &aes_key)?;
    wrapped.extend(secret_key_wrap::wrap(&KWP, CKK_AES, &aes_key, material)?);
    Ok(wrapped)
}

/// Undoes [`wrap`].
pub(in crate::units) fn unwrap(
    mechanism: &Mechanism,
    key: &PKeyRef<Private>,
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let (aes_bytes, oaep) = parts(mechanism)?;
    let Some((encrypted_key, material)) = wrapped.split_at_checked(key.size()) else {
        return Err(Error::new(CKR_WRAPPED_KEY_LEN_RANGE, "the wrapped key is shorter than the modulus"));
    };
    let aes_key = rsa::decrypt(&oaep, key, encrypted_key)?;
    if aes_key.len() != aes_bytes {
        return Err(Error::new(CKR_WRAPPED_KEY_INVALID, "the AES key has not the length of the parameter"));
    }
    secret_key_wrap::unwrap(&KWP, CKK_AES, &aes_key, material)
}

fn parts(mechanism: &Mechanism) -> Result<(usize, Mechanism)> {
    match &mechanism.parameter {
        Parameter::RsaAes { aes_bits: aes_bits @ (128 | 192 | 256), digest, mgf, label } => {
            let parameter = Parameter::Oaep { digest: *digest, mgf: *mgf, label: label.clone() };
            Ok((*aes_bits as usize / 8, Mechanism { kind: CKM_RSA_PKCS_OAEP, parameter }))
        }
        _ => Err(Error::new(
            CKR_MECHANISM_PARAM_INVALID,
            "the temporary AES key has 128, 192 or 256 bits, and is encrypted with OAEP",
        )),
    }
}

const KWP: Mechanism = Mechanism { kind: CKM_AES_KEY_WRAP_KWP, parameter: Parameter::None };
