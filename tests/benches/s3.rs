//! PUT and GET over real HTTP: a bucket with a root key beside one without, and the MD5 of the same machine in the
//! same run, which is what bounds a PUT.
//!
//! The client does as little as it can, so that what is measured is the service.
#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use integration_tests::Region;
use integration_tests::s3::Client;
use md5::{Digest, Md5};

const SIZES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20)];
const ROUNDS: usize = 4;
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    let region = Region::start();
    let [access_key, secret_key] =
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| region.var(name));
    let client = Client::new(region.var("S3_ENDPOINT"), access_key, secret_key).expect("an endpoint");
    let crn = region.var("ROOT_KEY_CRN");
    let key_headers =
        [("ibm-sse-kp-customer-root-key-crn", crn), ("ibm-sse-kp-encryption-algorithm", "AES256")];
    for (path, headers) in [("/plain", &[][..]), ("/keyed", &key_headers)] {
        let mut connection = client.connect(None).expect("connect");
        assert_eq!(connection.call("PUT", path, headers, &[]).expect("an answer").0, 200);
    }

    let body: Vec<u8> = (0..64 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut md5 = 0f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let hash = Md5::digest(&body);
        md5 = md5.max(rate(body.len(), start.elapsed()));
        assert_ne!(hash.as_slice(), [0; 16]);
    }
    println!(
        "\nMB/s (10^6 bytes), one connection, best of {ROUNDS} rounds; MD5 of one stream: {md5:.0} MB/s"
    );
    println!(
        "{:<10}{:>12}{:>12}{:>12}{:>12}{:>14}{:>14}{:>12}",
        "", "PUT plain", "PUT keyed", "GET plain", "GET keyed", "PUT keyed/", "GET keyed/", "PUT/MD5"
    );
    for (label, size) in SIZES {
        let mut best = [0f64; 4];
        for _ in 0..ROUNDS {
            for (column, (method, bucket)) in
                [("PUT", "plain"), ("PUT", "keyed"), ("GET", "plain"), ("GET", "keyed")]
                    .into_iter()
                    .enumerate()
            {
                best[column] = best[column].max(measure(&client, method, bucket, &body[..size]));
            }
        }
        let [put_plain, put_keyed, get_plain, get_keyed] = best;
        println!(
            "{label:<10}{put_plain:>12.1}{put_keyed:>12.1}{get_plain:>12.1}{get_keyed:>12.1}{:>14.2}{:>14.2}{:>12.2}",
            put_keyed / put_plain,
            get_keyed / get_plain,
            put_keyed / md5
        );
    }
}

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e6
}

/// MB/s of one connection that does nothing else.
fn measure(client: &Client, method: &str, bucket: &str, body: &[u8]) -> f64 {
    let mut connection = client.connect(None).expect("connect");
    let path = format!("/{bucket}/{}", body.len());
    let sent: &[u8] = if method == "PUT" { body } else { &[] };
    let (mut bytes, start) = (0, Instant::now());
    while bytes == 0 || start.elapsed() < BUDGET {
        let (status, received) = connection.call(method, &path, &[], sent).expect("an answer");
        assert_eq!(status, 200, "{method} {path}");
        if method == "GET" {
            assert_eq!(received.len(), body.len(), "the object came back short");
        }
        bytes += body.len();
    }
    rate(bytes, start.elapsed())
}
