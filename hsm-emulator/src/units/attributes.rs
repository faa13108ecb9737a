//! PKCS #11 attributes as plain data, in the representation of the C interface on 64-bit
//! little-endian machines: `CK_ULONG` is 8 bytes little-endian, `CK_BBOOL` one byte.

use std::fmt;

use cryptoki_sys::CK_ATTRIBUTE_TYPE;
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::template::may_be_sealed;

/// An ordered set of attributes: a template, or an object's description.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(CK_ATTRIBUTE_TYPE, Value)>);

/// An attribute's value.
#[derive(Clone, PartialEq, Eq)]
enum Value {
    /// Of so many bytes, and nothing secret: most values are booleans and numbers.
    Short(u8, [u8; SHORT_BYTES]),
    /// Wiped when dropped, and never moved in memory.
    Long(Zeroizing<Vec<u8>>),
}

impl Value {
    fn new(kind: CK_ATTRIBUTE_TYPE, value: impl AsRef<[u8]> + Into<Vec<u8>>) -> Self {
        let bytes = value.as_ref();
        if bytes.len() > SHORT_BYTES || may_be_sealed(kind) {
            return Self::Long(Zeroizing::new(value.into()));
        }
        let mut short = [0; SHORT_BYTES];
        short[..bytes.len()].copy_from_slice(bytes);
        Self::Short(bytes.len() as u8, short)
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// No attributes, and room for so many.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// The value, as bytes.
    pub fn get(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.position(kind).ok().map(|i| self.0[i].1.as_slice())
    }

    /// Is the attribute there?
    pub fn contains(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.position(kind).is_ok()
    }

    /// A boolean value; `None` if absent or not one byte.
    pub fn bool(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        match self.get(kind)? {
            [byte] => Some(*byte != 0),
            _ => None,
        }
    }

    /// A `CK_ULONG` value; `None` if absent or not eight bytes.
    pub fn ulong(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// Adds or replaces a value.
    pub fn set(&mut self, kind: CK_ATTRIBUTE_TYPE, value: impl AsRef<[u8]> + Into<Vec<u8>>) {
        let value = Value::new(kind, value);
        match self.position(kind) {
            Ok(i) => self.0[i].1 = value,
            Err(i) => self.0.insert(i, (kind, value)),
        }
    }

    /// Adds a value whose type comes after all that are there.
    pub(super) fn push(&mut self, kind: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        debug_assert!(self.0.last().is_none_or(|(last, _)| *last < kind));
        self.0.push((kind, Value::new(kind, value)));
    }

    /// Adds or replaces a boolean.
    pub fn set_bool(&mut self, kind: CK_ATTRIBUTE_TYPE, value: bool) {
        self.set(kind, [u8::from(value)]);
    }

    /// Adds or replaces a `CK_ULONG`.
    pub fn set_ulong(&mut self, kind: CK_ATTRIBUTE_TYPE, value: u64) {
        self.set(kind, value.to_le_bytes());
    }

    /// The same, for building a set in one expression.
    pub fn with(mut self, kind: CK_ATTRIBUTE_TYPE, value: impl AsRef<[u8]> + Into<Vec<u8>>) -> Self {
        self.set(kind, value);
        self
    }

    /// The same for a boolean.
    pub fn with_bool(self, kind: CK_ATTRIBUTE_TYPE, value: bool) -> Self {
        self.with(kind, [u8::from(value)])
    }

    /// The same for a `CK_ULONG`.
    pub fn with_ulong(self, kind: CK_ATTRIBUTE_TYPE, value: u64) -> Self {
        self.with(kind, value.to_le_bytes())
    }

    /// Takes a value out.
    pub fn remove(&mut self, kind: CK_ATTRIBUTE_TYPE) -> Option<Zeroizing<Vec<u8>>> {
        let (_, value) = self.0.remove(self.position(kind).ok()?);
        Some(match value {
            Value::Short(..) => Zeroizing::new(value.as_slice().to_vec()),
            Value::Long(bytes) => bytes,
        })
    }

    /// All, ordered by type.
    pub fn iter(&self) -> impl Iterator<Item = (CK_ATTRIBUTE_TYPE, &[u8])> {
        self.0.iter().map(|(kind, value)| (*kind, value.as_slice()))
    }

    /// Is every attribute of `template` here with the same value?
    pub fn matches(&self, template: &Attributes) -> bool {
        template.iter().all(|(kind, value)| self.get(kind) == Some(value))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The stored form: for each attribute type (8 bytes), length (4 bytes) and value, numbers big-endian.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.encoded_bytes()));
        self.encode_into(&mut bytes);
        bytes
    }

    /// Appends the stored form, for which there must be room: growing would leave secrets behind.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        for (kind, value) in self.iter() {
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
            bytes.extend_from_slice(value);
        }
    }

    /// Bytes of the stored form.
    pub fn encoded_bytes(&self) -> usize {
        self.iter().map(|(_, value)| HEAD_BYTES + value.len()).sum()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if it is cut short, out of order, or has an attribute twice.
    pub fn decode(mut bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "stored attributes are damaged");
        let mut entries: Vec<(CK_ATTRIBUTE_TYPE, Value)> =
            Vec::with_capacity(USUAL_ATTRIBUTES.min(bytes.len() / HEAD_BYTES));
        while !bytes.is_empty() {
            let (kind, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
            let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
            let (value, rest) =
                rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(damaged)?;
            let kind = u64::from_be_bytes(*kind);
            if entries.last().is_some_and(|(last, _)| *last >= kind) {
                return Err(damaged());
            }
            entries.push((kind, Value::new(kind, value)));
            bytes = rest;
        }
        Ok(Self(entries))
    }

    fn position(&self, kind: CK_ATTRIBUTE_TYPE) -> std::result::Result<usize, usize> {
        self.0.binary_search_by_key(&kind, |(k, _)| *k)
    }
}

impl fmt::Debug for Attributes {
    /// Types and lengths only: a template may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(kind, value)| (format!("{kind:#x}"), value.len()))).finish()
    }
}

impl FromIterator<(CK_ATTRIBUTE_TYPE, Vec<u8>)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (CK_ATTRIBUTE_TYPE, Vec<u8>)>>(iter: I) -> Self {
        let mut entries: Vec<_> =
            iter.into_iter().map(|(kind, value)| (kind, Value::new(kind, value))).collect();
        // The last of equal types counts, as with `set`.
        entries.reverse();
        entries.sort_by_key(|(kind, _)| *kind);
        entries.dedup_by_key(|(kind, _)| *kind);
        Self(entries)
    }
}

/// Type and length of an attribute in the stored form.
const HEAD_BYTES: usize = 12;
/// What a number takes.
const SHORT_BYTES: usize = 8;
/// A private key has a few more.
const USUAL_ATTRIBUTES: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_reads_back_and_refuses_damage() {
        let attributes = Attributes::new().with(3, b"label".to_vec()).with_bool(1, true).with_ulong(0, 4);
        let bytes = attributes.encode();
        assert_eq!(Attributes::decode(&bytes).expect("round trip"), attributes);
        for cut in 1..bytes.len() {
            assert!(Attributes::decode(&bytes[..cut]).map_or(true, |a| a != attributes));
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let attributes = Attributes::new().with(0x11, b"secret".to_vec());
        assert!(!format!("{attributes:?}").contains("secret"));
    }
}
