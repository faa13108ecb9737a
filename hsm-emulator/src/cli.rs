//! The command line of `hsm-emulator`.

mod backup;
mod failover;

use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hsm_emulator::edge::pair;
use hsm_emulator::edge::server::{self, API_KEY, AUDIT, ENDPOINT, Options};
use hsm_emulator::keystore::Location;
use hsm_emulator::services::audit;
use hsm_emulator::services::region::{Layout, Region};
use hsm_proto::kms::kms_client::KmsClient;
use hsm_proto::tke::support_client::SupportClient;
use hsm_proto::tke::tke_client::TkeClient;
use hsm_proto::tokens::request::Call;
use hsm_proto::tokens::response::Answer;
use hsm_proto::tokens::tokens_client::TokensClient;
use hsm_proto::{kms, tke, tokens};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

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
    RootKey(RootKey),
    /// Install, remove and power crypto units: what takes a support case at the real service.
    #[command(subcommand)]
    Unit(Unit),
    /// List PKCS #11 tokens, and delete those that nobody can use any more.
    #[command(subcommand)]
    Token(Token),
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
enum Unit {
    /// List the crypto units.
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Install a crypto unit: in imprint mode, with empty registers.
    Add {
        #[command(flatten)]
        remote: Remote,
        /// operational or recovery.
        #[arg(long = "type", value_enum, default_value_t = NewUnitType::Operational)]
        unit_type: NewUnitType,
        /// As before a firmware update: no control points are set.
        #[arg(long)]
        old_firmware: bool,
    },
    /// Take a crypto unit out for good, and erase its state.
    Remove(OneUnit),
    /// Power a crypto unit off; it stays so over a restart.
    Stop(OneUnit),
    /// Power a crypto unit on.
    Start(OneUnit),
    /// Break a crypto unit on purpose, to see what becomes of requests; --clear mends it.
    Fault(UnitFault),
}

#[derive(Args)]
#[command(after_help = "\
A request whose unit fails is made again in another one. A fault is over when the server is started again; a unit that was
zeroized needs administrators and its master key again.

Examples:
  hsm-emulator unit fault 3C7A10F2 --kind slow --delay 2s --state ~/hsm
  hsm-emulator unit fault 3C7A10F2 --clear --state ~/hsm")]
struct UnitFault {
    #[command(flatten)]
    unit: OneUnit,
    /// What is to go wrong.
    #[arg(long, value_enum, required_unless_present = "clear")]
    kind: Option<FaultKind>,
    /// For slow: how much longer each use of a key takes.
    #[arg(long, value_parser = duration, default_value = "500ms")]
    delay: Duration,
    /// Mend it.
    #[arg(long, conflicts_with_all = ["kind", "delay"])]
    clear: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FaultKind {
    /// It answers nothing, as if it had been pulled out.
    Disable,
    /// Somebody tampers with it: registers and administrators are erased for good.
    Zeroize,
    /// It takes longer; beyond 250 ms it is given up.
    Slow,
    /// Bits of its master key change by themselves.
    Corrupt,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum NewUnitType {
    Operational,
    Recovery,
}

#[derive(Args)]
struct OneUnit {
    #[command(flatten)]
    remote: Remote,
    /// HSM id or serial number, as the list shows them.
    unit: String,
}

#[derive(Subcommand)]
enum Token {
    /// List the tokens; needs no crypto unit.
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a token and all its objects for good, without its PINs: also if the master key that they are under is
    /// lost.
    Delete {
        #[command(flatten)]
        remote: Remote,
        /// As the list shows it.
        serial: String,
        /// Do it; without, nothing is deleted.
        #[arg(long)]
        yes: bool,
    },
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

/// How to reach a server.
#[derive(Args)]
struct Remote {
    /// Directory of the instance: says where its server is and what its API key is.
    #[arg(long, required_unless_present_all = ["endpoint", "api_key_file"])]
    state: Option<PathBuf>,
    /// Address of the server, such as http://127.0.0.1:50051.
    #[arg(long)]
    endpoint: Option<String>,
    /// File with the API key.
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum RootKey {
    /// Create a root key; with --material-file, import it.
    Create {
        #[command(flatten)]
        remote: Remote,
        /// 2 to 90 characters.
        #[arg(long)]
        name: String,
        /// File with 16, 24 or 32 bytes of key material.
        #[arg(long)]
        material_file: Option<PathBuf>,
    },
    /// List root keys.
    List {
        #[command(flatten)]
        remote: Remote,
        /// Destroyed ones too.
        #[arg(long)]
        all: bool,
    },
    /// Show a root key.
    Show(OneKey),
    /// Add a version; what older versions wrapped stays readable.
    Rotate {
        #[command(flatten)]
        key: OneKey,
        /// New material for an imported key.
        #[arg(long)]
        material_file: Option<PathBuf>,
    },
    /// Suspend: nothing can be wrapped or unwrapped until it is enabled.
    Disable(OneKey),
    /// Take a suspended key back into use.
    Enable(OneKey),
    /// Destroy: what it protected is lost for good.
    Delete(OneKey),
}

#[derive(Args)]
struct OneKey {
    #[command(flatten)]
    remote: Remote,
    /// Id or CRN.
    key: String,
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
        Action::RootKey(action) => block_on(root_key(action)),
        Action::Unit(action) => block_on(unit(action)),
        Action::Token(action) => block_on(token(action)),
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
    let keystore = serve.new.keystore.location(&serve.new.state);
    let options = Options {
        keystore,
        state: serve.new.state,
        listen: serve.listen,
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

async fn unit(action: Unit) -> Result<(), Error> {
    match action {
        Unit::List { remote } => {
            let units = units(&remote).await?;
            show_units(&remote, &units);
            Ok(())
        }
        Unit::Add { remote, unit_type, old_firmware } => {
            let unit_type = match unit_type {
                NewUnitType::Operational => tke::UnitType::Operational,
                NewUnitType::Recovery => tke::UnitType::Recovery,
            };
            let request = tke::AddUnitRequest { r#type: unit_type.into(), old_firmware };
            let added = remote.support().await?.add_unit(request).await.map_err(message)?.into_inner();
            show_units(&remote, &[added]);
            Ok(())
        }
        Unit::Remove(one) => {
            let request = one.request().await?;
            let unit = one.remote.support().await?.remove_unit(request).await.map_err(message)?;
            show_units(&one.remote, &[unit.into_inner()]);
            Ok(())
        }
        Unit::Stop(one) => {
            let request = one.request().await?;
            let unit = one.remote.support().await?.stop_unit(request).await.map_err(message)?;
            show_units(&one.remote, &[unit.into_inner()]);
            Ok(())
        }
        Unit::Fault(fault) => {
            let kind = match fault.kind {
                None => tke::Fault::None,
                Some(FaultKind::Disable) => tke::Fault::Disabled,
                Some(FaultKind::Zeroize) => tke::Fault::Zeroized,
                Some(FaultKind::Slow) => tke::Fault::Slow,
                Some(FaultKind::Corrupt) => tke::Fault::Corrupt,
            };
            let request = tke::SetFaultRequest {
                hsm_id: fault.unit.request().await?.hsm_id,
                fault: kind.into(),
                delay_milliseconds: u32::try_from(fault.delay.as_millis()).unwrap_or(u32::MAX),
            };
            let remote = &fault.unit.remote;
            let unit = remote.support().await?.set_fault(request).await.map_err(message)?;
            show_units(remote, &[unit.into_inner()]);
            Ok(())
        }
        Unit::Start(one) => {
            let request = one.request().await?;
            let unit = one.remote.support().await?.start_unit(request).await.map_err(message)?;
            show_units(&one.remote, &[unit.into_inner()]);
            Ok(())
        }
    }
}

async fn units(remote: &Remote) -> Result<Vec<tke::Unit>, Error> {
    let (channel, authorization) = remote.channel().await?;
    let mut client = TkeClient::with_interceptor(channel, authorization);
    Ok(client.list_units(tke::ListUnitsRequest {}).await.map_err(message)?.into_inner().units)
}

fn show_units(remote: &Remote, units: &[tke::Unit]) {
    let kind = |unit: &tke::Unit| match unit.r#type() {
        tke::UnitType::Unspecified => "unknown".to_owned(),
        known => known.as_str_name().to_lowercase(),
    };
    if remote.json {
        let json = units.iter().map(|unit| {
            json!({
                "hsm_id": unit.hsm_id, "serial_number": unit.serial_number, "type": kind(unit),
                "state": unit.state, "location": unit.location,
            })
        });
        println!("{}", Value::from_iter(json).pretty());
        return;
    }
    println!("{:<36}   {:<8}   {:<11}   {:<16}   LOCATION", "HSM ID", "SERIAL", "TYPE", "STATE");
    for unit in units {
        println!(
            "{:<36}   {:<8}   {:<11}   {:<16}   {}",
            unit.hsm_id,
            unit.serial_number,
            kind(unit),
            unit.state,
            unit.location
        );
    }
}

impl OneUnit {
    /// Finds the unit by its HSM id or serial number.
    async fn request(&self) -> Result<tke::UnitRequest, Error> {
        let units = units(&self.remote).await?;
        let found =
            units.into_iter().find(|unit| unit.hsm_id == self.unit || unit.serial_number == self.unit);
        let unit = found.ok_or_else(|| format!("{}: no such crypto unit; see 'unit list'", self.unit))?;
        Ok(tke::UnitRequest { hsm_id: unit.hsm_id })
    }
}

async fn token(action: Token) -> Result<(), Error> {
    match action {
        Token::List { remote } => {
            let tokens = tokens(&remote).await?;
            show_tokens(&remote, &tokens);
            Ok(())
        }
        Token::Delete { remote, serial, yes } => {
            if !yes {
                return Err(format!(
                    "token {serial} and all its objects would be lost for good; to delete them, add --yes"
                )
                .into());
            }
            let request = tke::DeleteTokenRequest { serial: serial.clone() };
            let answer = remote.support().await?.delete_token(request).await.map_err(message)?;
            let objects = answer.into_inner().objects;
            if remote.json {
                println!("{}", json!({ "serial_number": serial, "objects": objects }).pretty());
            } else {
                println!("token {serial} is deleted, and its {objects} objects");
            }
            Ok(())
        }
    }
}

async fn tokens(remote: &Remote) -> Result<Vec<tokens::Token>, Error> {
    let (channel, authorization) = remote.channel().await?;
    let mut client = TokensClient::with_interceptor(channel, authorization);
    let list = tokens::Request { call: Some(Call::ListTokens(tokens::ListTokensRequest {})) };
    let mut answers = client.operate(tokio_stream::once(list)).await.map_err(message)?.into_inner();
    match answers.message().await.map_err(message)?.and_then(|response| response.answer) {
        Some(Answer::ListTokens(list)) => Ok(list.tokens),
        Some(Answer::Error(error)) => Err(error.detail.into()),
        _ => Err("the server's answer is not a list of tokens".into()),
    }
}

fn show_tokens(remote: &Remote, tokens: &[tokens::Token]) {
    if remote.json {
        let json = tokens.iter().map(|token| {
            json!({
                "serial_number": token.serial, "label": token.label,
                "user_pin_initialized": token.user_pin_initialized,
            })
        });
        println!("{}", Value::from_iter(json).pretty());
        return;
    }
    println!("{:<16}   {:<8}   LABEL", "SERIAL", "USER PIN");
    for token in tokens {
        let user_pin = if token.user_pin_initialized { "set" } else { "not set" };
        println!("{:<16}   {user_pin:<8}   {}", token.serial, token.label);
    }
}

async fn root_key(action: RootKey) -> Result<(), Error> {
    match action {
        RootKey::Create { remote, name, material_file } => {
            let material = read_material(material_file)?;
            let request = kms::CreateRootKeyRequest { name, material };
            let key = remote.connect().await?.create_root_key(request).await;
            show(&remote, key)
        }
        RootKey::List { remote, all } => list(remote, all).await,
        RootKey::Show(OneKey { remote, key }) => {
            let answer = remote.connect().await?.get_root_key(kms::GetRootKeyRequest { key }).await;
            show(&remote, answer)
        }
        RootKey::Rotate { key: OneKey { remote, key }, material_file } => {
            let material = read_material(material_file)?;
            let answer = remote.connect().await?.rotate(kms::RotateRequest { key, material }).await;
            show(&remote, answer)
        }
        RootKey::Disable(OneKey { remote, key }) => {
            let answer = remote.connect().await?.disable(kms::DisableRequest { key }).await;
            show(&remote, answer)
        }
        RootKey::Enable(OneKey { remote, key }) => {
            let answer = remote.connect().await?.enable(kms::EnableRequest { key }).await;
            show(&remote, answer)
        }
        RootKey::Delete(OneKey { remote, key }) => {
            let answer = remote.connect().await?.delete(kms::DeleteRequest { key }).await;
            show(&remote, answer)
        }
    }
}

async fn list(remote: Remote, all: bool) -> Result<(), Error> {
    let mut client = remote.connect().await?;
    let mut keys = Vec::new();
    loop {
        let request =
            kms::ListRootKeysRequest { limit: 1000, offset: keys.len() as u32, include_destroyed: all };
        let page = client.list_root_keys(request).await.map_err(message)?.into_inner();
        if page.keys.is_empty() {
            break;
        }
        keys.extend(page.keys);
    }
    if remote.json {
        println!("{}", Value::from_iter(keys.iter().map(to_json)).pretty());
        return Ok(());
    }
    let width = keys.iter().map(|key| key.name.chars().count()).max().unwrap_or(0).max("NAME".len());
    println!("{:<36}   {:<width$}   {:<11}   {:<8}   CREATED", "ID", "NAME", "STATE", "VERSIONS");
    for key in &keys {
        let (state, versions) = (state(key), key.versions.len());
        println!("{}   {:<width$}   {state:<11}   {versions:<8}   {}", key.id, key.name, key.created);
    }
    Ok(())
}

fn show(remote: &Remote, answer: Result<tonic::Response<kms::RootKey>, Status>) -> Result<(), Error> {
    let key = answer.map_err(message)?.into_inner();
    if remote.json {
        println!("{}", to_json(&key).pretty());
        return Ok(());
    }
    let lines = [
        ("id", key.id.clone()),
        ("crn", key.crn.clone()),
        ("name", key.name.clone()),
        ("state", state(&key)),
        ("material", format!("{}, {} bits", if key.imported { "imported" } else { "generated" }, key.bits)),
        ("versions", key.versions.len().to_string()),
        ("created", key.created.clone()),
        ("updated", key.updated.clone()),
    ];
    lines.iter().for_each(|(name, value)| println!("{name:<9} {value}"));
    Ok(())
}

fn to_json(key: &kms::RootKey) -> Value {
    let versions: Vec<Value> =
        key.versions.iter().map(|v| json!({ "id": v.id, "created": v.created })).collect();
    json!({
        "id": key.id, "crn": key.crn, "name": key.name, "state": state(key), "imported": key.imported,
        "bits": key.bits, "versions": versions, "created": key.created, "updated": key.updated,
        "rotated": key.rotated, "deleted": key.deleted,
    })
}

fn state(key: &kms::RootKey) -> String {
    key.state().as_str_name().to_lowercase()
}

fn read_material(path: Option<PathBuf>) -> Result<Vec<u8>, Error> {
    path.map_or(Ok(Vec::new()), |path| fs::read(&path).map_err(|e| format!("{}: {e}", path.display()).into()))
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

impl Remote {
    async fn connect(&self) -> Result<KmsClient<InterceptedService<Channel, Authorization>>, Error> {
        let (channel, authorization) = self.channel().await?;
        Ok(KmsClient::with_interceptor(channel, authorization))
    }

    async fn support(&self) -> Result<SupportClient<InterceptedService<Channel, Authorization>>, Error> {
        let (channel, authorization) = self.channel().await?;
        Ok(SupportClient::with_interceptor(channel, authorization))
    }

    async fn channel(&self) -> Result<(Channel, Authorization), Error> {
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

/// IBM gives two to every instance.
const SHORTEST: Duration = Duration::from_millis(50);
const RECOVERY_UNITS: usize = 2;

/// Adds the API key to every call.
#[derive(Clone)]
struct Authorization(AsciiMetadataValue);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}
