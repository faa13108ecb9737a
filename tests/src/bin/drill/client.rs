//! A client with an ordered list of regions: what does not answer is remembered, and the other one is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hsm_proto::kms;
use hsm_proto::kms::kms_client::KmsClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// A region's port, with its API key.
pub type Authorized = InterceptedService<Channel, Bearer>;
/// Root keys in one region.
pub type Kms = KmsClient<Authorized>;

/// An API key.
#[derive(Clone)]
pub struct Bearer(AsciiMetadataValue);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Connects when it is first used, and again whenever the connection is lost.
pub fn authorized(address: &str, api_key: &str) -> Result<Authorized, String> {
    let key = format!("Bearer {api_key}").parse().map_err(|_| "the API key is not ASCII")?;
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| error.to_string())?;
    let channel = endpoint.tcp_nodelay(true).connect_lazy();
    Ok(InterceptedService::new(channel, Bearer(key)))
}

/// The regions in the order in which they are asked.
pub struct Client {
    regions: [Known; 2],
}

struct Known {
    kms: Kms,
    lost: AtomicBool,
}

/// What came of a request.
pub struct Asked<T> {
    /// The answer, or the last error within the deadline.
    pub result: Result<T, Status>,
    /// Who has given it.
    pub region: usize,
    /// An attempt without an answer, or with an uncertain one, may have changed something.
    pub in_doubt: bool,
    /// Another region did not know the key.
    pub unknown_in: Option<usize>,
}

impl Client {
    /// Looks after lost regions for as long as it is in use.
    pub fn new(regions: [Kms; 2]) -> Arc<Self> {
        let regions = regions.map(|kms| Known { kms, lost: AtomicBool::new(false) });
        let client = Arc::new(Self { regions });
        let probed = Arc::downgrade(&client);
        tokio::spawn(async move {
            while let Some(client) = probed.upgrade() {
                client.probe().await;
                drop(client);
                sleep(PROBE).await;
            }
        });
        client
    }

    async fn probe(&self) {
        for known in self.regions.iter().filter(|known| known.lost.load(Ordering::Relaxed)) {
            let mut kms = known.kms.clone();
            let answer = timeout(ATTEMPT, kms.get_instance(kms::GetInstanceRequest::default())).await;
            if matches!(answer, Ok(Ok(_))) {
                known.lost.store(false, Ordering::Relaxed);
            }
        }
    }

    /// The regions in turn until one does it, or the deadline has passed.
    pub async fn ask<T, F>(&self, request: impl Fn(Kms) -> F) -> Asked<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + DEADLINE;
        let (mut in_doubt, mut unknown_in) = (false, None);
        loop {
            let order = if self.regions[0].lost.load(Ordering::Relaxed) { [1, 0] } else { [0, 1] };
            let mut last = (0, Status::deadline_exceeded("no region has answered"));
            let mut unknown = 0;
            for region in order {
                let known = &self.regions[region];
                let status = match timeout(ATTEMPT, request(known.kms.clone())).await {
                    Ok(Ok(answer)) => {
                        return Asked { result: Ok(answer.into_inner()), region, in_doubt, unknown_in };
                    }
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("it is silent"),
                };
                // Whatever a region answers has details.
                if status.details().is_empty() {
                    known.lost.store(true, Ordering::Relaxed);
                    in_doubt = true;
                } else if status.code() == Code::NotFound {
                    (unknown, unknown_in) = (unknown + 1, Some(region));
                } else if status.code() == Code::Aborted {
                    // By another request, such as an attempt before this one: it says 'try again'.
                } else if status.code() != Code::Unavailable {
                    return Asked { result: Err(status), region, in_doubt, unknown_in };
                } else {
                    in_doubt |= !status.message().contains("not the primary one");
                }
                last = (region, status);
            }
            if unknown == order.len() || Instant::now() >= deadline {
                return Asked { result: Err(last.1), region: last.0, in_doubt, unknown_in };
            }
            sleep(PAUSE).await;
        }
    }
}

/// For a request, with all its attempts.
const DEADLINE: Duration = Duration::from_secs(2);
/// A region that is silent for so long is lost.
const ATTEMPT: Duration = Duration::from_millis(400);
/// Between two looks at a lost region.
const PROBE: Duration = Duration::from_millis(200);
/// Before the regions are asked again.
const PAUSE: Duration = Duration::from_millis(10);
