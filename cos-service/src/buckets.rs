//! Buckets: creation under a root key, lookup, listing, removal.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use uuid::Uuid;

use crate::{
    error::{Error, Result},
    metadata::{Metadata, now_millis, tables},
};

pub use crate::metadata::tables::Bucket;

/// All buckets. The table is small and this process is its only user, so it is held in memory.
#[derive(Clone)]
pub struct Buckets {
    metadata: Metadata,
    by_name: Arc<RwLock<BTreeMap<String, Arc<Bucket>>>>,
}

impl Buckets {
    /// Reads the table.
    pub fn load(metadata: Metadata) -> Result<Self> {
        let buckets = metadata.read_blocking(tables::buckets)?;
        let by_name = buckets.into_iter().map(|bucket| (bucket.name.clone(), Arc::new(bucket))).collect();
        Ok(Self { metadata, by_name: Arc::new(RwLock::new(by_name)) })
    }

    /// The bucket of this name.
    pub fn get(&self, name: &str) -> Result<Arc<Bucket>> {
        self.read().get(name).cloned().ok_or_else(Error::no_such_bucket)
    }

    /// Every bucket, by name.
    pub fn list(&self) -> Vec<Arc<Bucket>> {
        self.read().values().cloned().collect()
    }

    /// Adds a bucket. A caller that goes away does not leave table and memory apart.
    pub async fn insert(&self, bucket: Bucket) -> Result<()> {
        let buckets = self.clone();
        tokio::spawn(async move { buckets.insert_to_the_end(bucket).await }).await?
    }

    /// Removes an empty bucket, likewise to the end.
    pub async fn delete(&self, bucket: Arc<Bucket>) -> Result<()> {
        let buckets = self.clone();
        tokio::spawn(async move { buckets.delete_to_the_end(&bucket).await }).await?
    }

    async fn insert_to_the_end(&self, bucket: Bucket) -> Result<()> {
        let row = bucket.clone();
        if !self.metadata.commit(move |db| tables::insert_bucket(db, &row)).await? {
            return Err(already_owned());
        }
        self.write().insert(bucket.name.clone(), Arc::new(bucket));
        Ok(())
    }

    async fn delete_to_the_end(&self, bucket: &Bucket) -> Result<()> {
        let id = bucket.id;
        self.metadata
            .commit(move |db| {
                if !tables::bucket_is_empty(db, id)? {
                    return Err(Error::new(
                        "BucketNotEmpty",
                        409,
                        "The bucket you tried to delete is not empty.",
                    ));
                }
                if tables::delete_bucket(db, id)? { Ok(()) } else { Err(Error::no_such_bucket()) }
            })
            .await?;
        let mut by_name = self.write();
        if by_name.get(&bucket.name).is_some_and(|current| current.id == id) {
            by_name.remove(&bucket.name);
        }
        Ok(())
    }

    /// Stores a bucket key that was wrapped anew.
    pub async fn rewrap(&self, id: Uuid, ciphertext: String) -> Result<()> {
        let row = ciphertext.clone();
        self.metadata.commit(move |db| tables::update_wrapped_key(db, id, &row)).await?;
        for bucket in self.write().values_mut().filter(|bucket| bucket.id == id) {
            if let Some(key) = &mut Arc::make_mut(bucket).key {
                key.ciphertext.clone_from(&ciphertext);
            }
        }
        tracing::info!(bucket = %id, "bucket key rewrapped under the root key's newest version");
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Bucket>>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<Bucket>>> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to the creation of a bucket that is there: this service has one owner.
pub fn already_owned() -> Error {
    Error::new(
        "BucketAlreadyOwnedByYou",
        409,
        "Your previous request to create the named bucket succeeded and you already own it.",
    )
}

/// A bucket to be made.
pub fn new_bucket(name: &str, location: &str) -> Bucket {
    Bucket {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        created: now_millis(),
        location: location.to_owned(),
        key: None,
    }
}

/// Checks a bucket name by IBM's rules.
pub fn is_valid_name(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || matches!(byte, b'.' | b'-'))
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && !name.contains("..")
        && !name.contains("--")
        && !name.starts_with("cosv1-")
        && !name.starts_with("account-")
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

/// Checks the form of a root key's CRN:
/// `crn:v1:bluemix:public:hs-crypto:<region>:a/<account>:<instance>:key:<id>`.
pub fn check_key_crn(crn: &str) -> Result<()> {
    let malformed = || Error::key_crn_not_found("not a CRN");
    let parts: Vec<_> = crn.split(':').collect();
    if crn.len() > 512 || parts.len() != 10 || parts[0] != "crn" || parts[1] != "v1" {
        return Err(malformed());
    }
    if parts[8] != "key" {
        return Err(Error::invalid_argument(
            "The resource type is missing or the specified value is not valid. Supported value: \"key\".",
        ));
    }
    if !matches!(parts[4], "hs-crypto" | "kms") || parts[9].is_empty() || !crn.is_ascii() {
        return Err(malformed());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names() {
        for name in ["abc", "my-bucket", "a.b.c", "0a0", &"a".repeat(63)] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in [
            "ab",
            "double--dash",
            "-abc",
            "abc-",
            "aBc",
            "a..b",
            "1.2.3.4",
            "cosv1-a",
            "account-a",
            "a_b",
            &"a".repeat(64),
        ] {
            assert!(!is_valid_name(name), "{name}");
        }
    }

    #[test]
    fn key_crns() {
        let crn = "crn:v1:bluemix:public:hs-crypto:us-south:a/0123:inst:key:1111";
        assert!(check_key_crn(crn).is_ok());
        assert_eq!(check_key_crn(&crn.replace(":key:", ":bucket:")).unwrap_err().code, "InvalidArgument");
        for bad in
            ["", "crn", "not a crn", &format!("{crn}:more"), &crn.replace("1111", ""), &"a".repeat(600)]
        {
            let error = check_key_crn(bad).unwrap_err();
            assert_eq!(
                (error.code, &*error.message),
                ("InvalidRequest", "The Key CRN could not be found"),
                "{bad}"
            );
        }
    }
}
