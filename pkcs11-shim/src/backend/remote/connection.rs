//! One stream to the HSM for each calling thread.
//!
//! A thread drives its connection itself, in a runtime of its own, and only during a call: no lock, no
//! connection and no thread is shared, and there is nothing that a fork could break but what it inherits,
//! which is forgotten unclosed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CKM_DH_PKCS_PARAMETER_GEN, CKM_DSA_PARAMETER_GEN, CKM_PKCS5_PBKD2, CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED,
    CKR_TOKEN_WRITE_PROTECTED,
};
use hsm_emulator::units::{Error, Result, vendor};
use hsm_proto::tokens::tokens_client::TokensClient;
use hsm_proto::tokens::{Request, Response, request, response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint as TonicEndpoint, Identity};
use zeroize::Zeroizing;

use super::regions::{PATIENCE, Regions};
use crate::config::tls::Tls;
use crate::config::{ApiKey, Endpoint};
use crate::fork;
use crate::handles::lock;
use crate::signals::NoBrokenPipe;

/// Where to connect, and the connections that threads have made.
pub struct Connections {
    id: u64,
    regions: Regions,
    authorization: MetadataValue<Ascii>,
    /// By region, with what TLS needs.
    endpoints: Vec<TonicEndpoint>,
    threads: Mutex<Vec<Weak<Place>>>,
    /// Threads that look for their answers before they sleep.
    watching: AtomicUsize,
}

/// A thread's place for its connection. The lock is the thread's own, except when all connections are closed.
#[derive(Default)]
struct Place(Mutex<Line>);

/// What a thread has.
#[derive(Default)]
struct Line {
    connection: Option<Connection>,
    pool: Pool,
}

/// Random bytes fetched in advance.
#[derive(Default)]
struct Pool(Zeroizing<Vec<u8>>);

/// An open stream.
struct Connection {
    process: u64,
    /// Its place in the order of preference.
    region: usize,
    /// When the last answer came.
    used: Instant,
    /// `None` only while being dropped.
    open: Option<Open>,
}

struct Open {
    requests: mpsc::UnboundedSender<Request>,
    answers: Streaming<Response>,
    runtime: Runtime,
    /// But this thread's.
    spare_processors: usize,
}

impl Connections {
    /// None is open yet.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED` if the API key can't be sent, or a certificate can't be read.
    pub fn new(endpoints: &[Endpoint], api_key: &ApiKey, tls: &Tls) -> Result<Self> {
        let bearer = Zeroizing::new(format!("Bearer {}", api_key.expose_secret()));
        let mut authorization = MetadataValue::try_from(bearer.as_str())
            .map_err(|_| Error::new(CKR_FUNCTION_FAILED, "the API key has characters that can't be sent"))?;
        authorization.set_sensitive(true);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let regions = Regions::new(endpoints);
        let endpoints = endpoints.iter().map(|endpoint| prepared(endpoint, tls)).collect::<Result<_>>()?;
        let (threads, watching) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Self { id, regions, authorization, endpoints, threads, watching })
    }

    /// Sends a request on this thread's stream and waits for its answer. A broken stream is replaced once.
    /// Only for requests that may be done twice.
    ///
    /// # Errors
    /// The HSM's refusal, or `CKR_DEVICE_ERROR` if it can't be reached.
    pub fn call(&self, request: request::Call) -> Result<response::Answer> {
        self.with_line(|line| self.exchange(line, request))
    }

    /// As [`Connections::call`], for requests that must not be done twice: they are sent on a stream that has
    /// just been seen to work, and never again.
    ///
    /// # Errors
    /// As [`Connections::call`]. After `CKR_DEVICE_ERROR` it is not known whether the request was done.
    pub fn call_once(&self, request: request::Call) -> Result<response::Answer> {
        self.with_line(|line| {
            if !line.connection.as_mut().is_some_and(Connection::was_just_used) {
                let probe = request::Call::ListTokens(hsm_proto::tokens::ListTokensRequest {});
                self.exchange(line, probe)?;
            }
            let connection = line.connection.as_mut().ok_or_else(|| unreachable_hsm("no connection"))?;
            let region = connection.region;
            let answer = self.ask(connection, Request { call: Some(request.clone()) });
            if answer.is_err() {
                line.connection = None;
            }
            match refusal(answer.map_err(Broken::into_error)?) {
                Err(error) if error.code == CKR_TOKEN_WRITE_PROTECTED && self.regions.are_several() => {
                    self.change_elsewhere(region, request, error)
                }
                outcome => outcome,
            }
        })
    }

    /// This region has refused to write, since it is not the primary one: another one is.
    fn change_elsewhere(
        &self,
        refused: usize,
        request: request::Call,
        refusal_there: Error,
    ) -> Result<response::Answer> {
        for region in self.regions.order().into_iter().filter(|region| *region != refused) {
            let Ok(mut connection) = self.open(region) else { continue };
            let answer = self.ask(&mut connection, Request { call: Some(request.clone()) });
            match refusal(answer.map_err(Broken::into_error)?) {
                Err(error) if error.code == CKR_TOKEN_WRITE_PROTECTED => {}
                outcome => return outcome,
            }
        }
        Err(refusal_there)
    }

    /// Random bytes, from this thread's pool if they are few.
    ///
    /// # Errors
    /// As [`Connections::call`].
    pub fn random(&self, out: &mut [u8]) -> Result<()> {
        self.with_line(|line| {
            for out in out.chunks_mut(MAX_RANDOM_BYTES) {
                if out.len() > POOL_BYTES / 4 {
                    out.copy_from_slice(&self.fetch_random(line, out.len())?);
                    continue;
                }
                if line.pool.0.len() < out.len() {
                    line.pool.0 = Zeroizing::new(self.fetch_random(line, POOL_BYTES)?.to_vec());
                }
                line.pool.take(out);
            }
            Ok(())
        })
    }

    fn fetch_random(&self, line: &mut Line, len: usize) -> Result<bytes::Bytes> {
        let request = hsm_proto::grep11::GenerateRandomRequest { len: len as u64 };
        match self.exchange(line, request::Call::GenerateRandom(request))? {
            response::Answer::GenerateRandom(answer) if answer.rnd.len() == len => Ok(answer.rnd),
            _ => Err(super::unexpected()),
        }
    }

    /// On this thread's stream; if that is broken or its region lost, on a new one to whichever region answers.
    fn exchange(&self, line: &mut Line, request: request::Call) -> Result<response::Answer> {
        let request = Request { call: Some(request) };
        self.go_home(line);
        let mut last = unreachable_hsm("no endpoint is configured");
        if let Some(mut connection) = line.connection.take() {
            match self.ask(&mut connection, request.clone()) {
                Ok(answer) if !self.is_without_units(&answer) => {
                    line.connection = Some(connection);
                    return refusal(answer);
                }
                // The HSM may be slow rather than gone: asking again would double its load.
                Err(broken @ Broken::TimedOut) => return Err(broken.into_error()),
                Ok(answer) => {
                    self.regions.lose(connection.region);
                    last = refusal(answer).err().unwrap_or(last);
                }
                // A stream that broke while it was idle says little about its region.
                Err(Broken::Lost(_)) => {}
                Err(Broken::Silent) => self.regions.lose(connection.region),
            }
        }
        for region in self.regions.order() {
            let mut connection = match self.open(region) {
                Ok(connection) => connection,
                Err(error) => {
                    self.regions.lose(region);
                    last = error;
                    continue;
                }
            };
            match self.ask(&mut connection, request.clone()) {
                Ok(answer) if !self.is_without_units(&answer) => {
                    self.regions.find(region);
                    line.connection = Some(connection);
                    return refusal(answer);
                }
                Ok(answer) => last = refusal(answer).err().unwrap_or(last),
                Err(broken @ Broken::TimedOut) => return Err(broken.into_error()),
                Err(broken) => last = broken.into_error(),
            }
            self.regions.lose(region);
        }
        Err(last)
    }

    /// A region whose crypto units do not serve is as good as lost, if there is another one.
    fn is_without_units(&self, answer: &response::Answer) -> bool {
        let no_key = |code| code == vendor::CKR_IBM_WK_NOT_INITIALIZED;
        self.regions.are_several() && matches!(answer, response::Answer::Error(error) if no_key(error.code))
    }

    /// Goes back to a better region once that answers again.
    fn go_home(&self, line: &mut Line) {
        let Some(region) = line.connection.as_ref().map(|connection| connection.region) else { return };
        if let Some(better) = self.regions.better_than(region)
            && let Ok(connection) = self.open(better)
        {
            self.regions.find(better);
            line.connection = Some(connection);
        }
    }

    fn open(&self, region: usize) -> Result<Connection> {
        let endpoint = self.regions.endpoint(region);
        let patience = match endpoint {
            _ if !self.regions.are_several() => CONNECT_TIMEOUT,
            Endpoint::Tls(_) => TLS_PATIENCE,
            Endpoint::Tcp(_) | Endpoint::Unix(_) => PATIENCE,
        };
        let connecting = channel(endpoint, self.endpoints[region].clone());
        Connection::open(region, connecting, &self.authorization, patience)
    }

    /// Waits for the answer; whenever it does not come for a while, looks whether its region is alive, if there is
    /// another one to go to.
    fn ask(&self, connection: &mut Connection, request: Request) -> Result<response::Answer, Broken> {
        let limit = match request.call {
            Some(request::Call::GenerateKeyPair(_)) => KEY_PAIR_TIMEOUT,
            Some(request::Call::GenerateKey(ref request)) if takes_long(request.mech.as_ref()) => {
                KEY_PAIR_TIMEOUT
            }
            _ => CALL_TIMEOUT,
        };
        if !self.regions.are_several() {
            return connection.exchange(Some(request), limit, &self.watching);
        }
        let deadline = Instant::now() + limit;
        let mut request = Some(request);
        while Instant::now() < deadline {
            match connection.exchange(request.take(), PATIENCE, &self.watching) {
                Err(Broken::TimedOut) if self.open(connection.region).is_err() => return Err(Broken::Silent),
                Err(Broken::TimedOut) => {}
                outcome => return outcome,
            }
        }
        Err(Broken::TimedOut)
    }

    fn with_line<R: Send>(&self, use_line: impl FnOnce(&mut Line) -> Result<R> + Send) -> Result<R> {
        let use_line = |line: &mut Line| {
            // A connection that is closed by the other side is an error of the call, not the end of the application.
            let _quiet = NoBrokenPipe::new();
            use_line(line)
        };
        if PLACES.try_with(|_| ()).is_ok() {
            return use_line(&mut lock(&self.place().0));
        }
        // The thread is ending (an exit handler, perhaps), and what the runtime keeps for it is gone already:
        // another thread makes the call.
        let call = || use_line(&mut Line::default());
        thread::scope(|scope| scope.spawn(call).join())
            .unwrap_or_else(|_| Err(unreachable_hsm("the process is ending")))
    }

    fn place(&self) -> Arc<Place> {
        let own = PLACES.try_with(|places| places.borrow().get(&self.id).cloned());
        if let Ok(Some(place)) = own {
            return place;
        }
        let place = Arc::new(Place::default());
        let mut threads = lock(&self.threads);
        threads.retain(|known| known.strong_count() > 0);
        threads.push(Arc::downgrade(&place));
        // A thread that is about to end keeps nothing any more: its place lives for one call.
        let _ = PLACES.try_with(|places| {
            let mut places = places.borrow_mut();
            // Places of backends that are gone: C_Finalize has closed them.
            places.retain(|_, known| Arc::weak_count(known) > 0);
            places.insert(self.id, place.clone());
        });
        place
    }
}

impl Drop for Connections {
    /// Closes the connections of all threads.
    fn drop(&mut self) {
        for place in lock(&self.threads).drain(..).filter_map(|place| place.upgrade()) {
            *lock(&place.0) = Line::default();
        }
        let _ = PLACES.try_with(|places| places.borrow_mut().remove(&self.id));
    }
}

impl Connection {
    fn open(
        region: usize,
        channel: impl Future<Output = Result<Channel>>,
        authorization: &MetadataValue<Ascii>,
        patience: Duration,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| unreachable_hsm(&format!("no runtime: {e}")))?;
        let connecting = async {
            let channel = channel.await?;
            let (requests, outgoing) = mpsc::unbounded_channel();
            let mut opening = tonic::Request::new(UnboundedReceiverStream::new(outgoing));
            opening.metadata_mut().insert("authorization", authorization.clone());
            let answers = TokensClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
                .operate(opening)
                .await
                .map_err(|status| unreachable_hsm(status.message()))?
                .into_inner();
            Ok((requests, answers))
        };
        let connected = runtime
            .block_on(timeout(patience, connecting))
            .unwrap_or_else(|| Err(unreachable_hsm("connecting took too long")));
        match connected {
            Ok((requests, answers)) => {
                let spare_processors = thread::available_parallelism().map_or(0, |all| all.get() - 1);
                let open = Some(Open { requests, answers, runtime, spare_processors });
                Ok(Self { process: fork::adopt(), region, used: Instant::now(), open })
            }
            Err(error) => {
                // A name that is being looked up in vain is not waited for.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Has it given an answer a moment ago, and not ended since?
    fn was_just_used(&mut self) -> bool {
        let Some(Open { answers, runtime, .. }) = &mut self.open else { return false };
        self.used.elapsed() < MOMENT
            && runtime.block_on(async {
                // Once to hear what has come, and once for the connection to take it in.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                poll_fn(|context| Poll::Ready(Pin::new(&mut *answers).poll_next(context).is_pending())).await
            })
    }

    /// Sends a request, if there is one, and waits for the next answer.
    fn exchange(
        &mut self,
        request: Option<Request>,
        limit: Duration,
        watching: &AtomicUsize,
    ) -> Result<response::Answer, Broken> {
        let Some(Open { requests, answers, runtime, spare_processors }) = &mut self.open else {
            return Err(Broken::TimedOut);
        };
        let spare_processors = *spare_processors;
        // Sent within the runtime, which would have to be woken otherwise.
        let exchange = async {
            if let Some(request) = request
                && requests.send(request).is_err()
            {
                return Err(tonic::Status::unavailable("the stream is closed"));
            }
            watched(answers.message(), watching, spare_processors).await
        };
        match runtime.block_on(timeout(limit, exchange)) {
            None => Err(Broken::TimedOut),
            Some(Err(status)) => Err(Broken::Lost(status.message().to_owned())),
            Some(Ok(None)) => Err(Broken::Lost("the HSM has ended the stream".to_owned())),
            Some(Ok(Some(response))) => {
                self.used = Instant::now();
                response.answer.ok_or_else(|| Broken::Lost("the HSM's answer is empty".to_owned()))
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let open = self.open.take();
        if self.process != fork::process() {
            // A child process: the parent goes on using the socket and what watches it.
            std::mem::forget(open);
            return;
        }
        let _quiet = NoBrokenPipe::new();
        // At the end of a thread, the runtime's own thread-local state may be gone already: never unwind.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Some(Open { requests, answers, runtime, .. }) = open {
                drop((requests, answers));
                runtime.shutdown_background();
            }
        }));
    }
}

impl Pool {
    fn take(&mut self, out: &mut [u8]) {
        let rest = self.0.len() - out.len();
        out.copy_from_slice(&self.0[rest..]);
        self.0[rest..].fill(0);
        self.0.truncate(rest);
    }
}

/// Why an exchange failed.
enum Broken {
    /// No answer in time.
    TimedOut,
    /// Nor does the region answer anything else.
    Silent,
    /// The stream has ended.
    Lost(String),
}

impl Broken {
    fn into_error(self) -> Error {
        match self {
            Self::TimedOut | Self::Silent => unreachable_hsm("it did not answer in time"),
            Self::Lost(reason) => unreachable_hsm(&reason),
        }
    }
}

/// An endpoint with all that is known before it is connected to.
fn prepared(endpoint: &Endpoint, tls: &Tls) -> Result<TonicEndpoint> {
    let (uri, tls) = match endpoint {
        Endpoint::Tcp(uri) => (uri.as_str(), None),
        Endpoint::Tls(uri) => (uri.as_str(), Some(client_tls(tls))),
        // The name is sent as authority; nobody resolves it.
        Endpoint::Unix(_) => ("http://localhost", None),
    };
    let wrong = |e: tonic::transport::Error| {
        Error::new(CKR_FUNCTION_FAILED, format!("endpoint {uri:?} can't be used: {}", reason(&e)))
    };
    let endpoint = TonicEndpoint::from_shared(uri.to_owned())
        .map_err(wrong)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES);
    match tls {
        Some(tls) => endpoint.tls_config(tls).map_err(wrong),
        None => Ok(endpoint),
    }
}

fn client_tls(tls: &Tls) -> ClientTlsConfig {
    let config = match &tls.authority {
        Some(authority) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match &tls.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key.as_slice())),
        None => config,
    }
}

async fn channel(endpoint: &Endpoint, prepared: TonicEndpoint) -> Result<Channel> {
    let connected = match endpoint {
        Endpoint::Tcp(_) | Endpoint::Tls(_) => prepared.connect().await,
        Endpoint::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            prepared.connect_with_connector(connector).await
        }
    };
    connected.map_err(|e| unreachable_hsm(&reason(&e)))
}

/// The error with its causes, which say for instance which certificate is not trusted.
fn reason(error: &tonic::transport::Error) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    reason
}

/// Looking for primes, or computing a hash ten million times.
fn takes_long(mechanism: Option<&hsm_proto::grep11::Mechanism>) -> bool {
    let long = [CKM_DH_PKCS_PARAMETER_GEN, CKM_DSA_PARAMETER_GEN, CKM_PKCS5_PBKD2];
    mechanism.is_some_and(|mechanism| long.contains(&mechanism.mechanism))
}

async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Most answers come sooner than a sleeping processor wakes up: this thread looks for it for a while before it sleeps. Any
/// other thread comes first, and this process leaves one processor alone.
async fn watched<F: Future>(answer: F, watching: &AtomicUsize, spare_processors: usize) -> F::Output {
    let mut answer = pin!(answer);
    if let Some(_watching) = Watching::begin(watching, spare_processors) {
        let end = Instant::now() + WATCH;
        while Instant::now() < end {
            // The first time, this is when the request leaves.
            tokio::task::yield_now().await;
            if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
                return answer;
            }
            thread::yield_now();
        }
    }
    answer.await
}

/// A thread that looks for its answer, counted until it sleeps or goes on.
struct Watching<'a>(&'a AtomicUsize);

impl<'a> Watching<'a> {
    /// `None` if so many do that already.
    fn begin(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let watching = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(watching)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refusal(answer: response::Answer) -> Result<response::Answer> {
    match answer {
        response::Answer::Error(error) => Err(Error::new(error.code, error.detail)),
        answer => Ok(answer),
    }
}

fn unreachable_hsm(reason: &str) -> Error {
    Error::new(CKR_DEVICE_ERROR, format!("the HSM can't be reached: {reason}"))
}

thread_local! {
    /// This thread's places, by backend.
    static PLACES: RefCell<HashMap<u64, Arc<Place>>> = RefCell::default();
}

static NEXT: AtomicU64 = AtomicU64::new(0);
const WATCH: Duration = Duration::from_micros(500);
/// For which a stream that has worked is trusted to work.
const MOMENT: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// As [`PATIENCE`], for the several journeys that connecting by TLS takes.
const TLS_PATIENCE: Duration = Duration::from_millis(1200);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// An RSA key of 8192 bits takes many seconds to find.
const KEY_PAIR_TIMEOUT: Duration = Duration::from_secs(120);
/// 64 MiB of data, and the message around them.
const MAX_MESSAGE_BYTES: usize = 68 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const POOL_BYTES: usize = 4096;
/// What the HSM gives in one call.
const MAX_RANDOM_BYTES: usize = 1_000_000;
