//! The PKCS #11 objects of a unit: made, changed, read. Everything comes out sealed.

use cryptoki_sys::*;
use openssl::pkey::PKey;
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};
use super::key_cache::Key;
use super::mechanism::{Mechanism, Parameter, asymmetric, incomplete, secret_key};
use super::nested_template;
use super::random;
use super::template::{Draft, Origin};

impl CryptoUnit {
    /// A secret key, or domain parameters.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_KEY_SIZE_RANGE`, and those of the template.
    pub fn generate_key(&self, mechanism: &Mechanism, template: &Attributes) -> Result<KeyBlob> {
        if let Some(key_type) = asymmetric::parameters_type(mechanism.kind) {
            return self.generate_parameters(mechanism, key_type, template);
        }
        if mechanism.kind == CKM_PKCS5_PBKD2 {
            return self.generate_from_password(mechanism, template);
        }
        let key_type =
            secret_key::generated_type(mechanism.kind, template).ok_or_else(|| no_generator(mechanism))?;
        mechanism.without_parameter()?;
        let origin = Origin::Generated(mechanism.kind);
        let draft = Draft::new(template, Some(CKO_SECRET_KEY), Some(key_type), origin)?;
        let len = draft.clear.ulong(CKA_VALUE_LEN).or_else(|| secret_key::only_len(key_type));
        let len = len.ok_or_else(|| incomplete("CKA_VALUE_LEN"))?;
        secret_key::check_len(key_type, len)?;
        let mut value = Zeroizing::new(vec![0; len as usize]);
        random::fill(&mut value)?;
        self.seal_made_value(draft, &value, CKR_KEY_SIZE_RANGE)
    }

    /// A key pair: (public, private).
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_KEY_SIZE_RANGE`, `CKR_CURVE_NOT_SUPPORTED`, and those of the templates.
    pub fn generate_key_pair(
        &self,
        mechanism: &Mechanism,
        public: &Attributes,
        private: &Attributes,
    ) -> Result<(KeyBlob, KeyBlob)> {
        let kind = asymmetric::generator(mechanism.kind, public);
        self.permit_mechanism(kind)?;
        let key_type = asymmetric::generated_type(kind).ok_or_else(|| no_generator(mechanism))?;
        mechanism.without_parameter()?;
        let origin = Origin::Generated(kind);
        let mut public = Draft::new(public, Some(CKO_PUBLIC_KEY), Some(key_type), origin)?;
        let mut private = Draft::new(private, Some(CKO_PRIVATE_KEY), Some(key_type), origin)?;
        asymmetric::generate(key_type, &mut public.clear, &mut private.clear, &mut private.secret)?;
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
                secret_key::check_len(key_type, value.len() as u64)?;
                secret_key::check_value(key_type, &value)?;
                return self.seal_secret_key(draft, &value);
            }
            (Some(CKO_PUBLIC_KEY), _) => asymmetric::complete_public(&mut draft.clear)?,
            (Some(CKO_PRIVATE_KEY), _) => {
                asymmetric::complete_private(&mut draft.clear, &mut draft.secret)?;
            }
            (Some(CKO_DOMAIN_PARAMETERS), _) => asymmetric::complete_parameters(&mut draft.clear)?,
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

    /// The object with `CKA_TRUSTED`, which the SO alone may set: whoever calls this has seen his PIN.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_TYPE_INVALID` if nobody asks whether such an object is trusted, and those of opening.
    pub fn trust_object(&self, object: &KeyBlob) -> Result<KeyBlob> {
        let (mut clear, secret) = self.unseal_pkcs11(object)?;
        if !clear.contains(CKA_TRUSTED) {
            let message = "certificates, public keys and secret keys alone are trusted";
            return Err(Error::new(CKR_ATTRIBUTE_TYPE_INVALID, message));
        }
        clear.set_bool(CKA_TRUSTED, true);
        self.seal(&clear, &secret)
    }

    /// What the wrapping key, which has these attributes, encrypts: the bytes of a secret key, or a private key in
    /// PKCS #8.
    ///
    /// # Errors
    /// `CKR_KEY_UNEXTRACTABLE`, `CKR_KEY_NOT_WRAPPABLE`, `CKR_KEY_HANDLE_INVALID`.
    pub(super) fn exported(&self, wrapping: &Attributes, object: &KeyBlob) -> Result<Zeroizing<Vec<u8>>> {
        let object = self.object(object)?;
        if object.attributes.bool(CKA_EXTRACTABLE) != Some(true) {
            return Err(Error::new(CKR_KEY_UNEXTRACTABLE, "the key is not extractable"));
        }
        nested_template::check_wrapping(wrapping, &object.attributes)?;
        match &object.key {
            Key::Secret(value) => Ok(Zeroizing::new(value.to_vec())),
            Key::Private(key) => key
                .private_key_to_pkcs8()
                .map(Zeroizing::new)
                .map_err(|_| Error::new(CKR_KEY_NOT_WRAPPABLE, "the private key has no PKCS #8 form")),
            _ => Err(Error::new(CKR_KEY_NOT_WRAPPABLE, "only secret and private keys can be wrapped")),
        }
    }

    /// Makes a key of unwrapped bytes.
    pub(super) fn import_unwrapped(&self, template: &Attributes, bytes: &[u8]) -> Result<KeyBlob> {
        let mut draft = Draft::new(template, None, None, Origin::Unwrapped)?;
        self.permit_key_type(&draft)?;
        let class = draft.clear.ulong(CKA_CLASS);
        if class == Some(CKO_SECRET_KEY) {
            return self.seal_unwrapped_value(draft, bytes);
        }
        if class != Some(CKO_PRIVATE_KEY) {
            let message = "only secret and private keys can be unwrapped";
            return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, message));
        }
        // Reading a DSA key computes with numbers of any size, before anybody can look at them.
        let is_dsa =
            bytes[..bytes.len().min(DSA_HEAD_BYTES)].windows(DSA_OID.len()).any(|part| part == DSA_OID);
        if bytes.len() > if is_dsa { MAX_DSA_KEY_BYTES } else { MAX_PRIVATE_KEY_BYTES } {
            return Err(Error::new(CKR_WRAPPED_KEY_INVALID, "no private key is as long as this"));
        }
        let key = PKey::private_key_from_pkcs8(bytes)
            .map_err(|_| Error::new(CKR_WRAPPED_KEY_INVALID, "the unwrapped bytes are no private key"))?;
        asymmetric::describe_imported(&key, &mut draft.clear, &mut draft.secret)?;
        self.seal(&draft.clear, &draft.secret)
    }

    /// Makes a secret key of unwrapped bytes: as many as the template wants.
    fn seal_unwrapped_value(&self, draft: Draft, bytes: &[u8]) -> Result<KeyBlob> {
        let value = leading(&draft, bytes, CKR_WRAPPED_KEY_INVALID)
            .and_then(|value| secret_key::check_value(key_type(&draft), value).map(|()| value))
            .map_err(|error| Error::new(CKR_WRAPPED_KEY_INVALID, error.message))?;
        self.seal_secret_key(draft, value)
    }

    /// Makes a secret key of bytes that a mechanism has made: as many as the template wants, `code` if there are not
    /// enough.
    pub(super) fn seal_made_value(&self, draft: Draft, bytes: &[u8], code: CK_RV) -> Result<KeyBlob> {
        let mut value = Zeroizing::new(leading(&draft, bytes, code)?.to_vec());
        secret_key::adjust(key_type(&draft), &mut value);
        secret_key::check_value(key_type(&draft), &value)?;
        self.seal_secret_key(draft, &value)
    }

    /// A type of key that needs a control point is not brought in without it either.
    fn permit_key_type(&self, draft: &Draft) -> Result<()> {
        match draft.clear.ulong(CKA_KEY_TYPE) {
            Some(CKK_EC_EDWARDS) => self.permit_mechanism(CKM_EC_EDWARDS_KEY_PAIR_GEN),
            Some(CKK_EC_MONTGOMERY) => self.permit_mechanism(CKM_EC_MONTGOMERY_KEY_PAIR_GEN),
            _ => Ok(()),
        }
    }

    /// `CKM_PKCS5_PBKD2`: a key of the type and length that the template says.
    fn generate_from_password(&self, mechanism: &Mechanism, template: &Attributes) -> Result<KeyBlob> {
        let Parameter::Pbkdf2(pbkdf2) = &mechanism.parameter else {
            return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "CK_PKCS5_PBKD2_PARAMS2 is missing"));
        };
        let origin = Origin::Generated(mechanism.kind);
        let draft = Draft::new(template, Some(CKO_SECRET_KEY), None, origin)?;
        let len = draft.clear.ulong(CKA_VALUE_LEN).or_else(|| secret_key::only_len(key_type(&draft)));
        let len = len.ok_or_else(|| incomplete("CKA_VALUE_LEN"))?;
        secret_key::check_len(key_type(&draft), len)?;
        let value = pbkdf2.derive(len as usize)?;
        self.seal_made_value(draft, &value, CKR_KEY_SIZE_RANGE)
    }

    fn generate_parameters(
        &self,
        mechanism: &Mechanism,
        key_type: CK_KEY_TYPE,
        template: &Attributes,
    ) -> Result<KeyBlob> {
        mechanism.without_parameter()?;
        let origin = Origin::Generated(mechanism.kind);
        let mut draft = Draft::new(template, Some(CKO_DOMAIN_PARAMETERS), Some(key_type), origin)?;
        asymmetric::generate_parameters(key_type, &mut draft.clear)?;
        self.seal(&draft.clear, &draft.secret)
    }

    fn seal_secret_key(&self, mut draft: Draft, value: &[u8]) -> Result<KeyBlob> {
        let check_value = secret_key::kcv(key_type(&draft), value)?;
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

/// As many of the first bytes as the key in the making has; `code` if there are fewer.
fn leading<'a>(draft: &Draft, bytes: &'a [u8], code: CK_RV) -> Result<&'a [u8]> {
    let key_type = key_type(draft);
    let wanted = draft.clear.ulong(CKA_VALUE_LEN).or_else(|| secret_key::only_len(key_type));
    let len = wanted.unwrap_or(bytes.len() as u64);
    secret_key::check_len(key_type, len)?;
    bytes.get(..len as usize).ok_or_else(|| Error::new(code, "the key has more bytes than there are"))
}

fn key_type(draft: &Draft) -> CK_KEY_TYPE {
    draft.clear.ulong(CKA_KEY_TYPE).unwrap_or(CK_UNAVAILABLE_INFORMATION)
}

fn no_generator(mechanism: &Mechanism) -> Error {
    Error::new(
        CKR_MECHANISM_INVALID,
        format!("mechanism {:#x} generates no keys of this kind", mechanism.kind),
    )
}

/// RSA keys of 8192 bits and the largest of ML-DSA have about 5,000.
const MAX_PRIVATE_KEY_BYTES: usize = 8 << 10;
/// A DSA key of 3072 bits has about 900.
const MAX_DSA_KEY_BYTES: usize = 2 << 10;
/// 1.2.840.10040.4.1 in DER, which stands among the first bytes.
const DSA_OID: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01";
const DSA_HEAD_BYTES: usize = 48;
