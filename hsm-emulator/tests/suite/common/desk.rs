//! An operator's desk: `tke`, its files, and a served instance.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::Encode;
use der::asn1::Uint;
use hsm_emulator::keystore::{self, Effect, Expect, Keystore, Location};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `hsm-emulator serve --imprint` in a directory of its own, and CLOUDTKEFILES beside it.
#[derive(Clone)]
pub struct Desk {
    served: Arc<Served>,
    cloudtkefiles: Option<PathBuf>,
    environment: Vec<(&'static str, String)>,
    api_key_file: PathBuf,
}

struct Served {
    place: TempDir,
    process: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Desk {
    /// Units in imprint mode, without a master key.
    pub fn new() -> Self {
        Self::serving(&["--imprint"])
    }

    /// An instance that serves already: units in imprint mode with a master key that is nowhere else.
    pub fn with_master_key() -> Self {
        Self::serving(&[])
    }

    fn serving(flags: &[&str]) -> Self {
        let place = tempfile::tempdir().expect("directory");
        let state = place.path().join("hsm");
        let process = Command::new(env!("CARGO_BIN_EXE_hsm-emulator"))
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(&state)
            .args(flags)
            .stderr(Stdio::null())
            .spawn()
            .expect("hsm-emulator");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !answers(&state.join("endpoint")) {
            assert!(Instant::now() < deadline, "no server within 30 s");
            thread::sleep(Duration::from_millis(10));
        }
        let files = place.path().join("files");
        fs::create_dir(&files).expect("directory");
        Self {
            served: Arc::new(Served { place, process }),
            cloudtkefiles: Some(files),
            environment: Vec::new(),
            api_key_file: state.join("api-key"),
        }
    }

    pub fn with_files(&self, directory: Option<&str>) -> Self {
        Self { cloudtkefiles: directory.map(PathBuf::from), ..self.clone() }
    }

    pub fn with_api_key(&self, key: &str) -> Self {
        Self { api_key_file: self.file("api-key", key).into(), ..self.clone() }
    }

    pub fn with_signing_service(mut self, url: &str) -> Self {
        self.environment.push(("TKE_SIGNSERV_URL", url.to_owned()));
        self
    }

    /// CLOUDTKEFILES.
    pub fn files(&self) -> &Path {
        self.cloudtkefiles.as_deref().expect("CLOUDTKEFILES")
    }

    /// A file outside CLOUDTKEFILES.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.served.place.path().join(name);
        fs::write(&path, content).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// The same operator in front of another instance.
    pub fn at(&self, other: &Self) -> Self {
        let (served, api_key_file) = (other.served.clone(), other.api_key_file.clone());
        Self { served, api_key_file, ..self.clone() }
    }

    /// What the command prints; it succeeds, and asks for all these passwords.
    pub fn ok(&self, arguments: &[&str], passwords: &[&str]) -> String {
        let output = self.run(arguments, passwords);
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}\n{printed}\n{errors}");
        assert!(!errors.contains("nothing has asked"), "{arguments:?}\n{errors}");
        printed
    }

    /// What a read-only command prints as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.ok(&[arguments, &["--json"]].concat(), &[]);
        serde_json::from_str(&printed).expect("JSON")
    }

    /// The same of a command that asks for passwords.
    pub fn json_with(&self, arguments: &[&str], passwords: &[&str]) -> Value {
        let printed = self.ok(&[arguments, &["--json"]].concat(), passwords);
        serde_json::from_str(&printed).expect("JSON")
    }

    /// Did it succeed, and what does it print when it reads these answers?
    pub fn answered(&self, arguments: &[&str], answers: &str) -> (bool, String) {
        let mut command = self.command(arguments, &[]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("tke");
        child.stdin.take().expect("a pipe").write_all(answers.as_bytes()).expect("answers");
        let output = child.wait_with_output().expect("tke");
        (output.status.success(), text(&output.stdout))
    }

    /// The errors of a command that fails.
    pub fn fails(&self, arguments: &[&str], passwords: &[&str]) -> String {
        let output = self.run(arguments, passwords);
        assert!(!output.status.success(), "{arguments:?}\n{}", text(&output.stdout));
        text(&output.stderr)
    }

    /// The JSON object and the exit code of a command that fails.
    pub fn fails_in_json(&self, arguments: &[&str], passwords: &[&str]) -> (Value, Option<i32>) {
        let output = self.run(&[arguments, &["--json"]].concat(), passwords);
        assert!(!output.status.success(), "{arguments:?}\n{}", text(&output.stdout));
        (serde_json::from_slice(&output.stdout).expect("JSON"), output.status.code())
    }

    /// What a command that succeeds writes to standard error.
    pub fn warnings(&self, arguments: &[&str], passwords: &[&str]) -> String {
        let output = self.run(arguments, passwords);
        assert!(output.status.success(), "{arguments:?}\n{}", text(&output.stderr));
        text(&output.stderr)
    }

    /// A unit loses or gets its power.
    pub fn power(&self, unit: usize, on: bool) {
        let hsm_id = self.domains().as_array().expect("an array")[unit - 1]["hsm_id"].clone();
        let verb = if on { "start" } else { "stop" };
        self.hsm_emulator(&["unit", verb, hsm_id.as_str().expect("a string")]);
    }

    /// The file DOMAINS.
    pub fn domains(&self) -> Value {
        let text = fs::read(self.files().join("DOMAINS")).expect("DOMAINS");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Something stored, so that a rotation has something to re-encrypt.
    pub fn create_root_key(&self) {
        self.hsm_emulator(&["root-key", "create", "--name", "orders"]);
    }

    /// The audit log, as it is written.
    pub fn audit_log(&self) -> String {
        let files = fs::read_dir(self.served.place.path().join("hsm").join("audit")).expect("audit log");
        files.map(|file| fs::read_to_string(file.expect("file").path()).unwrap_or_default()).collect()
    }

    /// A stored root key becomes unreadable; what it was.
    pub fn damage_root_key(&self) -> Vec<u8> {
        let keystore = self.keystore();
        let record = keystore.scan("root-key").expect("scan").pop().expect("a root key");
        self.put_root_key(&record.id, b"no JSON".to_vec());
        record.body
    }

    /// The same root key comes from a backup.
    pub fn restore_root_key(&self, body: Vec<u8>) {
        let ids = self.keystore().ids("root-key").expect("ids");
        self.put_root_key(ids.last().expect("a root key"), body);
    }

    fn put_root_key(&self, id: &str, body: Vec<u8>) {
        let (kind, id) = ("root-key".to_owned(), id.to_owned());
        let write = keystore::Write { kind, id, expect: Expect::Present, effect: Effect::Put(body) };
        self.keystore().commit(vec![write]).expect("put");
    }

    fn keystore(&self) -> Keystore {
        Keystore::open(&Location::embedded(&self.served.place.path().join("hsm"))).expect("keystore")
    }

    fn hsm_emulator(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-emulator"));
        command.args(arguments).arg("--state").arg(self.served.place.path().join("hsm"));
        let output = command.output().expect("hsm-emulator");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn run(&self, arguments: &[&str], passwords: &[&str]) -> Output {
        self.command(arguments, passwords).output().expect("tke")
    }

    fn command(&self, arguments: &[&str], passwords: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tke"));
        // Commands at the same time have files of their own.
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("passwords-{}", FILES.fetch_add(1, Ordering::Relaxed));
        command.args(arguments).arg("--password-file").arg(self.file(&name, &passwords.join("\n")));
        command.arg("--state").arg(self.served.place.path().join("hsm"));
        command.arg("--api-key-file").arg(&self.api_key_file).stdin(Stdio::null());
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("HSM_") || name.starts_with("TKE_"))
        {
            command.env_remove(name);
        }
        match &self.cloudtkefiles {
            Some(files) => command.env("CLOUDTKEFILES", files),
            None => command.env_remove("CLOUDTKEFILES"),
        };
        command.envs(self.environment.iter().cloned());
        command
    }
}

fn answers(endpoint: &Path) -> bool {
    let address = fs::read_to_string(endpoint).unwrap_or_default();
    address.trim().strip_prefix("http://").is_some_and(|address| TcpStream::connect(address).is_ok())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A signing service whose keys `openssl` has made, and which signs with `openssl`: nothing of ours is on that side.
/// The token of the key NAME is `token of NAME`.
pub struct SigningServer {
    address: std::net::SocketAddr,
    keys: TempDir,
}

impl SigningServer {
    pub fn start(names: &[&str]) -> Self {
        let keys = tempfile::tempdir().expect("directory");
        for name in names {
            let path = keys.path().join(name);
            let path = path.to_str().expect("UTF-8");
            openssl(&["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", path], b"");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("address");
        let directory = keys.path().to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &directory);
            }
        });
        Self { address, keys }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SHA-256 of the uncompressed point, as openssl knows it.
    pub fn subject_key_identifier(&self, name: &str) -> String {
        subject_key_identifier(&point(&self.keys.path().join(name)))
    }
}

fn serve(mut stream: TcpStream, keys: &Path) {
    let mut reader = BufReader::new(stream.try_clone().expect("stream"));
    let (mut lines, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("request");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("length");
        }
        lines.push(line.trim().to_owned());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("body");
    let words: Vec<&str> = lines[0].split([' ', '/']).collect();
    let [method, _, collection, name, ..] = words[..] else { panic!("{}", lines[0]) };
    let expected = format!("authorization: token of {name}");
    let authorized = lines.iter().any(|line| line.eq_ignore_ascii_case(&expected));
    let key = keys.join(name);
    let answer = match (method, collection) {
        _ if !authorized => None,
        ("GET", "keys") => Some(json!({ "publickey": STANDARD.encode(public_key(&key)) })),
        ("POST", "sign") => {
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["hash_algorithm"], "sha2-512");
            let input = STANDARD.decode(body["input"].as_str().expect("input")).expect("base64");
            let signature = openssl(&["dgst", "-sha512", "-sign", key.to_str().expect("UTF-8")], &input);
            Some(json!({ "signature": STANDARD.encode(signature) }))
        }
        other => panic!("{other:?}"),
    };
    let (status, answer) = match answer {
        Some(answer) => ("200 OK", answer.to_string()),
        None => ("401 Unauthorized", String::new()),
    };
    let length = answer.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{answer}").expect("answer");
}

/// DER of (X, Y).
fn public_key(key: &Path) -> Vec<u8> {
    let point = point(key);
    let (x, y) = point[1..].split_at(66);
    let integers = vec![Uint::new(x).expect("x"), Uint::new(y).expect("y")];
    integers.to_der().expect("DER")
}

/// The uncompressed public point of a private key in PEM: the end of its SubjectPublicKeyInfo.
pub fn point(key: &Path) -> Vec<u8> {
    let info = openssl(&["pkey", "-pubout", "-outform", "DER", "-in", key.to_str().expect("UTF-8")], b"");
    info[info.len() - 133..].to_vec()
}

pub fn subject_key_identifier(point: &[u8]) -> String {
    let printed = text(&openssl(&["dgst", "-sha256", "-r"], point));
    printed.split(' ').next().expect("a digest").to_owned()
}

/// What the `openssl` command prints.
pub fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl is installed");
    child.stdin.take().expect("a pipe").write_all(input).expect("input");
    let output = child.wait_with_output().expect("openssl");
    assert!(output.status.success(), "{}", text(&output.stderr));
    output.stdout
}
