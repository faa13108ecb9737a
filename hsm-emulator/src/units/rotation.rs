//! The two master keys of a rotation.

use std::fmt;

use super::blob::KeyBlob;
use super::error::Result;
use super::master_key::{MasterKey, VerificationPattern};

/// The current master key and the committed one that is to follow it, as a unit's registers held both at one
/// moment: whatever happens to the registers, what this re-encrypts goes from the one to the other.
pub struct Rotation {
    from: MasterKey,
    to: MasterKey,
}

impl Rotation {
    pub(super) fn new(from: MasterKey, to: MasterKey) -> Self {
        Self { from, to }
    }

    /// The current master key's pattern.
    pub fn from(&self) -> &VerificationPattern {
        self.from.verification_pattern()
    }

    /// The committed master key's pattern.
    pub fn to(&self) -> &VerificationPattern {
        self.to.verification_pattern()
    }

    /// Re-encrypts a blob. The new one opens once the committed key has become the current one, the old one until
    /// then.
    ///
    /// # Errors
    /// `CKR_IBM_WKID_MISMATCH` for a blob under another key than the current one, `CKR_IBM_BLOBKEY_CONFLICT` for an
    /// altered one.
    pub fn rewrap(&self, blob: &KeyBlob) -> Result<KeyBlob> {
        let (clear, secret) = blob.open(&self.from)?;
        KeyBlob::seal(&self.to, &clear, &secret)
    }

    /// The binding ([`super::CryptoUnit::bind`]) of a blob under the current master key.
    pub fn old_binding(&self, place: &[&[u8]], blob: &KeyBlob) -> [u8; 32] {
        blob.binding(&self.from, place)
    }

    /// The binding of a re-encrypted blob.
    pub fn new_binding(&self, place: &[&[u8]], blob: &KeyBlob) -> [u8; 32] {
        blob.binding(&self.to, place)
    }
}

/// Tells whether blobs under a master key are whole: it opens them, and gives nothing out.
pub struct Verifier(MasterKey);

impl Verifier {
    pub(super) fn new(key: MasterKey) -> Self {
        Self(key)
    }

    /// Does the blob open?
    pub fn opens(&self, blob: &KeyBlob) -> bool {
        blob.open(&self.0).is_ok()
    }

    /// The binding that the blob has in this place.
    pub fn binding(&self, place: &[&[u8]], blob: &KeyBlob) -> [u8; 32] {
        blob.binding(&self.0, place)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rotation")
    }
}
