//! Arguments of the C functions of PKCS #11, from values that live as long as the call.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::null_mut;

use cryptoki_sys::*;

/// A template.
pub type Template<'a> = &'a [(CK_ATTRIBUTE_TYPE, &'a [u8])];
/// What a call gives, or its return code.
pub type Outcome<T> = Result<T, CK_RV>;

/// `CK_TRUE` as an attribute has it.
pub const TRUE: &[u8] = &[1];
/// `CK_FALSE` as an attribute has it.
pub const FALSE: &[u8] = &[0];

/// A `CK_ULONG` as an attribute has it.
pub const fn ulong(value: CK_ULONG) -> [u8; 8] {
    value.to_le_bytes()
}

/// A mechanism, and the parameter that it points at.
#[derive(Clone, Copy)]
pub struct Mechanism<'a> {
    /// As the functions take it.
    pub inner: CK_MECHANISM,
    parameter: PhantomData<&'a ()>,
}

impl<'a> Mechanism<'a> {
    /// Without a parameter.
    pub fn plain(kind: CK_MECHANISM_TYPE) -> Self {
        let inner = CK_MECHANISM { mechanism: kind, pParameter: null_mut(), ulParameterLen: 0 };
        Self { inner, parameter: PhantomData }
    }

    /// Its parameter is plain bytes.
    pub fn bytes(kind: CK_MECHANISM_TYPE, parameter: &'a [u8]) -> Self {
        let pointer = parameter.as_ptr().cast_mut().cast();
        let inner = CK_MECHANISM {
            mechanism: kind,
            pParameter: pointer,
            ulParameterLen: parameter.len() as CK_ULONG,
        };
        Self { inner, parameter: PhantomData }
    }

    /// Its parameter is a structure.
    pub fn with<T>(kind: CK_MECHANISM_TYPE, parameter: &'a T) -> Self {
        let pointer: *const T = parameter;
        let inner = CK_MECHANISM {
            mechanism: kind,
            pParameter: pointer.cast_mut().cast(),
            ulParameterLen: size_of::<T>() as CK_ULONG,
        };
        Self { inner, parameter: PhantomData }
    }
}

/// A template as the functions take it. It points at the values.
pub fn attributes(template: Template<'_>) -> Vec<CK_ATTRIBUTE> {
    let entry = |(type_, value): &(CK_ATTRIBUTE_TYPE, &[u8])| CK_ATTRIBUTE {
        type_: *type_,
        pValue: value.as_ptr().cast_mut().cast::<c_void>(),
        ulValueLen: value.len() as CK_ULONG,
    };
    template.iter().map(entry).collect()
}

/// Where a template is, and how many attributes it has.
pub fn parts(template: &mut [CK_ATTRIBUTE]) -> (*mut CK_ATTRIBUTE, CK_ULONG) {
    (template.as_mut_ptr(), template.len() as CK_ULONG)
}

/// What a return code says.
///
/// # Errors
/// With the code, unless it is `CKR_OK`.
pub fn check(code: CK_RV) -> Outcome<()> {
    if code == CKR_OK { Ok(()) } else { Err(code) }
}
