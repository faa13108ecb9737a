//! What is known about an object beside its key, size and date. Sealed in a keyed bucket.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    content::checksum::{Algorithm, Checksum, Kind},
    error::{Error, Result},
    keys::seal::{Identity, Seal},
    metadata::tables::{BlobRow, ObjectRow},
    objects::MAX_METADATA_LEN,
};

/// Headers and metadata that a client gives with an object and gets back with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// `Content-Type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `Content-Disposition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// `Cache-Control`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// `Expires`, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// `x-amz-meta-*`, by lower-case name without the prefix.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Headers {
    /// Checks S3's limit on user metadata.
    pub fn check(&self) -> Result<()> {
        let length: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if length > MAX_METADATA_LEN {
            return Err(Error::new(
                "MetadataTooLarge",
                400,
                "Your metadata headers exceed the maximum allowed metadata size.",
            ));
        }
        Ok(())
    }
}

/// An object's attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// ETag without quotes.
    pub etag: String,
    /// Headers and user metadata.
    pub headers: Headers,
    /// The additional checksum.
    pub checksum: Option<Checksum>,
    /// Number of parts, of a multipart object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_count: Option<u32>,
    /// The upload that made it, of a multipart object: a repeated completion finds its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// See [`content_id`].
    pub content: String,
}

/// A multipart upload's attributes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadAttributes {
    /// Headers and user metadata of the object to be.
    pub headers: Headers,
    /// The algorithm of its checksum.
    pub algorithm: Algorithm,
    /// What its checksum covers.
    pub kind: Kind,
    /// Whether the client asked for that algorithm.
    pub chosen: bool,
}

/// A part's attributes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartAttributes {
    /// ETag without quotes.
    pub etag: String,
    /// Base64, by the upload's algorithm.
    pub checksum: String,
}

/// Names the blobs of an object, in order, so that none can be exchanged for another of the same bucket.
pub fn content_id(blobs: &[BlobRow]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for blob in blobs {
        context.update(blob.id.as_bytes());
        context.update(&blob.size.to_be_bytes());
    }
    hex::encode(context.finish())
}

/// Seals attributes for storage.
pub fn seal<T: Serialize>(seal: &Seal, identity: &Identity, attributes: &T) -> Result<Vec<u8>> {
    let json = zeroize::Zeroizing::new(serde_json::to_vec(attributes).map_err(Error::internal)?);
    seal.seal(identity, &json)
}

/// Opens stored attributes.
pub fn open<T: DeserializeOwned>(seal: &Seal, identity: &Identity, stored: &[u8]) -> Result<T> {
    let json = seal.open(identity, stored)?;
    serde_json::from_slice(&json).map_err(|error| Error::damaged(format_args!("attributes: {error}")))
}

/// Opens the attributes of an object.
pub fn of_object(seal: &Seal, bucket: Uuid, key: &str, object: &ObjectRow) -> Result<Attributes> {
    open(seal, &Identity::object(bucket, object.id, key), &object.attributes)
}
