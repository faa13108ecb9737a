//! What nothing can be faster than: the primitives alone, one durable write, one message there and back.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::key_wrap::{AES_256 as WRAP_256, AesKek, KeyWrap};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
};
use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use super::rows::{CREATE, LARGEST, P256_POINT, ROWS, RSA_GENERATE};
use super::timing::{alone, plain};
use super::{BUDGET, budget, print_figure};

/// Measures the primitives of the rows, in this process, with the keys ready. The write is in `directory`.
pub fn primitives(directory: &Path) {
    let random = SystemRandom::new();
    row("random 32 B", || fill(&mut [0; 32]).expect("random"));
    row("SHA-256 64 B", || digest(&SHA256, &[7; 64]));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[5; 32]);
    row("HMAC-SHA-256 64 B", || hmac::sign(&key, &[7; 64]));
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[5; 32]).expect("key"));
    for (name, len) in [("AES-GCM 32 B", 32), ("AES-GCM 4 KiB", 4096), ("AES-GCM 1 MiB", LARGEST)] {
        let mut data = vec![7; len];
        row(name, || {
            let nonce = Nonce::assume_unique_for_key([1; 12]);
            key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut data).expect("seal")
        });
    }
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &[5; 32]).expect("key"))
        .expect("key");
    let mut data = Vec::with_capacity(4112);
    row("AES-CBC-PAD 4 KiB", || {
        data.clear();
        data.resize(4096, 7);
        key.encrypt(&mut data).expect("encrypt");
    });
    row("AES key wrap 32 B", || {
        let key = AesKek::new(&WRAP_256, &[5; 32]).expect("key");
        key.wrap(&[5; 32], &mut [0; 40]).expect("wrap").len()
    });

    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("RSA key");
    let mut signed = [0; 256];
    row("RSA-2048 sign", || pair.sign(&RSA_PKCS1_SHA256, &random, &[7; 32], &mut signed).expect("sign"));
    let key = signature::ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key()).expect("key");
    row("RSA-2048 verify", || key.verify_sig(&[7; 32], &signed).expect("verify"));

    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::generate(algorithm).expect("P-256 key");
    row("ECDSA P-256 sign", || pair.sign(&random, &[7; 32]).expect("sign"));
    let signed = pair.sign(&random, &[7; 32]).expect("sign");
    let key = signature::ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key()).expect("key");
    row("ECDSA P-256 verify", || key.verify_sig(&[7; 32], signed.as_ref()).expect("verify"));

    let pair = Ed25519KeyPair::generate().expect("Ed25519 key");
    row("Ed25519 sign", || pair.sign(&[7; 32]));
    let signed = pair.sign(&[7; 32]);
    let key = signature::ParsedPublicKey::new(&ED25519, pair.public_key()).expect("key");
    row("Ed25519 verify", || key.verify_sig(&[7; 32], signed.as_ref()).expect("verify"));

    let key = agreement::PrivateKey::generate(&agreement::ECDH_P256).expect("P-256 key");
    row("ECDH P-256", || {
        let other = UnparsedPublicKey::new(&agreement::ECDH_P256, P256_POINT);
        agree(&key, other, (), |secret| {
            black_box(secret);
            Ok(())
        })
    });

    row("AES-256 generate", || fill(&mut [0; 32]).expect("random"));
    row("P-256 generate", || EcdsaKeyPair::generate(algorithm).expect("P-256 key"));
    row(RSA_GENERATE, || RsaKeyPair::generate(KeySize::Rsa2048).expect("RSA key"));

    let path = directory.join("writes");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a file");
    row(CREATE, || {
        file.write_all(&[7; 512]).expect("write");
        file.sync_data().expect("fdatasync");
    });
}

fn row<T>(name: &str, step: impl FnMut() -> T) {
    print_figure(name, alone(name, budget(name), plain(step)));
}

/// Measures, for each row, a message of its size there and back on a stream, by a thread that drives the connection
/// itself, as the library does it.
pub fn echo() {
    let (server, address) = EchoServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (requests, mut answers) = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(address).expect("endpoint").tcp_nodelay(true);
        let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
        let mut client = tonic::client::Grpc::new(endpoint.connect().await.expect("connect"));
        client.ready().await.expect("ready");
        let (requests, outgoing) = mpsc::unbounded_channel();
        let stream = Request::new(UnboundedReceiverStream::new(outgoing));
        let path = PathAndQuery::from_static("/echo.Echo/Echo");
        let codec = ProstCodec::<Bytes, Bytes>::default();
        (requests, client.streaming(stream, path, codec).await.expect("a stream").into_inner())
    });
    for row in ROWS {
        let data = Bytes::from(vec![7; row.payload]);
        let step = plain(|| {
            requests.send(data.clone()).expect("send");
            let answer = runtime.block_on(answers.message()).expect("receive").expect("an answer");
            assert_eq!(answer.len(), data.len());
        });
        print_figure(row.name, alone(row.name, BUDGET, step));
    }
    drop(server);
}

/// Answers each message with itself, until it is killed; says at which address.
#[tokio::main]
pub async fn serve_echo() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    println!("http://{}", listener.local_addr().expect("address"));
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .add_service(Echo)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .expect("serve");
}

struct EchoServer(Child);

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl EchoServer {
    fn start() -> (Self, String) {
        let mut server = Command::new(std::env::current_exe().expect("this program"))
            .arg("--serve-echo")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server");
        let mut address = String::new();
        let output = server.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut address).expect("its address");
        (Self(server), address.trim().to_owned())
    }
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "echo.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let back = tower::service_fn(|request: Request<Streaming<Bytes>>| async {
            Ok(Response::new(request.into_inner()))
        });
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Bytes, Bytes>::default());
            Ok(grpc.streaming(back, request).await)
        })
    }
}

/// As the library and the HSM have it.
const WINDOW: u32 = 4 << 20;
