//! What needs no secret is computed here, not in the HSM: digests, and operations with public keys.

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Attributes, Error, Result};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::md::{Md, MdRef};
use openssl::pkey::{Id, PKey, Public};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};

use crate::curves::{Curve, Form};

pub use openssl::hash::Hasher;

/// Digest functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DigestKind {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

impl DigestKind {
    /// The digest function of a digest mechanism.
    pub fn of_mechanism(kind: CK_MECHANISM_TYPE) -> Option<Self> {
        Some(match kind {
            CKM_SHA_1 => Self::Sha1,
            CKM_SHA224 => Self::Sha224,
            CKM_SHA256 => Self::Sha256,
            CKM_SHA384 => Self::Sha384,
            CKM_SHA512 => Self::Sha512,
            CKM_SHA3_224 => Self::Sha3_224,
            CKM_SHA3_256 => Self::Sha3_256,
            CKM_SHA3_384 => Self::Sha3_384,
            CKM_SHA3_512 => Self::Sha3_512,
            _ => return None,
        })
    }

    /// Length of the digest.
    pub fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha3_224 => 28,
            Self::Sha256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// A fresh state.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`.
    pub fn hasher(self) -> Result<Hasher> {
        Hasher::new(self.message_digest()).map_err(failed)
    }

    /// The digest of `data`.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`.
    pub fn digest(self, data: &[u8]) -> Result<Vec<u8>> {
        Ok(openssl::hash::hash(self.message_digest(), data).map_err(failed)?.to_vec())
    }

    /// The DER encoding before the digest in a PKCS #1 signature's DigestInfo (RFC 8017, section 9.2).
    pub fn digest_info_prefix(self) -> &'static [u8] {
        match self {
            Self::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
            Self::Sha224 => b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c",
            Self::Sha256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
            Self::Sha384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
            Self::Sha512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
            Self::Sha3_224 => b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x07\x05\x00\x04\x1c",
            Self::Sha3_256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x08\x05\x00\x04\x20",
            Self::Sha3_384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x09\x05\x00\x04\x30",
            Self::Sha3_512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x0a\x05\x00\x04\x40",
        }
    }

    fn message_digest(self) -> MessageDigest {
        match self {
            Self::Sha1 => MessageDigest::sha1(),
            Self::Sha224 => MessageDigest::sha224(),
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
            Self::Sha512 => MessageDigest::sha512(),
            Self::Sha3_224 => MessageDigest::sha3_224(),
            Self::Sha3_256 => MessageDigest::sha3_256(),
            Self::Sha3_384 => MessageDigest::sha3_384(),
            Self::Sha3_512 => MessageDigest::sha3_512(),
        }
    }

    fn md(self) -> &'static MdRef {
        match self {
            Self::Sha1 => Md::sha1(),
            Self::Sha224 => Md::sha224(),
            Self::Sha256 => Md::sha256(),
            Self::Sha384 => Md::sha384(),
            Self::Sha512 => Md::sha512(),
            Self::Sha3_224 => Md::sha3_224(),
            Self::Sha3_256 => Md::sha3_256(),
            Self::Sha3_384 => Md::sha3_384(),
            Self::Sha3_512 => Md::sha3_512(),
        }
    }

    fn of_mask(mgf: CK_RSA_PKCS_MGF_TYPE) -> Option<Self> {
        Some(match mgf {
            CKG_MGF1_SHA1 => Self::Sha1,
            CKG_MGF1_SHA224 => Self::Sha224,
            CKG_MGF1_SHA256 => Self::Sha256,
            CKG_MGF1_SHA384 => Self::Sha384,
            CKG_MGF1_SHA512 => Self::Sha512,
            _ => return None,
        })
    }
}

/// A public key, parsed.
pub struct PublicKey {
    key: PKey<Public>,
    /// Bytes of a signature or ciphertext.
    size: usize,
}

impl PublicKey {
    /// Parses the attributes of a public key object.
    ///
    /// # Errors
    /// `CKR_KEY_TYPE_INCONSISTENT` if it is none, or on an unknown curve.
    pub fn parse(attributes: &Attributes) -> Result<Self> {
        let inconsistent = || Error::new(CKR_KEY_TYPE_INCONSISTENT, "not a public key that can be used");
        match attributes.ulong(CKA_KEY_TYPE) {
            Some(CKK_RSA) => {
                let modulus = attributes.get(CKA_MODULUS).ok_or_else(inconsistent)?;
                let exponent = attributes.get(CKA_PUBLIC_EXPONENT).ok_or_else(inconsistent)?;
                let number = |bytes| BigNum::from_slice(bytes);
                let key = number(modulus)
                    .and_then(|n| Rsa::from_public_components(n, number(exponent)?))
                    .and_then(PKey::from_rsa)
                    .map_err(|_| inconsistent())?;
                Ok(Self { size: key.size(), key })
            }
            Some(CKK_EC | CKK_EC_EDWARDS) => {
                let curve = Curve::of(attributes).ok_or_else(inconsistent)?;
                let point = attributes.get(CKA_EC_POINT).ok_or_else(inconsistent)?;
                let key = parse_point(curve, point).map_err(|_| inconsistent())?;
                Ok(Self { key, size: 2 * curve.order_bytes })
            }
            _ => Err(inconsistent()),
        }
    }

    /// Verifies a signature with a mechanism that does not hash.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_LEN_RANGE`, `CKR_SIGNATURE_INVALID`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn verify(&self, mechanism: &Mechanism, data: &[u8], signature: &[u8]) -> Result<()> {
        if signature.len() != self.size {
            return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature's length is not the key's"));
        }
        let good = match mechanism.kind {
            CKM_ECDSA => self.verify_ecdsa(data, signature),
            CKM_EDDSA => Verifier::new_without_digest(&self.key).and_then(|mut v| v.verify_oneshot(signature, data)),
            _ => self.signature_context(mechanism)?.verify(data, signature),
        };
        match good {
            Ok(true) => Ok(()),
            _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is not valid")),
        }
    }

    /// Encrypts with an RSA mechanism.
    ///
    /// # Errors
    /// `CKR_DATA_LEN_RANGE`, `CKR_MECHANISM_PARAM_INVALID`.
    pub fn encrypt(&self, mechanism: &Mechanism, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut context = PkeyCtx::new(&self.key).map_err(failed)?;
        context.encrypt_init().map_err(failed)?;
        match &mechanism.parameter {
            Parameter::Oaep { digest, mgf, label } => {
                context.set_rsa_padding(Padding::PKCS1_OAEP).map_err(failed)?;
                let digest = DigestKind::of_mechanism(*digest).ok_or_else(bad_parameter)?;
                context.set_rsa_oaep_md(digest.md()).map_err(failed)?;
                context.set_rsa_mgf1_md(mask(*mgf)?.md()).map_err(failed)?;
                if !label.is_empty() {
                    context.set_rsa_oaep_label(label).map_err(failed)?;
                }
            }
            _ => context.set_rsa_padding(Padding::PKCS1).map_err(failed)?,
        }
        let mut ciphertext = Vec::with_capacity(self.size);
        context
            .encrypt_to_vec(plaintext, &mut ciphertext)
            .map_err(|_| Error::new(CKR_DATA_LEN_RANGE, "the data is too long for the key"))?;
        Ok(ciphertext)
    }

    fn verify_ecdsa(&self, data: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        let (r, s) = signature.split_at(signature.len() / 2);
        let signature = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
        signature.verify(data, self.key.ec_key()?.as_ref())
    }

    fn signature_context(&self, mechanism: &Mechanism) -> Result<PkeyCtx<Public>> {
        let mut context = PkeyCtx::new(&self.key).map_err(failed)?;
        context.verify_init().map_err(failed)?;
        match mechanism.parameter {
            Parameter::Pss { digest, mgf, salt_len } => {
                let digest = DigestKind::of_mechanism(digest).ok_or_else(bad_parameter)?;
                let salt_len = i32::try_from(salt_len).map_err(|_| bad_parameter())?;
                context.set_rsa_padding(Padding::PKCS1_PSS).map_err(failed)?;
                context.set_signature_md(digest.md()).map_err(failed)?;
                context.set_rsa_mgf1_md(mask(mgf)?.md()).map_err(failed)?;
                context.set_rsa_pss_saltlen(RsaPssSaltlen::custom(salt_len)).map_err(failed)?;
            }
            _ => context.set_rsa_padding(Padding::PKCS1).map_err(failed)?,
        }
        Ok(context)
    }
}

/// `CKA_EC_POINT` is a DER OCTET STRING with the point; some write the bare point.
fn parse_point(curve: Curve, der: &[u8]) -> Result<PKey<Public>, ErrorStack> {
    let point = match der {
        [0x04, 0x81, len, point @ ..] if usize::from(*len) == point.len() => point,
        [0x04, len, point @ ..] if usize::from(*len) == point.len() => point,
        bare => bare,
    };
    match curve.form {
        Form::Weierstrass(nid) => {
            let group = EcGroup::from_curve_name(nid)?;
            let mut context = openssl::bn::BigNumContext::new()?;
            let point = EcPoint::from_bytes(&group, point, &mut context)?;
            PKey::from_ec_key(EcKey::from_public_key(&group, &point)?)
        }
        Form::Ed25519 => PKey::public_key_from_raw_bytes(point, Id::ED25519),
        Form::Ed448 => PKey::public_key_from_raw_bytes(point, Id::ED448),
    }
}

fn mask(mgf: CK_RSA_PKCS_MGF_TYPE) -> Result<DigestKind> {
    DigestKind::of_mask(mgf).ok_or_else(bad_parameter)
}

fn bad_parameter() -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, "a digest of the parameter is unknown")
}

/// The error of a cryptographic library that failed where it should not.
pub fn failed(_: ErrorStack) -> Error {
    Error::new(CKR_DEVICE_ERROR, "the cryptographic library failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_their_lengths() {
        for kind in crate::mechanisms::MECHANISMS.iter().filter(|m| m.flags & CKF_DIGEST != 0) {
            let digest = DigestKind::of_mechanism(kind.kind).expect("a digest");
            assert_eq!(digest.digest(b"abc").expect("computed").len(), digest.bytes());
            assert_eq!(usize::from(*digest.digest_info_prefix().last().expect("not empty")), digest.bytes());
        }
    }
}
