//! The regions of the HSM in the order of preference, and which of them are lost.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt};
use hsm_proto::kms::kms_client::KmsClient;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{self, Channel},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use crate::error::{Error, Result};

/// Regions with the same keys, home first.
#[derive(Debug)]
pub struct Endpoints {
    list: Vec<Arc<Endpoint>>,
    timeout: Duration,
}

/// One region. Its connection is made on first use and made again when it breaks.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    channel: Channel,
    authorization: MetadataValue<Ascii>,
    timeout: Duration,
    lost: AtomicBool,
}

impl Endpoints {
    /// Regions by address (`http://host:port`) and API key. Does not connect yet.
    pub fn new<'a>(regions: impl IntoIterator<Item = (&'a str, &'a str)>, timeout: Duration) -> Result<Self> {
        let list = regions
            .into_iter()
            .map(|(url, api_key)| Endpoint::new(url, api_key, timeout).map(Arc::new))
            .collect::<Result<_>>()?;
        Ok(Self { list, timeout })
    }

    /// Asks the first region that is not lost, and the next one too when it fails or is silent. Only for
    /// calls that may be done twice. The caller limits the time of the whole.
    pub async fn ask<T, F>(&self, attempt: impl Fn(Arc<Endpoint>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let ask_one = async |endpoint: &Arc<Endpoint>| match attempt(Arc::clone(endpoint)).await {
            // A connection that broke while idle shows only when it is used.
            Err(status) if is_broken(&status) => (Arc::clone(endpoint), attempt(Arc::clone(endpoint)).await),
            outcome => (Arc::clone(endpoint), outcome),
        };
        let mut order: Vec<_> = self.list.iter().collect();
        order.sort_by_key(|endpoint| endpoint.lost.load(Ordering::Relaxed));
        let mut order = order.into_iter().peekable();
        let mut asked = FuturesUnordered::new();
        let mut failure = Status::unavailable("no region of the HSM is configured");
        loop {
            let newest = order.next();
            asked.extend(newest.map(&ask_one));
            let answer = match (newest, order.peek()) {
                (Some(newest), Some(_)) => match tokio::time::timeout(self.patience(), asked.next()).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        self.lose(newest, "it is silent");
                        continue;
                    }
                },
                _ => asked.next().await,
            };
            match answer {
                Some((endpoint, Err(status))) if is_lost(&status) => {
                    self.lose(&endpoint, status.message());
                    failure = status;
                }
                Some((_, outcome)) => return outcome,
                None => return Err(failure),
            }
        }
    }

    /// Each region gets its share of the deadline, and the last one what is left.
    fn patience(&self) -> Duration {
        MAX_PATIENCE.min(self.timeout / (self.list.len() as u32 + 1))
    }

    /// Later calls go elsewhere until the region is found healthy.
    fn lose(&self, endpoint: &Arc<Endpoint>, reason: &str) {
        if self.list.len() == 1 || endpoint.lost.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(endpoint = endpoint.url, reason, "a region of the HSM is lost");
        let endpoint = Arc::downgrade(endpoint);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROBE_INTERVAL).await;
                let Some(endpoint) = endpoint.upgrade() else { return };
                if endpoint.is_serving().await {
                    endpoint.lost.store(false, Ordering::Relaxed);
                    tracing::info!(endpoint = endpoint.url, "a region of the HSM is back");
                    return;
                }
            }
        });
    }
}

impl Endpoint {
    fn new(url: &str, api_key: &str, timeout: Duration) -> Result<Self> {
        let channel = transport::Endpoint::from_shared(url.to_owned())
            .map_err(|e| Error::internal(format_args!("the HSM's address {url} is not usable: {e}")))?
            .connect_timeout(timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(timeout)
            .connect_lazy();
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {api_key}")
            .parse()
            .map_err(|_| Error::internal("the HSM's API key holds characters that no header can carry"))?;
        authorization.set_sensitive(true);
        Ok(Self { url: url.to_owned(), channel, authorization, timeout, lost: AtomicBool::new(false) })
    }

    /// A client of its root keys.
    pub fn kms(&self) -> KmsClient<Channel> {
        KmsClient::new(self.channel.clone())
    }

    /// A request with its API key.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request.set_timeout(self.timeout);
        request
    }

    async fn is_serving(&self) -> bool {
        let mut health = HealthClient::new(self.channel.clone());
        let check = health.check(HealthCheckRequest { service: "hsm.kms.v1.Kms".to_owned() });
        let answer = tokio::time::timeout(PROBE_TIMEOUT, check).await;
        matches!(answer, Ok(Ok(response)) if response.get_ref().status() == ServingStatus::Serving)
    }
}

/// No answer of a region: what this side says of a connection has a source, what a server says has none.
fn is_broken(status: &Status) -> bool {
    status.get_details_error_info().is_none()
        && (status.source().is_some() || status.code() == Code::Unavailable)
}

fn is_lost(status: &Status) -> bool {
    is_broken(status) || status.get_details_error_info().is_some_and(|info| info.reason == "NO_CRYPTO_UNIT")
}

const MAX_PATIENCE: Duration = Duration::from_millis(400);
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
