//! `C_DeriveKey`: keys made of other keys.

use std::sync::Arc;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::crypto_unit::CryptoUnit;
use super::error::{Error, Result};
use super::key_cache::{Key, OpenObject};
use super::mechanism::{
    Mechanism, OtherKey, Parameter, cipher, dh, ecdh, inconsistent, key_bits, secret_key,
};
use super::nested_template;
use super::template::{Draft, Origin};

/// What a mechanism does with the base key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Derivation {
    /// Agrees on a secret with another party.
    Agreement,
    /// Encrypts data.
    Encryption,
    /// Joins it with others, cuts bits out of it, hashes it.
    Bits,
    Hkdf,
    Sp800108,
}

impl Derivation {
    fn of(mechanism: CK_MECHANISM_TYPE) -> Option<Self> {
        match mechanism {
            CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE | CKM_DH_PKCS_DERIVE => Some(Self::Agreement),
            CKM_AES_ECB_ENCRYPT_DATA
            | CKM_AES_CBC_ENCRYPT_DATA
            | CKM_DES3_ECB_ENCRYPT_DATA
            | CKM_DES3_CBC_ENCRYPT_DATA => Some(Self::Encryption),
            CKM_HKDF_DERIVE | CKM_HKDF_DATA => Some(Self::Hkdf),
            CKM_SP800_108_COUNTER_KDF | CKM_SP800_108_FEEDBACK_KDF | CKM_SP800_108_DOUBLE_PIPELINE_KDF => {
                Some(Self::Sp800108)
            }
            _ => key_bits::derives(mechanism).then_some(Self::Bits),
        }
    }

    /// The type of the new key if the template does not say: "a generic secret", where the standard says something.
    fn default_type(self) -> Option<CK_KEY_TYPE> {
        match self {
            Self::Agreement => None,
            Self::Encryption | Self::Bits | Self::Hkdf | Self::Sp800108 => Some(CKK_GENERIC_SECRET),
        }
    }

    /// The error if the new key wants more bytes than there are.
    fn shortage(self) -> CK_RV {
        match self {
            Self::Encryption => CKR_DATA_LEN_RANGE,
            Self::Agreement | Self::Bits | Self::Hkdf | Self::Sp800108 => CKR_KEY_SIZE_RANGE,
        }
    }
}

impl CryptoUnit {
    /// Derives a key.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`, `CKR_MECHANISM_PARAM_INVALID`, `CKR_KEY_TYPE_INCONSISTENT`, and those of the template.
    pub fn derive_key(
        &self,
        mechanism: &Mechanism,
        base: &KeyBlob,
        template: &Attributes,
    ) -> Result<KeyBlob> {
        let object = self.usable(base, CKA_DERIVE, mechanism)?;
        let derivation = Derivation::of(mechanism.kind)
            .ok_or_else(|| Error::new(CKR_MECHANISM_INVALID, "no key is derived by this mechanism"))?;
        if object.key_type() == CKK_EC_MONTGOMERY {
            self.permit_mechanism(CKM_EC_MONTGOMERY_KEY_PAIR_GEN)?;
        }
        let others = self.other_keys(mechanism)?;
        let sources = || std::iter::once(&object).chain(&others);
        let mut template = template.clone();
        for source in sources() {
            template = nested_template::completed(&source.attributes, CKA_DERIVE_TEMPLATE, &template)?;
        }
        let all = |attribute| sources().all(|key| key.attributes.bool(attribute) == Some(true));
        let origin = Origin::Derived {
            always_sensitive: all(CKA_ALWAYS_SENSITIVE),
            never_extractable: all(CKA_NEVER_EXTRACTABLE),
        };
        if mechanism.kind == CKM_HKDF_DATA {
            return self.derive_data(mechanism, &object, &others, &template, origin);
        }
        let key_type = derivation.default_type().filter(|_| !template.contains(CKA_KEY_TYPE));
        let mut draft = Draft::new(&template, Some(CKO_SECRET_KEY), key_type, origin)?;
        if key_bits::reveals_base(mechanism.kind) {
            let any_sensitive = sources().any(|key| key.attributes.bool(CKA_SENSITIVE) == Some(true));
            check_protection(&template, any_sensitive, all(CKA_EXTRACTABLE))?;
            if sources().any(|key| key.attributes.bool(CKA_WRAP_WITH_TRUSTED) == Some(true)) {
                draft.keep_for_trusted_keys(&template)?;
            }
        }
        let bytes = derived_bytes(derivation, mechanism, &object, &others, wanted_bytes(&draft))?;
        self.seal_made_value(draft, &bytes, derivation.shortage())
    }

    /// `CKM_HKDF_DATA`: a data object. Its template may say how long it is by `CKA_VALUE_LEN`.
    fn derive_data(
        &self,
        mechanism: &Mechanism,
        object: &OpenObject,
        others: &[Arc<OpenObject>],
        template: &Attributes,
        origin: Origin,
    ) -> Result<KeyBlob> {
        let mut template = template.clone();
        let len = template.remove(CKA_VALUE_LEN);
        let len = len.map(|len| len.as_slice().try_into().map(u64::from_le_bytes)).transpose();
        let len = len.map_err(|_| Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_VALUE_LEN is no CK_ULONG"))?;
        let mut draft = Draft::new(&template, Some(CKO_DATA), None, origin)?;
        let wanted = len.map(|len| len as usize);
        let bytes = derived_bytes(Derivation::Hkdf, mechanism, object, others, wanted)?;
        let value = bytes.get(..wanted.unwrap_or(bytes.len()));
        draft
            .secret
            .set(CKA_VALUE, value.ok_or_else(|| Error::new(CKR_KEY_SIZE_RANGE, "there are fewer bytes"))?);
        self.seal(&draft.clear, &draft.secret)
    }

    /// The keys within the parameter: each must permit what the base key must.
    fn other_keys(&self, mechanism: &Mechanism) -> Result<Vec<Arc<OpenObject>>> {
        let mut parameter = mechanism.parameter.clone();
        let open = |key: &mut OtherKey| match key {
            OtherKey::Blob(blob) => self.usable(blob, CKA_DERIVE, mechanism),
            OtherKey::Handle(_) => {
                Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter's key is no key of this unit"))
            }
        };
        parameter.other_keys().into_iter().map(open).collect()
    }
}

/// What the new key is made of.
fn derived_bytes(
    derivation: Derivation,
    mechanism: &Mechanism,
    object: &OpenObject,
    others: &[Arc<OpenObject>],
    wanted: Option<usize>,
) -> Result<Zeroizing<Vec<u8>>> {
    let other_values = || {
        let value = |other: &Arc<OpenObject>| match &other.key {
            Key::Secret(value) => Ok(Zeroizing::new(value.to_vec())),
            _ => Err(inconsistent()),
        };
        others.iter().map(value).collect::<Result<Vec<_>>>()
    };
    match (derivation, &object.key, &mechanism.parameter) {
        (Derivation::Agreement, Key::Private(key), _) => match (mechanism.kind, object.key_type()) {
            (CKM_DH_PKCS_DERIVE, CKK_DH) => dh::derive(mechanism, key, wanted),
            (CKM_DH_PKCS_DERIVE, _) => Err(inconsistent()),
            (_, key_type) => ecdh::derive(mechanism, key_type, key, wanted),
        },
        // "The part discarded will be from the trailing end" (v3.1 section 6.27.3).
        (Derivation::Encryption, Key::Secret(key), _) => {
            cipher::encrypt_data(mechanism, object.key_type(), key)
        }
        (Derivation::Bits, Key::Secret(key), _) => {
            let others = other_values()?;
            key_bits::derive(mechanism, key, others.first().map(|other| other.as_slice()), wanted)
        }
        (Derivation::Hkdf, Key::Secret(key), Parameter::Hkdf(hkdf)) => {
            let others = other_values()?;
            hkdf.derive(key, others.first().map(|other| other.as_slice()), wanted)
        }
        (Derivation::Sp800108, Key::Secret(key), Parameter::Sp800108(kdf)) => {
            kdf.derive(mechanism.kind, object.key_type(), key, &other_values()?, wanted)
        }
        (Derivation::Hkdf | Derivation::Sp800108, Key::Secret(_), _) => {
            Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter does not fit the derivation"))
        }
        _ => Err(inconsistent()),
    }
}

/// A key that would give its sources away is as sensitive as any of them, and as little extractable (v3.1 section 6.43).
/// A silent template makes it so in any case.
fn check_protection(template: &Attributes, any_sensitive: bool, all_extractable: bool) -> Result<()> {
    if any_sensitive && template.bool(CKA_SENSITIVE) == Some(false) {
        let message = "a source of the key is sensitive, and so is what is made of its bits";
        return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, message));
    }
    if !all_extractable && template.bool(CKA_EXTRACTABLE) == Some(true) {
        let message = "a source of the key is not extractable, and neither is what is made of its bits";
        return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, message));
    }
    Ok(())
}

/// As many bytes as the new key has, if that is known.
fn wanted_bytes(draft: &Draft) -> Option<usize> {
    let of_type = || secret_key::only_len(draft.clear.ulong(CKA_KEY_TYPE)?);
    draft.clear.ulong(CKA_VALUE_LEN).or_else(of_type).map(|len| len as usize)
}
