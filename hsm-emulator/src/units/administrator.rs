//! Administrators of a crypto unit: P-521 keys that sign commands.

use std::fmt;

use aws_lc_rs::digest;
use der::Sequence;
use der::asn1::OctetString;
use p521::ecdsa::signature::Verifier;
use p521::ecdsa::{DerSignature, SigningKey, VerifyingKey};

use super::error::{Error, Result};
use super::random;

/// An administrator, as installed in a unit. At most [`MAX_ADMINISTRATORS`] in one.
#[derive(Clone, PartialEq, Eq, Sequence)]
pub struct Administrator {
    name: String,
    public_key: OctetString,
}

impl Administrator {
    /// With a name of 1 to 30 characters.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD`.
    pub fn new(name: &str, public_key: &VerifyingKey) -> Result<Self> {
        let point = OctetString::new(public_key.to_sec1_point(false).as_bytes()).map_err(|_| bad_name())?;
        let administrator = Self { name: name.to_owned(), public_key: point };
        if administrator.has_valid_name() { Ok(administrator) } else { Err(bad_name()) }
    }

    /// What people call the administrator.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who it is.
    pub fn subject_key_identifier(&self) -> SubjectKeyIdentifier {
        SubjectKeyIdentifier::of_point(self.public_key.as_bytes())
    }

    /// Is it fit for installation?
    pub(super) fn is_valid(&self) -> bool {
        self.has_valid_name() && self.verifying_key().is_some()
    }

    /// Has this administrator signed the message? `None` if that is no signature at all.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Option<bool> {
        let signature = DerSignature::try_from(signature).ok()?;
        Some(self.verifying_key()?.verify(message, &signature).is_ok())
    }

    fn has_valid_name(&self) -> bool {
        !self.name.trim().is_empty()
            && self.name.chars().count() <= MAX_NAME_CHARS
            && !self.name.chars().any(char::is_control)
    }

    fn verifying_key(&self) -> Option<VerifyingKey> {
        // Only the uncompressed form: the subject key identifier is a hash of it.
        (self.public_key.as_bytes().len() == POINT_BYTES)
            .then(|| VerifyingKey::from_sec1_bytes(self.public_key.as_bytes()).ok())
            .flatten()
    }
}

impl fmt::Debug for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Administrator({:?}, {:?})", self.name, self.subject_key_identifier())
    }
}

/// SHA-256 of an administrator's uncompressed public point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectKeyIdentifier([u8; 32]);

impl SubjectKeyIdentifier {
    /// Of a public key.
    pub fn of(key: &VerifyingKey) -> Self {
        Self::of_point(key.to_sec1_point(false).as_bytes())
    }

    fn of_point(point: &[u8]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, point).as_ref());
        Self(id)
    }

    /// 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// As tables show it: 30 digits and three dots.
    pub fn abbreviated(&self) -> String {
        format!("{}...", &self.to_hex()[..30])
    }
}

impl fmt::Debug for SubjectKeyIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.abbreviated())
    }
}

/// A fresh P-521 signature key.
///
/// # Errors
/// `CKR_DEVICE_ERROR` without randomness.
pub fn generate_signature_key() -> Result<SigningKey> {
    random::p521_scalar(SigningKey::from_slice)
}

fn bad_name() -> Error {
    Error::new(cryptoki_sys::CKR_ARGUMENTS_BAD, "an administrator's name has 1 to 30 characters")
}

/// The most that a unit takes (EP11's `XCP_MAX_ADMINS`).
pub const MAX_ADMINISTRATORS: usize = 8;
const MAX_NAME_CHARS: usize = 30;
/// 0x04, X, Y.
const POINT_BYTES: usize = 133;
