//! Keys made of the very bits of other keys: joined, combined, cut out, hashed (PKCS #11 v3.1 section 6.43, and those on
//! digests).

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::{Mechanism, Parameter, digest, not_for};
use crate::units::{Error, Result};

/// Does the new key give its base away? Then it must be no less protected.
pub(in crate::units) fn reveals_base(mechanism: CK_MECHANISM_TYPE) -> bool {
    matches!(
        mechanism,
        CKM_CONCATENATE_BASE_AND_KEY
            | CKM_CONCATENATE_BASE_AND_DATA
            | CKM_CONCATENATE_DATA_AND_BASE
            | CKM_XOR_BASE_AND_DATA
            | CKM_EXTRACT_KEY_FROM_KEY
    )
}

/// Is it a mechanism of this module?
pub(in crate::units) fn derives(mechanism: CK_MECHANISM_TYPE) -> bool {
    reveals_base(mechanism) || digest::Family::of_key_derivation(mechanism).is_some()
}

/// The bits of the new key, of `wanted` bytes if that is known. `other`: the value of the second key.
pub(in crate::units) fn derive(
    mechanism: &Mechanism,
    base: &[u8],
    other: Option<&[u8]>,
    wanted: Option<usize>,
) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(family) = digest::Family::of_key_derivation(mechanism.kind) {
        return match mechanism.parameter {
            Parameter::None => digest::hash(family.digest, base).map(Zeroizing::new),
            _ => Err(bad()),
        };
    }
    match (mechanism.kind, &mechanism.parameter, other) {
        (CKM_CONCATENATE_BASE_AND_KEY, _, Some(other)) => Ok(Zeroizing::new([base, other].concat())),
        (CKM_CONCATENATE_BASE_AND_DATA, Parameter::Bytes(data), _) => {
            Ok(Zeroizing::new([base, data].concat()))
        }
        (CKM_CONCATENATE_DATA_AND_BASE, Parameter::Bytes(data), _) => {
            Ok(Zeroizing::new([data, base].concat()))
        }
        (CKM_XOR_BASE_AND_DATA, Parameter::Bytes(data), _) => {
            Ok(Zeroizing::new(base.iter().zip(data).map(|(base, data)| base ^ data).collect()))
        }
        (CKM_EXTRACT_KEY_FROM_KEY, Parameter::Number(first), _) => extract(base, *first, wanted),
        _ if derives(mechanism.kind) => Err(bad()),
        _ => Err(not_for(mechanism, "deriving a key")),
    }
}

/// Bits from the `first` on, where 0 is the highest of the first byte; after the last bit comes the first one again.
fn extract(base: &[u8], first: u64, wanted: Option<usize>) -> Result<Zeroizing<Vec<u8>>> {
    let (bits, wanted) = (base.len() * 8, wanted.unwrap_or(base.len()));
    let first = usize::try_from(first).ok().filter(|first| *first < bits).ok_or_else(bad)?;
    if wanted > base.len() {
        return Err(Error::new(CKR_KEY_SIZE_RANGE, "the base key has fewer bits"));
    }
    let bit = |position: usize| base[position % bits / 8] >> (7 - position % 8) & 1;
    let byte = |start: usize| (0..8).fold(0, |byte, i| byte << 1 | bit(start + i));
    Ok(Zeroizing::new((0..wanted).map(|i| byte(first + 8 * i)).collect()))
}

fn bad() -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter does not fit the derivation")
}
