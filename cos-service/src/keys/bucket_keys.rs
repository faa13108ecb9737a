//! Unwrapped bucket keys under a lease.
//!
//! A key counts from the moment its unwrapping was asked for and is never used after
//! its lease: a root key that was disabled or destroyed stops all reads and writes
//! of its buckets within one lease. A key in use is fetched again in the background
//! when most of its lease is gone; a refusal then takes effect at once. Concurrent
//! users of one key share one call, also when it fails. Refusals are not remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{
    error::{Error, Result},
    keys::{
        hsm_client::{HsmClient, Refusal, Unwrapped},
        secret::BucketKey,
    },
};

/// The part of the root key's world that a bucket remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// CRN of the root key.
    pub root_key_crn: String,
    /// The bucket key as the HSM wrapped it.
    pub ciphertext: String,
}

/// Receives a bucket key that was wrapped anew, to be stored.
pub type OnRewrapped = Box<dyn Fn(Uuid, String) + Send + Sync>;

/// All bucket keys in memory.
pub struct BucketKeys {
    hsm: HsmClient,
    lease: Duration,
    leases: RwLock<HashMap<Uuid, Lease>>,
    flights: Mutex<HashMap<Uuid, Flight>>,
    on_rewrapped: OnRewrapped,
}

/// A call to the HSM that several users wait for.
type Flight = Arc<tokio::sync::OnceCell<Result<Arc<BucketKey>, Refusal>>>;

struct Lease {
    key: Arc<BucketKey>,
    renew: Instant,
    end: Instant,
}

impl BucketKeys {
    /// No keys yet.
    pub fn new(hsm: HsmClient, lease: Duration, on_rewrapped: OnRewrapped) -> Self {
        Self { hsm, lease, leases: RwLock::default(), flights: Mutex::default(), on_rewrapped }
    }

    /// The HSM behind the keys.
    pub fn hsm(&self) -> &HsmClient {
        &self.hsm
    }

    /// The key of a bucket, from memory or from the HSM.
    pub async fn key(self: &Arc<Self>, bucket: Uuid, wrapped: &WrappedKey) -> Result<Arc<BucketKey>> {
        if let Some(key) = self.leased(bucket, wrapped) {
            return Ok(key);
        }
        self.fetch(bucket, wrapped).await.map_err(|refusal| refusal.for_object())
    }

    /// Makes the key of a new bucket.
    pub async fn create(&self, bucket: Uuid, root_key_crn: &str) -> Result<WrappedKey> {
        let new = self
            .hsm
            .new_bucket_key(root_key_crn, aad(bucket, root_key_crn))
            .await
            .map_err(|refusal| refusal.for_new_bucket())?;
        Ok(WrappedKey { root_key_crn: root_key_crn.to_owned(), ciphertext: new.wrapped })
    }

    /// Checks that the HSM's failover region could take over.
    ///
    /// # Errors
    /// 500 if not, as the real service has it: to its clients this is a fault that passes.
    pub async fn check_failover(&self) -> Result<()> {
        match self.hsm.failover_problem().await {
            Ok(None) => Ok(()),
            Ok(Some(problem)) => {
                Err(Error::internal(format_args!("the HSM's failover region cannot take over: {problem}")))
            }
            Err(refusal) => Err(refusal.for_new_bucket()),
        }
    }

    /// Wipes the keys whose lease is over.
    pub fn drop_expired(&self) {
        let now = Instant::now();
        self.write().retain(|_, lease| lease.end > now);
    }

    /// Wipes the key of a bucket that is gone.
    pub fn forget(&self, bucket: Uuid) {
        self.write().remove(&bucket);
    }

    fn leased(self: &Arc<Self>, bucket: Uuid, wrapped: &WrappedKey) -> Option<Arc<BucketKey>> {
        let now = Instant::now();
        let (key, renew) = {
            let leases = self.leases.read().unwrap_or_else(PoisonError::into_inner);
            let lease = leases.get(&bucket).filter(|lease| now < lease.end)?;
            (Arc::clone(&lease.key), lease.renew <= now)
        };
        if renew && !self.flights.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&bucket) {
            let (keys, wrapped) = (Arc::clone(self), wrapped.clone());
            tokio::spawn(async move {
                let _ = keys.fetch(bucket, &wrapped).await;
            });
        }
        Some(key)
    }

    /// One call for all that ask at the same time.
    async fn fetch(self: &Arc<Self>, bucket: Uuid, wrapped: &WrappedKey) -> Result<Arc<BucketKey>, Refusal> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(flights.entry(bucket).or_default())
        };
        let outcome = flight
            .get_or_init(|| {
                // A task of its own: a client that hangs up does not cancel what others wait for.
                let (keys, wrapped) = (Arc::clone(self), wrapped.clone());
                let call = tokio::spawn(async move { keys.unwrap(bucket, &wrapped).await });
                async move { call.await.unwrap_or_else(|e| Err(Refusal::Unreachable(e.to_string()))) }
            })
            .await
            .clone();
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(&bucket).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            flights.remove(&bucket);
        }
        outcome
    }

    async fn unwrap(&self, bucket: Uuid, wrapped: &WrappedKey) -> Result<Arc<BucketKey>, Refusal> {
        let asked = Instant::now();
        let outcome = self
            .hsm
            .unwrap(&wrapped.root_key_crn, &wrapped.ciphertext, aad(bucket, &wrapped.root_key_crn))
            .await;
        match outcome {
            Ok(_) if asked.elapsed() >= self.lease => {
                Err(Refusal::Unreachable("the HSM took longer to answer than a lease lasts".to_owned()))
            }
            Ok(Unwrapped { key, rewrapped }) => {
                let key = Arc::new(key);
                let lease = Lease {
                    key: Arc::clone(&key),
                    renew: asked + self.lease.mul_f64(0.6),
                    end: asked + self.lease,
                };
                self.write().insert(bucket, lease);
                if let Some(ciphertext) = rewrapped {
                    (self.on_rewrapped)(bucket, ciphertext);
                }
                Ok(key)
            }
            Err(refusal) => {
                if let Refusal::Key(detail) = &refusal {
                    // Known to be dead: what is left of the lease is void.
                    if self.write().remove(&bucket).is_some() {
                        tracing::info!(%bucket, detail, "a root key stopped working: bucket key dropped");
                    }
                }
                Err(refusal)
            }
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Uuid, Lease>> {
        self.leases.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a wrapped bucket key is bound to.
fn aad(bucket: Uuid, root_key_crn: &str) -> [String; 2] {
    [bucket.to_string(), root_key_crn.to_owned()]
}

/// Checks that a lease is within the promised bounds.
pub fn check_lease(lease: Duration) -> Result<Duration> {
    if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&lease) {
        Ok(lease)
    } else {
        Err(Error::invalid_argument("the lease of bucket keys must be between 1s and 60s"))
    }
}
