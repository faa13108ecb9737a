//! `hsm.kms.v1.Kms`: root keys over gRPC.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hsm_proto::kms;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use zeroize::Zeroizing;

use super::failover::FailoverService;
use crate::keystore;
use crate::services::kms::lifecycle::State;
use crate::services::kms::root_keys::{Error, RootKey, RootKeys};
use crate::services::region::Region;
use crate::units::vendor;

/// The service.
pub struct KmsService {
    region: Arc<Region>,
    keys: Arc<RootKeys>,
    failover: FailoverService,
    /// Changes wait for the disk and for the other region, each in a thread; what they wait for needs threads too.
    changes: Semaphore,
    /// Uses that wait for changes, of a key or of the master key.
    uses: Semaphore,
}

impl KmsService {
    /// On these root keys, and this pair.
    pub fn new(region: Arc<Region>, keys: Arc<RootKeys>, failover: FailoverService) -> Self {
        Self {
            region,
            keys,
            failover,
            changes: Semaphore::new(MAX_CHANGES),
            uses: Semaphore::new(MAX_CHANGES),
        }
    }

    /// What keeps the other region from taking over, if anything does.
    async fn failover_problem(&self) -> Result<(), String> {
        let status = self.failover.status().await.map_err(|status| status.message().to_owned())?;
        match status.checks.iter().find(|check| !check.passed) {
            Some(check) => Err(format!("{}: {}", check.name, check.detail)),
            None => Ok(()),
        }
    }

    fn message(&self, key: &RootKey) -> kms::RootKey {
        kms::RootKey {
            id: key.id.clone(),
            crn: self.region.identity().key_crn(&key.id),
            name: key.metadata.name.clone(),
            state: state(key.metadata.state).into(),
            imported: key.metadata.imported,
            bits: key.metadata.bits,
            versions: key
                .versions
                .iter()
                .map(|v| kms::KeyVersion { id: v.id.clone(), created: v.created.clone() })
                .collect(),
            created: key.metadata.created.clone(),
            updated: key.metadata.updated.clone(),
            rotated: key.metadata.rotated.clone().unwrap_or_default(),
            deleted: key.metadata.deleted.clone().unwrap_or_default(),
        }
    }

    /// Runs a call that waits, away from the threads that answer the network.
    async fn wait_for<T: Send + 'static>(
        &self,
        call: impl FnOnce(&RootKeys) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let keys = self.keys.clone();
        tokio::task::spawn_blocking(move || call(&keys))
            .await
            .map_err(|_| Status::internal("the call was interrupted"))?
            .map_err(status)
    }

    /// A use of a key that has to wait.
    async fn use_patiently<T: Send + 'static>(
        &self,
        call: impl FnOnce(&RootKeys) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let _turn = self.uses.acquire().await.map_err(|_| Status::internal("the call was interrupted"))?;
        self.wait_for(call).await
    }

    async fn change(
        &self,
        change: impl FnOnce(&RootKeys) -> Result<Arc<RootKey>, Error> + Send + 'static,
    ) -> Result<Response<kms::RootKey>, Status> {
        let turn = self.changes.acquire().await.map_err(|_| Status::internal("the call was interrupted"))?;
        let key = self.wait_for(change).await?;
        drop(turn);
        tracing::info!(key = key.id, state = ?key.metadata.state, versions = key.versions.len(), "root key changed");
        Ok(Response::new(self.message(&key)))
    }
}

#[tonic::async_trait]
impl kms::kms_server::Kms for KmsService {
    async fn get_instance(
        &self,
        request: Request<kms::GetInstanceRequest>,
    ) -> Result<Response<kms::Instance>, Status> {
        let failover = match request.into_inner().with_failover {
            true => self.failover_problem().await,
            false => Err(String::new()),
        };
        let identity = self.region.identity();
        Ok(Response::new(kms::Instance {
            id: identity.instance.clone(),
            account: identity.account.clone(),
            region: identity.region.clone(),
            crn: identity.crn(),
            failover_ready: failover.is_ok(),
            failover_problem: failover.err().unwrap_or_default(),
        }))
    }

    async fn create_root_key(
        &self,
        request: Request<kms::CreateRootKeyRequest>,
    ) -> Result<Response<kms::RootKey>, Status> {
        let request = request.into_inner();
        let material = Zeroizing::new(request.material);
        self.change(move |keys| keys.create(&request.name, optional(&material))).await
    }

    async fn get_root_key(
        &self,
        request: Request<kms::GetRootKeyRequest>,
    ) -> Result<Response<kms::RootKey>, Status> {
        let id = request.into_inner().key;
        let key = match self.keys.try_get(&id) {
            Some(outcome) => outcome.map_err(status)?,
            None => self.use_patiently(move |keys| keys.get(&id)).await?,
        };
        Ok(Response::new(self.message(&key)))
    }

    async fn list_root_keys(
        &self,
        request: Request<kms::ListRootKeysRequest>,
    ) -> Result<Response<kms::ListRootKeysResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => 200,
            limit @ 1..=5000 => limit as usize,
            _ => return Err(status(Error::Field { field: "limit", problem: "must be 1 to 5000" })),
        };
        let list = self.keys.list(request.include_destroyed);
        Ok(Response::new(kms::ListRootKeysResponse {
            total: list.len() as u32,
            keys: list
                .iter()
                .skip(request.offset as usize)
                .take(limit)
                .map(|key| self.message(key))
                .collect(),
        }))
    }

    async fn wrap(&self, request: Request<kms::WrapRequest>) -> Result<Response<kms::WrapResponse>, Status> {
        let request = request.into_inner();
        let plaintext = Zeroizing::new(request.plaintext);
        let wrapped = match self.keys.try_wrap(&request.key, optional(&plaintext), &request.aad) {
            Some(outcome) => outcome.map_err(status)?,
            None => {
                self.use_patiently(move |keys| keys.wrap(&request.key, optional(&plaintext), &request.aad))
                    .await?
            }
        };
        Ok(Response::new(kms::WrapResponse {
            ciphertext: wrapped.ciphertext,
            plaintext: wrapped.generated.map(|key| key.to_vec()).unwrap_or_default(),
            key_version: wrapped.key_version,
        }))
    }

    async fn unwrap(
        &self,
        request: Request<kms::UnwrapRequest>,
    ) -> Result<Response<kms::UnwrapResponse>, Status> {
        let request = request.into_inner();
        let unwrapped = match self.keys.try_unwrap(&request.key, &request.ciphertext, &request.aad) {
            Some(outcome) => outcome.map_err(status)?,
            None => {
                self.use_patiently(move |keys| keys.unwrap(&request.key, &request.ciphertext, &request.aad))
                    .await?
            }
        };
        let (rewrapped_ciphertext, rewrapped_key_version) =
            unwrapped.rewrapped.map(|r| (r.ciphertext, r.key_version)).unwrap_or_default();
        Ok(Response::new(kms::UnwrapResponse {
            plaintext: unwrapped.plaintext.to_vec(),
            key_version: unwrapped.key_version,
            rewrapped_ciphertext,
            rewrapped_key_version,
        }))
    }

    async fn rotate(&self, request: Request<kms::RotateRequest>) -> Result<Response<kms::RootKey>, Status> {
        let request = request.into_inner();
        let material = Zeroizing::new(request.material);
        self.change(move |keys| keys.rotate(&request.key, optional(&material))).await
    }

    async fn disable(&self, request: Request<kms::DisableRequest>) -> Result<Response<kms::RootKey>, Status> {
        let key = request.into_inner().key;
        self.change(move |keys| keys.disable(&key)).await
    }

    async fn enable(&self, request: Request<kms::EnableRequest>) -> Result<Response<kms::RootKey>, Status> {
        let key = request.into_inner().key;
        self.change(move |keys| keys.enable(&key)).await
    }

    async fn delete(&self, request: Request<kms::DeleteRequest>) -> Result<Response<kms::RootKey>, Status> {
        let key = request.into_inner().key;
        self.change(move |keys| keys.delete(&key)).await
    }
}

fn optional(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

fn state(state: State) -> kms::KeyState {
    match state {
        State::PreActivation => kms::KeyState::PreActivation,
        State::Active => kms::KeyState::Active,
        State::Suspended => kms::KeyState::Suspended,
        State::Deactivated => kms::KeyState::Deactivated,
        State::Destroyed => kms::KeyState::Destroyed,
    }
}

/// The one table from errors of the service to gRPC: code, reason, metadata. Documented in `kms.proto`.
fn status(error: Error) -> Status {
    let (code, reason, metadata) = match &error {
        Error::NotFound(_) => (Code::NotFound, "KEY_NOT_FOUND_ERR", None),
        Error::State { state: State::Destroyed, .. } => {
            (Code::FailedPrecondition, "KEY_DELETED_ERR", Some(("state", format!("{:?}", State::Destroyed))))
        }
        Error::State { state, .. } => {
            (Code::FailedPrecondition, "KEY_ACTION_INVALID_STATE_ERR", Some(("state", format!("{state:?}"))))
        }
        Error::Field { field, .. } => {
            (Code::InvalidArgument, "INVALID_FIELD_ERR", Some(("field", (*field).to_owned())))
        }
        Error::MaterialRequired(_) => (Code::InvalidArgument, "KEY_PAYLOAD_REQ_ERR", None),
        Error::Ciphertext(_) => (Code::InvalidArgument, "UNPROCESSABLE_CIPHERTEXT_ERR", None),
        Error::Busy(_) => (Code::Aborted, "CONFLICT_ERR", None),
        Error::Damaged(_) => (Code::DataLoss, "KEY_BLOB_INVALID", None),
        Error::Unit(unit) => match unit.code {
            // Units serve, with another master key than this key's: trying again does not help, unless they are
            // just going over to it.
            vendor::CKR_IBM_WKID_MISMATCH if !unit.retry => {
                (Code::FailedPrecondition, "KEY_UNDER_OTHER_MASTER_KEY", None)
            }
            cryptoki_sys::CKR_DEVICE_REMOVED
            | vendor::CKR_IBM_WK_NOT_INITIALIZED
            | vendor::CKR_IBM_WKID_MISMATCH => (Code::Unavailable, "NO_CRYPTO_UNIT", None),
            vendor::CKR_IBM_BLOBKEY_CONFLICT | cryptoki_sys::CKR_KEY_TYPE_INCONSISTENT => {
                (Code::DataLoss, "KEY_BLOB_INVALID", None)
            }
            _ => (Code::Internal, "CRYPTO_UNIT_ERR", None),
        },
        Error::Keystore(keystore::Error::Conflict { .. }) => (Code::Aborted, "CONFLICT_ERR", None),
        Error::Keystore(keystore::Error::MasterKeyRotation) => {
            (Code::Unavailable, "MASTER_KEY_ROTATION", None)
        }
        Error::Keystore(keystore::Error::NotPrimary) => (Code::Unavailable, "NOT_PRIMARY", None),
        Error::Keystore(keystore::Error::PartnerLost | keystore::Error::Unacknowledged) => {
            (Code::Unavailable, "PARTNER_LOST", None)
        }
        Error::Keystore(_) => (Code::Unavailable, "KEYSTORE_ERR", None),
    };
    if matches!(code, Code::DataLoss | Code::Internal | Code::Unavailable) {
        tracing::error!(error = %error, "a root key call failed");
    }
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut details = ErrorDetails::with_error_info(reason, "hsm.kms", metadata);
    if matches!(error, Error::Keystore(keystore::Error::MasterKeyRotation)) {
        details.set_retry_info(Some(ROTATION_RETRY));
    }
    Status::with_error_details(code, error.to_string(), details)
}

/// At the same time; of the 512 threads that a worker has for what waits.
const MAX_CHANGES: usize = 128;
/// What a caller is told to wait before it tries to create a key again: 3,000 keys take about a second.
const ROTATION_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Error as UnitError;

    #[test]
    fn a_key_under_a_master_key_that_is_gone_is_not_tried_again() {
        let code_and_reason = |error: UnitError| {
            let status = status(error.into());
            (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
        };
        let mismatch = || UnitError::new(vendor::CKR_IBM_WKID_MISMATCH, "another master key");
        let permanent = (Code::FailedPrecondition, "KEY_UNDER_OTHER_MASTER_KEY".to_owned());
        let passing = (Code::Unavailable, "NO_CRYPTO_UNIT".to_owned());
        assert_eq!(code_and_reason(mismatch()), permanent);
        assert_eq!(code_and_reason(UnitError { retry: true, ..mismatch() }), passing);
        assert_eq!(code_and_reason(UnitError::new(vendor::CKR_IBM_WK_NOT_INITIALIZED, "no unit")), passing);
    }

    #[test]
    fn who_creates_a_key_during_a_rotation_hears_when_to_try_again() {
        let details = status(keystore::Error::MasterKeyRotation.into()).get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("MASTER_KEY_ROTATION"));
        assert_eq!(details.retry_info().and_then(|info| info.retry_delay), Some(ROTATION_RETRY));
        assert!(status(Error::Busy("a key".into())).get_error_details().retry_info().is_none());
    }
}
