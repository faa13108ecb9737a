//! PUT and GET over real HTTP: a bucket with a root key beside one without, and the MD5 of the same machine in the
//! same run, which is what bounds a PUT.
//!
//! The client is a plain blocking socket with SigV4 and an unsigned payload, so that what is measured is the
//! service.
#![allow(clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use integration_tests::Region;
use md5::{Digest, Md5};
use time::OffsetDateTime;
use time::macros::format_description;

const SIZES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20)];
const ROUNDS: usize = 4;
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    let region = Region::start();
    let client = Client::new(&region);
    let crn = region.var("ROOT_KEY_CRN");
    let key_headers =
        [("ibm-sse-kp-customer-root-key-crn", crn), ("ibm-sse-kp-encryption-algorithm", "AES256")];
    client.connect().call("PUT", "/plain", &[], &[]);
    client.connect().call("PUT", "/keyed", &key_headers, &[]);

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
                best[column] = best[column].max(client.measure(method, bucket, &body[..size]));
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

struct Client {
    host: String,
    access_key: String,
    secret_key: String,
}

impl Client {
    fn new(region: &Region) -> Self {
        Self {
            host: region.var("S3_ENDPOINT").trim_start_matches("http://").trim_end_matches('/').to_owned(),
            access_key: region.var("AWS_ACCESS_KEY_ID").to_owned(),
            secret_key: region.var("AWS_SECRET_ACCESS_KEY").to_owned(),
        }
    }

    fn connect(&self) -> Connection<'_> {
        let stream = TcpStream::connect(&self.host).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Connection { client: self, stream: BufReader::with_capacity(1 << 20, stream), buffer: Vec::new() }
    }

    /// MB/s of one connection that does nothing else.
    fn measure(&self, method: &str, bucket: &str, body: &[u8]) -> f64 {
        let mut connection = self.connect();
        let path = format!("/{bucket}/{}", body.len());
        let sent: &[u8] = if method == "PUT" { body } else { &[] };
        let (mut bytes, start) = (0, Instant::now());
        while bytes == 0 || start.elapsed() < BUDGET {
            let received = connection.call(method, &path, &[], sent);
            if method == "GET" {
                assert_eq!(received, body.len(), "the object came back short");
            }
            bytes += body.len();
        }
        rate(bytes, start.elapsed())
    }
}

struct Connection<'a> {
    client: &'a Client,
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection<'_> {
    /// One request; the length of the answer's body.
    fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> usize {
        let head = self.signed_head(method, path, headers, body.len());
        let socket = self.stream.get_mut();
        socket.write_all(head.as_bytes()).expect("send the head");
        socket.write_all(body).expect("send the body");
        let mut length = 0;
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("status line");
        assert!(line.contains(" 20"), "{method} {path}: {line}");
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("header");
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().expect("length");
                }
                Some(_) => {}
                None => break,
            }
        }
        self.buffer.resize(length, 0);
        self.stream.read_exact(&mut self.buffer).expect("body");
        length
    }

    fn signed_head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
        let Client { host, access_key, secret_key } = self.client;
        let now = OffsetDateTime::now_utc();
        let stamp =
            now.format(format_description!("[year][month][day]T[hour][minute][second]Z")).expect("time");
        let day = &stamp[..8];
        let mut all = vec![
            ("host", host.as_str()),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-date", &stamp),
        ];
        all.extend_from_slice(headers);
        all.sort_unstable();
        let names = all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\nUNSIGNED-PAYLOAD");
        let scope = format!("{day}/us-south/s3/aws4_request");
        let hash = hex::encode(digest(&SHA256, canonical.as_bytes()));
        let mut key = format!("AWS4{secret_key}").into_bytes();
        for part in [day, "us-south", "s3", "aws4_request"] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), to_sign.as_bytes());
        let sent: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!(
            "{method} {path} HTTP/1.1\r\n{sent}content-length: {length}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential={access_key}/{scope}, SignedHeaders={names}, Signature={}\r\n\r\n",
            hex::encode(signature)
        )
    }
}
