//! The `cos-service` program.
#![forbid(unsafe_code)]

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use cos_service::{
    config::{Config, LogFormat, Span},
    error::{Error, Result},
    front::{auth::AuthRules, outer::Outer, s3},
    keys::hsm_client::HsmClient,
    server,
    state_dir::StateDir,
    storage::Storage,
};
use tokio::{net::TcpListener, signal::unix, sync::watch};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};
use zeroize::Zeroizing;

/// S3-compatible storage, encrypted under root keys of the HSM emulator.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the service until SIGTERM or SIGINT.
    Serve(Box<Serve>),
}

#[derive(clap::Args)]
struct Serve {
    /// Directory of all state; created on first start.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Loopback address and port; port 0 picks a free one, written to STATE/endpoint.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Addresses of the HSM's regions, home first.
    #[arg(long, value_name = "http://HOST:PORT", value_delimiter = ',')]
    hsm: Option<Vec<String>>,
    /// File with the API key of all regions, or one for each.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    hsm_api_key_file: Option<Vec<PathBuf>>,
    /// How long an unwrapped bucket key may be used, 1s to 60s [default: 10s].
    #[arg(long, value_name = "DURATION")]
    lease: Option<Span>,
    /// TOML file with these and more settings; flags override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Shows the settings in force as TOML and exits.
    #[arg(long)]
    print_config: bool,
    /// How logs look [default: human on a terminal, json otherwise].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Serve {
    fn config(self) -> Result<Config> {
        let mut config = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        set(&mut config.state, self.state);
        set(&mut config.listen, self.listen);
        set(&mut config.hsm, self.hsm);
        set(&mut config.hsm_api_key_file, self.hsm_api_key_file);
        set(&mut config.lease, self.lease);
        set(&mut config.log_format, self.log_format);
        Ok(config)
    }
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Arguments::parse().command;
    let print = serve.print_config;
    let outcome = serve.config().and_then(|config| if print { print_config(&config) } else { run(config) });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cos-service: {}", error.detail.as_deref().unwrap_or(&error.message));
            ExitCode::FAILURE
        }
    }
}

fn print_config(config: &Config) -> Result<()> {
    print!("{}", toml::to_string(config).map_err(Error::internal)?);
    Ok(())
}

fn run(config: Config) -> Result<()> {
    config.check()?;
    start_logging(config.log_format);
    harden();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(128).build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    // Signals that come while starting are not lost.
    let (mut terminate, mut interrupt) =
        (unix::signal(unix::SignalKind::terminate())?, unix::signal(unix::SignalKind::interrupt())?);
    let state = StateDir::open(&config.state)?;
    let (credentials, new) = state.credentials()?;
    let api_keys = config.hsm_api_key_file.iter().map(|path| api_key(path)).collect::<Result<Vec<_>>>()?;
    // As many as there are regions, or one for all.
    let regions = config.hsm.iter().zip(api_keys.iter().cycle());
    let hsm = HsmClient::new(regions.map(|(url, key)| (url.as_str(), key.as_str())), config.hsm_timeout.0)?;
    let storage = Storage::open(state.path(), hsm, config.lease.0)?;
    storage.sweep().await?;
    let outer = Arc::new(Outer {
        s3: s3::service(Arc::clone(&storage), &credentials, config.domains.clone()),
        storage: Arc::clone(&storage),
        rules: AuthRules {
            allow_sigv2: config.allow_sigv2,
            presigned_max_secs: config.presigned_max_life.0.as_secs(),
        },
        pace: config.pace(),
    });
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| Error::internal(format_args!("cannot listen on {}: {e}", config.listen)))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let housekeeping = [
        tokio::spawn(Arc::clone(&storage).collect_garbage(Duration::from_secs(2))),
        tokio::spawn(Arc::clone(&storage).expire_keys()),
    ];
    state.write_endpoint(address)?;
    if new {
        tracing::info!(file = %state.path().join("credentials.json").display(), "new HMAC credentials were generated");
    }
    tracing::info!(endpoint = %format_args!("http://{address}"), "cos-service is ready");
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        let _ = stop.send(true);
    });
    let outcome = server::serve(listener, outer, &config, stopped).await;
    housekeeping.iter().for_each(tokio::task::JoinHandle::abort);
    state.remove_endpoint();
    tracing::info!("stopped");
    outcome
}

fn api_key(path: &Path) -> Result<Zeroizing<String>> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| {
        Error::internal(format_args!("cannot read the HSM's API key from {}: {e}", path.display()))
    })?;
    let key = text.trim();
    if key.is_empty() {
        return Err(Error::internal(format_args!("{} holds no API key", path.display())));
    }
    Ok(Zeroizing::new(key.to_owned()))
}

/// Logs go to standard error. The S3 framework reports every refused request as an error, and
/// signatures at levels below: it is left out; what matters of it is logged where errors are converted.
fn start_logging(format: LogFormat) {
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    // What cannot be logged, since the disk is full perhaps, is lost: it must not end the server.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines =
        if human { lines.with_ansi(std::io::stderr().is_terminal()).boxed() } else { lines.json().boxed() };
    let filter = EnvFilter::new("info,s3s=off,h2=warn,hyper=warn,tonic=warn");
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Keys must not reach a core dump, a debugger of another user's process, or a file that others can read.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process stays dumpable");
    }
}
