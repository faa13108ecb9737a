//! The server process: one port for gRPC and health over HTTP, and a Unix socket.

use std::fs::{self, File};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::routing::get;
use hsm_proto::kms::kms_server::KmsServer;
use hsm_proto::tokens::tokens_server::TokensServer;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use super::access::BearerToken;
use super::grpc::kms::KmsService;
use super::grpc::tokens::TokensService;
use crate::durable_file;
use crate::services::clock::SystemClock;
use crate::services::kms::root_keys::RootKeys;
use crate::services::region::{Layout, Region};
use crate::services::tokens::Tokens;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The region's directory.
    pub state: PathBuf,
    /// Loopback only: there is no TLS yet.
    pub listen: SocketAddr,
    /// A Unix socket beside it.
    pub socket: Option<PathBuf>,
    /// For a new instance.
    pub layout: Layout,
}

/// What ended the server.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves until `stop` is done, then answers what is under way, for at most ten seconds.
///
/// # Errors
/// With a sentence that says what to do.
pub async fn serve(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    if !options.listen.ip().is_loopback() {
        return Err(format!(
            "{} is not a loopback address: bearer tokens would cross the network in clear; listen on 127.0.0.1",
            options.listen
        )
        .into());
    }
    durable_file::create_dir(&options.state)?;
    let _lock = exclusive(&options.state)?;
    let region = Arc::new(Region::open(&options.state, &options.layout)?);
    let keys = Arc::new(RootKeys::open(region.clone(), Arc::new(SystemClock))?);
    let token = BearerToken::open(&options.state.join(API_KEY))?;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<KmsServer<KmsService>>().await;
    health.set_serving::<TokensServer<TokensService>>().await;
    let kms = KmsServer::new(KmsService::new(region.clone(), keys));
    let tokens =
        TokensServer::new(TokensService::new(region.clone(), Arc::new(Tokens::new(region.clone())?)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
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
        .add_service(InterceptedService::new(tokens, token))
        .prepare();
    let app =
        grpc.into_axum_router().route("/health", get(async || Json(serde_json::json!({ "status": "ok" }))));

    let listener = TcpListener::bind(options.listen).await.map_err(|e| format!("{}: {e}", options.listen))?;
    let address = listener.local_addr()?;
    let connections = TcpListenerStream::new(listener).map(|connection| {
        let connection = connection?;
        connection.set_nodelay(true)?;
        Ok::<_, std::io::Error>(connection)
    });
    let (stopping, stopped) = watch::channel(());
    let tcp = builder()
        .add_routes(Routes::from(app.clone()))
        .serve_with_incoming_shutdown(connections, closed(stopped.clone()));
    let socket = options.socket.as_deref().map(bind_socket).transpose()?;
    let unix = async {
        match socket {
            Some(socket) => {
                builder()
                    .add_routes(Routes::from(app))
                    .serve_with_incoming_shutdown(UnixListenerStream::new(socket), closed(stopped.clone()))
                    .await
            }
            None => Ok(()),
        }
    };
    let endpoint = options.state.join(ENDPOINT);
    durable_file::replace(&endpoint, format!("http://{address}\n").as_bytes())?;
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
    let served = async { tokio::try_join!(tcp, unix).map(|_| ()) };
    let outcome = tokio::select! {
        outcome = served => outcome.map_err(Error::from),
        () = shutdown => Ok(()),
    };
    fs::remove_file(endpoint).ok();
    options.socket.map(fs::remove_file);
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
/// The most that one PKCS #11 call carries.
const MAX_MESSAGE_BYTES: usize = 68 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
const GRACE: Duration = Duration::from_secs(10);
