//! The storage service behind the front end: what it is made of, and its housekeeping.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    blobs::Blobs,
    buckets::{self, Bucket, Buckets},
    error::Result,
    keys::{bucket_keys::BucketKeys, hsm_client::HsmClient, seal::Seal},
    metadata::{Metadata, tables},
};

/// Everything that is stored, and the keys to it.
pub struct Storage {
    /// Rows.
    pub metadata: Metadata,
    /// Files.
    pub blobs: Blobs,
    /// Buckets.
    pub buckets: Buckets,
    /// Bucket keys under lease.
    pub keys: Arc<BucketKeys>,
    /// Reads that may still open files by name.
    pub readers: Readers,
    /// How long a client may pause within a body.
    pub body_timeout: Duration,
}

impl Storage {
    /// Opens a state directory.
    pub fn open(state: &Path, hsm: HsmClient, lease: Duration, body_timeout: Duration) -> Result<Arc<Self>> {
        let metadata = Metadata::open(&state.join("metadata.sqlite"))?;
        let blobs = Blobs::open(state)?;
        let buckets = Buckets::load(metadata.clone())?;
        let rewrapped = buckets.clone();
        let on_rewrapped = Box::new(move |bucket, ciphertext| {
            let buckets = rewrapped.clone();
            tokio::spawn(async move {
                if let Err(error) = buckets.rewrap(bucket, ciphertext).await {
                    tracing::warn!(%error, %bucket, "a rewrapped bucket key was not stored; the next unwrap brings another");
                }
            });
        });
        let keys = Arc::new(BucketKeys::new(hsm, lease, on_rewrapped));
        Ok(Arc::new(Self { metadata, blobs, buckets, keys, readers: Readers::default(), body_timeout }))
    }

    /// Creates a bucket, under a root key if a CRN is given. Nothing is left behind on failure.
    pub async fn create_bucket(&self, name: &str, location: &str, root_key_crn: Option<&str>) -> Result<()> {
        if let Some(crn) = root_key_crn {
            buckets::check_key_crn(crn)?;
        }
        if self.buckets.get(name).is_ok() {
            return Err(buckets::already_owned());
        }
        let mut bucket = buckets::new_bucket(name, location);
        if let Some(crn) = root_key_crn {
            bucket.key = Some(self.keys.create(bucket.id, crn).await?);
        }
        self.buckets.insert(bucket).await?;
        tracing::info!(bucket = name, root_key_crn, "bucket created");
        Ok(())
    }

    /// Removes an empty bucket. Needs no key.
    pub async fn delete_bucket(&self, name: &str) -> Result<()> {
        let bucket = self.buckets.get(name)?;
        self.buckets.delete(Arc::clone(&bucket)).await?;
        self.keys.forget(bucket.id);
        tracing::info!(bucket = name, "bucket deleted");
        Ok(())
    }

    /// The protection of a bucket's records and content.
    ///
    /// # Errors
    /// 403 if its root key is not active, 503 if the HSM can't be asked.
    pub async fn seal(&self, bucket: &Bucket) -> Result<Seal> {
        match &bucket.key {
            None => Ok(Seal::Plain),
            Some(wrapped) => Ok(Seal::Keyed(self.keys.key(bucket.id, wrapped).await?)),
        }
    }

    /// Compares files and rows once after a start: files that no row names are removed, rows
    /// without their file are reported. Blobs made meanwhile are not looked at.
    pub async fn sweep(self: &Arc<Self>) -> Result<()> {
        let blobs = self.blobs.clone();
        let files: HashMap<Uuid, u64> =
            tokio::task::spawn_blocking(move || blobs.list()).await??.into_iter().collect();
        let (named, garbage) =
            self.metadata.read(|db| Ok((tables::file_blobs(db)?, tables::garbage(db, u32::MAX)?))).await?;
        self.sweep_files(files, named, garbage).await
    }

    async fn sweep_files(
        &self,
        files: HashMap<Uuid, u64>,
        named: Vec<(Uuid, u64)>,
        garbage: Vec<Uuid>,
    ) -> Result<()> {
        for (blob, stored) in &named {
            match files.get(blob) {
                Some(size) if size == stored => {}
                Some(size) => {
                    tracing::error!(%blob, expected = stored, found = size, "a blob's file has a wrong size: data is damaged");
                }
                None => tracing::error!(%blob, "a blob's file is missing: data is damaged"),
            }
        }
        let known: HashSet<_> = named.into_iter().map(|(blob, _)| blob).chain(garbage).collect();
        let orphans: Vec<_> = files.into_keys().filter(|file| !known.contains(file)).collect();
        if !orphans.is_empty() {
            tracing::info!(count = orphans.len(), "removing files that no object names");
            let blobs = self.blobs.clone();
            tokio::task::spawn_blocking(move || {
                orphans.into_iter().try_for_each(|orphan| blobs.delete(orphan))
            })
            .await??;
        }
        Ok(())
    }

    /// Deletes the files of removed objects, again and again, once no reader can need them.
    pub async fn collect_garbage(self: Arc<Self>, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.collect_once().await {
                tracing::warn!(%error, "garbage was not collected; trying again later");
            }
        }
    }

    async fn collect_once(&self) -> Result<()> {
        let doomed = self.metadata.read(|db| tables::garbage(db, 1000)).await?;
        // Readers that began after this point can't know the doomed blobs.
        let mark = self.readers.mark();
        if doomed.is_empty() {
            return Ok(());
        }
        while !self.readers.all_began_after(mark) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (blobs, ids) = (self.blobs.clone(), doomed.clone());
        tokio::task::spawn_blocking(move || ids.into_iter().try_for_each(|id| blobs.delete(id))).await??;
        self.metadata.commit(move |db| tables::forget_garbage(db, &doomed)).await
    }

    /// Wipes bucket keys whose lease is over, again and again.
    pub async fn expire_keys(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.keys.drop_expired();
        }
    }
}

/// Reads in progress, in the order of their beginning.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<ReadersInner>>);

#[derive(Debug, Default)]
struct ReadersInner {
    next: u64,
    active: BTreeSet<u64>,
}

/// A read in progress: blobs that it may have seen are not deleted.
#[derive(Debug)]
pub struct Reading {
    readers: Readers,
    ticket: u64,
}

impl Readers {
    /// To be called before the metadata is read.
    pub fn begin(&self) -> Reading {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = inner.next;
        inner.next += 1;
        inner.active.insert(ticket);
        Reading { readers: self.clone(), ticket }
    }

    fn mark(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    fn all_began_after(&self, mark: u64) -> bool {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.active.first().is_none_or(|oldest| *oldest >= mark)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.0.lock().unwrap_or_else(PoisonError::into_inner).active.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_readers_hold_back_the_collector() {
        let readers = Readers::default();
        let old = readers.begin();
        let mark = readers.mark();
        let _new = readers.begin();
        assert!(!readers.all_began_after(mark));
        drop(old);
        assert!(readers.all_began_after(mark));
    }
}
