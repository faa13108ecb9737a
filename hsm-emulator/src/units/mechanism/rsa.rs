//! RSA: PKCS #1 v1.5, OAEP, PSS (PKCS #11 v3.1 section 6.1).

use cryptoki_sys::*;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::md::{Md, MdRef};
use openssl::pkey::{PKey, PKeyRef, Private, Public};
use openssl::pkey_ctx::{PkeyCtx, PkeyCtxRef};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::RsaPssSaltlen;
use zeroize::Zeroizing;

use super::digest::Family;
use super::secret_number::SecretNumber;
use super::{Mechanism, Parameter, incomplete, not_for, openssl_error};
use crate::units::{Attributes, Error, Result};

/// The private key that these attributes describe.
pub(in crate::units) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let (n, e) = (number(clear.get(CKA_MODULUS))?, number(clear.get(CKA_PUBLIC_EXPONENT))?);
    let part = |kind| SecretNumber::from_slice(component(secret.get(kind))?);
    let (d, p, q) = (part(CKA_PRIVATE_EXPONENT)?, part(CKA_PRIME_1)?, part(CKA_PRIME_2)?);
    let (dp, dq, qi) = (part(CKA_EXPONENT_1)?, part(CKA_EXPONENT_2)?, part(CKA_COEFFICIENT)?);
    check_size(n.num_bits())?;
    // Before anything is computed with them: the cost of that grows with their size.
    let too_large = [&d, &p, &q, &dp, &dq, &qi].iter().any(|part| part.num_bits() > n.num_bits());
    if too_large || e.num_bits() > n.num_bits() || p.num_bits() + q.num_bits() > n.num_bits() + 1 {
        return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "the components are no RSA key"));
    }
    let (d, p, q) = (d.into_key()?, p.into_key()?, q.into_key()?);
    let (dp, dq, qi) = (dp.into_key()?, dq.into_key()?, qi.into_key()?);
    let rsa = Rsa::from_private_components(n, e, d, p, q, dp, dq, qi).map_err(openssl_error)?;
    PKey::from_rsa(rsa).map_err(openssl_error)
}

/// As [`private_key`], for components that come from outside: are they a key at all?
pub(in crate::units) fn check_private_key(clear: &Attributes, secret: &Attributes) -> Result<()> {
    let key = private_key(clear, secret)?;
    if key.rsa().and_then(|rsa| rsa.check_key()).unwrap_or(false) {
        return Ok(());
    }
    Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "the components are no RSA key"))
}

/// The size of a public key that comes from outside, whether it can be used or not.
///
/// # Errors
/// `CKR_TEMPLATE_INCOMPLETE`, `CKR_ATTRIBUTE_VALUE_INVALID`.
pub(super) fn modulus_bits(attributes: &Attributes) -> Result<u64> {
    let (n, e) = (number(attributes.get(CKA_MODULUS))?, number(attributes.get(CKA_PUBLIC_EXPONENT))?);
    if n.num_bits() < 1 || e.num_bits() < 1 {
        return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "modulus and exponent of an RSA key are not 0"));
    }
    Ok(n.num_bits() as u64)
}

/// The public key that these attributes describe.
///
/// # Errors
/// `CKR_TEMPLATE_INCOMPLETE`, `CKR_KEY_SIZE_RANGE`.
pub fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let n = number(attributes.get(CKA_MODULUS))?;
    let e = number(attributes.get(CKA_PUBLIC_EXPONENT))?;
    check_public_size(n.num_bits())?;
    PKey::from_rsa(Rsa::from_public_components(n, e).map_err(openssl_error)?).map_err(openssl_error)
}

/// A key pair of the public template's size and exponent.
pub(super) fn generate(
    public: &mut Attributes,
    private: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let bits = public.ulong(CKA_MODULUS_BITS).ok_or_else(|| incomplete("CKA_MODULUS_BITS"))?;
    let bits = i32::try_from(bits).unwrap_or(i32::MAX);
    check_size(bits)?;
    let exponent = public.get(CKA_PUBLIC_EXPONENT).unwrap_or(&DEFAULT_PUBLIC_EXPONENT);
    let exponent = BigNum::from_slice(exponent).map_err(openssl_error)?;
    if exponent.num_bits() < 2 || !exponent.is_bit_set(0) || exponent.num_bits() > 64 {
        return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_PUBLIC_EXPONENT must be odd, 3 or more"));
    }
    let key = Rsa::generate_with_e(bits as u32, &exponent).map_err(openssl_error)?;
    describe_public(&key, public);
    describe(&key, private, secret);
    Ok(())
}

/// Puts a private key's components into attributes.
pub(super) fn describe(rsa: &Rsa<Private>, clear: &mut Attributes, secret: &mut Attributes) {
    describe_public(rsa, clear);
    secret.set(CKA_PRIVATE_EXPONENT, rsa.d().to_vec());
    let parts = [
        (CKA_PRIME_1, rsa.p()),
        (CKA_PRIME_2, rsa.q()),
        (CKA_EXPONENT_1, rsa.dmp1()),
        (CKA_EXPONENT_2, rsa.dmq1()),
        (CKA_COEFFICIENT, rsa.iqmp()),
    ];
    for (kind, part) in parts {
        if let Some(part) = part {
            secret.set(kind, part.to_vec());
        }
    }
}

fn describe_public(rsa: &Rsa<Private>, attributes: &mut Attributes) {
    attributes.set(CKA_MODULUS, rsa.n().to_vec());
    attributes.set(CKA_PUBLIC_EXPONENT, rsa.e().to_vec());
}

/// Signs; the data of hashing mechanisms has been hashed before.
pub(in crate::units) fn sign(mechanism: &Mechanism, key: &PKeyRef<Private>, data: &[u8]) -> Result<Vec<u8>> {
    check_input(mechanism, key.size(), data)?;
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.sign_init().map_err(openssl_error)?;
    set_signature_padding(mechanism, &mut context)?;
    let mut signature = vec![0; key.size()];
    let len = context.sign(data, Some(&mut signature)).map_err(|_| data_len())?;
    signature.truncate(len);
    Ok(signature)
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify(mechanism: &Mechanism, key: &PKeyRef<Public>, data: &[u8], signature: &[u8]) -> Result<()> {
    check_input(mechanism, key.size(), data)?;
    if signature.len() != key.size() {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature is not as long as the modulus"));
    }
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.verify_init().map_err(openssl_error)?;
    set_signature_padding(mechanism, &mut context)?;
    match context.verify(data, signature) {
        Ok(true) => Ok(()),
        _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong")),
    }
}

/// What was signed, for a mechanism that does not hash.
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub fn verify_recover(mechanism: &Mechanism, key: &PKeyRef<Public>, signature: &[u8]) -> Result<Vec<u8>> {
    if signature.len() != key.size() {
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, "the signature is not as long as the modulus"));
    }
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.verify_recover_init().map_err(openssl_error)?;
    set_signature_padding(mechanism, &mut context)?;
    let mut data = vec![0; key.size()];
    let len = context
        .verify_recover(signature, Some(&mut data))
        .map_err(|_| Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong"))?;
    data.truncate(len);
    Ok(data)
}

/// Encrypts with the public key.
///
/// # Errors
/// `CKR_DATA_LEN_RANGE`, `CKR_MECHANISM_PARAM_INVALID`; `CKR_KEY_SIZE_RANGE` for a key that is good to verify with only.
pub fn encrypt(mechanism: &Mechanism, key: &PKeyRef<Public>, plaintext: &[u8]) -> Result<Vec<u8>> {
    check_size(key.bits() as i32)?;
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.encrypt_init().map_err(openssl_error)?;
    set_encryption_padding(mechanism, &mut context)?;
    let mut out = vec![0; key.size()];
    let len = context.encrypt(plaintext, Some(&mut out)).map_err(|_| data_len())?;
    out.truncate(len);
    Ok(out)
}

/// Decrypts. A PKCS #1 v1.5 ciphertext with wrong padding gives random bytes (OpenSSL's implicit rejection),
/// so that nobody learns anything from it.
pub(in crate::units) fn decrypt(
    mechanism: &Mechanism,
    key: &PKeyRef<Private>,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    if ciphertext.len() != key.size() {
        return Err(Error::new(CKR_ENCRYPTED_DATA_LEN_RANGE, "the ciphertext is not as long as the modulus"));
    }
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.decrypt_init().map_err(openssl_error)?;
    set_encryption_padding(mechanism, &mut context)?;
    let mut out = Zeroizing::new(vec![0; key.size()]);
    let len = context
        .decrypt(ciphertext, Some(&mut out))
        .map_err(|_| Error::new(CKR_ENCRYPTED_DATA_INVALID, "the ciphertext does not decrypt"))?;
    out.truncate(len);
    Ok(out)
}

fn set_signature_padding<T>(mechanism: &Mechanism, context: &mut PkeyCtxRef<T>) -> Result<()> {
    match (mechanism.kind, &mechanism.parameter) {
        (CKM_RSA_PKCS, Parameter::None) => context.set_rsa_padding(Padding::PKCS1).map_err(openssl_error),
        (CKM_RSA_X_509, Parameter::None) => context.set_rsa_padding(Padding::NONE).map_err(openssl_error),
        (CKM_RSA_PKCS_PSS, Parameter::Pss { digest, mgf, salt_len }) => {
            let salt_len = i32::try_from(*salt_len).map_err(|_| bad_parameter())?;
            context.set_rsa_padding(Padding::PKCS1_PSS).map_err(openssl_error)?;
            context.set_signature_md(md(*digest)?).map_err(openssl_error)?;
            context.set_rsa_mgf1_md(mgf_md(*mgf)?).map_err(openssl_error)?;
            context.set_rsa_pss_saltlen(RsaPssSaltlen::custom(salt_len)).map_err(openssl_error)
        }
        (CKM_RSA_PKCS | CKM_RSA_X_509 | CKM_RSA_PKCS_PSS, _) => Err(bad_parameter()),
        _ => Err(not_for(mechanism, "signing with an RSA key")),
    }
}

fn set_encryption_padding<T>(mechanism: &Mechanism, context: &mut PkeyCtxRef<T>) -> Result<()> {
    match (mechanism.kind, &mechanism.parameter) {
        (CKM_RSA_PKCS, Parameter::None) => context.set_rsa_padding(Padding::PKCS1).map_err(openssl_error),
        (CKM_RSA_X_509, Parameter::None) => context.set_rsa_padding(Padding::NONE).map_err(openssl_error),
        (CKM_RSA_PKCS_OAEP, Parameter::Oaep { digest, mgf, label }) => {
            context.set_rsa_padding(Padding::PKCS1_OAEP).map_err(openssl_error)?;
            context.set_rsa_oaep_md(md(*digest)?).map_err(openssl_error)?;
            context.set_rsa_mgf1_md(mgf_md(*mgf)?).map_err(openssl_error)?;
            if !label.is_empty() {
                context.set_rsa_oaep_label(label).map_err(openssl_error)?;
            }
            Ok(())
        }
        (CKM_RSA_PKCS | CKM_RSA_X_509 | CKM_RSA_PKCS_OAEP, _) => Err(bad_parameter()),
        _ => Err(not_for(mechanism, "encrypting with an RSA key")),
    }
}

/// Are the digests of a parameter of OAEP or PSS known, and does that of PSS fit mechanism and key? Its digest is the one that
/// the mechanism hashes with, if it hashes, and the salt has room beside it (PKCS #11 v3.1 section 6.1.10).
///
/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID`.
pub(super) fn check_parameter(mechanism: &Mechanism, key: &Attributes) -> Result<()> {
    match mechanism.parameter {
        Parameter::Oaep { digest, mgf, .. } => md(digest).and(mgf_md(mgf)).map(drop),
        Parameter::Pss { digest, mgf, salt_len } => {
            let hashed_with = super::digest::hash_and_sign(mechanism.kind);
            let least = (md(digest)?.size() as u64 + 2).saturating_add(salt_len);
            if hashed_with.is_some_and(|(own, _)| own != digest) {
                return Err(bad_parameter());
            }
            match encoded_bytes(key) {
                Some(most) if least > most as u64 => Err(bad_parameter()),
                Some(_) => mgf_md(mgf).map(drop),
                // A key without a modulus is refused for its type.
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Bytes of a message that is encoded for PSS: a bit less than the modulus (RFC 8017 section 9.1.1).
fn encoded_bytes(key: &Attributes) -> Option<usize> {
    let modulus = key.get(CKA_MODULUS)?;
    let leading = modulus.iter().position(|byte| *byte != 0)?;
    let bits = 8 * (modulus.len() - leading) - modulus[leading].leading_zeros() as usize;
    Some((bits - 1).div_ceil(8))
}

/// Lengths that the standard's table 6.1 allows as input of a signature.
fn check_input(mechanism: &Mechanism, modulus_bytes: usize, data: &[u8]) -> Result<()> {
    let fits = match (mechanism.kind, &mechanism.parameter) {
        (CKM_RSA_PKCS, _) => data.len() + 11 <= modulus_bytes,
        (CKM_RSA_X_509, _) => data.len() == modulus_bytes,
        (CKM_RSA_PKCS_PSS, Parameter::Pss { digest, .. }) => {
            super::digest::message_digest(*digest).is_ok_and(|md: MessageDigest| md.size() == data.len())
        }
        _ => true,
    };
    if fits { Ok(()) } else { Err(data_len()) }
}

/// The digest of OAEP or PSS: one that has a mask generation function, too.
fn md(digest: CK_MECHANISM_TYPE) -> Result<&'static MdRef> {
    let family = Family::of(digest).ok().filter(|family| family.has_mgf()).ok_or_else(bad_parameter)?;
    let function = super::digest::message_digest(family.digest)?;
    Md::from_nid(function.type_()).ok_or_else(bad_parameter)
}

fn mgf_md(mgf: CK_RSA_PKCS_MGF_TYPE) -> Result<&'static MdRef> {
    md(Family::of_mgf(mgf).ok_or_else(bad_parameter)?.digest)
}

fn number(bytes: Option<&[u8]>) -> Result<BigNum> {
    BigNum::from_slice(component(bytes)?).map_err(openssl_error)
}

fn component(bytes: Option<&[u8]>) -> Result<&[u8]> {
    bytes.ok_or_else(|| incomplete("a component of the RSA key"))
}

/// What others have signed long ago is verified still.
fn check_public_size(bits: i32) -> Result<()> {
    if (MIN_VERIFYING_BITS..=MAX_BITS).contains(&bits) {
        return Ok(());
    }
    Err(Error::new(CKR_KEY_SIZE_RANGE, "the modulus of an RSA public key has 512 to 8192 bits"))
}

fn check_size(bits: i32) -> Result<()> {
    if (MIN_BITS..=MAX_BITS).contains(&bits) {
        return Ok(());
    }
    Err(Error::new(CKR_KEY_SIZE_RANGE, "an RSA modulus has 1024 to 8192 bits"))
}

fn data_len() -> Error {
    Error::new(CKR_DATA_LEN_RANGE, "the data does not fit the modulus and the padding")
}

fn bad_parameter() -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter does not fit the RSA mechanism")
}

const DEFAULT_PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];
/// The smallest modulus of a key that only verifies.
const MIN_VERIFYING_BITS: i32 = 512;
/// The smallest and largest modulus, in bits.
pub const MIN_BITS: i32 = 1024;
/// See [`MIN_BITS`].
pub const MAX_BITS: i32 = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: CK_MECHANISM_TYPE, parameter: Parameter, modulus: &[u8]) -> bool {
        let key = Attributes::new().with(CKA_MODULUS, modulus);
        match check_parameter(&Mechanism { kind, parameter }, &key) {
            Ok(()) => false,
            Err(error) => error.code == CKR_MECHANISM_PARAM_INVALID,
        }
    }

    #[test]
    fn a_parameter_fits_mechanism_and_key() {
        let pss = |kind, mgf, salt_len, modulus: &[u8]| {
            refused(kind, Parameter::Pss { digest: CKM_SHA256, mgf, salt_len }, modulus)
        };
        let modulus = [0xff; 128];
        assert!(!pss(CKM_RSA_PKCS_PSS, CKG_MGF1_SHA256, 94, &modulus));
        assert!(!pss(CKM_SHA256_RSA_PKCS_PSS, CKG_MGF1_SHA1, 0, &modulus));
        assert!(pss(CKM_RSA_PKCS_PSS, CKG_MGF1_SHA256, 95, &modulus));
        assert!(pss(CKM_RSA_PKCS_PSS, CKG_MGF1_SHA256, u64::MAX, &modulus));
        assert!(pss(CKM_RSA_PKCS_PSS, 99, 0, &modulus));
        assert!(pss(CKM_SHA512_RSA_PKCS_PSS, CKG_MGF1_SHA512, 0, &modulus));
        // The topmost bit of a message is not used: with one bit more than whole bytes, a byte less.
        assert!(pss(CKM_RSA_PKCS_PSS, CKG_MGF1_SHA256, 94, &[&[0, 1], &modulus[1..]].concat()));
        let oaep = |digest, mgf| {
            refused(CKM_RSA_PKCS_OAEP, Parameter::Oaep { digest, mgf, label: Vec::new() }, &modulus)
        };
        assert!(!oaep(CKM_SHA256, CKG_MGF1_SHA1));
        assert!(oaep(CKM_SHA256, 99));
        assert!(oaep(CKM_MD5, CKG_MGF1_SHA1));
    }
}
