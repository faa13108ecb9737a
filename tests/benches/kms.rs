//! Root keys over gRPC: wraps and unwraps per second, by the number of connections.
#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use hsm_proto::kms::kms_client::KmsClient;
use hsm_proto::kms::{UnwrapRequest, WrapRequest};
use integration_tests::Region;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

const BUDGET: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() {
    let region = Region::start();
    let key = region.var("ROOT_KEY_ID").to_owned();
    let token: AsciiMetadataValue = format!("Bearer {}", region.var("HSM_API_KEY")).parse().expect("token");
    let endpoint = region.var("HSM_GRPC_ENDPOINT").to_owned();

    let aad = vec!["bucket".to_owned()];
    let wrap = WrapRequest { key: key.clone(), plaintext: vec![7; 32], aad: aad.clone() };
    let mut client = connect(&endpoint).await;
    let ciphertext = client.wrap(with(&token, wrap.clone())).await.expect("wrap").into_inner().ciphertext;
    let unwrap = UnwrapRequest { key, ciphertext, aad };

    println!("\n{:<12}{:>14}{:>12}{:>12}{:>12}", "", "connections", "calls/s", "p50 us", "p99 us");
    for connections in [1, 2, 8, 32] {
        for (name, is_wrap) in [("wrap", true), ("unwrap", false)] {
            let mut tasks = Vec::new();
            let start = Instant::now();
            for _ in 0..connections {
                let (mut client, token) = (connect(&endpoint).await, token.clone());
                let (wrap, unwrap) = (wrap.clone(), unwrap.clone());
                tasks.push(tokio::spawn(async move {
                    let mut times = Vec::new();
                    while start.elapsed() < BUDGET {
                        let begin = Instant::now();
                        if is_wrap {
                            client.wrap(with(&token, wrap.clone())).await.expect("wrap");
                        } else {
                            client.unwrap(with(&token, unwrap.clone())).await.expect("unwrap");
                        }
                        times.push(begin.elapsed());
                    }
                    times
                }));
            }
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await.expect("task"));
            }
            let rate = times.len() as f64 / start.elapsed().as_secs_f64();
            times.sort();
            let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
            println!("{name:<12}{connections:>14}{rate:>12.0}{:>12}{:>12}", at(0.5), at(0.99));
        }
    }
}

async fn connect(endpoint: &str) -> KmsClient<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("endpoint").tcp_nodelay(true);
    KmsClient::new(endpoint.connect().await.expect("connect"))
}

fn with<T>(token: &AsciiMetadataValue, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.clone());
    request
}
