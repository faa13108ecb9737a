//! Making, wrapping, unwrapping and deriving keys (section 5.14).

use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::mechanism::{Mechanism, OtherKey, asymmetric, post_quantum};
use hsm_emulator::units::nested_template::{self, completed};
use hsm_emulator::units::{Attributes, Error, Result, vendor};

use crate::mechanisms::MechanismInfo;
use crate::module::Module;
use crate::object::{self, Destination, Object, key, place_pair, renewed, with_blob};
use crate::operation::{Prepared, check_allowed};
use crate::output::{Output, Room};
use crate::session::Session;

/// `C_GenerateKey`: a secret key, or domain parameters, which are public.
///
/// # Errors
/// `CKR_MECHANISM_INVALID`, `CKR_SESSION_READ_ONLY`, `CKR_USER_NOT_LOGGED_IN`, and the template's faults.
pub fn generate_key(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    template: &Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    MechanismInfo::for_use(mechanism, CKF_GENERATE)?;
    let parameters = matches!(mechanism.kind, CKM_DH_PKCS_PARAMETER_GEN | CKM_DSA_PARAMETER_GEN);
    let destination = Destination::check(session, template, !parameters)?;
    let made = module.backend.generate_key(mechanism, &destination.template).map_err(value_not_size)?;
    destination.place(module, session, made)
}

/// `C_GenerateKeyPair`: (public, private).
///
/// # Errors
/// As [`generate_key`].
pub fn generate_key_pair(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    public: &Attributes,
    private: &Attributes,
) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    MechanismInfo::for_use(mechanism, CKF_GENERATE_KEY_PAIR)?;
    let public_destination = Destination::check(session, public, false)?;
    let private_destination = Destination::check(session, private, true)?;
    let templates = (&public_destination.template, &private_destination.template);
    let pair = module.backend.generate_key_pair(mechanism, templates.0, templates.1);
    let (public, private) = pair.map_err(value_not_size)?;
    place_pair(module, session, (&public_destination, public), (&private_destination, private))
}

/// `C_WrapKey`.
///
/// # Errors
/// `CKR_WRAPPING_KEY_HANDLE_INVALID`, `CKR_KEY_HANDLE_INVALID`, `CKR_KEY_UNEXTRACTABLE`,
/// `CKR_KEY_NOT_WRAPPABLE`, `CKR_WRAPPING_KEY_TYPE_INCONSISTENT`, `CKR_KEY_FUNCTION_NOT_PERMITTED`.
pub fn wrap_key(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    wrapping: CK_OBJECT_HANDLE,
    wrapped: CK_OBJECT_HANDLE,
    room: Room,
) -> Result<Output> {
    let wrapping = Role::WRAPPING.check(module, session, mechanism, wrapping)?;
    let wrapped = key(module, session, wrapped)?;
    if !wrapped.is(CKA_EXTRACTABLE) {
        return Err(Error::new(CKR_KEY_UNEXTRACTABLE, "the key must not leave the HSM"));
    }
    nested_template::check_wrapping(&wrapping.attributes, &wrapped.attributes)?;
    if room == Room::Query
        && let Some(len) = wrapped_bytes(&wrapping, mechanism, &wrapped)
    {
        return Ok(Output::Length(len));
    }
    let bytes = with_blob(module, &wrapping, |wrapping| {
        with_blob(module, &wrapped, |wrapped| module.backend.wrap_key(mechanism, wrapping, wrapped))
    })?;
    Ok(Output::without_bytes(room, bytes.len()).unwrap_or(Output::Public(bytes)))
}

/// `C_UnwrapKey`.
///
/// # Errors
/// `CKR_UNWRAPPING_KEY_HANDLE_INVALID`, `CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT`, `CKR_WRAPPED_KEY_INVALID`,
/// `CKR_WRAPPED_KEY_LEN_RANGE`, and as [`generate_key`].
pub fn unwrap_key(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    unwrapping: CK_OBJECT_HANDLE,
    wrapped: &[u8],
    template: &Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let unwrapping = Role::UNWRAPPING.check(module, session, mechanism, unwrapping)?;
    let template = completed(&unwrapping.attributes, CKA_UNWRAP_TEMPLATE, template)?;
    let destination = Destination::check(session, &template, true)?;
    let blob = with_blob(module, &unwrapping, |unwrapping| {
        module.backend.unwrap_key(mechanism, unwrapping, wrapped, &destination.template)
    })?;
    destination.place(module, session, blob)
}

/// `C_DeriveKey`.
///
/// # Errors
/// Those of [`Prepared::check`], and as [`generate_key`].
pub fn derive_key(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    base: CK_OBJECT_HANDLE,
    template: &Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let Prepared { key, .. } = Prepared::check(module, session, mechanism, base, CKF_DERIVE, CKA_DERIVE)?;
    let others = other_keys(module, session, &mut mechanism.clone())?;
    let mut template = template.clone();
    for source in std::iter::once(&key).chain(&others) {
        template = completed(&source.attributes, CKA_DERIVE_TEMPLATE, &template)?;
    }
    let private_by_default = mechanism.kind != CKM_HKDF_DATA;
    let destination = Destination::check(session, &template, private_by_default)?;
    let derive = || {
        let mut mechanism = mechanism.clone();
        other_keys(module, session, &mut mechanism)?;
        let key = object::key(module, session, base)?;
        module.backend.derive_key(&mechanism, &key.blob, &destination.template)
    };
    let blob = derive().or_else(|error| {
        // As with one key.
        let is_renewed = |key| renewed(module, key).is_some();
        let is_stale = error.code == vendor::CKR_IBM_WKID_MISMATCH
            && std::iter::once(&key).chain(&others).any(|key| is_renewed(key));
        if is_stale { derive() } else { Err(error) }
    })?;
    destination.place(module, session, blob)
}

/// The keys whose handles are in the mechanism's parameter. They take the place of the handles.
fn other_keys(module: &Module, session: &Session, mechanism: &mut Mechanism) -> Result<Vec<Arc<Object>>> {
    let mut keys = Vec::new();
    for other in mechanism.parameter.other_keys() {
        if let OtherKey::Handle(handle) = *other {
            let key = key(module, session, handle)?;
            *other = OtherKey::Blob(key.blob.clone());
            keys.push(key);
        }
    }
    Ok(keys)
}

/// `C_EncapsulateKey`: what the private key's owner needs, and the new key. There is no key if the caller's room
/// decides the answer.
///
/// # Errors
/// Those of [`Prepared::check`], and as [`generate_key`].
pub fn encapsulate_key(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
    template: &Attributes,
    room: Room,
) -> Result<(Output, Option<CK_OBJECT_HANDLE>)> {
    let Prepared { key, .. } =
        Prepared::check(module, session, mechanism, key, CKF_ENCAPSULATE, CKA_ENCAPSULATE)?;
    if let Some(answer) = Output::without_bytes(room, post_quantum::output_bytes(&key.attributes)) {
        return Ok((answer, None));
    }
    let template = completed(&key.attributes, CKA_ENCAPSULATE_TEMPLATE, template)?;
    let destination = Destination::check(session, &template, true)?;
    let (encapsulated, blob) =
        with_blob(module, &key, |key| module.backend.encapsulate_key(mechanism, key, &destination.template))?;
    let handle = destination.place(module, session, blob)?;
    Ok((Output::Public(encapsulated), Some(handle)))
}

/// `C_DecapsulateKey`.
///
/// # Errors
/// As [`encapsulate_key`], and `CKR_WRAPPED_KEY_LEN_RANGE`.
pub fn decapsulate_key(
    module: &Module,
    session: &Session,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
    template: &Attributes,
    encapsulated: &[u8],
) -> Result<CK_OBJECT_HANDLE> {
    let Prepared { key, .. } =
        Prepared::check(module, session, mechanism, key, CKF_DECAPSULATE, CKA_DECAPSULATE)?;
    let template = completed(&key.attributes, CKA_DECAPSULATE_TEMPLATE, template)?;
    let destination = Destination::check(session, &template, true)?;
    let blob = with_blob(module, &key, |key| {
        module.backend.decapsulate_key(mechanism, key, encapsulated, &destination.template)
    })?;
    destination.place(module, session, blob)
}

/// `CKR_KEY_SIZE_RANGE` is about keys that are used. A key that is to be made has an attribute whose value does not do.
pub fn value_not_size(error: Error) -> Error {
    match error.code {
        CKR_KEY_SIZE_RANGE => Error::new(CKR_ATTRIBUTE_VALUE_INVALID, error.message),
        _ => error,
    }
}

/// Wrapping and unwrapping keys have return codes of their own.
struct Role {
    flag: CK_FLAGS,
    permission: CK_ATTRIBUTE_TYPE,
    handle_invalid: CK_RV,
    type_inconsistent: CK_RV,
}

impl Role {
    const WRAPPING: Self = Self {
        flag: CKF_WRAP,
        permission: CKA_WRAP,
        handle_invalid: CKR_WRAPPING_KEY_HANDLE_INVALID,
        type_inconsistent: CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
    };
    const UNWRAPPING: Self = Self {
        flag: CKF_UNWRAP,
        permission: CKA_UNWRAP,
        handle_invalid: CKR_UNWRAPPING_KEY_HANDLE_INVALID,
        type_inconsistent: CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
    };

    fn check(
        &self,
        module: &Module,
        session: &Session,
        mechanism: &Mechanism,
        handle: CK_OBJECT_HANDLE,
    ) -> Result<Arc<Object>> {
        let info = MechanismInfo::for_use(mechanism, self.flag)?;
        let key = key(module, session, handle)
            .map_err(|_| Error::new(self.handle_invalid, "no visible key has this handle"))?;
        if !key.is(self.permission) {
            return Err(Error::new(
                CKR_KEY_FUNCTION_NOT_PERMITTED,
                "the key's attributes don't permit this use",
            ));
        }
        if !key.key_type().is_some_and(|key_type| info.takes(key_type)) {
            return Err(Error::new(self.type_inconsistent, "the mechanism is not for keys of this type"));
        }
        check_allowed(&key, mechanism.kind)?;
        Ok(key)
    }
}

/// The length of a wrapped key, where it follows from what is known.
fn wrapped_bytes(wrapping: &Object, mechanism: &Mechanism, wrapped: &Object) -> Option<usize> {
    let modulus = || asymmetric::modulus_bytes(&wrapping.attributes);
    if let CKM_RSA_PKCS | CKM_RSA_X_509 | CKM_RSA_PKCS_OAEP = mechanism.kind {
        return Some(modulus());
    }
    let len = usize::try_from(wrapped.attributes.ulong(CKA_VALUE_LEN)?).ok()?;
    match mechanism.kind {
        CKM_AES_KEY_WRAP => Some(len + 8),
        CKM_AES_KEY_WRAP_PAD | CKM_AES_KEY_WRAP_KWP => Some(len.next_multiple_of(8) + 8),
        CKM_RSA_AES_KEY_WRAP => Some(modulus() + len.next_multiple_of(8) + 8),
        CKM_AES_CBC_PAD => Some((len / 16 + 1) * 16),
        CKM_DES3_CBC_PAD => Some((len / 8 + 1) * 8),
        _ => None,
    }
}
