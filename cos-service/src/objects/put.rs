//! Writing and deleting whole objects.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    buckets::Bucket,
    content::checksum::Checksum,
    error::{Error, Result},
    keys::seal::{Identity, Seal},
    metadata::{
        now_millis,
        tables::{self, BlobRow, ObjectRow},
    },
    objects::{
        MAX_KEY_LEN,
        attributes::{self, Attributes, Headers, content_id},
        conditions::Conditions,
        ingest::{Received, Upload},
    },
    storage::Storage,
};

/// What a write tells the client.
#[derive(Debug, Clone)]
pub struct Written {
    /// ETag without quotes.
    pub etag: String,
    /// The checksum that was stored.
    pub checksum: Option<Checksum>,
    /// Milliseconds since 1970.
    pub modified: i64,
    /// Plaintext bytes.
    pub size: u64,
}

impl Storage {
    /// Stores an object. It is durable and visible when this returns, or not there at all.
    pub async fn put_object(
        &self,
        bucket: &str,
        key: &str,
        headers: Headers,
        conditions: Conditions,
        upload: Upload,
    ) -> Result<Written> {
        check_key(key)?;
        headers.check()?;
        let bucket = self.buckets.get(bucket)?;
        // Spares the client the upload; what counts is the check within the transaction.
        self.precheck(&bucket, key, &conditions).await?;
        let received = self.receive(&bucket, upload).await?;
        self.store_received(&bucket, key, headers, conditions, received).await
    }

    async fn precheck(&self, bucket: &Bucket, key: &str, conditions: &Conditions) -> Result<()> {
        let seal = self.seal(bucket).await?;
        if conditions.is_empty() {
            return Ok(());
        }
        let (bucket, key, conditions) = (bucket.id, key.to_owned(), conditions.clone());
        self.metadata.read(move |db| check_existing(db, &seal, bucket, &key, &conditions)).await
    }

    /// Commits a received blob as an object. Asks for the bucket key anew: it may have died meanwhile.
    pub(super) async fn store_received(
        &self,
        bucket: &Arc<Bucket>,
        key: &str,
        headers: Headers,
        conditions: Conditions,
        received: Received,
    ) -> Result<Written> {
        let seal = self.seal(bucket).await?;
        let Received { blob, placed, etag, checksum } = received;
        let attributes = Attributes {
            etag: etag.clone(),
            headers,
            checksum: Some(checksum.clone()),
            part_count: None,
            upload: None,
            content: content_id(std::slice::from_ref(&blob)),
        };
        let written = Written { etag, checksum: Some(checksum), modified: now_millis(), size: blob.size };
        let object = new_row(&seal, bucket.id, key, &attributes, &written)?;
        let (bucket, key) = (bucket.id, key.to_owned());
        self.metadata
            .commit_blob(placed, move |db| {
                if !tables::bucket_exists(db, bucket)? {
                    return Err(Error::no_such_bucket());
                }
                check_existing(db, &seal, bucket, &key, &conditions)?;
                tables::put_object(db, bucket, &key, &object)?;
                tables::insert_blob(db, object.id, &blob)
            })
            .await?;
        Ok(written)
    }

    /// Deletes an object; one that is not there is no error. Needs no key.
    pub async fn delete_object(&self, bucket: &str, key: &str) -> Result<()> {
        check_key(key)?;
        let bucket = self.buckets.get(bucket)?.id;
        let key = key.to_owned();
        self.metadata.commit(move |db| tables::delete_object(db, bucket, &key)).await?;
        Ok(())
    }

    /// Deletes several objects in one transaction.
    pub async fn delete_objects(&self, bucket: &str, keys: Vec<String>) -> Result<()> {
        let bucket = self.buckets.get(bucket)?.id;
        self.metadata
            .commit(move |db| {
                keys.iter().try_for_each(|key| tables::delete_object(db, bucket, key).map(drop))
            })
            .await
    }
}

/// A row for a new version of an object.
pub(super) fn new_row(
    seal: &Seal,
    bucket: Uuid,
    key: &str,
    attributes: &Attributes,
    written: &Written,
) -> Result<ObjectRow> {
    let id = Uuid::new_v4();
    let attributes = attributes::seal(seal, &Identity::object(bucket, id, key), attributes)?;
    Ok(ObjectRow { id, size: written.size, modified: written.modified, attributes })
}

/// Checks conditions against the object that is there now.
pub(super) fn check_existing(
    db: &rusqlite::Connection,
    seal: &Seal,
    bucket: Uuid,
    key: &str,
    conditions: &Conditions,
) -> Result<()> {
    if conditions.is_empty() {
        return Ok(());
    }
    let existing = tables::object(db, bucket, key)?;
    let etag = existing
        .as_ref()
        .map(|object| attributes::of_object(seal, bucket, key, object).map(|attributes| attributes.etag))
        .transpose()?;
    conditions.check_write(etag.as_deref().zip(existing.map(|object| object.modified)))
}

/// Checks the length of a key.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > MAX_KEY_LEN {
        return Err(Error::new("KeyTooLongError", 400, "Your key is too long."));
    }
    Ok(())
}

/// The sum of blobs' sizes, or `None` on overflow.
pub(super) fn total_size(blobs: &[BlobRow]) -> Option<u64> {
    blobs.iter().try_fold(0_u64, |sum, blob| sum.checked_add(blob.size))
}
