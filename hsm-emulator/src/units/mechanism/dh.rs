//! Diffie-Hellman as PKCS #3 has it (PKCS #11 v3.1 section 6.5).

use cryptoki_sys::*;
use openssl::bn::{BigNum, BigNumRef, MsbOption};
use openssl::derive::Deriver;
use openssl::dh::Dh;
use openssl::pkey::{PKey, PKeyRef, Params, Private, Public};
use zeroize::Zeroizing;

use super::finite_field::{check_element, check_exponent, exponent, number, prime, prime_bits};
use super::{Mechanism, Parameter, openssl_error};
use crate::units::{Attributes, Error, Result};

/// New domain parameters, with a prime of `CKA_PRIME_BITS` for which (p - 1) / 2 is prime as well.
pub(super) fn generate_parameters(attributes: &mut Attributes) -> Result<()> {
    let bits = prime_bits(attributes, PARAMETER_BITS)?;
    let parameters = Dh::generate_params(bits, GENERATOR).map_err(openssl_error)?;
    attributes.set(CKA_PRIME, parameters.prime_p().to_vec());
    attributes.set(CKA_BASE, parameters.generator().to_vec());
    Ok(())
}

/// The domain parameters among these attributes.
pub(super) fn parameters(attributes: &Attributes) -> Result<Dh<Params>> {
    let prime = prime(attributes, KEY_BITS)?;
    let base = number(attributes, CKA_BASE, "CKA_BASE")?;
    check_element(&base, &prime, "CKA_BASE")?;
    Dh::from_pqg(prime, None, base).map_err(openssl_error)
}

pub(super) fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let parameters = parameters(attributes)?;
    let value = number(attributes, CKA_VALUE, "CKA_VALUE")?;
    check_element(&value, parameters.prime_p(), "CKA_VALUE")?;
    PKey::from_dh(parameters.set_public_key(value).map_err(openssl_error)?).map_err(openssl_error)
}

pub(super) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let parameters = parameters(clear)?;
    let value = exponent(secret)?;
    check_exponent(&value, parameters.prime_p())?;
    PKey::from_dh(parameters.set_private_key(value.into_key()?).map_err(openssl_error)?)
        .map_err(openssl_error)
}

/// A key pair of the public template's parameters; its exponent has `CKA_VALUE_BITS` if the private template says so.
pub(super) fn generate(
    public: &mut Attributes,
    private: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let parameters = parameters(public)?;
    let prime_bits = parameters.prime_p().num_bits();
    let key = match private.ulong(CKA_VALUE_BITS) {
        None => parameters.generate_key(),
        Some(bits) => {
            let bits = i32::try_from(bits).ok().filter(|bits| (MIN_EXPONENT_BITS..prime_bits).contains(bits));
            let bits =
                bits.ok_or_else(|| Error::new(CKR_KEY_SIZE_RANGE, "CKA_VALUE_BITS is out of range"))?;
            let mut exponent = BigNum::new_secure().map_err(openssl_error)?;
            exponent.rand(bits, MsbOption::ONE, false).map_err(openssl_error)?;
            parameters.set_private_key(exponent)
        }
    }
    .map_err(openssl_error)?;
    public.set(CKA_VALUE, key.public_key().to_vec());
    describe(&key, private, secret);
    Ok(())
}

/// Puts a private key into attributes.
pub(super) fn describe(key: &Dh<Private>, clear: &mut Attributes, secret: &mut Attributes) {
    clear.set(CKA_PRIME, key.prime_p().to_vec());
    clear.set(CKA_BASE, key.generator().to_vec());
    clear.set_ulong(CKA_VALUE_BITS, key.private_key().num_bits() as u64);
    secret.set(CKA_VALUE, key.private_key().to_vec());
}

/// What the key shares with the owner of the public value in the parameter; `wanted` bytes if that is known.
pub(in crate::units) fn derive(
    mechanism: &Mechanism,
    key: &PKeyRef<Private>,
    wanted: Option<usize>,
) -> Result<Zeroizing<Vec<u8>>> {
    let invalid = || {
        Error::new(CKR_MECHANISM_PARAM_INVALID, "the other party's public value does not fit the key's prime")
    };
    let Parameter::Bytes(value) = &mechanism.parameter else { return Err(invalid()) };
    let dh = key.dh().map_err(openssl_error)?;
    let prime_bytes = dh.prime_p().num_bytes() as usize;
    let value = BigNum::from_slice(value).map_err(openssl_error)?;
    check_element(&value, dh.prime_p(), "the public value").map_err(|_| invalid())?;
    let owned = |number: &BigNumRef| number.to_owned().map_err(openssl_error);
    let peer = Dh::from_pqg(owned(dh.prime_p())?, None, owned(dh.generator())?)
        .and_then(|parameters| parameters.set_public_key(value))
        .and_then(PKey::from_dh)
        .map_err(openssl_error)?;
    // Not Dh::compute_key, which does not say how much of its result counts.
    let mut deriver = Deriver::new(key).map_err(openssl_error)?;
    deriver.set_peer(&peer).map_err(|_| invalid())?;
    let agreed = Zeroizing::new(deriver.derive_to_vec().map_err(|_| invalid())?);
    // OpenSSL leaves zeros at the beginning out.
    let mut secret = Zeroizing::new(vec![0; prime_bytes]);
    secret[prime_bytes - agreed.len()..].copy_from_slice(&agreed);
    // "The truncation removes bytes from the leading end of the secret value" (section 6.5.8).
    let surplus = secret.len().checked_sub(wanted.unwrap_or(secret.len()));
    let surplus = surplus.ok_or_else(|| Error::new(CKR_KEY_SIZE_RANGE, "the prime gives fewer bytes"))?;
    Ok(Zeroizing::new(secret[surplus..].to_vec()))
}

/// Bits of a prime. Finding one takes minutes beyond 2048; RFC 3526 has longer ones.
const PARAMETER_BITS: (u32, u32) = (512, 2048);
const KEY_BITS: (u32, u32) = (512, 8192);
const GENERATOR: u32 = 2;
/// A shorter exponent would be found.
const MIN_EXPONENT_BITS: i32 = 160;
