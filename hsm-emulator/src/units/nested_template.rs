//! Templates that a key carries for what is made with it or wrapped by it: `CKA_WRAP_TEMPLATE` and its like
//! (PKCS #11 v3.1 sections 4.8 to 4.10, v3.2 section 4.9). As a value, such a template is [`Attributes::encode`]'s bytes.

use cryptoki_sys::*;

use super::attributes::Attributes;
use super::error::{Error, Result};
use super::template::may_be_sealed;

/// Is the attribute's value a template?
pub fn is_template(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        kind,
        CKA_WRAP_TEMPLATE
            | CKA_UNWRAP_TEMPLATE
            | CKA_DERIVE_TEMPLATE
            | CKA_ENCAPSULATE_TEMPLATE
            | CKA_DECAPSULATE_TEMPLATE
    )
}

/// Can this be such a value?
///
/// # Errors
/// `CKR_ATTRIBUTE_VALUE_INVALID` if it isn't one, has a template within, or the value of a key: whoever sees the
/// carrying key sees its templates.
pub(super) fn check(kind: CK_ATTRIBUTE_TYPE, value: &[u8]) -> Result<()> {
    let invalid = |message| Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, message));
    let Ok(template) = Attributes::decode(value) else { return invalid("the value is no template") };
    if value.len() > MAX_BYTES {
        return invalid("a template within a template has at most 4 KiB");
    }
    if template.iter().any(|(kind, _)| is_template(kind) || may_be_sealed(kind)) {
        return invalid("a template within a template has neither templates nor values of keys");
    }
    if kind != CKA_WRAP_TEMPLATE && template.bool(CKA_TRUSTED) == Some(true) {
        return invalid("no key makes other keys trusted");
    }
    Ok(())
}

/// What a caller wants, with all that the key's template adds.
///
/// # Errors
/// `CKR_TEMPLATE_INCONSISTENT` if they contradict each other (v3.1 section 5.18.4).
pub fn completed(key: &Attributes, kind: CK_ATTRIBUTE_TYPE, wanted: &Attributes) -> Result<Attributes> {
    let mut completed = wanted.clone();
    for (kind, value) in carried(key, kind)?.iter() {
        if wanted.get(kind).is_some_and(|wanted| wanted != value) {
            let message =
                format!("attribute {kind:#x} contradicts the template that the key has for new ones");
            return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, message));
        }
        completed.set(kind, value);
    }
    Ok(completed)
}

/// May the key be wrapped by this one?
///
/// # Errors
/// `CKR_KEY_HANDLE_INVALID` if it isn't as `CKA_WRAP_TEMPLATE` says (v3.1 section 5.18.3); `CKR_KEY_NOT_WRAPPABLE` if
/// it wants a trusted key, and this one isn't.
pub fn check_wrapping(wrapping: &Attributes, key: &Attributes) -> Result<()> {
    if key.bool(CKA_WRAP_WITH_TRUSTED) == Some(true) && wrapping.bool(CKA_TRUSTED) != Some(true) {
        return Err(Error::new(CKR_KEY_NOT_WRAPPABLE, "the key may be wrapped by a trusted key alone"));
    }
    if !key.matches(&carried(wrapping, CKA_WRAP_TEMPLATE)?) {
        let message = "the key is not as CKA_WRAP_TEMPLATE of the wrapping key says";
        return Err(Error::new(CKR_KEY_HANDLE_INVALID, message));
    }
    Ok(())
}

fn carried(key: &Attributes, kind: CK_ATTRIBUTE_TYPE) -> Result<Attributes> {
    Attributes::decode(key.get(kind).unwrap_or_default())
}

/// It is read whenever the key is used.
const MAX_BYTES: usize = 4 << 10;
