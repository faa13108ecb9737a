//! The gRPC client of the HSM: every call that leaves this process for a key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hsm_proto::kms::{GetInstanceRequest, GetRootKeyRequest, KeyState, UnwrapRequest, WrapRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    error::{Error, Result},
    keys::{
        endpoints::{Endpoint, Endpoints},
        secret::BucketKey,
    },
};

/// A client of all regions of the HSM.
#[derive(Debug)]
pub struct HsmClient {
    endpoints: Endpoints,
    timeout: Duration,
    calls: AtomicU64,
}

/// Why the HSM gave no answer that can be used.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// It says that the key can't be used: disabled, destroyed, unknown, or not this ciphertext's.
    Key(String),
    /// It gave no answer, or could not give one.
    Unreachable(String),
    /// It refuses this service.
    Unauthorized(String),
}

impl Refusal {
    /// The answer for a client that reads or writes an object.
    pub fn for_object(&self) -> Error {
        match self {
            Self::Key(detail) => Error::key_not_active(detail),
            Self::Unreachable(detail) | Self::Unauthorized(detail) => Error::hsm_unreachable(detail),
        }
    }

    /// The answer for a client that creates a bucket. IBM tells an unknown key and a
    /// missing authorization apart in nothing.
    pub fn for_new_bucket(&self) -> Error {
        match self {
            Self::Key(detail) | Self::Unauthorized(detail) => Error::key_crn_not_found(detail),
            Self::Unreachable(detail) => Error::hsm_unreachable(detail),
        }
    }
}

/// A bucket key fresh from the HSM.
#[derive(Debug)]
pub struct NewBucketKey {
    /// The key.
    pub key: BucketKey,
    /// The same, wrapped by the root key.
    pub wrapped: String,
}

/// A bucket key that the HSM has unwrapped.
#[derive(Debug)]
pub struct Unwrapped {
    /// The key.
    pub key: BucketKey,
    /// The same, wrapped by the root key's newest version, if that is a newer one.
    pub rewrapped: Option<String>,
}

impl HsmClient {
    /// A client of the HSM's regions, each with its address (`http://host:port`) and API key, home first.
    /// Does not connect yet.
    pub fn new<'a>(regions: impl IntoIterator<Item = (&'a str, &'a str)>, timeout: Duration) -> Result<Self> {
        Ok(Self { endpoints: Endpoints::new(regions, timeout)?, timeout, calls: AtomicU64::new(0) })
    }

    /// Key operations asked for since the start.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether the HSM answers.
    pub async fn is_reachable(&self) -> bool {
        let ask = self.endpoints.ask(|endpoint| async move {
            endpoint.kms().get_instance(endpoint.request(GetInstanceRequest::default())).await
        });
        matches!(tokio::time::timeout(self.timeout, ask).await, Ok(Ok(_)))
    }

    /// A new bucket key, made in the HSM and wrapped by an active root key of this very CRN.
    pub async fn new_bucket_key(&self, crn: &str, aad: [String; 2]) -> Result<NewBucketKey, Refusal> {
        let root_key = self
            .call(|endpoint| async move {
                let request = endpoint.request(GetRootKeyRequest { key: crn.to_owned() });
                endpoint.kms().get_root_key(request).await
            })
            .await?;
        if root_key.crn != crn {
            return Err(Refusal::Key(format!("the HSM knows this key as {}", root_key.crn)));
        }
        if root_key.state != KeyState::Active as i32 {
            return Err(Refusal::Key(format!("the root key is in state {}", root_key.state)));
        }
        let aad = &aad;
        let response = self
            .call(|endpoint| async move {
                let request =
                    WrapRequest { key: crn.to_owned(), plaintext: Default::default(), aad: aad.to_vec() };
                endpoint.kms().wrap(endpoint.request(request)).await
            })
            .await?;
        let key = take_key(response.plaintext)?;
        Ok(NewBucketKey { key, wrapped: response.ciphertext })
    }

    /// What keeps the HSM's failover region from taking over; `None` if nothing does.
    pub async fn failover_problem(&self) -> Result<Option<String>, Refusal> {
        let instance = self
            .call(|endpoint| async move {
                let request = endpoint.request(GetInstanceRequest { with_failover: true });
                endpoint.kms().get_instance(request).await
            })
            .await?;
        Ok((!instance.failover_ready).then_some(instance.failover_problem))
    }

    /// Unwraps a bucket key.
    pub async fn unwrap(&self, crn: &str, wrapped: &str, aad: [String; 2]) -> Result<Unwrapped, Refusal> {
        let aad = &aad;
        let response = self
            .call(|endpoint| async move {
                let request =
                    UnwrapRequest { key: crn.to_owned(), ciphertext: wrapped.to_owned(), aad: aad.to_vec() };
                endpoint.kms().unwrap(endpoint.request(request)).await
            })
            .await?;
        let key = take_key(response.plaintext)?;
        let rewrapped = Some(response.rewrapped_ciphertext).filter(|ciphertext| !ciphertext.is_empty());
        Ok(Unwrapped { key, rewrapped })
    }

    /// One call under the deadline, whichever region answers it.
    async fn call<T, F>(&self, attempt: impl Fn(Arc<Endpoint>) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match tokio::time::timeout(self.timeout, self.endpoints.ask(attempt)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(refusal(&status)),
            Err(_) => Err(Refusal::Unreachable("the HSM did not answer in time".to_owned())),
        }
    }
}

fn refusal(status: &Status) -> Refusal {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let detail = format!("the HSM answered {:?} {reason}: {}", status.code(), status.message());
    match (reason.as_str(), status.code()) {
        (
            "KEY_NOT_FOUND_ERR"
            | "KEY_ACTION_INVALID_STATE_ERR"
            | "KEY_DELETED_ERR"
            | "UNPROCESSABLE_CIPHERTEXT_ERR"
            | "INVALID_FIELD_ERR"
            | "KEY_BLOB_INVALID"
            | "KEY_UNDER_OTHER_MASTER_KEY",
            _,
        )
        | (_, Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument | Code::DataLoss) => {
            Refusal::Key(detail)
        }
        (_, Code::Unauthenticated | Code::PermissionDenied) => {
            tracing::warn!(detail, "the HSM refuses this service: check the API key");
            Refusal::Unauthorized(detail)
        }
        _ => Refusal::Unreachable(detail),
    }
}

fn take_key(plaintext: Vec<u8>) -> Result<BucketKey, Refusal> {
    BucketKey::new(plaintext).map_err(|error| Refusal::Unreachable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn reasons_and_codes_become_refusals() {
        for code in [Code::NotFound, Code::FailedPrecondition, Code::InvalidArgument, Code::DataLoss] {
            let refused = refusal(&Status::new(code, ""));
            assert_eq!(refused.for_object().status, 403);
            assert_eq!(refused.for_new_bucket().message, "The Key CRN could not be found");
        }
        // A key that no master key opens any more is like a disabled one: not worth another try.
        let details = ErrorDetails::with_error_info("KEY_UNDER_OTHER_MASTER_KEY", "hsm.kms", HashMap::new());
        let refused = refusal(&Status::with_error_details(Code::FailedPrecondition, "", details));
        assert_eq!((refused.for_object().status, refused.for_new_bucket().status), (403, 400));
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::ResourceExhausted] {
            let refused = refusal(&Status::new(code, ""));
            assert_eq!((refused.for_object().status, refused.for_new_bucket().status), (503, 503));
            assert!(refused.for_object().header_map().contains_key(http::header::RETRY_AFTER));
        }
        let refused = refusal(&Status::new(Code::Unauthenticated, ""));
        assert_eq!((refused.for_object().status, refused.for_new_bucket().status), (503, 400));
    }
}
