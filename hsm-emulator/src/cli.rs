//! The command line of `hsm-emulator`.

mod backup;
mod failover;
mod remote;
mod root_key;
mod token;
mod unit;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hsm_emulator::edge::pair;
use hsm_emulator::edge::server::{self, AUDIT, Options};
use hsm_emulator::edge::tls;
use hsm_emulator::keystore::Location;
use hsm_emulator::services::audit;
use hsm_emulator::services::region::{Layout, Region};
use hsm_proto::kms;
use remote::Remote;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Status;
use tracing_subscriber::EnvFilter;

/// A region of a Hyper Protect Crypto Services emulator.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  hsm-emulator serve --state ~/hsm --listen 127.0.0.1:50051
  hsm-emulator root-key create --state ~/hsm --name orders
  hsm-emulator root-key list --state ~/hsm --json
  hsm-emulator serve --state ~/hsm --imprint          # then initialise it with tke
  HSM_KEYSTORE=postgres://hsm@db.example/hsm hsm-emulator serve --state ~/hsm
  hsm-emulator unit list --state ~/hsm
  hsm-emulator token list --state ~/hsm
  hsm-emulator audit verify --state ~/hsm
  hsm-emulator backup --state ~/hsm --out hsm.backup
  hsm-emulator restore --state ~/hsm-restored --from hsm.backup
  hsm-emulator failover invite --state ~/hsm --out us-east.invitation
  hsm-emulator failover status --state ~/hsm
  hsm-emulator instance --endpoint http://127.0.0.1:50051 --api-key-file ~/hsm/api-key"
)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Initialise an instance: crypto units, and a random master key in all of them.
    Init(New),
    /// Serve an instance; initialise it first if the directory is empty.
    Serve(Serve),
    /// Show the instance that a server serves.
    Instance(Remote),
    /// Manage root keys.
    #[command(subcommand)]
    RootKey(root_key::RootKey),
    /// Install, remove and power crypto units: what takes a support case at the real service.
    #[command(subcommand)]
    Unit(unit::Unit),
    /// List PKCS #11 tokens, and delete those that nobody can use any more.
    #[command(subcommand)]
    Token(token::Token),
    /// Read the log of administrative commands.
    #[command(subcommand)]
    Audit(Audit),
    /// Write everything that the instance needs into one file, sealed under a passphrase, while it serves.
    Backup(backup::Backup),
    /// Make an instance from a backup, in a new directory.
    Restore(backup::Restore),
    /// Pair this region with another one that takes over when it is lost.
    #[command(subcommand)]
    Failover(failover::Failover),
}

#[derive(Subcommand)]
enum Audit {
    /// Check every record; names the first bad one.
    Verify {
        /// Directory of the instance.
        #[arg(long)]
        state: PathBuf,
    },
    /// Print the records as lines of JSON, as far as they are good.
    Show {
        /// Directory of the instance.
        #[arg(long)]
        state: PathBuf,
    },
}

#[derive(Args)]
struct New {
    /// Directory of the instance.
    #[arg(long)]
    state: PathBuf,
    /// Region of a new instance.
    #[arg(long, default_value = "us-south")]
    region: String,
    /// Operational crypto units of a new instance: 2 or 3.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
    units: u8,
    /// Leave a new instance's units in imprint mode, without a master key: `tke` initialises them.
    #[arg(long)]
    imprint: bool,
    #[command(flatten)]
    keystore: SharedKeystore,
}

/// A keystore that is not in the directory of the instance.
#[derive(Args)]
struct SharedKeystore {
    /// Keep keys in this PostgreSQL database, such as postgres://hsm@db.example/hsm; several processes may share it.
    /// With a password in it, better in the environment: others see this machine's command lines.
    #[arg(
        id = "keystore",
        long = "keystore",
        value_name = "URL",
        env = "HSM_KEYSTORE",
        hide_env_values = true
    )]
    url: Option<String>,
}

impl SharedKeystore {
    fn location(&self, state: &Path) -> Location {
        self.url.clone().map_or_else(|| Location::embedded(state), Location::Postgres)
    }
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    new: New,
    /// Loopback address and port; port 0 takes a free one, written to STATE/endpoint.
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Serve on this Unix socket too.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Serve by TLS on this address too, which may be one that other machines reach; port 0 takes a free one,
    /// written to STATE/tls-endpoint. Without --tls-certificate, one is made: STATE/tls/certificate.pem is its authority.
    #[arg(long)]
    tls_listen: Option<SocketAddr>,
    /// The server's certificate, in PEM.
    #[arg(long, requires = "tls_key", requires = "tls_listen", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// By TLS, let in only clients with a certificate of this authority (PEM).
    #[arg(long, requires = "tls_listen", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Where the other region of a pair reaches this one: always the same address, not port 0, for a region that is
    /// paired. Both prove themselves with certificates.
    #[arg(long)]
    pair_listen: Option<SocketAddr>,
    /// Where the other region reaches this one if that is not --pair-listen itself, as behind a port that is mapped:
    /// host:port.
    #[arg(long, requires = "pair_listen", value_name = "HOST:PORT")]
    pair_address: Option<String>,
    /// In a pair: after so long a silence the other region counts as lost.
    #[arg(long, default_value = "1s", value_parser = duration)]
    partner_timeout: Duration,
    /// In the failover region of a pair: take the primary role after so long a silence of the primary region. Without,
    /// an operator does it.
    #[arg(long, value_parser = duration)]
    promote_after: Option<Duration>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs a command.
pub fn run(command: Command) -> Result<(), Error> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    match command.action {
        Action::Init(new) => {
            keep_memory_private()?;
            let region = Region::open_at(&new.state, &new.keystore.location(&new.state), &new.layout())?;
            println!("{}", region.identity().crn());
            for installed in region.units().iter() {
                let unit = &installed.unit;
                let pattern = unit.verification_pattern().map(|p| p.to_hex()).unwrap_or_default();
                println!("{}  {}  {pattern}", unit.serial(), unit.location());
            }
            Ok(())
        }
        Action::Serve(serve) => serve_until_signal(serve),
        Action::Instance(remote) => block_on(instance(remote)),
        Action::RootKey(action) => block_on(root_key::run(action)),
        Action::Unit(action) => block_on(unit::run(action)),
        Action::Token(action) => block_on(token::run(action)),
        Action::Failover(action) => block_on(failover::run(action)),
        Action::Backup(backup) => backup.run(),
        Action::Restore(restore) => restore.run(),
        Action::Audit(Audit::Verify { state }) => {
            let records = audit::verify(&state.join(AUDIT), drop)?;
            println!("{records} records, all in order");
            Ok(())
        }
        Action::Audit(Audit::Show { state }) => {
            audit::verify(&state.join(AUDIT), |record| println!("{record}"))?;
            Ok(())
        }
    }
}

impl New {
    fn layout(&self) -> Layout {
        Layout {
            region: self.region.clone(),
            operational: self.units.into(),
            recovery: RECOVERY_UNITS,
            master_key: !self.imprint,
        }
    }
}

fn serve_until_signal(serve: Serve) -> Result<(), Error> {
    keep_memory_private()?;
    let filter = EnvFilter::try_from_env("HSM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // What cannot be logged, since the disk is full perhaps, is lost: it must not end the server.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        log.init()
    } else {
        log.json().with_ansi(false).init()
    }
    let layout = serve.new.layout();
    let pair = pair::Options {
        listen: serve.pair_listen,
        address: serve.pair_address,
        silence: serve.partner_timeout,
        promote_after: serve.promote_after,
    };
    let tls = serve.tls_listen.map(|listen| tls::Options {
        listen,
        certificate: serve.tls_certificate.zip(serve.tls_key),
        client_authority: serve.tls_client_ca,
    });
    let keystore = serve.new.keystore.location(&serve.new.state);
    let options = Options {
        keystore,
        state: serve.new.state,
        listen: serve.listen,
        tls,
        socket: serve.socket,
        layout,
        pair,
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        // A file that may not grow is an error of that write, and not the end.
        let _too_large = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        server::serve(options, stop).await
    })
}

/// Such as `500ms`, `2s` or `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration such as 500ms, 2s or 5m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(wrong()),
    };
    if duration < SHORTEST { Err(format!("{text} is too short: at least 50ms")) } else { Ok(duration) }
}

/// No core dump and no debugger of another user: the memory holds the master key.
fn keep_memory_private() -> Result<(), Error> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn block_on(future: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    // Several threads: a keystore in a database may be needed, and blocks.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(future)
}

async fn instance(remote: Remote) -> Result<(), Error> {
    let instance = remote
        .connect()
        .await?
        .get_instance(kms::GetInstanceRequest::default())
        .await
        .map_err(message)?
        .into_inner();
    let fields = [
        ("id", instance.id),
        ("account", instance.account),
        ("region", instance.region),
        ("crn", instance.crn),
    ];
    if remote.json {
        println!(
            "{}",
            fields
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.into()))
                .collect::<serde_json::Map<_, Value>>()
                .pretty()
        );
    } else {
        fields.iter().for_each(|(name, value)| println!("{name:<8} {value}"));
    }
    Ok(())
}

/// A status as a sentence; the code only where there is none.
fn message(status: Status) -> Error {
    match status.message() {
        "" => format!("{:?}", status.code()).into(),
        text => text.into(),
    }
}

trait Pretty {
    fn pretty(&self) -> String;
}

impl<T: serde::Serialize> Pretty for T {
    fn pretty(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// IBM gives two to every instance.
const RECOVERY_UNITS: usize = 2;
/// Any less is taken for a slip.
const SHORTEST: Duration = Duration::from_millis(50);
