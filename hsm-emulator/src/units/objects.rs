//! The PKCS #11 objects of a unit: made, changed, read. Everything comes out sealed.

use cryptoki_sys::*;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};
use super::mechanism::{Mechanism, aes, digest, ec, edwards, rsa};
use super::random;
use super::template::{Draft, Origin, is_secret_key_type};

impl CryptoUnit {
    /// A secret key: `CKM_AES_KEY_GEN`, `CKM_GENERIC_SECRET_KEY_GEN`.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_KEY_SIZE_RANGE`, and those of the template.
    pub fn generate_key(&self, mechanism: &Mechanism, template: &Attributes) -> Result<KeyBlob> {
        let key_type = match mechanism.kind {
            CKM_AES_KEY_GEN => CKK_AES,
            // The template may narrow it down to an HMAC key.
            CKM_GENERIC_SECRET_KEY_GEN => match template.ulong(CKA_KEY_TYPE) {
                Some(hmac) if hmac != CKK_AES && is_secret_key_type(hmac) => hmac,
                _ => CKK_GENERIC_SECRET,
            },
            _ => return Err(no_generator(mechanism)),
        };
        let origin = Origin::Generated(mechanism.kind);
        let draft = Draft::new(template, Some(CKO_SECRET_KEY), Some(key_type), origin)?;
        let len = draft.clear.ulong(CKA_VALUE_LEN).ok_or_else(|| incomplete("CKA_VALUE_LEN"))?;
        check_secret_len(key_type, len)?;
        let mut value = Zeroizing::new(vec![0; len as usize]);
        random::fill(&mut value)?;
        self.seal_secret_key(draft, &value)
    }

    /// An RSA, EC or Edwards key pair: (public, private).
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_KEY_SIZE_RANGE`, `CKR_CURVE_NOT_SUPPORTED`, and those of the templates.
    pub fn generate_key_pair(
        &self,
        mechanism: &Mechanism,
        public: &Attributes,
        private: &Attributes,
    ) -> Result<(KeyBlob, KeyBlob)> {
        let kind = match mechanism.kind {
            // IBM's clients ask for Ed25519 by its curve.
            CKM_EC_KEY_PAIR_GEN if public.get(CKA_EC_PARAMS).is_some_and(edwards::is_curve) => {
                CKM_EC_EDWARDS_KEY_PAIR_GEN
            }
            kind => kind,
        };
        self.permit_mechanism(kind)?;
        let origin = Origin::Generated(kind);
        let key_type = match kind {
            CKM_RSA_PKCS_KEY_PAIR_GEN => CKK_RSA,
            CKM_EC_KEY_PAIR_GEN => CKK_EC,
            CKM_EC_EDWARDS_KEY_PAIR_GEN => CKK_EC_EDWARDS,
            _ => return Err(no_generator(mechanism)),
        };
        let mut public = Draft::new(public, Some(CKO_PUBLIC_KEY), Some(key_type), origin)?;
        let mut private = Draft::new(private, Some(CKO_PRIVATE_KEY), Some(key_type), origin)?;
        if key_type == CKK_RSA {
            let bits = public.clear.ulong(CKA_MODULUS_BITS).ok_or_else(|| incomplete("CKA_MODULUS_BITS"))?;
            let exponent = public.clear.get(CKA_PUBLIC_EXPONENT).unwrap_or(&DEFAULT_PUBLIC_EXPONENT).to_vec();
            let key = rsa::generate(bits, &exponent)?;
            rsa::describe(&key, &mut public.clear, None);
            rsa::describe(&key, &mut private.clear, Some(&mut private.secret));
        } else {
            let params = public.clear.get(CKA_EC_PARAMS).ok_or_else(|| incomplete("CKA_EC_PARAMS"))?.to_vec();
            if private.clear.get(CKA_EC_PARAMS).is_some_and(|other| other != params) {
                return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, "the two templates name different curves"));
            }
            private.clear.set(CKA_EC_PARAMS, params);
            if key_type == CKK_EC {
                let key = ec::generate(&public.clear)?;
                ec::describe(&key, &mut public.clear, None)?;
                ec::describe(&key, &mut private.clear, Some(&mut private.secret))?;
            } else {
                let key = edwards::generate(&public.clear)?;
                edwards::describe(&key, &mut public.clear, None)?;
                edwards::describe(&key, &mut private.clear, Some(&mut private.secret))?;
            }
        }
        Ok((self.seal(&public.clear, &public.secret)?, self.seal(&private.clear, &private.secret)?))
    }

    /// `C_CreateObject`: an object whose value the caller knows.
    ///
    /// # Errors
    /// Those of the template; `CKR_ATTRIBUTE_VALUE_INVALID` if the value is no key.
    pub fn create_object(&self, template: &Attributes) -> Result<KeyBlob> {
        let mut draft = Draft::new(template, None, None, Origin::Created)?;
        self.permit_key_type(&draft)?;
        match (draft.clear.ulong(CKA_CLASS), draft.clear.ulong(CKA_KEY_TYPE)) {
            (Some(CKO_SECRET_KEY), Some(key_type)) => {
                let value = draft.secret.remove(CKA_VALUE).ok_or_else(|| incomplete("CKA_VALUE"))?;
                check_secret_len(key_type, value.len() as u64)?;
                return self.seal_secret_key(draft, &value);
            }
            (Some(CKO_PUBLIC_KEY), Some(CKK_RSA)) => {
                let bits = rsa::public_key(&draft.clear)?.bits();
                draft.clear.set_ulong(CKA_MODULUS_BITS, bits.into());
            }
            (Some(CKO_PUBLIC_KEY), Some(CKK_EC_EDWARDS)) => {
                let point = edwards::public_key(&draft.clear)?.raw_public_key().map_err(no_key)?;
                draft.clear.set(CKA_EC_POINT, ec::octet_string(&point));
            }
            (Some(CKO_PUBLIC_KEY), _) => {
                ec::public_key(&draft.clear)?;
                let group = ec::group(&draft.clear)?;
                let point = draft.clear.get(CKA_EC_POINT).unwrap_or_default();
                draft.clear.set(CKA_EC_POINT, ec::octet_string(ec::point_bytes(&group, point)));
            }
            (Some(CKO_PRIVATE_KEY), Some(CKK_RSA)) => rsa::check_private_key(&draft.clear, &draft.secret)?,
            (Some(CKO_PRIVATE_KEY), Some(CKK_EC_EDWARDS)) => {
                drop(edwards::private_key(&draft.clear, &draft.secret)?);
            }
            (Some(CKO_PRIVATE_KEY), _) => drop(ec::private_key(&draft.clear, &draft.secret)?),
            (Some(CKO_CERTIFICATE), _) if !draft.clear.contains(CKA_CERTIFICATE_TYPE) => {
                return Err(incomplete("CKA_CERTIFICATE_TYPE"));
            }
            _ => {}
        }
        self.seal(&draft.clear, &draft.secret)
    }

    /// `C_SetAttributeValue`, or `C_CopyObject` if `copy`: the object with some attributes changed.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED`, `CKR_ATTRIBUTE_READ_ONLY`, and those of the template.
    pub fn change_object(&self, object: &KeyBlob, changes: &Attributes, copy: bool) -> Result<KeyBlob> {
        let (clear, secret) = self.unseal_pkcs11(object)?;
        let draft = Draft::change(clear, secret, changes, copy)?;
        self.seal(&draft.clear, &draft.secret)
    }

    /// The value of an attribute, if the object lets it out.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_SENSITIVE` if it is sealed and the key is sensitive or unextractable,
    /// `CKR_ATTRIBUTE_TYPE_INVALID` if the object has no such attribute.
    pub fn attribute(&self, object: &KeyBlob, kind: CK_ATTRIBUTE_TYPE) -> Result<Zeroizing<Vec<u8>>> {
        let (clear, secret) = self.unseal_pkcs11(object)?;
        if let Some(value) = clear.get(kind) {
            return Ok(Zeroizing::new(value.to_vec()));
        }
        let value = secret
            .get(kind)
            .ok_or_else(|| Error::new(CKR_ATTRIBUTE_TYPE_INVALID, "the object has no such attribute"))?;
        let sensitive = clear.bool(CKA_SENSITIVE) == Some(true) || clear.bool(CKA_EXTRACTABLE) == Some(false);
        if sensitive {
            return Err(Error::new(CKR_ATTRIBUTE_SENSITIVE, "the key is sensitive or not extractable"));
        }
        Ok(Zeroizing::new(value.to_vec()))
    }

    /// Re-encrypts an object under the committed new master key (GREP11's `RewrapKeyBlob`). The new blob opens
    /// once that key has become the current one, the old one until then.
    ///
    /// # Errors
    /// As [`CryptoUnit::rewrap`], and `CKR_OBJECT_HANDLE_INVALID` for what is no PKCS #11 object.
    pub fn rewrap_object(&self, object: &KeyBlob) -> Result<KeyBlob> {
        self.unseal_pkcs11(object)?;
        self.rewrap(object)
    }

    /// What wrapping encrypts: the bytes of a secret key, or a private key in PKCS #8.
    ///
    /// # Errors
    /// `CKR_KEY_UNEXTRACTABLE`, `CKR_KEY_NOT_WRAPPABLE`.
    pub(super) fn exported(&self, object: &KeyBlob) -> Result<Zeroizing<Vec<u8>>> {
        let (clear, secret) = self.unseal_pkcs11(object)?;
        if clear.bool(CKA_EXTRACTABLE) != Some(true) {
            return Err(Error::new(CKR_KEY_UNEXTRACTABLE, "the key is not extractable"));
        }
        if clear.bool(CKA_WRAP_WITH_TRUSTED) == Some(true) {
            return Err(Error::new(CKR_KEY_NOT_WRAPPABLE, "the key may be wrapped with a trusted key only"));
        }
        let pkcs8 = |key: PKey<_>| {
            key.private_key_to_pkcs8()
                .map(Zeroizing::new)
                .map_err(|_| Error::new(CKR_KEY_NOT_WRAPPABLE, "the private key has no PKCS #8 form"))
        };
        match (clear.ulong(CKA_CLASS), clear.ulong(CKA_KEY_TYPE)) {
            (Some(CKO_SECRET_KEY), _) => {
                Ok(Zeroizing::new(secret.get(CKA_VALUE).unwrap_or_default().to_vec()))
            }
            (Some(CKO_PRIVATE_KEY), Some(CKK_RSA)) => pkcs8(rsa::private_key(&clear, &secret)?),
            (Some(CKO_PRIVATE_KEY), Some(CKK_EC)) => pkcs8(ec::private_key(&clear, &secret)?),
            (Some(CKO_PRIVATE_KEY), Some(CKK_EC_EDWARDS)) => pkcs8(edwards::private_key(&clear, &secret)?),
            _ => Err(Error::new(CKR_KEY_NOT_WRAPPABLE, "only secret and private keys can be wrapped")),
        }
    }

    /// Makes a key of unwrapped bytes.
    pub(super) fn import_unwrapped(&self, template: &Attributes, bytes: &[u8]) -> Result<KeyBlob> {
        let mut draft = Draft::new(template, None, None, Origin::Unwrapped)?;
        self.permit_key_type(&draft)?;
        let class = draft.clear.ulong(CKA_CLASS);
        let key_type = draft.clear.ulong(CKA_KEY_TYPE).unwrap_or(CK_UNAVAILABLE_INFORMATION);
        if class == Some(CKO_SECRET_KEY) {
            return self.seal_derived_value(draft, bytes, CKR_WRAPPED_KEY_INVALID);
        }
        let invalid =
            || Error::new(CKR_WRAPPED_KEY_INVALID, "the unwrapped bytes are no private key of this type");
        if class != Some(CKO_PRIVATE_KEY) {
            return Err(Error::new(
                CKR_TEMPLATE_INCONSISTENT,
                "only secret and private keys can be unwrapped",
            ));
        }
        let key = PKey::private_key_from_pkcs8(bytes).map_err(|_| invalid())?;
        match key_type {
            CKK_RSA => {
                rsa::describe(&key.rsa().map_err(|_| invalid())?, &mut draft.clear, Some(&mut draft.secret));
                rsa::check_private_key(&draft.clear, &draft.secret)?;
            }
            CKK_EC_EDWARDS if edwards::is_key(&key) => {
                edwards::describe_imported(&key, &mut draft.clear, &mut draft.secret)?;
            }
            _ => {
                let key = key.ec_key().map_err(|_| invalid())?;
                ec::describe_imported(&key, &mut draft.clear, &mut draft.secret)?;
            }
        }
        self.seal(&draft.clear, &draft.secret)
    }

    /// Makes a secret key of derived or unwrapped bytes: as many as the template wants.
    pub(super) fn seal_derived_value(&self, draft: Draft, bytes: &[u8], code: CK_RV) -> Result<KeyBlob> {
        let key_type = draft.clear.ulong(CKA_KEY_TYPE).unwrap_or(CK_UNAVAILABLE_INFORMATION);
        let len = draft.clear.ulong(CKA_VALUE_LEN).unwrap_or(bytes.len() as u64) as usize;
        let value =
            bytes.get(..len).ok_or_else(|| Error::new(code, "CKA_VALUE_LEN is more than there is"))?;
        check_secret_len(key_type, len as u64).map_err(|error| Error::new(code, error.message))?;
        self.seal_secret_key(draft, value)
    }

    /// A type of key that needs a control point is not brought in without it either.
    fn permit_key_type(&self, draft: &Draft) -> Result<()> {
        match draft.clear.ulong(CKA_KEY_TYPE) {
            Some(CKK_EC_EDWARDS) => self.permit_mechanism(CKM_EC_EDWARDS_KEY_PAIR_GEN),
            _ => Ok(()),
        }
    }

    fn seal_secret_key(&self, mut draft: Draft, value: &[u8]) -> Result<KeyBlob> {
        let check_value = if draft.clear.ulong(CKA_KEY_TYPE) == Some(CKK_AES) {
            aes::check_value(value)?
        } else {
            digest::prehash(CKM_SHA_1, CKM_ECDSA, value)?[..3].to_vec()
        };
        if draft.clear.get(CKA_CHECK_VALUE).is_some_and(|given| !given.is_empty() && given != check_value) {
            return Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_CHECK_VALUE does not fit the key"));
        }
        draft.clear.set(CKA_CHECK_VALUE, check_value);
        draft.clear.set_ulong(CKA_VALUE_LEN, value.len() as u64);
        draft.secret.set(CKA_VALUE, value);
        self.seal(&draft.clear, &draft.secret)
    }

    /// Opens a PKCS #11 object: (clear, secret) attributes. Root keys and what services seal for themselves are
    /// none.
    ///
    /// # Errors
    /// `CKR_OBJECT_HANDLE_INVALID`, and those of opening.
    pub fn unseal_pkcs11(&self, object: &KeyBlob) -> Result<(Attributes, Attributes)> {
        let (clear, secret) = self.unseal(object)?;
        if clear.contains(CKA_CLASS) && clear.iter().all(|(kind, _)| kind < CKA_VENDOR_DEFINED) {
            return Ok((clear, secret));
        }
        Err(Error::new(CKR_OBJECT_HANDLE_INVALID, "the blob is no PKCS #11 object"))
    }
}

fn check_secret_len(key_type: CK_KEY_TYPE, len: u64) -> Result<()> {
    match key_type {
        CKK_AES if !matches!(len, 16 | 24 | 32) => {
            Err(Error::new(CKR_KEY_SIZE_RANGE, "an AES key has 16, 24 or 32 bytes"))
        }
        _ if is_secret_key_type(key_type) && !(1..=MAX_SECRET_BYTES).contains(&len) => {
            Err(Error::new(CKR_KEY_SIZE_RANGE, "a secret key has 1 to 4096 bytes"))
        }
        _ => Ok(()),
    }
}

fn no_key(_: ErrorStack) -> Error {
    Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "the value is no key")
}

fn no_generator(mechanism: &Mechanism) -> Error {
    Error::new(
        CKR_MECHANISM_INVALID,
        format!("mechanism {:#x} generates no keys of this kind", mechanism.kind),
    )
}

fn incomplete(what: &str) -> Error {
    Error::new(CKR_TEMPLATE_INCOMPLETE, format!("{what} is missing"))
}

/// The longest generic secret, in bytes.
pub const MAX_SECRET_BYTES: u64 = 4096;
const DEFAULT_PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];
