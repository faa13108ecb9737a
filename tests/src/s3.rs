//! A client of the storage service: a plain blocking socket with Signature Version 4 and an unsigned payload.

use std::io::{self, BufRead, BufReader, Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use time::OffsetDateTime;
use time::macros::format_description;

/// Where the service is, and who asks.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    access_key: String,
    secret_key: String,
}

/// One connection, kept open.
pub struct Connection {
    client: Client,
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Client {
    /// `endpoint` is `http://IP:PORT`.
    ///
    /// # Errors
    /// If it is not.
    pub fn new(endpoint: &str, access_key: &str, secret_key: &str) -> io::Result<Self> {
        let address = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let address = address.parse().map_err(Error::other)?;
        Ok(Self { address, access_key: access_key.to_owned(), secret_key: secret_key.to_owned() })
    }

    /// Gives up whatever takes longer than this, if there is a limit.
    ///
    /// # Errors
    /// Of the socket.
    pub fn connect(&self, limit: Option<Duration>) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        Ok(Connection {
            client: self.clone(),
            stream: BufReader::with_capacity(1 << 20, stream),
            body: Vec::new(),
        })
    }
}

impl Connection {
    /// One request: the status and the body of the answer.
    ///
    /// # Errors
    /// Of the socket, or if what comes is no answer. The connection is of no use then.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<(u16, &[u8])> {
        let head = self.signed_head(method, path, headers, body.len())?;
        let socket = self.stream.get_mut();
        socket.write_all(head.as_bytes())?;
        socket.write_all(body)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| Error::other(format!("no status line: {line:?}")))?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(Error::other)?;
                }
                Some(_) => {}
                None => break,
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        Ok((status, &self.body))
    }

    fn signed_head(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> io::Result<String> {
        let Client { address, access_key, secret_key } = &self.client;
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let stamp = OffsetDateTime::now_utc().format(format).map_err(Error::other)?;
        let (host, day) = (address.to_string(), &stamp[..8]);
        let mut all =
            vec![("host", host.as_str()), ("x-amz-content-sha256", UNSIGNED), ("x-amz-date", &stamp)];
        all.extend_from_slice(headers);
        all.sort_unstable();
        let names = all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{UNSIGNED}");
        let scope = format!("{day}/us-south/s3/aws4_request");
        let hash = hex::encode(digest(&SHA256, canonical.as_bytes()));
        let mut key = format!("AWS4{secret_key}").into_bytes();
        for part in [day, "us-south", "s3", "aws4_request"] {
            key = sign(&key, part.as_bytes());
        }
        let signature = sign(&key, format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}").as_bytes());
        let sent: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Ok(format!(
            "{method} {path} HTTP/1.1\r\n{sent}content-length: {length}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential={access_key}/{scope}, SignedHeaders={names}, Signature={}\r\n\r\n",
            hex::encode(signature)
        ))
    }
}

fn sign(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
