//! PKCS #11 operations per second: the library embedded and remote, beside SoftHSM2 in the process and SoftHSM2
//! behind p11-kit's remoting, in the same run.
//!
//! Each module runs in a process of its own, several times in turn; the best median of each row counts, since
//! other load on the machine only ever adds time.
#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use integration_tests::Region;

const ROUNDS: usize = 3;
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const P11_KIT_CLIENT: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const P11_KIT_SERVER: &str = "/usr/libexec/p11-kit/p11-kit-server";

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let Some(position) = arguments.iter().position(|argument| argument == "--module") {
        measure(Path::new(&arguments[position + 1]));
    } else {
        compare();
    }
}

/// A module under test.
struct Peer {
    name: &'static str,
    module: PathBuf,
    environment: Vec<(String, String)>,
}

fn compare() {
    let region = Region::start();
    let scratch = tempfile::tempdir().expect("scratch directory");
    let ours = PathBuf::from(region.var("PKCS11_MODULE"));
    let var = |name: &str, value: &Path| (name.to_owned(), value.to_string_lossy().into_owned());
    let mut peers = vec![
        Peer {
            name: "embedded",
            module: ours.clone(),
            environment: vec![var("HSM_PKCS11_STATE", &scratch.path().join("embedded"))],
        },
        Peer {
            name: "remote",
            module: ours,
            environment: ["HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE"]
                .map(|name| (name.to_owned(), region.var(name).to_owned()))
                .to_vec(),
        },
    ];
    let mut server = None;
    if Path::new(SOFTHSM).exists() {
        let configuration = softhsm(scratch.path(), "local");
        peers.push(Peer { name: "SoftHSM2", module: SOFTHSM.into(), environment: vec![configuration] });
        if Path::new(P11_KIT_SERVER).exists() && Path::new(P11_KIT_CLIENT).exists() {
            let socket = scratch.path().join("p11-kit.sock");
            server = Some(p11_kit_server(&socket, softhsm(scratch.path(), "remoted")));
            let address = ("P11_KIT_SERVER_ADDRESS".to_owned(), format!("unix:path={}", socket.display()));
            peers.push(Peer { name: "p11-kit", module: P11_KIT_CLIENT.into(), environment: vec![address] });
        }
    } else {
        eprintln!("SoftHSM2 is not installed: no comparison (apt-get install softhsm2 p11-kit)");
    }

    let mut table: BTreeMap<(usize, String), BTreeMap<&str, f64>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for peer in &peers {
            eprintln!("round {round} of {ROUNDS}: {}", peer.name);
            for (row, (label, median)) in run(peer).into_iter().enumerate() {
                let best = table.entry((row, label)).or_default().entry(peer.name).or_insert(f64::INFINITY);
                *best = best.min(median);
            }
        }
    }
    if let Some(mut server) = server {
        server.kill().ok();
        server.wait().ok();
    }
    print_table(&peers, &table);
}

fn softhsm(scratch: &Path, name: &str) -> (String, String) {
    let tokens = scratch.join(name);
    fs::create_dir_all(&tokens).expect("token directory");
    let configuration = scratch.join(format!("{name}.conf"));
    fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display()))
        .expect("configuration");
    let token = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "bench", "--so-pin", "12345678", "--pin", "12345678"])
        .env("SOFTHSM2_CONF", &configuration)
        .stdout(Stdio::null())
        .status();
    assert!(token.expect("softhsm2-util").success());
    ("SOFTHSM2_CONF".into(), configuration.to_string_lossy().into_owned())
}

fn p11_kit_server(socket: &Path, configuration: (String, String)) -> Child {
    let server = Command::new(P11_KIT_SERVER)
        .args(["--foreground", "--provider", SOFTHSM, "--name"])
        .arg(socket)
        .arg("pkcs11:")
        .envs([configuration])
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

fn run(peer: &Peer) -> Vec<(String, f64)> {
    let output = Command::new(env::current_exe().expect("this program"))
        .arg("--module")
        .arg(&peer.module)
        .envs(peer.environment.iter().cloned())
        .stderr(Stdio::inherit())
        .output()
        .expect("run");
    assert!(output.status.success(), "{} failed", peer.name);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(label, median)| (label.to_owned(), median.parse().unwrap_or(f64::INFINITY)))
        .collect()
}

fn print_table(peers: &[Peer], table: &BTreeMap<(usize, String), BTreeMap<&str, f64>>) {
    println!(
        "\nMedian time of one operation in microseconds, one thread, best of {ROUNDS} rounds; n/a: not offered"
    );
    print!("{:<22}", "");
    peers.iter().for_each(|peer| print!("{:>12}", peer.name));
    println!("{:>20}{:>18}", "embedded/SoftHSM2", "remote/p11-kit");
    for ((_, label), row) in table {
        print!("{label:<22}");
        let value = |name: &str| row.get(name).copied().filter(|median| median.is_finite());
        for peer in peers {
            match value(peer.name) {
                Some(median) => print!("{median:>12.2}"),
                None => print!("{:>12}", "n/a"),
            }
        }
        let ratio = |a, b| match (value(a), value(b)) {
            (Some(a), Some(b)) => format!("{:.2}", a / b),
            _ => "-".to_owned(),
        };
        println!("{:>20}{:>18}", ratio("embedded", "SoftHSM2"), ratio("remote", "p11-kit"));
    }
}

/// Measures one module in this process: a line for each row, label, tab, median in microseconds.
fn measure(module: &Path) {
    let pkcs11 = Pkcs11::new(module).expect("load the module");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("C_Initialize");
    let pin = AuthPin::new("12345678".into());
    let labelled = |slot: &_| pkcs11.get_token_info(*slot).is_ok_and(|token| token.label() == "bench");
    let slot = match pkcs11.get_slots_with_token().expect("slots").into_iter().find(labelled) {
        Some(slot) => slot,
        None => {
            let slots = pkcs11.get_slots_with_token().expect("slots");
            let slot = *slots.last().expect("a slot");
            pkcs11.init_token(slot, &pin, "bench").expect("C_InitToken");
            let session = pkcs11.open_rw_session(slot).expect("session");
            session.login(UserType::So, Some(&pin)).expect("SO login");
            session.init_pin(&pin).expect("C_InitPIN");
            slot
        }
    };
    let session = pkcs11.open_rw_session(slot).expect("session");
    session.login(UserType::User, Some(&pin)).expect("login");

    row("session open, close", || pkcs11.open_ro_session(slot).is_ok());
    let mut random = [0; 32];
    row("random 32 B", || session.generate_random_slice(&mut random).is_ok());
    row("SHA-256 64 B", || session.digest(&Mechanism::Sha256, &[7; 64]).is_ok());

    let aes = aes_key(&session);
    for (label, len) in [("AES-GCM 32 B", 32), ("AES-GCM 4 KiB", 4096), ("AES-GCM 1 MiB", 1 << 20)] {
        let data = vec![7; len];
        row(label, || {
            let mut iv = [1; 12];
            let parameters = GcmParams::new(&mut iv, &[], 128.into()).expect("parameters");
            session.encrypt(&Mechanism::AesGcm(parameters), aes, &data).is_ok()
        });
    }
    let data = vec![7; 4096];
    row("AES-CBC-PAD 4 KiB", || session.encrypt(&Mechanism::AesCbcPad([1; 16]), aes, &data).is_ok());
    row("AES key wrap 32 B", || session.wrap_key(&Mechanism::AesKeyWrap, aes, aes).is_ok());

    let (public, private) = rsa_keys(&session);
    let signature = session.sign(&Mechanism::Sha256RsaPkcs, private, b"data").expect("sign");
    row("RSA-2048 sign", || session.sign(&Mechanism::Sha256RsaPkcs, private, b"data").is_ok());
    row("RSA-2048 verify", || session.verify(&Mechanism::Sha256RsaPkcs, public, b"data", &signature).is_ok());

    let (public, private) = ec_keys(&session);
    let signature = session.sign(&Mechanism::Ecdsa, private, &[7; 32]).expect("sign");
    row("ECDSA P-256 sign", || session.sign(&Mechanism::Ecdsa, private, &[7; 32]).is_ok());
    row("ECDSA P-256 verify", || session.verify(&Mechanism::Ecdsa, public, &[7; 32], &signature).is_ok());

    row("AES-256 generate", || session.destroy_object(aes_key(&session)).is_ok());
    let label = Attribute::Label(b"find me".to_vec());
    let mut template = vec![Attribute::Class(cryptoki::object::ObjectClass::DATA), label.clone()];
    template.push(Attribute::Token(true));
    let object = session.create_object(&template).expect("data object");
    row("find by label", || {
        session.find_objects(std::slice::from_ref(&label)).is_ok_and(|found| !found.is_empty())
    });
    session.destroy_object(object).expect("destroy");
    row("token object create", || {
        session.create_object(&template).and_then(|object| session.destroy_object(object)).is_ok()
    });
}

fn aes_key(session: &Session) -> ObjectHandle {
    let template = [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Extractable(true),
        Attribute::Sensitive(true),
        Attribute::Encrypt(true),
        Attribute::Wrap(true),
        Attribute::ValueLen(32.into()),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).expect("AES key")
}

fn rsa_keys(session: &Session) -> (ObjectHandle, ObjectHandle) {
    let public = [
        Attribute::Token(false),
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Verify(true),
    ];
    let private = [Attribute::Token(false), Attribute::Sign(true)];
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).expect("RSA keys")
}

fn ec_keys(session: &Session) -> (ObjectHandle, ObjectHandle) {
    let public = [Attribute::Token(false), Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)];
    let private = [Attribute::Token(false), Attribute::Sign(true)];
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).expect("EC keys")
}

/// Runs for a good tenth of a second. A module that refuses the operation gets no figure.
fn row(label: &str, mut operation: impl FnMut() -> bool) {
    if !operation() {
        return println!("{label}\tinf");
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 5 || (start.elapsed() < BUDGET && times.len() < 20_000) {
        let begin = Instant::now();
        assert!(operation(), "{label} failed after it had worked");
        times.push(begin.elapsed());
    }
    times.sort();
    println!("{label}\t{}", times[times.len() / 2].as_nanos() as f64 / 1000.0);
}

const BUDGET: Duration = Duration::from_millis(150);
