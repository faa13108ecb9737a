//! The modules under test, each in processes of its own, and what they are measured against.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::Region;

use super::read_figure;
use super::timing::Figure;
use super::token::LABEL;

pub const EMBEDDED: &str = "embedded";
pub const REMOTE: &str = "remote";
pub const SOFTHSM: &str = "SoftHSM2";
pub const KRYOPTIC: &str = "kryoptic";
pub const NSS: &str = "NSS";
pub const P11_KIT: &str = "p11-kit";
/// The primitive alone, or the durable write.
pub const PRIMITIVE: &str = "primitive";
/// A message there and back.
pub const ECHO: &str = "echo";

/// What runs in a process of its own.
pub struct Peer {
    pub name: &'static str,
    /// Arguments of this program, before the task.
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// As many objects as can be made while one waits.
    pub most_objects: usize,
}

/// All of them, and what they need while they run.
pub struct Peers {
    pub modules: Vec<Peer>,
    pub floors: Vec<Peer>,
    server: Option<Child>,
    _region: Region,
    _scratch: tempfile::TempDir,
}

impl Peers {
    /// Makes the tokens, in a directory of their own under `place`.
    pub fn start(place: &Path) -> Self {
        let region = Region::start();
        let scratch = tempfile::tempdir_in(place).expect("scratch directory");
        let directory = scratch.path();
        let ours = PathBuf::from(region.var("PKCS11_MODULE"));
        let embedded = [var("HSM_PKCS11_STATE", &directory.join("embedded"))];
        let remote = ["HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE"]
            .map(|name| (name.to_owned(), region.var(name).to_owned()));
        let mut modules = vec![
            Peer::module(EMBEDDED, &ours, &embedded, 10_000),
            Peer::module(REMOTE, &ours, &remote, 10_000),
        ];
        let softhsm = installed(SOFTHSM, &["/usr/lib/softhsm/libsofthsm2.so"], "softhsm2");
        if let Some(softhsm) = &softhsm {
            modules.push(Peer::module(SOFTHSM, softhsm, &[softhsm_conf(directory, "local")], 1000));
        }
        if let Some(kryoptic) = kryoptic() {
            let (configuration, database) = (directory.join("kryoptic.conf"), directory.join("kryoptic.sql"));
            let slot = format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = {database:?}\n");
            fs::write(&configuration, slot).expect("configuration");
            let configuration = [var("KRYOPTIC_CONF", &configuration)];
            modules.push(Peer::module(KRYOPTIC, &kryoptic, &configuration, 10_000));
        }
        let softokn =
            ["/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so"];
        if let Some(softokn) = installed(NSS, &softokn, "libnss3") {
            let database = directory.join("nss");
            fs::create_dir(&database).expect("directory");
            let mut peer = Peer::module(NSS, &softokn, &[], 1000);
            let database = database.display();
            peer.arguments.push("--parameters".into());
            peer.arguments.push(format!("configdir='sql:{database}' dbTokenDescription='{LABEL}'"));
            modules.push(peer);
        }
        modules.iter().for_each(|peer| drop(peer.run(&["make"])));

        let client = ["/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"];
        let program = Path::new("/usr/libexec/p11-kit/p11-kit-server");
        let mut server = None;
        if let (Some(softhsm), Some(client)) =
            (softhsm, installed(P11_KIT, &client, "p11-kit p11-kit-modules"))
            && program.exists()
        {
            let configuration = [softhsm_conf(directory, "remoted")];
            Peer::module(SOFTHSM, &softhsm, &configuration, 0).run(&["make"]);
            let socket = directory.join("p11-kit.sock");
            server = Some(p11_kit_server(program, &softhsm, &socket, &configuration));
            let address = ("P11_KIT_SERVER_ADDRESS".to_owned(), format!("unix:path={}", socket.display()));
            modules.push(Peer::module(P11_KIT, &client, &[address], 1000));
        }
        let floor = |name, arguments: &[&str]| {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            Peer { name, arguments, environment: Vec::new(), most_objects: 0 }
        };
        let floors =
            vec![floor(PRIMITIVE, &["--primitives", &directory.to_string_lossy()]), floor(ECHO, &["--echo"])];
        Self { modules, floors, server, _region: region, _scratch: scratch }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill().ok();
            server.wait().ok();
        }
    }
}

impl Peer {
    fn module(
        name: &'static str,
        module: &Path,
        environment: &[(String, String)],
        most_objects: usize,
    ) -> Self {
        let arguments = vec!["--module".to_owned(), module.to_string_lossy().into_owned()];
        Self { name, arguments, environment: environment.to_vec(), most_objects }
    }

    /// Runs a task to its end, and gives the figures that it prints.
    pub fn run(&self, task: &[&str]) -> Vec<(String, Figure)> {
        let output = Command::new(env::current_exe().expect("this program"))
            .args(&self.arguments)
            .arg("--task")
            .args(task)
            .envs(self.environment.iter().cloned())
            .stderr(Stdio::inherit())
            .output()
            .expect("run");
        assert!(output.status.success(), "{} failed at {task:?}", self.name);
        String::from_utf8_lossy(&output.stdout).lines().map(read_figure).collect()
    }
}

fn var(name: &str, value: &Path) -> (String, String) {
    (name.to_owned(), value.to_string_lossy().into_owned())
}

fn installed(name: &str, places: &[&str], package: &str) -> Option<PathBuf> {
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        eprintln!("{name} is not installed, and left out: apt-get install {package}");
    }
    found
}

/// `scripts/bench` builds it, and says so if it can't.
fn kryoptic() -> Option<PathBuf> {
    let module = PathBuf::from(env::var_os("KRYOPTIC_MODULE")?);
    module.exists().then_some(module)
}

fn softhsm_conf(scratch: &Path, name: &str) -> (String, String) {
    let tokens = scratch.join(name);
    fs::create_dir(&tokens).expect("token directory");
    let configuration = scratch.join(format!("{name}.conf"));
    fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display()))
        .expect("configuration");
    var("SOFTHSM2_CONF", &configuration)
}

fn p11_kit_server(program: &Path, module: &Path, socket: &Path, configuration: &[(String, String)]) -> Child {
    let server = Command::new(program)
        .args(["--foreground", "--provider"])
        .arg(module)
        .arg("--name")
        .arg(socket)
        .arg("pkcs11:")
        .envs(configuration.iter().cloned())
        .stdout(Stdio::null())
        .spawn()
        .expect("p11-kit-server");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "p11-kit-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}
