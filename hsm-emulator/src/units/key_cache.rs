//! Objects that a unit has open: parsed keys, ready for use, in bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::{
    CK_KEY_TYPE, CK_UNAVAILABLE_INFORMATION, CKA_CLASS, CKA_KEY_TYPE, CKA_VALUE, CKO_PRIVATE_KEY,
    CKO_PUBLIC_KEY, CKO_SECRET_KEY,
};
use openssl::pkey::{PKey, Public};
use quick_cache::sync::Cache;

use super::attributes::Attributes;
use super::blob::KeyBlob;
use super::error::Result;
use super::mechanism::asymmetric;
use super::mechanism::prepared_key::{PreparedKey, PreparedPrivateKey};

/// An object out of its blob.
pub(super) struct OpenObject {
    blob: KeyBlob,
    /// The attributes that the blob shows in clear, authenticated now.
    pub attributes: Attributes,
    /// The key, parsed.
    pub key: Key,
}

/// A parsed key. OpenSSL wipes its own on free.
pub(super) enum Key {
    /// Bytes.
    Secret(Box<PreparedKey>),
    /// Of any type of key pair.
    Private(Box<PreparedPrivateKey>),
    /// The other half.
    Public(PKey<Public>),
    /// Data, certificates.
    None,
}

impl OpenObject {
    pub fn new(blob: &KeyBlob, attributes: Attributes, secrets: &Attributes) -> Result<Self> {
        let key = match attributes.ulong(CKA_CLASS) {
            Some(CKO_SECRET_KEY) => {
                Key::Secret(Box::new(PreparedKey::new(secrets.get(CKA_VALUE).unwrap_or_default())))
            }
            Some(CKO_PRIVATE_KEY) => {
                let key = asymmetric::private_key(&attributes, secrets)?;
                Key::Private(Box::new(PreparedPrivateKey::new(key)))
            }
            Some(CKO_PUBLIC_KEY) => Key::Public(asymmetric::public_key(&attributes)?),
            _ => Key::None,
        };
        Ok(Self { blob: blob.clone(), attributes, key })
    }

    /// The key's type.
    pub fn key_type(&self) -> CK_KEY_TYPE {
        self.attributes.ulong(CKA_KEY_TYPE).unwrap_or(CK_UNAVAILABLE_INFORMATION)
    }
}

/// The open objects of a unit, by their blobs.
pub(super) struct KeyCache {
    objects: Cache<[u8; 16], Arc<OpenObject>>,
    /// How often something has been forgotten.
    generation: AtomicU64,
}

impl KeyCache {
    pub fn new() -> Self {
        Self { objects: Cache::new(CAPACITY), generation: AtomicU64::new(0) }
    }

    /// Looks the whole blob up: the tag finds it, the bytes decide, so an altered blob is never taken for it.
    pub fn get(&self, blob: &KeyBlob) -> Option<Arc<OpenObject>> {
        self.objects.get(&blob.tag()).filter(|object| object.blob == *blob)
    }

    /// Ask for it before looking for the master key that opens a blob, and hand it to [`Self::insert`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Keeps an object, unless something was forgotten since its blob was opened: it may have been this one.
    pub fn insert(&self, object: &Arc<OpenObject>, generation: u64) {
        let tag = object.blob.tag();
        self.objects.insert(tag, object.clone());
        if self.generation() != generation {
            self.objects.remove(&tag);
        }
    }

    /// Forgets an object.
    pub fn remove(&self, blob: &KeyBlob) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.objects.remove(&blob.tag());
    }

    /// Forgets everything. A key is wiped when its last user has let go of it.
    pub fn wipe(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.objects.clear();
    }
}

/// Keys held open by a unit. An RSA-4096 key takes about 10 KiB.
const CAPACITY: usize = 4096;
