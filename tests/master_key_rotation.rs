//! The master key of a running instance is rotated again and again while the instance is killed with -9 at random
//! moments. After each restart every root key opens what it wrapped, the token's key signs, the customer's own key
//! decrypts, and the documented next step goes on.
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_VALUE_LEN, CKM_AES_ECB, CKM_AES_KEY_GEN, CKM_EC_KEY_PAIR_GEN, CKM_ECDSA,
};
use der::Encode;
use hsm_emulator::units::administration::permission;
use hsm_emulator::units::command::{
    Command, CommandBlock, DomainAttributes, Request as AdminRequest, Signature, UnitStatus, UnitType,
    read_answer, read_first_answer,
};
use hsm_emulator::units::{
    Administrator, MasterKey, Refusal, TransportedKey, VerificationPattern, generate_signature_key,
};
use hsm_proto::grep11::crypto_client::CryptoClient;
use hsm_proto::kms::kms_client::KmsClient;
use hsm_proto::tke::tke_client::TkeClient;
use hsm_proto::tokens::request::Call;
use hsm_proto::tokens::response::Answer;
use hsm_proto::tokens::tokens_client::TokensClient;
use hsm_proto::{grep11, kms, tke, tokens};
use p521::ecdsa::signature::Signer;
use p521::ecdsa::{DerSignature, SigningKey};
use tokio_stream::StreamExt;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

type Client<T> = InterceptedService<T, Bearer>;

#[derive(Clone)]
struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = format!("Bearer {}", self.0).parse().expect("header");
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// `hsm-emulator serve`, killed when dropped.
struct Server {
    child: Child,
    channel: Channel,
    bearer: Bearer,
}

impl Server {
    async fn start(state: &Path) -> Self {
        let endpoint_file = state.join("endpoint");
        std::fs::remove_file(&endpoint_file).ok();
        let log = state.with_extension("log");
        let child = Process::new(program())
            .args(["serve", "--imprint", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .stderr(Stdio::from(std::fs::File::create(&log).expect("log")))
            .spawn()
            .expect("start hsm-emulator");
        let deadline = Instant::now() + Duration::from_secs(30);
        let endpoint = loop {
            match std::fs::read_to_string(&endpoint_file) {
                Ok(endpoint) => break endpoint.trim().to_owned(),
                Err(_) => assert!(
                    Instant::now() < deadline,
                    "the instance does not come up: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let bearer = Bearer(std::fs::read_to_string(state.join("api-key")).expect("API key").trim().into());
        let channel = Endpoint::from_shared(endpoint).expect("endpoint").connect_lazy();
        Self { child, channel, bearer }
    }

    fn tke(&self) -> TkeClient<Client<Channel>> {
        TkeClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    fn grep11(&self) -> CryptoClient<Client<Channel>> {
        CryptoClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// One call of the PKCS #11 library.
    async fn operate(&self, call: Call) -> Answer {
        let mut client = TokensClient::with_interceptor(self.channel.clone(), self.bearer.clone());
        let request = tokens::Request { call: Some(call) };
        let mut answers = client.operate(tokio_stream::once(request)).await.expect("stream").into_inner();
        answers.message().await.expect("answer").and_then(|answer| answer.answer).expect("answer")
    }

    fn kms(&self) -> KmsClient<Client<Channel>> {
        KmsClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("wait");
    }
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/hsm-emulator")
}

/// The administrator and what is known of the instance.
struct Operator {
    key: SigningKey,
    administrator: Administrator,
}

/// Why a step was not done: the instance was killed, or a unit refuses.
#[derive(Debug)]
enum Interrupted {
    Killed,
    /// Shown where the test fails.
    #[allow(dead_code)]
    Refused(Refusal),
}

impl From<Status> for Interrupted {
    fn from(status: Status) -> Self {
        let gone =
            matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled);
        assert!(gone, "not a broken connection: {status:?}");
        Self::Killed
    }
}

impl Operator {
    fn new() -> Self {
        let key = generate_signature_key().expect("key");
        let administrator = Administrator::new("operator", key.verifying_key()).expect("administrator");
        Self { key, administrator }
    }

    async fn units(&self, server: &Server) -> Result<Vec<(String, UnitStatus)>, Interrupted> {
        let mut units = Vec::new();
        for unit in server.tke().list_units(tke::ListUnitsRequest {}).await?.into_inner().units {
            let block =
                CommandBlock { command: Command::Query, serial: unit.serial_number.clone(), counter: 9 };
            let request = AdminRequest::new(block.to_der().expect("block"), Vec::new());
            let request = request.and_then(|request| request.to_der()).expect("DER");
            let submit = tke::SubmitRequest { hsm_id: unit.hsm_id.clone(), request: request.clone() };
            let response = server.tke().submit(submit).await?.into_inner().response;
            let (status, _) = read_first_answer(&unit.serial_number, &request, &response).expect("answer");
            units.push((unit.hsm_id, status));
        }
        Ok(units)
    }

    /// Sends a signed command; `status` is what the unit was like just before.
    async fn send(
        &self,
        server: &Server,
        (hsm_id, status): &mut (String, UnitStatus),
        command: Command,
    ) -> Result<Vec<u8>, Interrupted> {
        let counter = status.counter + 1;
        let block = CommandBlock { command, serial: status.serial.clone(), counter }.to_der().expect("block");
        let signature: DerSignature = self.key.sign(&block);
        let signature =
            Signature::new(&self.administrator.subject_key_identifier(), signature.as_bytes().to_vec());
        let imprint = status.administrators.is_empty();
        let signatures = if imprint { Vec::new() } else { vec![signature.expect("signature")] };
        let request = AdminRequest::new(block, signatures).and_then(|request| request.to_der()).expect("DER");
        let submit = tke::SubmitRequest { hsm_id: hsm_id.clone(), request: request.clone() };
        let response = server.tke().submit(submit).await?.into_inner().response;
        status.counter = counter;
        let module_key = status.module_key().expect("module key");
        read_answer(&module_key, &status.serial, &request, &response)
            .expect("answer")
            .map_err(Interrupted::Refused)
    }

    async fn adopt(&self, server: &Server) -> Result<(), Interrupted> {
        for mut unit in self.units(server).await? {
            self.send(server, &mut unit, Command::AddAdministrator(self.administrator.clone())).await?;
            unit.1.administrators.push(self.administrator.clone());
            let recovery = match unit.1.unit_type {
                UnitType::Recovery => permission::EXPORT | permission::RANDOM,
                _ => 0,
            };
            let attributes = DomainAttributes {
                signature_threshold: Some(1),
                revocation_threshold: Some(1),
                permissions: Some(unit.1.permissions | permission::IMPORT | recovery),
            };
            self.send(server, &mut unit, Command::SetAttributes(attributes)).await?;
        }
        Ok(())
    }

    /// Brings all units to this master key, from wherever an earlier attempt stopped: the steps that the failure
    /// table (tke.md 4.4) names.
    async fn bring_to(
        &self,
        server: &Server,
        parts: [u8; 2],
        customer: Option<&mut CustomersKey>,
    ) -> Result<(), Interrupted> {
        let target = pattern(parts);
        let holds = |status: &UnitStatus| status.current_register.verification_pattern() == Some(target);
        let pending = |status: &UnitStatus| status.new_register.verification_pattern() == Some(target);
        let committed = |status: &UnitStatus| {
            pending(status)
                && status.new_register.state == hsm_emulator::units::command::RegisterState::FullCommitted
        };
        let mut units = self.units(server).await?;
        for unit in units.iter_mut().filter(|(_, status)| !holds(status)) {
            if !pending(&unit.1) {
                let importer = self.send(server, unit, Command::GenerateImporterKey).await?;
                let parts = parts.map(|part| TransportedKey::wrap(&key_part(part), &importer).expect("wrap"));
                self.send(server, unit, Command::ImportMasterKey(parts.to_vec())).await?;
            }
            if !committed(&unit.1) {
                self.send(server, unit, Command::CommitMasterKey(target)).await?;
            }
        }
        // Once a unit has the new key, everything has been re-encrypted before.
        if let Some(customer) = customer
            && !units.iter().any(|(_, status)| holds(status))
        {
            customer.rewrap(server).await?;
            let request =
                tke::ReencryptRequest { verification_pattern: target.to_hex(), abandon_other: false };
            let mut progress = server.tke().reencrypt(request).await?.into_inner();
            let mut complete = false;
            while let Some(message) = progress.next().await {
                complete = message?.complete;
            }
            if !complete {
                return Err(Interrupted::Killed);
            }
        }
        for unit in units.iter_mut().filter(|(_, status)| !holds(status)) {
            self.send(server, unit, Command::SetImmediate).await?;
        }
        Ok(())
    }
}

/// A key that its owner keeps as a blob, with something that it has encrypted.
struct CustomersKey {
    /// Under the master key of before, of now, or of after: which one it is, its owner need not know.
    blobs: Vec<Bytes>,
    ciphered: Bytes,
}

impl CustomersKey {
    async fn new(server: &Server) -> Self {
        let length = grep11::attribute_value::OneAttr::AttributeI(32);
        let length = grep11::AttributeValue { one_attr: Some(length) };
        let request = grep11::GenerateKeyRequest {
            mech: mechanism(CKM_AES_KEY_GEN),
            template: [(CKA_VALUE_LEN, length)].into(),
        };
        let blob = server.grep11().generate_key(request).await.expect("generate").into_inner().key_bytes;
        let request = grep11::EncryptSingleRequest {
            mech: mechanism(CKM_AES_ECB),
            plain: DATA_KEY.into(),
            key: key(&blob),
        };
        let ciphered = server.grep11().encrypt_single(request).await.expect("encrypt").into_inner().ciphered;
        Self { blobs: vec![blob], ciphered }
    }

    /// Between the commit and the end of a rotation: the blob that opens now gets a successor.
    async fn rewrap(&mut self, server: &Server) -> Result<(), Interrupted> {
        let mut successors = Vec::new();
        for blob in &self.blobs {
            let request =
                grep11::RewrapKeyBlobRequest { wrapped_key_bytes: blob.clone(), ..Default::default() };
            match server.grep11().rewrap_key_blob(request).await {
                Ok(answer) => successors.push([blob.clone(), answer.into_inner().rewrapped_key_bytes]),
                // Of a master key that is gone, or of one that did not come.
                Err(status) if !status.details().is_empty() => {}
                Err(status) => return Err(status.into()),
            }
        }
        let [current] = successors.as_slice() else { panic!("{} blobs open", successors.len()) };
        self.blobs = current.to_vec();
        Ok(())
    }

    /// How many of its blobs decrypt.
    async fn usable(&self, server: &Server) -> usize {
        let mut usable = 0;
        for blob in &self.blobs {
            let request = grep11::DecryptSingleRequest {
                mech: mechanism(CKM_AES_ECB),
                ciphered: self.ciphered.clone(),
                key: key(blob),
            };
            let answer = server.grep11().decrypt_single(request).await;
            usable += usize::from(answer.is_ok_and(|answer| answer.into_inner().plain == DATA_KEY));
        }
        usable
    }
}

/// A token with a private key in it.
struct Token {
    serial: String,
}

const PIN: &[u8] = b"12345678";

impl Token {
    async fn new(server: &Server) -> Self {
        let init =
            tokens::InitTokenRequest { so_pin: PIN.into(), label: "token".into(), ..Default::default() };
        let Answer::InitToken(token) = server.operate(Call::InitToken(init)).await else { panic!("init") };
        let so = Self::login(server, &token.serial, tokens::User::So).await;
        let init_pin = tokens::InitPinRequest { grant: so, pin: PIN.into() };
        assert!(matches!(server.operate(Call::InitPin(init_pin)).await, Answer::InitPin(_)));
        let grant = Self::login(server, &token.serial, tokens::User::User).await;
        let p256 = Bytes::from_static(&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
        let p256 = grep11::attribute_value::OneAttr::AttributeB(p256);
        let generate = grep11::GenerateKeyPairRequest {
            mech: mechanism(CKM_EC_KEY_PAIR_GEN),
            pub_key_template: [(CKA_EC_PARAMS, grep11::AttributeValue { one_attr: Some(p256) })].into(),
            ..Default::default()
        };
        let Answer::GenerateKeyPair(pair) = server.operate(Call::GenerateKeyPair(generate)).await else {
            panic!("generate")
        };
        let put = tokens::PutObjectRequest {
            serial: token.serial.clone(),
            grant,
            id: Bytes::from_static(&[7; 16]),
            object: pair.priv_key_bytes,
            replaces: Bytes::new(),
            more: Vec::new(),
        };
        assert!(matches!(server.operate(Call::PutObject(put)).await, Answer::PutObject(_)));
        Self { serial: token.serial }
    }

    async fn login(server: &Server, serial: &str, user: tokens::User) -> Bytes {
        let login = tokens::LoginRequest { serial: serial.into(), user: user.into(), pin: PIN.into() };
        match server.operate(Call::Login(login)).await {
            Answer::Login(answer) => answer.grant,
            other => panic!("login: {other:?}"),
        }
    }

    /// The PIN is right, the key is there, and signs.
    async fn check(&self, server: &Server) {
        let grant = Self::login(server, &self.serial, tokens::User::User).await;
        let changes = tokens::ChangesRequest { serial: self.serial.clone(), grant, since: 0 };
        let Answer::Changes(changes) = server.operate(Call::Changes(changes)).await else {
            panic!("changes")
        };
        let [stored] = changes.stored.as_slice() else { panic!("{} objects", changes.stored.len()) };
        let sign = grep11::SignSingleRequest {
            mech: mechanism(CKM_ECDSA),
            data: Bytes::from_static(&[5; 32]),
            priv_key: key(&stored.object),
        };
        match server.operate(Call::Sign(sign)).await {
            Answer::Sign(answer) => assert_eq!(answer.signature.len(), 64),
            other => panic!("sign: {other:?}"),
        }
    }
}

fn mechanism(kind: u64) -> Option<grep11::Mechanism> {
    Some(grep11::Mechanism { mechanism: kind, parameter: None })
}

fn key(blob: &Bytes) -> Option<grep11::KeyBlob> {
    Some(grep11::KeyBlob { key_blobs: vec![blob.clone()], ..Default::default() })
}

fn key_part(byte: u8) -> hsm_emulator::units::KeyPart {
    Box::new(zeroize::Zeroizing::new([byte; 32]))
}

fn pattern(parts: [u8; 2]) -> VerificationPattern {
    *MasterKey::from_parts(&parts.map(key_part)).expect("parts").verification_pattern()
}

const DATA_KEY: &[u8] = b"a data key of thirty-two bytes..";
const KEYS: usize = 60;

async fn check(server: &Server, wrapped: &[(String, String)], kills: usize) {
    for (key, ciphertext) in wrapped {
        let request =
            kms::UnwrapRequest { key: key.clone(), ciphertext: ciphertext.clone(), ..Default::default() };
        let answer = server.kms().unwrap(request).await;
        let answer = answer.unwrap_or_else(|status| panic!("after kill {kills}: {status:?}"));
        assert_eq!(answer.into_inner().plaintext, DATA_KEY);
    }
}

/// A xorshift generator: the moments of a failed run can be repeated.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % below.as_micros() as u64)
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

#[tokio::test]
async fn killed_at_random_moments_of_rotations_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("dir");
    let state = directory.path().join("hsm");
    let seed = variable("KILL_SEED", std::process::id().into());
    println!("KILL_SEED={seed}");
    let mut moments = Moments(seed.max(1));
    let operator = Operator::new();
    let mut server = Server::start(&state).await;
    operator.adopt(&server).await.expect("adopt");
    let mut round = 0u8;
    let parts = |round: u8| [round | 0x80, 0x7f];
    operator.bring_to(&server, parts(round), None).await.expect("first master key");
    let mut customer = CustomersKey::new(&server).await;
    let token = Token::new(&server).await;
    let mut wrapped = Vec::new();
    for i in 0..KEYS {
        let request = kms::CreateRootKeyRequest { name: format!("key {i}"), material: Vec::new() };
        let key = server.kms().create_root_key(request).await.expect("create").into_inner().id;
        let request = kms::WrapRequest { key: key.clone(), plaintext: DATA_KEY.into(), ..Default::default() };
        let ciphertext = server.kms().wrap(request).await.expect("wrap").into_inner().ciphertext;
        wrapped.push((key, ciphertext));
    }

    // How long a rotation takes without a kill, so that kills fall on all of it.
    let begun = Instant::now();
    round = 1;
    operator.bring_to(&server, parts(round), Some(&mut customer)).await.expect("rotate");
    let whole = begun.elapsed();
    check(&server, &wrapped, 0).await;
    assert_eq!(customer.usable(&server).await, 1);

    let (kills, mut rotations) = (variable("KILLS", 100) * 2, 1);
    for kill in 1..=kills as usize {
        let target = round % 100 + 1;
        let moment = moments.next(whole);
        let killed = {
            let rotation = operator.bring_to(&server, parts(target), Some(&mut customer));
            tokio::time::timeout(moment, rotation).await
        };
        match killed {
            Ok(Ok(())) => (round, rotations) = (target, rotations + 1),
            Ok(Err(error)) => panic!("seed {seed}, kill {kill}: {error:?}"),
            Err(_) => {}
        }
        drop(server);
        server = Server::start(&state).await;
        check(&server, &wrapped, kill).await;
        token.check(&server).await;
        assert_eq!(customer.usable(&server).await, 1, "seed {seed}, kill {kill}");
    }
    let target = round % 100 + 1;
    operator.bring_to(&server, parts(target), Some(&mut customer)).await.expect("the last rotation");
    assert_eq!(customer.usable(&server).await, 1);
    check(&server, &wrapped, kills as usize).await;
    println!("{kills} kills, {rotations} rotations completed on the way, one of {whole:?}");
    assert!(rotations > 1, "no rotation was ever completed");
    let verified = Process::new(program()).args(["audit", "verify", "--state"]).arg(&state).output();
    let verified = verified.expect("audit verify");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
