//! `hsm-emulator serve` as a process, and its clients: gRPC and plain HTTP.

use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use der::Encode;
use hsm_emulator::units::Refusal;
use hsm_emulator::units::command::{
    Command, CommandBlock, Request as AdminRequest, UnitStatus, read_answer, read_first_answer,
};
use hsm_proto::kms::kms_client::KmsClient;
use hsm_proto::tke;
use hsm_proto::tke::support_client::SupportClient;
use hsm_proto::tke::tke_client::TkeClient;
use hsm_proto::tokens::tokens_client::TokensClient;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tonic::codegen::{Bytes, Service, http};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::operator::Operator;

pub type Client = InterceptedService<Channel, Bearer>;

#[derive(Clone)]
pub struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = format!("Bearer {}", self.0).parse().expect("header");
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// Killed when dropped.
pub struct Server {
    state: PathBuf,
    child: Child,
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    pub fn start(state: &Path, flags: &[&str]) -> Self {
        let endpoint = state.join("endpoint");
        fs::remove_file(&endpoint).ok();
        let log = fs::File::create(state.with_extension("log")).expect("log");
        let mut process = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"));
        process.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(state).args(flags);
        let child = process.stderr(Stdio::from(log)).spawn().expect("hsm-emulator");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !endpoint.exists() {
            assert!(Instant::now() < deadline, "no server within 30 s");
            thread::sleep(Duration::from_millis(10));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let address = fs::read_to_string(&endpoint).expect("endpoint").trim().to_owned();
        let channel =
            runtime.block_on(async { Endpoint::from_shared(address).expect("endpoint").connect_lazy() });
        Self { state: state.to_owned(), child, runtime, channel }
    }

    /// `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let sent = Process::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// The most memory that it has had, in bytes.
    #[allow(dead_code, reason = "benchmarks read it")]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes << 10
    }

    /// What it has said on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state.with_extension("log")).expect("log")
    }

    pub fn api_key(&self) -> String {
        fs::read_to_string(self.state.join("api-key")).expect("API key").trim().to_owned()
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn tke(&self) -> TkeClient<Client> {
        TkeClient::with_interceptor(self.channel(), Bearer(self.api_key()))
    }

    pub fn support(&self) -> SupportClient<Client> {
        SupportClient::with_interceptor(self.channel(), Bearer(self.api_key()))
    }

    pub fn kms(&self) -> KmsClient<Client> {
        KmsClient::with_interceptor(self.channel(), Bearer(self.api_key()))
    }

    pub fn tokens(&self) -> TokensClient<Client> {
        TokensClient::with_interceptor(self.channel(), Bearer(self.api_key()))
    }

    pub fn list_units(&self) -> tke::ListUnitsResponse {
        self.block_on(self.tke().list_units(tke::ListUnitsRequest {})).expect("list").into_inner()
    }

    /// A unit by its place in the list.
    pub fn unit(&self, i: usize, door: Door) -> Unit<'_> {
        let listed = self.list_units();
        let unit = &listed.units[i];
        Unit {
            server: self,
            instance: listed.instance.clone(),
            hsm_id: unit.hsm_id.clone(),
            serial: unit.serial_number.clone(),
            door,
        }
    }

    /// One request over HTTP/1.1: status, and the body as JSON (null if it is none).
    pub fn http(
        &self,
        method: &str,
        path: &str,
        authorization: Option<&str>,
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let address = fs::read_to_string(self.state.join("endpoint")).expect("endpoint");
        let address = address.trim().trim_start_matches("http://").to_owned();
        let mut request = http::Request::builder().method(method).uri(path).header("host", &address);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.body(Full::new(body.into())).expect("request");
        self.block_on(async {
            let stream = TokioIo::new(tokio::net::TcpStream::connect(&address).await.expect("connect"));
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.expect("handshake");
            tokio::spawn(connection);
            let response = sender.send_request(request).await.expect("response");
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.expect("body").to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or_default())
        })
    }

    /// A GET over HTTP/2 without TLS.
    pub fn h2c(&self, path: &str) -> (u16, Value) {
        let request = http::Request::get(path)
            .header("authorization", self.api_key())
            .body(tonic::body::Body::empty())
            .expect("request");
        let mut channel = self.channel();
        self.block_on(async {
            poll_fn(|context| channel.poll_ready(context)).await.expect("ready");
            let response = channel.call(request).await.expect("response");
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.expect("body").to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or_default())
        })
    }

    /// `hsm-emulator audit COMMAND` on its directory.
    pub fn audit(&self, command: &str) -> Output {
        let mut process = Process::new(env!("CARGO_BIN_EXE_hsm-emulator"));
        process.args(["audit", command, "--state"]).arg(&self.state).output().expect("hsm-emulator")
    }

    /// The events of the audit log, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let output = self.audit("show");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["event"].clone())
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Grpc,
    Http,
}

/// A unit behind a door.
pub struct Unit<'a> {
    pub server: &'a Server,
    pub instance: String,
    pub hsm_id: String,
    pub serial: String,
    pub door: Door,
}

impl Unit<'_> {
    pub fn path(&self) -> String {
        format!("/v1/tke/{}/hsms/{}", self.instance, self.hsm_id)
    }

    pub fn status(&self) -> UnitStatus {
        let request = self.request(Command::Query, 7, &[]);
        let response = self.submit(&request).expect("query");
        read_first_answer(&self.serial, &request, &response).expect("answer").0
    }

    /// With the right counter; the answer is verified with the module key.
    pub fn send(&self, command: Command, signers: &[&Operator]) -> Result<Vec<u8>, Refusal> {
        let status = self.status();
        let request = self.request(command, status.counter + 1, signers);
        let response = self.submit(&request).expect("submit");
        let module_key = status.module_key().expect("module key");
        read_answer(&module_key, &self.serial, &request, &response).expect("answer")
    }

    pub fn request(&self, command: Command, counter: u64, signers: &[&Operator]) -> Vec<u8> {
        let block = CommandBlock { command, serial: self.serial.clone(), counter }.to_der().expect("block");
        let signatures = signers.iter().map(|signer| signer.sign(&block)).collect();
        AdminRequest::new(block, signatures).expect("request").to_der().expect("DER")
    }

    /// As bytes; what went wrong on the way as text.
    pub fn submit(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        match self.door {
            Door::Grpc => {
                let message = tke::SubmitRequest { hsm_id: self.hsm_id.clone(), request: request.to_vec() };
                let answer = self.server.block_on(self.server.tke().submit(message));
                answer
                    .map(|answer| answer.into_inner().response)
                    .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
            }
            Door::Http => {
                let body = json!({ "request": hex::encode(request) }).to_string();
                let authorization = format!("Bearer {}", self.server.api_key());
                let (status, answer) = self.server.http("POST", &self.path(), Some(&authorization), body);
                let Some(response) = answer["response"].as_str() else {
                    return Err(format!("{status}: {answer}"));
                };
                let fields: Vec<&str> = response.split(';').collect();
                assert_eq!((status, fields.len(), fields[1].len()), (200, 3, 156));
                assert_eq!(fields[0], fields[2].len().to_string());
                Ok(hex::decode(fields[2]).expect("hexadecimal"))
            }
        }
    }
}
