//! How commands reach a server.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hsm_emulator::edge::server::{API_KEY, ENDPOINT};
use hsm_proto::kms::kms_client::KmsClient;
use hsm_proto::tke::support_client::SupportClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use super::Error;

/// How to reach a server.
#[derive(Args)]
pub struct Remote {
    /// Directory of the instance: says where its server is and what its API key is.
    #[arg(long, required_unless_present_all = ["endpoint", "api_key_file"])]
    pub state: Option<PathBuf>,
    /// Address of the server, such as http://127.0.0.1:50051.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// File with the API key.
    #[arg(long)]
    pub api_key_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl Remote {
    /// A client for root keys.
    pub async fn connect(&self) -> Result<KmsClient<InterceptedService<Channel, Authorization>>, Error> {
        let (channel, authorization) = self.channel().await?;
        Ok(KmsClient::with_interceptor(channel, authorization))
    }

    /// A client for what a support case does.
    pub async fn support(&self) -> Result<SupportClient<InterceptedService<Channel, Authorization>>, Error> {
        let (channel, authorization) = self.channel().await?;
        Ok(SupportClient::with_interceptor(channel, authorization))
    }

    /// A connection, and what its calls have to carry.
    pub async fn channel(&self) -> Result<(Channel, Authorization), Error> {
        let in_state = |name: &str| self.state.as_ref().map(|state| state.join(name));
        let read = |path: Option<PathBuf>, what: &str| -> Result<Zeroizing<String>, Error> {
            let path = path.ok_or_else(|| format!("where is the {what}? Give --state or the flag for it"))?;
            let text = fs::read_to_string(&path)
                .map_err(|e| format!("{}: {e}; is the server running?", path.display()))?;
            Ok(Zeroizing::new(text.trim().to_owned()))
        };
        let endpoint = match &self.endpoint {
            Some(endpoint) => Zeroizing::new(endpoint.clone()),
            None => read(in_state(ENDPOINT), "server's endpoint")?,
        };
        let api_key = read(self.api_key_file.clone().or_else(|| in_state(API_KEY)), "API key file")?;
        let channel = Endpoint::from_shared(endpoint.to_string())?
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30))
            // A server that has stopped keeps the connection.
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .connect()
            .await
            .map_err(|_| format!("{}: no server answers; is it running?", endpoint.as_str()))?;
        let mut header: AsciiMetadataValue = format!("Bearer {}", api_key.as_str()).parse()?;
        header.set_sensitive(true);
        Ok((channel, Authorization(header)))
    }
}

/// Adds the API key to every call.
#[derive(Clone)]
pub struct Authorization(AsciiMetadataValue);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}
