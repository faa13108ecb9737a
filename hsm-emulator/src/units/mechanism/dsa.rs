//! DSA (PKCS #11 v3.1 section 6.2; FIPS 186-4).

use cryptoki_sys::*;
use openssl::bn::{BigNum, BigNumContext};
use openssl::dsa::{Dsa, DsaSig};
use openssl::pkey::{HasParams, PKey, PKeyRef, Params, Private, Public};
use openssl::pkey_ctx::PkeyCtx;

use super::finite_field::{check_element, check_exponent, exponent, number, padded, prime, prime_bits};
use super::openssl_error;
use crate::units::{Attributes, Error, Result};

/// New domain parameters, with a prime of `CKA_PRIME_BITS`: 1024, 2048 or 3072.
pub(super) fn generate_parameters(attributes: &mut Attributes) -> Result<()> {
    let bits = prime_bits(attributes, KEY_BITS)?;
    if bits % 1024 != 0 {
        return Err(Error::new(CKR_KEY_SIZE_RANGE, "the prime of DSA has 1024, 2048 or 3072 bits"));
    }
    let subprime_bits = if bits == 1024 { 160 } else { 256 };
    if attributes.ulong(CKA_SUBPRIME_BITS).is_some_and(|wanted| wanted != subprime_bits) {
        return Err(Error::new(
            CKR_KEY_SIZE_RANGE,
            "the subprime has 160 bits beside 1024 of the prime, else 256",
        ));
    }
    let parameters = Dsa::generate_params(bits).map_err(openssl_error)?;
    describe_parameters(&parameters, attributes);
    attributes.set_ulong(CKA_SUBPRIME_BITS, parameters.q().num_bits() as u64);
    Ok(())
}

/// The domain parameters among these attributes.
pub(super) fn parameters(attributes: &Attributes) -> Result<Dsa<Params>> {
    let prime = prime(attributes, KEY_BITS)?;
    let subprime = number(attributes, CKA_SUBPRIME, "CKA_SUBPRIME")?;
    let base = number(attributes, CKA_BASE, "CKA_BASE")?;
    if !matches!(subprime.num_bits(), 160 | 224 | 256) || !subprime.is_odd() {
        return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_SUBPRIME has 160, 224 or 256 bits"));
    }
    check_element(&base, &prime, "CKA_BASE")?;
    Dsa::from_pqg(prime, subprime, base).map_err(openssl_error)
}

pub(super) fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let parameters = parameters(attributes)?;
    let value = number(attributes, CKA_VALUE, "CKA_VALUE")?;
    check_element(&value, parameters.p(), "CKA_VALUE")?;
    let (p, q, g) = owned(&parameters)?;
    let key = Dsa::from_public_components(p, q, g, value).map_err(openssl_error)?;
    PKey::from_dsa(key).map_err(openssl_error)
}

pub(super) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let parameters = parameters(clear)?;
    let exponent = exponent(secret)?;
    check_exponent(&exponent, parameters.q())?;
    let mut value = BigNum::new().map_err(openssl_error)?;
    let mut context = BigNumContext::new_secure().map_err(openssl_error)?;
    value.mod_exp(parameters.g(), &exponent, parameters.p(), &mut context).map_err(openssl_error)?;
    let (p, q, g) = owned(&parameters)?;
    let key = Dsa::from_private_components(p, q, g, exponent.into_key()?, value).map_err(openssl_error)?;
    PKey::from_dsa(key).map_err(openssl_error)
}

/// A key pair of the public template's parameters.
pub(super) fn generate(
    public: &mut Attributes,
    private: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let key = parameters(public)?.generate_key().map_err(openssl_error)?;
    public.set(CKA_VALUE, key.pub_key().to_vec());
    describe(&key, private, secret);
    Ok(())
}

/// Puts a private key into attributes.
pub(super) fn describe(key: &Dsa<Private>, clear: &mut Attributes, secret: &mut Attributes) {
    describe_parameters(key, clear);
    secret.set(CKA_VALUE, key.priv_key().to_vec());
}

/// A signature over a hash: r and s, each as long as the subprime.
pub(super) fn sign(key: &PKeyRef<Private>, hash: &[u8]) -> Result<Vec<u8>> {
    check_hash(hash)?;
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.sign_init().map_err(openssl_error)?;
    let mut der = Vec::new();
    context.sign_to_vec(hash, &mut der).map_err(openssl_error)?;
    let signature = DsaSig::from_der(&der).map_err(openssl_error)?;
    let len = subprime_bytes(key)?;
    Ok([padded(signature.r(), len)?, padded(signature.s(), len)?].concat())
}

/// Verifies what [`sign`] made.
///
/// # Errors
/// `CKR_DATA_LEN_RANGE`, `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
pub(super) fn verify(key: &PKeyRef<Public>, hash: &[u8], signature: &[u8]) -> Result<()> {
    check_hash(hash)?;
    let len = subprime_bytes(key)?;
    if signature.len() != 2 * len {
        let message = "the signature is not twice as long as the subprime";
        return Err(Error::new(CKR_SIGNATURE_LEN_RANGE, message));
    }
    let (r, s) = signature.split_at(len);
    let number = |bytes| BigNum::from_slice(bytes).map_err(openssl_error);
    let signature = DsaSig::from_private_components(number(r)?, number(s)?).map_err(openssl_error)?;
    let der = signature.to_der().map_err(openssl_error)?;
    let mut context = PkeyCtx::new(key).map_err(openssl_error)?;
    context.verify_init().map_err(openssl_error)?;
    match context.verify(hash, &der) {
        Ok(true) => Ok(()),
        _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong")),
    }
}

/// Bytes of a signature by the key that these attributes describe.
pub(super) fn signature_bytes(key: &Attributes) -> usize {
    2 * key.get(CKA_SUBPRIME).map_or(0, |subprime| subprime.iter().skip_while(|byte| **byte == 0).count())
}

fn describe_parameters<T: HasParams>(dsa: &Dsa<T>, attributes: &mut Attributes) {
    attributes.set(CKA_PRIME, dsa.p().to_vec());
    attributes.set(CKA_SUBPRIME, dsa.q().to_vec());
    attributes.set(CKA_BASE, dsa.g().to_vec());
}

fn owned(parameters: &Dsa<Params>) -> Result<(BigNum, BigNum, BigNum)> {
    let owned = || Ok((parameters.p().to_owned()?, parameters.q().to_owned()?, parameters.g().to_owned()?));
    owned().map_err(openssl_error)
}

fn subprime_bytes<T: HasParams>(key: &PKeyRef<T>) -> Result<usize> {
    Ok(key.dsa().map_err(openssl_error)?.q().num_bytes() as usize)
}

/// No digest is shorter or longer. What is longer than the subprime is cut.
fn check_hash(hash: &[u8]) -> Result<()> {
    if (20..=64).contains(&hash.len()) {
        return Ok(());
    }
    Err(Error::new(CKR_DATA_LEN_RANGE, "DSA signs a hash of 20 to 64 bytes"))
}

/// Bits of the prime.
const KEY_BITS: (u32, u32) = (1024, 3072);
