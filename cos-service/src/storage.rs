//! The storage service behind the front end: what it is made of, and its housekeeping.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    blobs::Blobs,
    buckets::{self, Bucket, Buckets},
    error::Result,
    keys::{bucket_keys::BucketKeys, hsm_client::HsmClient, seal::Seal},
    locations::Resiliency,
    metadata::{Metadata, tables},
    readers::Readers,
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
    /// Reads, and the blobs that they need.
    pub readers: Readers,
}

/// Files that are deleted between two transactions.
const GARBAGE_PAGE: u32 = 1000;

impl Storage {
    /// Opens a state directory.
    pub fn open(state: &Path, hsm: HsmClient, lease: Duration) -> Result<Arc<Self>> {
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
        Ok(Arc::new(Self { metadata, blobs, buckets, keys, readers: Readers::default() }))
    }

    /// Creates a bucket, under a root key if a CRN is given. Nothing is left behind on failure.
    pub async fn create_bucket(&self, name: &str, location: &str, root_key_crn: Option<&str>) -> Result<()> {
        if let Some(crn) = root_key_crn {
            buckets::check_key_crn(crn)?;
        }
        let needs_failover = root_key_crn.is_some() && Resiliency::of(location).needs_failover()?;
        if self.buckets.get(name).is_ok() {
            return Err(buckets::already_owned());
        }
        let mut bucket = buckets::new_bucket(name, location);
        if let Some(crn) = root_key_crn {
            bucket.key = Some(self.keys.create(bucket.id, crn).await?);
        }
        if needs_failover {
            self.keys.check_failover().await?;
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
        let (named, garbage) = self
            .metadata
            .read(|db| Ok((tables::file_blobs(db)?, tables::garbage(db, Uuid::nil(), u32::MAX)?)))
            .await?;
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
            tokio::task::spawn_blocking(move || blobs.delete_all(orphans)).await?;
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
        let mut after = Uuid::nil();
        loop {
            let page = self.metadata.read(move |db| tables::garbage(db, after, GARBAGE_PAGE)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = *last;
            // Readers that look after this point can't see these blobs; those before pin what they have seen.
            let mark = self.readers.mark();
            while !self.readers.all_looked_after(mark) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let (blobs, doomed) = (self.blobs.clone(), self.readers.unpinned(page));
            let deleted = tokio::task::spawn_blocking(move || blobs.delete_all(doomed)).await?;
            if !deleted.is_empty() {
                self.metadata.commit(move |db| tables::forget_garbage(db, &deleted)).await?;
            }
        }
    }

    /// Wipes bucket keys whose lease is over, again and again.
    pub async fn expire_keys(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.keys.drop_expired();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::{content::checksum::Algorithm, objects::ingest::Upload};

    async fn storage(dir: &Path) -> Arc<Storage> {
        let hsm = HsmClient::new([("http://127.0.0.1:1", "key")], Duration::from_secs(1)).unwrap();
        let storage = Storage::open(dir, hsm, Duration::from_secs(10)).unwrap();
        storage.create_bucket("bucket", "", None).await.unwrap();
        storage
    }

    async fn put(storage: &Storage, key: &str) -> Uuid {
        let body = futures::stream::iter([Ok(bytes::Bytes::from(vec![7; 300_000]))]).boxed();
        let algorithm = Algorithm::Crc64nvme;
        let upload = Upload {
            body,
            length: None,
            content_md5: None,
            algorithm,
            kept: None,
            announced: Box::new(|| None),
        };
        let before = storage.blobs.list().unwrap();
        storage.put_object("bucket", key, Default::default(), Default::default(), upload).await.unwrap();
        storage.blobs.list().unwrap().into_iter().find(|blob| !before.contains(blob)).unwrap().0
    }

    fn files(storage: &Storage) -> HashSet<Uuid> {
        storage.blobs.list().unwrap().into_iter().map(|(id, _)| id).collect()
    }

    /// A slow download used to keep the deleted files of everybody.
    #[tokio::test]
    async fn a_reader_keeps_its_own_blobs_alone() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path()).await;
        let (read, other) = (put(&storage, "read").await, put(&storage, "other").await);
        let found = storage.get_object("bucket", "read").await.unwrap();
        for key in ["read", "other"] {
            storage.delete_object("bucket", key).await.unwrap();
        }
        assert_eq!(files(&storage), [read, other].into());
        storage.collect_once().await.unwrap();
        assert_eq!(files(&storage), [read].into());
        let body: Vec<_> = storage.read(found, 0..300_000).await.unwrap().collect().await;
        assert_eq!(body.into_iter().map(|bytes| bytes.unwrap().len()).sum::<usize>(), 300_000);
        storage.collect_once().await.unwrap();
        assert_eq!(files(&storage), HashSet::new());
    }

    /// One file that could not be unlinked used to end all collecting, and the start.
    #[tokio::test]
    async fn a_file_that_cannot_be_deleted_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path()).await;
        let mut blobs = Vec::new();
        for number in 0..10 {
            blobs.push(put(&storage, &number.to_string()).await);
        }
        let stuck = blobs[4];
        let path = dir.path().join(format!("blobs/{:02x}/{stuck}", stuck.as_bytes()[0]));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        for number in 0..10 {
            storage.delete_object("bucket", &number.to_string()).await.unwrap();
        }
        storage.collect_once().await.unwrap();
        assert_eq!(files(&storage), [stuck].into());
        let left = storage.metadata.read(|db| tables::garbage(db, Uuid::nil(), 100)).await.unwrap();
        assert_eq!(left, [stuck]);
        let orphan = Uuid::new_v4();
        storage.blobs.create(orphan).unwrap().place().unwrap().keep();
        storage.metadata.commit(move |db| tables::forget_garbage(db, &[stuck])).await.unwrap();
        storage.sweep().await.unwrap();
        assert_eq!(files(&storage), [stuck].into());
    }
}
