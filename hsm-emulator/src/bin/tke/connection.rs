//! The way to the crypto units: `hsm.tke.v1` over gRPC.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_emulator::edge::server::{API_KEY, ENDPOINT};
use hsm_emulator::secret_input;
use hsm_proto::tke::support_client::SupportClient;
use hsm_proto::tke::tke_client::TkeClient;
use hsm_proto::tke::{
    AddUnitRequest, CancelReencryptionRequest, GetReencryptionRequest, ListUnitsRequest, ListUnitsResponse,
    ReencryptProgress, ReencryptRequest, SubmitRequest, Unit, UnitType,
};
use tokio::runtime::{Builder, Runtime};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use super::cli::Remote;
use super::error::{Error, Result};

/// To one instance.
pub struct Connection {
    runtime: Runtime,
    client: TkeClient<InterceptedService<Channel, Authorization>>,
    support: SupportClient<InterceptedService<Channel, Authorization>>,
    endpoint: String,
}

impl Connection {
    /// As flags and environment say.
    ///
    /// # Errors
    /// If nothing answers there, or there is no API key.
    pub fn open(remote: &Remote) -> Result<Self> {
        let endpoint = endpoint(remote)?;
        let mut header = api_key(remote)?;
        header.set_sensitive(true);
        let channel = Endpoint::from_shared(endpoint.clone())
            .map_err(|error| Error::new(format!("{endpoint} is no address: {error}")))?
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60));
        // The server asks every 30 s whether somebody is there, also while the operator looks for a password.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Error::new(error.to_string()))?;
        let channel = runtime
            .block_on(channel.connect())
            .map_err(|_| Error::new(format!("{endpoint}: no server answers; is it running?")))?;
        let authorization = Authorization(header);
        let client = TkeClient::with_interceptor(channel.clone(), authorization.clone());
        let support = SupportClient::with_interceptor(channel, authorization);
        Ok(Self { runtime, client, support, endpoint })
    }

    /// Where it leads.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The instance and its crypto units.
    ///
    /// # Errors
    /// The service's.
    pub fn list_units(&mut self) -> Result<ListUnitsResponse> {
        let answer = self.runtime.block_on(self.client.list_units(ListUnitsRequest {}));
        Ok(answer.map_err(Error::service("Error querying service instances."))?.into_inner())
    }

    /// A new crypto unit in the failover region.
    ///
    /// # Errors
    /// The service's.
    pub fn add_failover_unit(&mut self) -> Result<Unit> {
        let message = AddUnitRequest { r#type: UnitType::Failover.into(), old_firmware: false };
        let answer = self.runtime.block_on(self.support.add_unit(message));
        Ok(answer.map_err(Error::service("Error assigning failover crypto units."))?.into_inner())
    }

    /// A command on its way, and the answer.
    ///
    /// # Errors
    /// The service's. A refusal by the unit is none.
    pub fn submit(&mut self, hsm_id: &str, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let message = SubmitRequest { hsm_id: hsm_id.to_owned(), request };
        Ok(self.runtime.block_on(self.client.submit(message))?.into_inner().response)
    }

    /// Re-encrypts what is stored under the pending master key; `report` is told how far it is. The final state.
    ///
    /// # Errors
    /// The service's.
    pub fn reencrypt(
        &mut self,
        verification_pattern: String,
        abandon_other: bool,
        mut report: impl FnMut(&ReencryptProgress),
    ) -> Result<ReencryptProgress> {
        let message = ReencryptRequest { verification_pattern, abandon_other };
        self.runtime.block_on(async {
            let failed = Error::service(REENCRYPTION_FAILED);
            let mut stream = self.client.reencrypt(message).await.map_err(&failed)?.into_inner();
            let mut last = ReencryptProgress::default();
            while let Some(progress) = stream.message().await.map_err(&failed)? {
                report(&progress);
                last = progress;
            }
            if last.complete {
                Ok(last)
            } else {
                Err(Error::new("The re-encryption of key storage has not come to its end."))
            }
        })
    }

    /// Gives up the re-encryption under this pending master key.
    ///
    /// # Errors
    /// The service's.
    pub fn cancel_reencryption(&mut self, verification_pattern: String) -> Result<()> {
        let message = CancelReencryptionRequest { verification_pattern };
        let answer = self.runtime.block_on(self.client.cancel_reencryption(message));
        answer.map(drop).map_err(Error::service("Error cancelling the re-encryption of key storage."))
    }

    /// How far the re-encryption is.
    ///
    /// # Errors
    /// The service's.
    pub fn reencryption(&mut self) -> Result<ReencryptProgress> {
        let answer = self.runtime.block_on(self.client.get_reencryption(GetReencryptionRequest {}));
        Ok(answer.map_err(Error::service(REENCRYPTION_FAILED))?.into_inner())
    }
}

/// Flags count more than the environment, but TKE_PRIVATE_ADDR counts most.
fn endpoint(remote: &Remote) -> Result<String> {
    if let Some(address) = variable("TKE_PRIVATE_ADDR").or_else(|| remote.endpoint.clone()) {
        return Ok(address);
    }
    if let Some(state) = &remote.state {
        let path = state.join(ENDPOINT);
        let text = fs::read_to_string(&path);
        let text =
            text.map_err(|error| Error::new(format!("{}: {error}; is the server running?", path.display())))?;
        return Ok(text.trim().to_owned());
    }
    variable("HSM_GRPC_ENDPOINT").ok_or_else(|| {
        Error::new("Which service instance? Give --state or --endpoint, or set HSM_GRPC_ENDPOINT.")
    })
}

fn api_key(remote: &Remote) -> Result<AsciiMetadataValue> {
    let in_state = || remote.state.as_ref().map(|state| state.join(API_KEY));
    let in_environment = || variable("HSM_API_KEY_FILE").map(PathBuf::from);
    let key = match remote.api_key_file.clone().or_else(in_state).or_else(in_environment) {
        Some(path) => read(&path)?,
        None => variable("HSM_API_KEY").map(Zeroizing::new).ok_or_else(|| {
            Error::new("Where is the API key? Give --state or --api-key-file, or set HSM_API_KEY_FILE.")
        })?,
    };
    let header = Zeroizing::new(format!("Bearer {}", key.as_str()));
    header.parse().map_err(|_| Error::new("The API key has characters that no API key has."))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let text =
        secret_input::read(path).map_err(|error| Error::new(format!("{error}; is the server running?")))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

const REENCRYPTION_FAILED: &str = "Error re-encrypting key storage.";

/// Adds the API key to every call.
#[derive(Clone)]
struct Authorization(AsciiMetadataValue);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Code;
    use tonic::transport::Server;

    use super::*;

    /// A server closes the connection of a client that does not answer its pings. `tke` did not while it waited for
    /// its operator, and failed after 50 s at a question.
    #[test]
    fn pings_are_answered_while_the_operator_thinks() {
        let server = Runtime::new().unwrap();
        let listener = server.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let serve = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_millis(100)))
            .http2_keepalive_timeout(Some(Duration::from_millis(200)))
            .add_service(health)
            .serve_with_incoming(TcpListenerStream::new(listener));
        server.spawn(serve);
        let place = tempfile::tempdir().unwrap();
        let api_key_file = place.path().join("api-key");
        fs::write(&api_key_file, "key").unwrap();
        let remote = Remote {
            endpoint: Some(format!("http://{address}")),
            api_key_file: Some(api_key_file),
            state: None,
        };

        let mut connection = Connection::open(&remote).unwrap();
        thread::sleep(Duration::from_secs(1));
        // That server has no crypto units, but it answers.
        let status = connection.submit("", Vec::new()).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
    }
}
