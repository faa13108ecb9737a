//! A signing service (TKE_SIGNSERV_URL): signature keys that are not in files.
//!
//! `GET /keys/NAME` answers `{"publickey": BASE64}`, DER of (X, Y). `POST /sign/NAME` takes
//! `{"hash_algorithm": "sha2-512", "input": BASE64}` and answers `{"signature": BASE64}`, DER of (R, S). The token of
//! a key travels in the `Authorization` header.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use der::asn1::Uint;
use der::{Decode, Sequence};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use p521::ecdsa::VerifyingKey;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::files::SigningServiceKey;
use super::prompt::Prompt;

/// A signing service.
#[derive(Clone)]
pub struct SigningService {
    authority: String,
    base: String,
}

#[derive(Sequence)]
struct Point {
    x: Uint,
    y: Uint,
}

impl SigningService {
    /// As the environment says; `None` if TKE_SIGNSERV_URL is not set.
    ///
    /// # Errors
    /// If it is no `http://` address.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(address) = std::env::var("TKE_SIGNSERV_URL").ok().filter(|address| !address.is_empty())
        else {
            return Ok(None);
        };
        let invalid = || {
            Error::new(format!("TKE_SIGNSERV_URL: {address} is no address such as http://localhost:8080."))
        };
        let uri: Uri = address.parse().map_err(|_| invalid())?;
        if uri.scheme_str() == Some("https") {
            return Err(Error::new(format!(
                "TKE_SIGNSERV_URL: {address}: https is not supported yet. Use http:// on this machine: the tokens of the \
                 keys travel in clear."
            )));
        }
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(invalid)?;
        let host_and_port = match authority.port() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:80"),
        };
        Ok(Some(Self { authority: host_and_port, base: uri.path().trim_end_matches('/').to_owned() }))
    }

    /// Where it is.
    pub fn address(&self) -> String {
        format!("http://{}{}", self.authority, self.base)
    }

    /// The public half of a key.
    ///
    /// # Errors
    /// If the service refuses or answers nonsense.
    pub fn public_key(&self, name: &str, token: &str) -> Result<VerifyingKey> {
        let der = self.call("keys", name, token, None, "publickey")?;
        let invalid = || Error::new(format!("The signing service has no P-521 key {name}."));
        let point = Point::from_der(&der).map_err(|_| invalid())?;
        let mut sec1 = [0; 1 + 2 * COORDINATE_BYTES];
        sec1[0] = 4;
        for (half, coordinate) in sec1[1..].chunks_mut(COORDINATE_BYTES).zip([&point.x, &point.y]) {
            let bytes = coordinate.as_bytes();
            let start = COORDINATE_BYTES.checked_sub(bytes.len()).ok_or_else(invalid)?;
            half[start..].copy_from_slice(bytes);
        }
        VerifyingKey::from_sec1_bytes(&sec1).map_err(|_| invalid())
    }

    /// DER of (R, S) over a message.
    ///
    /// # Errors
    /// If the service refuses.
    pub fn sign(&self, name: &str, token: &str, message: &[u8]) -> Result<Vec<u8>> {
        let body = json!({ "hash_algorithm": "sha2-512", "input": STANDARD.encode(message) });
        self.call("sign", name, token, Some(body), "signature")
    }

    fn call(&self, what: &str, name: &str, token: &str, body: Option<Value>, field: &str) -> Result<Vec<u8>> {
        let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if name.is_empty() || !name.chars().all(unreserved) {
            return Err(Error::new(format!("{name:?}: a key's name has letters, digits and - . _ ~ only.")));
        }
        let failed =
            |error: String| Error::new(format!("Signing service {}, key {name}: {error}", self.authority));
        let token = HeaderValue::from_str(token).map_err(|_| failed("the token is malformed".to_owned()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let exchange = self.exchange(format!("{}/{what}/{name}", self.base), token, body);
        let answer = runtime
            .block_on(async { timeout(TIMEOUT, exchange).await.map_err(|_| "no answer".to_owned())? })
            .map_err(failed)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        let text = answer[field].as_str().ok_or_else(|| failed(format!("the answer has no {field}")))?;
        STANDARD.decode(text).map_err(|error| failed(error.to_string()))
    }

    async fn exchange(
        &self,
        path: String,
        mut token: HeaderValue,
        body: Option<Value>,
    ) -> Result<Bytes, String> {
        token.set_sensitive(true);
        let request = if body.is_some() { Request::post(path) } else { Request::get(path) };
        let content = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, token)
            .body(Full::new(Bytes::from(content)))
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if !answer.status().is_success() {
                return Err(format!("status {}", answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            Err(error) = connection => Err(error.to_string()),
        }
    }
}

/// A key of a signing service.
pub struct ServiceKey {
    /// Where.
    pub service: SigningService,
    /// Which.
    pub name: String,
    /// What opens it.
    pub token: Zeroizing<String>,
}

impl ServiceKey {
    /// An entry of SIGNSERVKEYS.
    ///
    /// # Errors
    /// If the service refuses.
    pub fn open(
        service: &SigningService,
        entry: SigningServiceKey,
        prompt: &mut Prompt,
    ) -> Result<(VerifyingKey, Self)> {
        let token = match entry.token {
            Some(token) => token,
            None => prompt.password(&format!("Enter the token for signature key {}:", entry.key))?,
        };
        let public_key = service.public_key(&entry.key, &token)?;
        Ok((public_key, Self { service: service.clone(), name: entry.key, token }))
    }
}

const COORDINATE_BYTES: usize = 66;
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);
