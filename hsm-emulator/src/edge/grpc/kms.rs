//! `hsm.kms.v1.Kms`: root keys over gRPC.

use std::collections::HashMap;
use std::sync::Arc;

use hsm_proto::kms;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use zeroize::Zeroizing;

use crate::keystore;
use crate::services::kms::lifecycle::State;
use crate::services::kms::root_keys::{Error, RootKey, RootKeys};
use crate::services::region::Region;
use crate::units::vendor;

/// The service.
pub struct KmsService {
    region: Arc<Region>,
    keys: Arc<RootKeys>,
}

impl KmsService {
    /// On these root keys.
    pub fn new(region: Arc<Region>, keys: Arc<RootKeys>) -> Self {
        Self { region, keys }
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

    /// Runs a call that waits for the disk, away from the threads that answer the network.
    async fn change(
        &self,
        change: impl FnOnce(&RootKeys) -> Result<Arc<RootKey>, Error> + Send + 'static,
    ) -> Result<Response<kms::RootKey>, Status> {
        let keys = self.keys.clone();
        let key = tokio::task::spawn_blocking(move || change(&keys))
            .await
            .map_err(|_| Status::internal("the call was interrupted"))?
            .map_err(status)?;
        tracing::info!(key = key.id, state = ?key.metadata.state, versions = key.versions.len(), "root key changed");
        Ok(Response::new(self.message(&key)))
    }
}

#[tonic::async_trait]
impl kms::kms_server::Kms for KmsService {
    async fn get_instance(
        &self,
        _: Request<kms::GetInstanceRequest>,
    ) -> Result<Response<kms::Instance>, Status> {
        let identity = self.region.identity();
        Ok(Response::new(kms::Instance {
            id: identity.instance.clone(),
            account: identity.account.clone(),
            region: identity.region.clone(),
            crn: identity.crn(),
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
        let key = self.keys.get(&request.into_inner().key).map_err(status)?;
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
        let wrapped = self.keys.wrap(&request.key, optional(&plaintext), &request.aad).map_err(status)?;
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
        let unwrapped = self.keys.unwrap(&request.key, &request.ciphertext, &request.aad).map_err(status)?;
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
            vendor::CKR_IBM_WK_NOT_INITIALIZED | vendor::CKR_IBM_WKID_MISMATCH => {
                (Code::Unavailable, "NO_CRYPTO_UNIT", None)
            }
            vendor::CKR_IBM_BLOBKEY_CONFLICT | cryptoki_sys::CKR_KEY_TYPE_INCONSISTENT => {
                (Code::DataLoss, "KEY_BLOB_INVALID", None)
            }
            _ => (Code::Internal, "CRYPTO_UNIT_ERR", None),
        },
        Error::Keystore(keystore::Error::Conflict { .. }) => (Code::Aborted, "CONFLICT_ERR", None),
        Error::Keystore(_) => (Code::Unavailable, "KEYSTORE_ERR", None),
    };
    if matches!(code, Code::DataLoss | Code::Internal | Code::Unavailable) {
        tracing::error!(error = %error, "a root key call failed");
    }
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Status::with_error_details(
        code,
        error.to_string(),
        ErrorDetails::with_error_info(reason, "hsm.kms", metadata),
    )
}
