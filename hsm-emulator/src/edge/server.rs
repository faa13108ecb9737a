//! The server process: one port for gRPC, the HTTP interfaces and health, and a Unix socket.

use std::fs::{self, File};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Json;
use axum::routing::get;
use hsm_proto::failover::failover_server::FailoverServer;
use hsm_proto::grep11::crypto_server::CryptoServer;
use hsm_proto::kms::kms_server::KmsServer;
use hsm_proto::tke::support_server::SupportServer;
use hsm_proto::tke::tke_server::TkeServer;
use hsm_proto::tokens::tokens_server::TokensServer;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::access::BearerToken;
use super::grpc::crypto::CryptoService;
use super::grpc::failover::FailoverService;
use super::grpc::kms::KmsService;
use super::grpc::tke::TkeService;
use super::grpc::tokens::TokensService;
use super::pair::{self, Line};
use super::workers::Workers;
use super::{rest, tls};
use crate::durable_file;
use crate::keystore::Location;
use crate::services::administration::Administration;
use crate::services::audit::AuditLog;
use crate::services::clock::SystemClock;
use crate::services::failover::pairing::Pairing;
use crate::services::kms::root_keys::RootKeys;
use crate::services::region::{Layout, Region};
use crate::services::shared_keystore;
use crate::services::tokens::Tokens;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The region's directory.
    pub state: PathBuf,
    /// Loopback only: this port has no TLS.
    pub listen: SocketAddr,
    /// A port with TLS beside it.
    pub tls: Option<tls::Options>,
    /// A Unix socket beside it.
    pub socket: Option<PathBuf>,
    /// Where the keystore is.
    pub keystore: Location,
    /// For a new instance.
    pub layout: Layout,
    /// How it is in a pair.
    pub pair: pair::Options,
}

/// What ended the server.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves until `stop` is done, then answers what is under way, for at most ten seconds. What takes longer has two more to be
/// written, and is not answered.
///
/// # Errors
/// With a sentence that says what to do.
pub async fn serve(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    if !options.listen.ip().is_loopback() {
        return Err(format!(
            "{} is not a loopback address: bearer tokens would cross the network in clear; use --tls-listen for it",
            options.listen
        )
        .into());
    }
    durable_file::create_dir(&options.state)?;
    let _lock = exclusive(&options.state)?;
    let region = Arc::new(Region::open_at(&options.state, &options.keystore, &options.layout)?);
    let keys = Arc::new(RootKeys::open(region.clone(), Arc::new(SystemClock))?);
    let token = BearerToken::open(&options.state.join(API_KEY))?;
    let pairing = Arc::new(Pairing::open(region.clone(), keys.clone(), &options.state)?);
    let (line, pair_listener) = Line::open(pairing, &options.state, &options.pair).await?;
    pair::step_down_if_replaced(&line).await;
    let failover = FailoverService::new(line.clone());
    let kms = KmsServer::new(KmsService::new(region.clone(), keys.clone(), failover.clone()));

    let (health, health_service) = tonic_health::server::health_reporter();
    report_health(&health, region.is_served()).await;
    let tokens =
        TokensServer::new(TokensService::new(region.clone(), Arc::new(Tokens::new(region.clone())?)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let crypto = CryptoServer::new(CryptoService::new(region.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let audit = AuditLog::open(&options.state.join(AUDIT), Arc::new(SystemClock));
    if let Err(error) = &audit {
        tracing::error!(%error, "the audit log is not in order: keys are served, administration is refused");
    }
    let administration = Arc::new(Administration::new(region.clone(), audit));
    let local_tke = TkeService::new(administration.clone());
    let tke = local_tke.with_partner(line.clone());
    let failover = FailoverServer::new(failover);
    health.set_serving::<TkeServer<TkeService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(hsm_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let grpc = Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        // Most clients ask for the older name still.
        .add_service(reflection().build_v1alpha()?)
        .add_service(InterceptedService::new(kms, token.clone()))
        .add_service(InterceptedService::new(tokens, token.clone()))
        .add_service(InterceptedService::new(crypto, token.clone()))
        .add_service(InterceptedService::new(TkeServer::new(tke.clone()), token.clone()))
        .add_service(InterceptedService::new(SupportServer::new(tke.clone()), token.clone()))
        .add_service(InterceptedService::new(failover, token.clone()))
        .prepare();
    let app = grpc
        .into_axum_router()
        .route("/health", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .merge(rest::tke::router(administration, token));

    let listener = TcpListener::bind(options.listen).await.map_err(|e| format!("{}: {e}", options.listen))?;
    let address = listener.local_addr()?;
    let (stopping, stopped) = watch::channel(());
    let workers = Workers::start()?;
    let stopped = || closed(stopped.clone());
    let tcp = workers.serve(listener, builder, &app, stopped);
    let mut tls_address = None;
    let with_tls = match &options.tls {
        Some(tls) => {
            let server = builder().tls_config(tls.config(&options.state)?)?;
            let listener = TcpListener::bind(tls.listen).await.map_err(|e| format!("{}: {e}", tls.listen))?;
            tls_address = Some(listener.local_addr()?);
            Some(workers.serve(listener, move || server.clone(), &app, stopped))
        }
        None => None,
    };
    let with_tls = async {
        match with_tls {
            Some(serving) => serving.await,
            None => Ok(()),
        }
    };
    let socket = options.socket.as_deref().map(bind_socket).transpose()?;
    let unix = async {
        match socket {
            Some(socket) => workers.serve(socket, builder, &app, stopped).await,
            None => Ok(()),
        }
    };
    let endpoint = options.state.join(ENDPOINT);
    durable_file::replace(&endpoint, format!("http://{address}\n").as_bytes())?;
    if let Some(address) = tls_address {
        durable_file::replace(&options.state.join(tls::ENDPOINT), format!("https://{address}\n").as_bytes())?;
        tracing::info!(%address, "serving by TLS");
    }
    tracing::info!(
        %address,
        instance = region.identity().instance,
        region = region.identity().region,
        units = region.units().len(),
        "serving"
    );
    let shutdown = async {
        stop.await;
        tracing::info!("stopping");
        drop(stopping);
        tokio::time::sleep(GRACE).await;
    };
    if let Some(watch) = region.keystore().watch()? {
        let (region, keys) = (region.clone(), keys.clone());
        thread::Builder::new()
            .name("keystore-watch".into())
            .spawn(move || shared_keystore::follow(region, keys, watch))?;
    }
    let paired = line.keep(pair_listener, local_tke);
    let served = async { tokio::try_join!(tcp, with_tls, unix).map(|_| ()) };
    let outcome = tokio::select! {
        outcome = served => outcome,
        outcome = watch_units(region, keys, health) => outcome,
        () = paired => Ok(()),
        () = shutdown => Ok(()),
    };
    fs::remove_file(endpoint).ok();
    fs::remove_file(options.state.join(tls::ENDPOINT)).ok();
    options.socket.map(fs::remove_file);
    tokio::task::spawn_blocking(move || workers.stop(LAST_CALLS)).await?;
    outcome
}

fn builder() -> Server {
    Server::builder()
        .accept_http1(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
}

/// What works with keys serves as long as a unit holds the instance's master key. And what had to wait for the other
/// region is done, once that is there.
async fn watch_units(region: Arc<Region>, keys: Arc<RootKeys>, health: HealthReporter) -> Result<(), Error> {
    loop {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        let (region, keys) = (region.clone(), keys.clone());
        let served = tokio::task::spawn_blocking(move || {
            region.try_to_settle();
            if let Err(error) = keys.show_held_back() {
                tracing::error!(%error, "new key material cannot be used yet, and will be tried again");
            }
            region.is_served()
        })
        .await?;
        report_health(&health, served).await;
    }
}

async fn report_health(health: &HealthReporter, served: bool) {
    let status = if served { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in [
        KmsServer::<KmsService>::NAME,
        TokensServer::<TokensService>::NAME,
        CryptoServer::<CryptoService>::NAME,
    ] {
        health.set_service_status(name, status).await;
    }
}

async fn closed(mut stopped: watch::Receiver<()>) {
    stopped.changed().await.ok();
}

/// One server for a state directory.
fn exclusive(state: &Path) -> Result<File, Error> {
    let path = state.join("serve.lock");
    let file = File::create(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("{}: another server uses this directory; stop it first", state.display()))?;
    Ok(file)
}

/// Binds, after removing what a killed server left.
fn bind_socket(path: &Path) -> Result<UnixListener, Error> {
    fs::remove_file(path).ok();
    UnixListener::bind(path).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// File with the API key, in the state directory.
pub const API_KEY: &str = "api-key";
/// File with the address that the server bound, in the state directory; there while it serves.
pub const ENDPOINT: &str = "endpoint";
/// Directory of the audit log, in the state directory.
pub const AUDIT: &str = "audit";
/// The most that one PKCS #11 call carries.
const MAX_MESSAGE_BYTES: usize = 68 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
/// Between two looks at whether a unit serves.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);
/// For calls that are still being carried out then: what they write is whole.
const LAST_CALLS: Duration = Duration::from_secs(2);
