//! ML-DSA (FIPS 204), SLH-DSA (FIPS 205) and ML-KEM (FIPS 203): PKCS #11 v3.2 sections 6.67 to 6.69.

use aws_lc_rs::kem::{self, DecapsulationKey, EncapsulationKey};
use cryptoki_sys::*;
use openssl::asn1::Asn1Object;
use openssl::md_ctx::MdCtx;
use openssl::pkey::{HasPublic, Id, KeyType, PKey, PKeyRef, Private, Public};
use openssl::pkey_ctx::PkeyCtx;
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, incomplete, openssl_error};
use crate::units::{Attributes, Error, Result};

/// What `CKA_PARAMETER_SET` names.
struct Set {
    key_type: CK_KEY_TYPE,
    number: CK_ULONG,
    /// Its object identifier is 2.16.840.1.101.3.4 and these.
    oid_end: [u8; 2],
    /// OpenSSL's name, of sets whose private keys have a seed.
    seeded: Option<KeyType>,
    /// Bytes of a signature or of an encapsulated key.
    output_bytes: usize,
}

const fn ml_dsa(number: CK_ULONG, oid_end: u8, name: KeyType, output_bytes: usize) -> Set {
    Set { key_type: CKK_ML_DSA, number, oid_end: [3, oid_end], seeded: Some(name), output_bytes }
}

const fn ml_kem(number: CK_ULONG, oid_end: u8, name: KeyType, output_bytes: usize) -> Set {
    Set { key_type: CKK_ML_KEM, number, oid_end: [4, oid_end], seeded: Some(name), output_bytes }
}

const fn slh_dsa(number: CK_ULONG, oid_end: u8, output_bytes: usize) -> Set {
    Set { key_type: CKK_SLH_DSA, number, oid_end: [3, oid_end], seeded: None, output_bytes }
}

const SETS: [Set; 18] = [
    ml_dsa(CKP_ML_DSA_44, 17, KeyType::ML_DSA_44, 2420),
    ml_dsa(CKP_ML_DSA_65, 18, KeyType::ML_DSA_65, 3309),
    ml_dsa(CKP_ML_DSA_87, 19, KeyType::ML_DSA_87, 4627),
    ml_kem(CKP_ML_KEM_512, 1, KeyType::ML_KEM_512, 768),
    ml_kem(CKP_ML_KEM_768, 2, KeyType::ML_KEM_768, 1088),
    ml_kem(CKP_ML_KEM_1024, 3, KeyType::ML_KEM_1024, 1568),
    slh_dsa(CKP_SLH_DSA_SHA2_128S, 20, 7856),
    slh_dsa(CKP_SLH_DSA_SHA2_128F, 21, 17088),
    slh_dsa(CKP_SLH_DSA_SHA2_192S, 22, 16224),
    slh_dsa(CKP_SLH_DSA_SHA2_192F, 23, 35664),
    slh_dsa(CKP_SLH_DSA_SHA2_256S, 24, 29792),
    slh_dsa(CKP_SLH_DSA_SHA2_256F, 25, 49856),
    slh_dsa(CKP_SLH_DSA_SHAKE_128S, 26, 7856),
    slh_dsa(CKP_SLH_DSA_SHAKE_128F, 27, 17088),
    slh_dsa(CKP_SLH_DSA_SHAKE_192S, 28, 16224),
    slh_dsa(CKP_SLH_DSA_SHAKE_192F, 29, 35664),
    slh_dsa(CKP_SLH_DSA_SHAKE_256S, 30, 29792),
    slh_dsa(CKP_SLH_DSA_SHAKE_256F, 31, 49856),
];

impl Set {
    /// The set of a key's attributes.
    ///
    /// # Errors
    /// `CKR_TEMPLATE_INCOMPLETE`, `CKR_PARAMETER_SET_NOT_SUPPORTED`.
    fn of(attributes: &Attributes) -> Result<&'static Self> {
        let number = attributes.ulong(CKA_PARAMETER_SET).ok_or_else(|| incomplete("CKA_PARAMETER_SET"))?;
        let key_type = attributes.ulong(CKA_KEY_TYPE);
        SETS.iter().find(|set| set.number == number && Some(set.key_type) == key_type).ok_or_else(|| {
            Error::new(CKR_PARAMETER_SET_NOT_SUPPORTED, "CKA_PARAMETER_SET names none of this type of key")
        })
    }

    /// OpenSSL's number.
    fn id(&self) -> Result<Id> {
        let [arc, last] = self.oid_end;
        let oid = Asn1Object::from_str(&format!("2.16.840.1.101.3.4.{arc}.{last}")).map_err(openssl_error)?;
        Ok(Id::from_raw(oid.nid().as_raw()))
    }

    /// Is it the set of this key? Its SubjectPublicKeyInfo says so in the beginning.
    fn is_of(&self, key: &PKeyRef<Private>) -> Result<bool> {
        let info = key.public_key_to_der().map_err(openssl_error)?;
        let [arc, last] = self.oid_end;
        let oid = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, arc, last];
        Ok(info.windows(oid.len()).take(MAX_OID_OFFSET).any(|found| found == oid))
    }
}

/// The public key that these attributes describe.
pub(super) fn public_key(attributes: &Attributes) -> Result<PKey<Public>> {
    let set = Set::of(attributes)?;
    let value = attributes.get(CKA_VALUE).ok_or_else(|| incomplete("CKA_VALUE"))?;
    PKey::public_key_from_raw_bytes(value, set.id()?).map_err(|_| no_key("CKA_VALUE"))
}

/// The private key that these attributes describe: from its seed, if it is there.
pub(super) fn private_key(clear: &Attributes, secret: &Attributes) -> Result<PKey<Private>> {
    let set = Set::of(clear)?;
    match (secret.get(CKA_SEED), set.seeded) {
        (Some(seed), Some(name)) => {
            PKey::private_key_from_seed(None, name, None, seed).map_err(|_| no_key("CKA_SEED"))
        }
        (Some(_), None) => Err(no_key("CKA_SEED")),
        (None, _) => {
            let value = secret.get(CKA_VALUE).ok_or_else(|| incomplete("CKA_VALUE"))?;
            PKey::private_key_from_raw_bytes(value, set.id()?).map_err(|_| no_key("CKA_VALUE"))
        }
    }
}

/// Checks a private key that comes from outside: value, seed, or both.
pub(super) fn complete_private(clear: &Attributes, secret: &mut Attributes) -> Result<()> {
    let key = private_key(clear, secret)?;
    let value = Zeroizing::new(key.raw_private_key().map_err(openssl_error)?);
    if secret.get(CKA_VALUE).is_some_and(|given| given != value.as_slice()) {
        return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is not the key of CKA_SEED"));
    }
    secret.set(CKA_VALUE, value.as_slice());
    Ok(())
}

/// A key pair of the public template's parameter set.
pub(super) fn generate(
    public: &mut Attributes,
    private: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let set = Set::of(public)?;
    if private.ulong(CKA_PARAMETER_SET).is_some_and(|other| other != set.number) {
        return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, "the two templates name different parameter sets"));
    }
    private.set_ulong(CKA_PARAMETER_SET, set.number);
    let mut context = PkeyCtx::new_id(set.id()?).map_err(openssl_error)?;
    context.keygen_init().map_err(openssl_error)?;
    let key = context.keygen().map_err(openssl_error)?;
    public.set(CKA_VALUE, key.raw_public_key().map_err(openssl_error)?);
    describe(&key, secret)
}

/// Puts a key that came in PKCS #8 into attributes, which say its type and parameter set.
pub(super) fn describe_imported(
    key: &PKeyRef<Private>,
    clear: &mut Attributes,
    secret: &mut Attributes,
) -> Result<()> {
    let key_type = clear.ulong(CKA_KEY_TYPE);
    for set in SETS.iter().filter(|set| Some(set.key_type) == key_type) {
        if set.is_of(key)? {
            if clear.ulong(CKA_PARAMETER_SET).is_some_and(|wanted| wanted != set.number) {
                break;
            }
            clear.set_ulong(CKA_PARAMETER_SET, set.number);
            return describe(key, secret);
        }
    }
    Err(Error::new(CKR_WRAPPED_KEY_INVALID, "the unwrapped bytes are no private key of this type and set"))
}

/// Context and hedging of a signature.
///
/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID`.
pub(super) fn check_parameter(parameter: &Parameter) -> Result<()> {
    match parameter {
        Parameter::None => Ok(()),
        Parameter::SignContext { hedge: CKH_HEDGE_PREFERRED | CKH_HEDGE_REQUIRED, context }
            if context.len() <= MAX_CONTEXT_BYTES =>
        {
            Ok(())
        }
        _ => Err(Error::new(
            CKR_MECHANISM_PARAM_INVALID,
            "a signature has a context of up to 255 bytes, and is hedged",
        )),
    }
}

/// A hedged signature over the message itself.
pub(super) fn sign(mechanism: &Mechanism, key: &PKeyRef<Private>, message: &[u8]) -> Result<Vec<u8>> {
    let mut context = MdCtx::new().map_err(openssl_error)?;
    let settings = context.digest_sign_init(None, key).map_err(openssl_error)?;
    if let Parameter::SignContext { context, .. } = &mechanism.parameter {
        settings.set_context_string(context).map_err(openssl_error)?;
    }
    let mut signature = Vec::new();
    context.digest_sign_to_vec(message, &mut signature).map_err(openssl_error)?;
    Ok(signature)
}

/// Verifies what [`sign`] made. The signature's length has been compared with [`output_bytes`].
///
/// # Errors
/// `CKR_SIGNATURE_INVALID`.
pub(super) fn verify(
    mechanism: &Mechanism,
    key: &PKeyRef<Public>,
    message: &[u8],
    signature: &[u8],
) -> Result<()> {
    let mut context = MdCtx::new().map_err(openssl_error)?;
    let settings = context.digest_verify_init(None, key).map_err(openssl_error)?;
    if let Parameter::SignContext { context, .. } = &mechanism.parameter {
        settings.set_context_string(context).map_err(openssl_error)?;
    }
    match context.digest_verify(message, signature) {
        Ok(true) => Ok(()),
        _ => Err(Error::new(CKR_SIGNATURE_INVALID, "the signature is wrong")),
    }
}

/// Bytes of a signature by a key, or of a key that is encapsulated under it.
pub fn output_bytes(key: &Attributes) -> usize {
    Set::of(key).map_or(0, |set| set.output_bytes)
}

/// A fresh shared secret, and what encapsulates it: (encapsulated, secret).
pub(in crate::units) fn encapsulate<T: HasPublic>(
    attributes: &Attributes,
    key: &PKeyRef<T>,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let bytes = key.raw_public_key().map_err(openssl_error)?;
    let key = EncapsulationKey::new(algorithm(attributes)?, &bytes).map_err(|_| no_key("CKA_VALUE"))?;
    let (encapsulated, secret) = key.encapsulate().map_err(|_| failed())?;
    Ok((encapsulated.as_ref().to_vec(), Zeroizing::new(secret.as_ref().to_vec())))
}

/// The shared secret in what [`encapsulate`] made. An altered one gives another secret (FIPS 203's implicit rejection).
///
/// # Errors
/// `CKR_WRAPPED_KEY_LEN_RANGE`.
pub(in crate::units) fn decapsulate(
    attributes: &Attributes,
    key: &PKeyRef<Private>,
    encapsulated: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    if encapsulated.len() != output_bytes(attributes) {
        let message = "the encapsulated key is not as long as its parameter set has it";
        return Err(Error::new(CKR_WRAPPED_KEY_LEN_RANGE, message));
    }
    let bytes = Zeroizing::new(key.raw_private_key().map_err(openssl_error)?);
    let key = DecapsulationKey::new(algorithm(attributes)?, &bytes).map_err(|_| no_key("CKA_VALUE"))?;
    let secret = key.decapsulate(encapsulated.into()).map_err(|_| failed())?;
    Ok(Zeroizing::new(secret.as_ref().to_vec()))
}

fn algorithm(attributes: &Attributes) -> Result<&'static kem::Algorithm<kem::AlgorithmId>> {
    match (Set::of(attributes)?.key_type, attributes.ulong(CKA_PARAMETER_SET)) {
        (CKK_ML_KEM, Some(CKP_ML_KEM_512)) => Ok(&kem::ML_KEM_512),
        (CKK_ML_KEM, Some(CKP_ML_KEM_768)) => Ok(&kem::ML_KEM_768),
        (CKK_ML_KEM, Some(CKP_ML_KEM_1024)) => Ok(&kem::ML_KEM_1024),
        _ => Err(super::inconsistent()),
    }
}

fn describe(key: &PKeyRef<Private>, secret: &mut Attributes) -> Result<()> {
    secret.set(CKA_VALUE, key.raw_private_key().map_err(openssl_error)?);
    let mut seed = Zeroizing::new([0; MAX_SEED_BYTES]);
    // A key that was imported without its seed has none, and those of SLH-DSA never have.
    if let Ok(len @ 1..=MAX_SEED_BYTES) = key.seed_into(&mut *seed) {
        secret.set(CKA_SEED, &seed[..len]);
    }
    Ok(())
}

fn no_key(attribute: &str) -> Error {
    Error::new(CKR_ATTRIBUTE_VALUE_INVALID, format!("{attribute} is no key of this type and parameter set"))
}

fn failed() -> Error {
    Error::new(CKR_FUNCTION_FAILED, "the cryptographic library failed")
}

const MAX_CONTEXT_BYTES: usize = 255;
/// ML-KEM's.
const MAX_SEED_BYTES: usize = 64;
/// Where an object identifier begins in a SubjectPublicKeyInfo, at most.
const MAX_OID_OFFSET: usize = 16;
