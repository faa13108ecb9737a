//! The command line of `hsm-emulator`.

use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hsm_emulator::edge::server::{self, API_KEY, ENDPOINT, Options};
use hsm_emulator::services::region::{Layout, Region};
use hsm_proto::kms;
use hsm_proto::kms::kms_client::KmsClient;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
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
            let region = Region::open(&new.state, &new.layout())?;
            println!("{}", region.identity().crn());
            for unit in region.units() {
                let pattern = unit.verification_pattern().map(|p| p.to_hex()).unwrap_or_default();
                println!("{}  {}  {pattern}", unit.serial(), unit.location());
            }
            Ok(())
        }
        Action::Serve(serve) => serve_until_signal(serve),
        Action::Instance(remote) => block_on(instance(remote)),
        Action::RootKey(action) => block_on(root_key(action)),
    }
}

impl New {
    fn layout(&self) -> Layout {
        Layout { region: self.region.clone(), units: self.units.into() }
    }
}

fn serve_until_signal(serve: Serve) -> Result<(), Error> {
    keep_memory_private()?;
    let filter = EnvFilter::try_from_env("HSM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init()
    } else {
        log.json().with_ansi(false).init()
    }
    let layout = serve.new.layout();
    let options = Options { state: serve.new.state, listen: serve.listen, socket: serve.socket, layout };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        server::serve(options, stop).await
    })
}

/// No core dump and no debugger of another user: the memory holds the master key.
fn keep_memory_private() -> Result<(), Error> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn block_on(future: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

async fn instance(remote: Remote) -> Result<(), Error> {
    let instance =
        remote.connect().await?.get_instance(kms::GetInstanceRequest {}).await.map_err(message)?.into_inner();
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
            .connect_timeout(std::time::Duration::from_secs(5))
            .timeout(std::time::Duration::from_secs(30))
            .connect()
            .await
            .map_err(|_| format!("{}: no server answers; is it running?", endpoint.as_str()))?;
        let mut header: AsciiMetadataValue = format!("Bearer {}", api_key.as_str()).parse()?;
        header.set_sensitive(true);
        Ok(KmsClient::with_interceptor(channel, Authorization(header)))
    }
}

/// Adds the API key to every call.
#[derive(Clone)]
struct Authorization(AsciiMetadataValue);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}
