//! The line between the two regions of a pair: gRPC with mutual TLS, on a port of its own.

pub mod certificates;
mod follower;
mod messages;
mod primary;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hsm_proto::failover;
use hsm_proto::failover::pair_server::PairServer;
use hsm_proto::tke;
use hsm_proto::tke::support_server::SupportServer;
use hsm_proto::tke::tke_client::TkeClient;
use hsm_proto::tke::tke_server::TkeServer;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};

pub use follower::{describe, step_down_if_replaced};
pub use messages::{differences, epochs, history};

use super::grpc::tke::TkeService;
use certificates::Credentials;
use primary::PairService;

use crate::services::failover::checks;
use crate::services::failover::pairing::{Error, Pairing};

/// How a region is to be in a pair.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the other region reaches this one; there is no pair without.
    pub listen: Option<SocketAddr>,
    /// Where the other region is told to reach this one, if not at `listen`: `host:port`.
    pub address: Option<String>,
    /// After so long a silence one region counts as lost for the other.
    pub silence: Duration,
    /// After so long a silence of the primary region, this one takes the primary role by itself.
    pub promote_after: Option<Duration>,
}

/// A region's end of the line.
pub struct Line {
    /// The steps of the pair.
    pub pairing: Arc<Pairing>,
    /// What this region proves itself with.
    pub credentials: Credentials,
    /// Of this region's pairing listener: `https://host:port`; empty without one.
    pub address: String,
    /// The region's directory.
    pub dir: PathBuf,
    silence: Duration,
    promote_after: Option<Duration>,
    commits: watch::Sender<()>,
    steps: watch::Sender<()>,
    problem: Mutex<String>,
    /// The partner's crypto units, as it told them last.
    units: Mutex<Vec<tke::Unit>>,
    /// To the partner at this address with this certificate.
    channel: Mutex<Option<(String, String, Channel)>>,
}

impl Line {
    /// Of this pairing; binds the listener.
    ///
    /// # Errors
    /// If the address cannot be bound, or the credentials not be made.
    pub async fn open(
        pairing: Arc<Pairing>,
        dir: &Path,
        options: &Options,
    ) -> Result<(Arc<Self>, Option<TcpListener>), super::server::Error> {
        let credentials = Credentials::open(&dir.join(certificates::PAIR_DIR))?;
        let listener = match options.listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?),
            None => None,
        };
        let address = match (&listener, &options.address) {
            (Some(_), Some(address)) => format!("https://{address}"),
            (Some(listener), None) => format!("https://{}", listener.local_addr()?),
            (None, _) => String::new(),
        };
        let line = Arc::new(Self {
            pairing,
            credentials,
            address,
            dir: dir.to_owned(),
            silence: options.silence,
            promote_after: options.promote_after,
            commits: watch::Sender::new(()),
            steps: watch::Sender::new(()),
            problem: Mutex::default(),
            units: Mutex::default(),
            channel: Mutex::default(),
        });
        let commits = line.commits.clone();
        line.pairing.keystore().gate().on_commit(move || commits.send_replace(()));
        let steps = line.steps.clone();
        line.pairing.on_change(move || steps.send_replace(()));
        Ok((line, listener))
    }

    /// Keeps the pair together, for as long as the server runs.
    pub async fn keep(self: Arc<Self>, listener: Option<TcpListener>, tke: TkeService) {
        match listener {
            Some(listener) => {
                tokio::join!(follower::keep_pair(self.clone()), self.listen(listener, tke));
            }
            None => follower::keep_pair(self).await,
        }
    }

    /// Lets the partner in, and nobody else.
    async fn listen(self: Arc<Self>, listener: TcpListener, tke: TkeService) {
        let mut steps = self.steps.subscribe();
        let listener = Arc::new(listener);
        loop {
            steps.borrow_and_update();
            let Some(certificate) = self.partner_certificate() else {
                steps.changed().await.ok();
                continue;
            };
            let mut changes = self.steps.subscribe();
            let ended = async {
                while self.partner_certificate().as_ref() == Some(&certificate) {
                    changes.changed().await.ok();
                }
            };
            let served = self.serve(listener.clone(), &certificate, tke.clone());
            let outcome = tokio::select! { outcome = served => outcome, () = ended => Ok(()) };
            if let Err(error) = outcome {
                tracing::error!(%error, "the pairing listener failed");
                tokio::time::sleep(self.silence).await;
            }
        }
    }

    async fn serve(
        self: &Arc<Self>,
        listener: Arc<TcpListener>,
        partner: &str,
        tke: TkeService,
    ) -> Result<(), tonic::transport::Error> {
        let connections = connections(listener);
        let still = StillPartner { pairing: self.pairing.clone(), certificate: partner.to_owned() };
        let pair = PairServer::new(PairService::new(self.clone(), partner.to_owned()))
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Server::builder()
            .tls_config(self.credentials.server(partner))?
            .http2_keepalive_interval(Some(self.silence))
            .http2_keepalive_timeout(Some(self.silence))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .add_service(InterceptedService::new(pair, still.clone()))
            .add_service(InterceptedService::new(TkeServer::new(tke.clone()), still.clone()))
            .add_service(InterceptedService::new(SupportServer::new(tke), still))
            .serve_with_incoming(connections)
            .await
    }

    fn partner_certificate(&self) -> Option<String> {
        self.pairing.pair().map(|pair| pair.partner.certificate.clone())
    }

    /// A connection to the partner, kept as long as it is good.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn channel(&self) -> Result<Channel, String> {
        let pair = self.pairing.pair().ok_or_else(|| Error::NotPaired.to_string())?;
        let partner = &pair.partner;
        if partner.address.is_empty() {
            return Err("the other region has not joined yet".to_owned());
        }
        if let Some((address, certificate, channel)) = &*self.channel.lock()
            && (address, certificate) == (&partner.address, &partner.certificate)
        {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(partner.address.clone())
            .and_then(|endpoint| endpoint.tls_config(self.credentials.client(&partner.certificate)))
            .map_err(|error| error.to_string())?
            .connect_timeout(self.silence)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.silence)
            .keep_alive_timeout(self.silence)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .connect_lazy();
        *self.channel.lock() = Some((partner.address.clone(), partner.certificate.clone(), channel.clone()));
        Ok(channel)
    }

    /// The next call makes a connection of its own.
    fn forget_channel(&self) {
        *self.channel.lock() = None;
    }

    /// The crypto units of the other region; as they were last, if it does not answer. None without a partner.
    pub async fn partner_units(&self) -> Vec<tke::Unit> {
        let Ok(channel) = self.channel().await else { return Vec::new() };
        let mut client = TkeClient::new(channel);
        match timeout(self.silence, client.list_units(tke::ListUnitsRequest {})).await {
            Ok(Ok(answer)) => {
                let units = answer.into_inner().units;
                self.units.lock().clone_from(&units);
                units
            }
            _ => {
                let mut units = self.units.lock().clone();
                units.iter_mut().for_each(|unit| UNREACHABLE.clone_into(&mut unit.state));
                units
            }
        }
    }

    /// Why the two are not together; empty if they are.
    pub fn problem(&self) -> String {
        self.problem.lock().clone()
    }

    fn set_problem(&self, problem: &str) {
        problem.clone_into(&mut self.problem.lock());
    }

    fn clear_problem(&self) {
        self.problem.lock().clear();
    }
}

/// Lets a call pass while its connection is the partner's: connections outlive the pair that they were made in.
#[derive(Clone)]
struct StillPartner {
    pairing: Arc<Pairing>,
    certificate: String,
}

impl Interceptor for StillPartner {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match self.pairing.pair() {
            Some(pair) if pair.partner.certificate == self.certificate => Ok(request),
            _ => Err(Status::unauthenticated("the pair was dissolved")),
        }
    }
}

/// Connections as they come, without Nagle's delay.
fn connections(
    listener: Arc<TcpListener>,
) -> impl tokio_stream::Stream<Item = std::io::Result<tokio::net::TcpStream>> {
    tokio_stream::iter(std::iter::repeat(())).then(move |()| {
        let listener = listener.clone();
        async move {
            let (connection, _) = listener.accept().await?;
            connection.set_nodelay(true)?;
            Ok(connection)
        }
    })
}

/// How this region is.
///
/// # Errors
/// The keystore's.
pub fn description(pairing: &Pairing) -> Result<failover::Description, Error> {
    let pair = pairing.pair().ok_or(Error::NotPaired)?;
    Ok(failover::Description {
        region: pair.region.clone(),
        role: pair.role.label().to_owned(),
        bond: pair.bond.label().to_owned(),
        epochs: epochs(&pair.history),
        head: pairing.keystore().head()?,
        units: checks::units(pairing.region()).into_iter().map(messages::unit).collect(),
    })
}

/// Runs a step away from the threads that answer the network.
pub async fn run<T: Send + 'static>(
    pairing: &Arc<Pairing>,
    work: impl FnOnce(&Arc<Pairing>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let pairing = pairing.clone();
    let interrupted = |_| Error::Refused("the step was interrupted".to_owned());
    tokio::task::spawn_blocking(move || work(&pairing)).await.map_err(interrupted)?
}

/// An error for the other end of a line.
pub fn status(error: &Error) -> Status {
    let code = match error {
        Error::NotPaired => Code::NotFound,
        Error::AlreadyPaired(_)
        | Error::Role { .. }
        | Error::Refused(_)
        | Error::Detached
        | Error::Diverged(_) => Code::FailedPrecondition,
        Error::Region(_) | Error::Keystore(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// A piece has about a mebibyte, but for one body.
const MAX_MESSAGE_BYTES: usize = 80 << 20;
/// The state of a crypto unit in a region that does not answer.
const UNREACHABLE: &str = "unreachable";
const MAX_DIFFERENCES: usize = 1000;
const WINDOW: u32 = 4 << 20;
