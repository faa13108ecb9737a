//! Sealing of small records: data keys and object attributes.
//!
//! ```text
//! sealed = 1 byte format (1) || 32 bytes salt || ciphertext || 16 bytes tag
//! key    = HKDF-SHA256(bucket key, salt, info = "cos-service sealed record 1")
//! ```
//!
//! AES-256-GCM with a zero nonce: each record has its own key, so that no number
//! of nonces has to be counted. The record's identity is the associated data.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    content::segments::hkdf_sha256,
    error::{Error, Result},
    keys::secret::BucketKey,
};

const FORMAT: u8 = 1;
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const INFO: &[u8] = b"cos-service sealed record 1";

/// How a bucket's records are protected at rest.
#[derive(Debug, Clone)]
pub enum Seal {
    /// An unkeyed bucket: records are stored as they are.
    Plain,
    /// A keyed bucket.
    Keyed(Arc<BucketKey>),
}

impl Seal {
    /// Whether content is encrypted.
    pub fn is_keyed(&self) -> bool {
        matches!(self, Self::Keyed(_))
    }

    /// Protects a record.
    pub fn seal(&self, identity: &Identity, record: &[u8]) -> Result<Vec<u8>> {
        let Self::Keyed(key) = self else { return Ok(record.to_vec()) };
        let mut sealed = vec![0; 1 + SALT_LEN];
        sealed[0] = FORMAT;
        aws_lc_rs::rand::fill(&mut sealed[1..]).map_err(|_| Error::internal("no randomness"))?;
        sealed.extend_from_slice(record);
        let (header, body) = sealed.split_at_mut(1 + SALT_LEN);
        let tag = record_key(key, &header[1..])?
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(&identity.0), body)
            .map_err(|_| Error::internal("encryption failed"))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Recovers a record.
    ///
    /// # Errors
    /// If it is not what was sealed under this bucket key for this identity.
    pub fn open(&self, identity: &Identity, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let Self::Keyed(key) = self else { return Ok(Zeroizing::new(sealed.to_vec())) };
        let damaged = || Error::damaged("a sealed record does not authenticate");
        if sealed.len() < 1 + SALT_LEN + TAG_LEN || sealed[0] != FORMAT {
            return Err(damaged());
        }
        let (header, body) = sealed.split_at(1 + SALT_LEN);
        let (body, tag) = body.split_at(body.len() - TAG_LEN);
        let mut record = Zeroizing::new(vec![0; body.len()]);
        record_key(key, &header[1..])?
            .open_separate_gather(zero_nonce(), Aad::from(&identity.0), body, tag, &mut record)
            .map_err(|_| damaged())?;
        Ok(record)
    }
}

/// What a sealed record belongs to; moving the record elsewhere makes it unreadable.
#[derive(Debug, Clone)]
pub struct Identity(Vec<u8>);

impl Identity {
    fn new(kind: u8, parts: &[&[u8]]) -> Self {
        let mut bytes = vec![kind];
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Self(bytes)
    }

    /// The data key of a blob.
    pub fn data_key(bucket: Uuid, blob: Uuid) -> Self {
        Self::new(1, &[bucket.as_bytes(), blob.as_bytes()])
    }

    /// The content of a blob.
    pub fn content(bucket: Uuid, blob: Uuid) -> Self {
        Self::new(2, &[bucket.as_bytes(), blob.as_bytes()])
    }

    /// The attributes of an object.
    pub fn object(bucket: Uuid, object: Uuid, key: &str) -> Self {
        Self::new(3, &[bucket.as_bytes(), object.as_bytes(), key.as_bytes()])
    }

    /// The attributes of a multipart upload.
    pub fn upload(bucket: Uuid, upload: Uuid, key: &str) -> Self {
        Self::new(4, &[bucket.as_bytes(), upload.as_bytes(), key.as_bytes()])
    }

    /// The attributes of an uploaded part.
    pub fn part(bucket: Uuid, upload: Uuid, number: u16, blob: Uuid) -> Self {
        Self::new(5, &[bucket.as_bytes(), upload.as_bytes(), &number.to_be_bytes(), blob.as_bytes()])
    }

    /// The bytes that are authenticated.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn record_key(key: &BucketKey, salt: &[u8]) -> Result<LessSafeKey> {
    let derived = hkdf_sha256(key.expose_secret(), salt, INFO)?;
    UnboundKey::new(&AES_256_GCM, derived.as_slice())
        .map(LessSafeKey::new)
        .map_err(|_| Error::internal("key setup failed"))
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(byte: u8) -> Seal {
        Seal::Keyed(Arc::new(BucketKey::new(vec![byte; 32]).unwrap()))
    }

    #[test]
    fn opens_only_for_its_identity_and_key() {
        let (bucket, object) = (Uuid::new_v4(), Uuid::new_v4());
        let identity = Identity::object(bucket, object, "a");
        let sealed = keyed(1).seal(&identity, b"etag").unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"etag"));
        assert_eq!(keyed(1).open(&identity, &sealed).unwrap().as_slice(), b"etag");
        assert!(keyed(2).open(&identity, &sealed).is_err());
        assert!(keyed(1).open(&Identity::object(bucket, object, "b"), &sealed).is_err());
        assert!(keyed(1).open(&Identity::upload(bucket, object, "a"), &sealed).is_err());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let identity = Identity::object(Uuid::nil(), Uuid::nil(), "a");
        let sealed = keyed(1).seal(&identity, b"etag").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(keyed(1).open(&identity, &altered).is_err());
        }
        assert!(keyed(1).open(&identity, &sealed[..20]).is_err());
        assert!(keyed(1).open(&identity, &[]).is_err());
    }
}
