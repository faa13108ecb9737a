//! Around the S3 framework: what it leaves to others. Request ids, IBM's response headers
//! and error bodies, limits, the health page.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::{Body, service::S3Service};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    front::{auth::AuthRules, guard, request_body::RequestBody},
    objects::MAX_SINGLE_PUT,
    pace::Pace,
    storage::Storage,
};

/// Everything between a connection and the S3 framework.
pub struct Outer {
    /// The S3 framework.
    pub s3: S3Service,
    /// For the health page.
    pub storage: Arc<Storage>,
    /// Checks before the signature is verified.
    pub rules: AuthRules,
    /// How slowly a client may send.
    pub pace: Pace,
}

const SERVER: HeaderValue = HeaderValue::from_static(concat!("cos-service/", env!("CARGO_PKG_VERSION")));
const S3_VERSION: HeaderValue = HeaderValue::from_static("2.5");
const MAX_ERROR_BODY: usize = 64 * 1024;

impl Outer {
    /// Answers a request.
    ///
    /// # Errors
    /// Only to make the server break the connection.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, s3s::HttpError> {
        let request_id = Uuid::new_v4().to_string();
        let path = request.uri().path().to_owned();
        let client_waits = request.headers().contains_key(header::EXPECT);
        let (parts, body) = request.into_parts();
        // There is nothing to continue with, so no "100 Continue" comes before the answer. botocore would
        // then misread the next answer on the same connection.
        let waits_for_nothing = client_waits && http_body::Body::is_end_stream(&body);
        let body = RequestBody::new(body, self.pace);
        let request = Request::from_parts(parts, Body::http_body(body.clone()));
        let mut response = if is_health_page(&request) {
            self.health().await
        } else {
            match self.check(&request) {
                Err(error) => error_response(&error),
                Ok(()) => self.s3(request).await?,
            }
        };
        if body.was_too_slow() && !response.status().is_success() {
            response = error_response(&Error::request_timeout());
        }
        if response.status().is_server_error() && response.status() != StatusCode::NOT_IMPLEMENTED {
            tracing::warn!(request_id, status = response.status().as_u16(), "answered with a server error");
        }
        if response.status().is_client_error() || response.status().is_server_error() {
            complete_error(&mut response, &path, &request_id);
        }
        escape_controls(&mut response);
        decorate(response.headers_mut(), &request_id);
        if !body.finish(client_waits).await || waits_for_nothing {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn s3(&self, request: Request<Body>) -> Result<Response<Body>, s3s::HttpError> {
        let (parts, body) = request.into_parts();
        let (body, finding) = match guard::guard(&parts.method, &parts.uri, &parts.headers, body) {
            Ok(guarded) => guarded,
            Err(error) => return Ok(error_response(&error)),
        };
        let response = self.s3.call(Request::from_parts(parts, body)).await?;
        Ok(finding.and_then(|finding| finding.error()).map_or(response, |error| error_response(&error)))
    }

    fn check(&self, request: &Request<Body>) -> Result<()> {
        let (method, headers) = (request.method(), request.headers());
        self.rules.check(method, request.uri(), headers)?;
        let announced =
            headers.get("x-amz-decoded-content-length").or_else(|| headers.get(header::CONTENT_LENGTH));
        if let Some(length) = announced {
            let length = length.to_str().ok().and_then(|length| length.parse::<u64>().ok());
            if length.ok_or_else(|| Error::invalid_argument("the length of the body is not a number"))?
                > MAX_SINGLE_PUT
            {
                return Err(Error::entity_too_large());
            }
        }
        Ok(())
    }

    async fn health(&self) -> Response<Body> {
        let hsm = if self.storage.keys.hsm().is_reachable().await { "reachable" } else { "unreachable" };
        let calls = self.storage.keys.hsm().calls();
        let (status, code) = match self.storage.metadata.is_writable() {
            true => ("ok", StatusCode::OK),
            false => ("read-only: the metadata writer has stopped", StatusCode::SERVICE_UNAVAILABLE),
        };
        let page = format!(r#"{{"status":"{status}","hsm":"{hsm}","hsm_key_calls":{calls}}}"#);
        let mut response = Response::new(Body::from(page));
        *response.status_mut() = code;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// `GET /health` without a signature; with one it is a bucket of that name.
fn is_health_page(request: &Request<Body>) -> bool {
    request.method() == Method::GET
        && request.uri().path() == "/health"
        && request.uri().query().is_none()
        && !request.headers().contains_key(header::AUTHORIZATION)
}

/// An error of ours in the framework's form.
fn error_response(error: &Error) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{}</Code><Message>{}</Message></Error>",
        error.code,
        escape(&error.message)
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = error.header_map();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// Adds what IBM's error bodies have: resource, request id, HTTP status; and a message where there is none.
fn complete_error(response: &mut Response<Body>, path: &str, request_id: &str) {
    let status = response.status().as_u16();
    let Some(bytes) = response.body().bytes() else { return };
    let Some(end) = bytes.len().checked_sub("</Error>".len()).filter(|_| bytes.len() < MAX_ERROR_BODY) else {
        return;
    };
    if !bytes.ends_with(b"</Error>") {
        return;
    }
    let mut body = String::from_utf8_lossy(&bytes[..end]).into_owned();
    if !body.contains("<Message>") {
        let code = body.split("<Code>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default();
        let message = default_message(code);
        body.push_str(&format!("<Message>{message}</Message>"));
    }
    body.push_str(&format!("<Resource>{}</Resource>", escape(path)));
    body.push_str(&format!(
        "<RequestId>{request_id}</RequestId><httpStatusCode>{status}</httpStatusCode></Error>"
    ));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = Body::from(Bytes::from(body));
}

/// Keys may hold control characters, and the framework writes them into XML as they are. Like Amazon's, the document then
/// has character references: some parsers take them, and a carriage return survives all of them.
fn escape_controls(response: &mut Response<Body>) {
    let is_xml = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/xml");
    let raw = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\n' | b'\t');
    let Some(bytes) = response.body().bytes().filter(|bytes| is_xml && bytes.iter().any(raw)) else { return };
    let mut body = Vec::with_capacity(bytes.len() + 64);
    for byte in bytes {
        if raw(&byte) {
            body.extend_from_slice(format!("&#x{byte:x};").as_bytes());
        } else {
            body.push(byte);
        }
    }
    if response.headers().contains_key(header::CONTENT_LENGTH) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    *response.body_mut() = Body::from(Bytes::from(body));
}

/// Messages for errors that the framework raises without one.
fn default_message(code: &str) -> &'static str {
    match code {
        "AccessDenied" => "Access Denied",
        "InvalidBucketName" => "The specified bucket is not valid.",
        "InvalidURI" => "Couldn't parse the specified URI.",
        "KeyTooLongError" => "Your key is too long.",
        "MalformedXML" => {
            "The XML you provided was not well-formed or did not validate against our published schema"
        }
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "NotImplemented" => "This operation is not implemented by this service.",
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        _ => "The request could not be processed.",
    }
}

fn decorate(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-amz-request-id", id.clone());
        headers.insert("x-clv-request-id", id);
    }
    headers.insert("x-clv-s3-version", S3_VERSION);
    headers.insert(header::SERVER, SERVER);
}

/// Text for XML; characters that XML can't hold are dropped.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(character),
            character if u32::from(character) < 32 => {}
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_completed() {
        let mut response = error_response(&Error::new("AccessDenied", 403, "a < b"));
        complete_error(&mut response, "/bucket/k&y", "id");
        let body = String::from_utf8(response.body().bytes().unwrap().to_vec()).unwrap();
        assert!(body.ends_with(
            "<Message>a &lt; b</Message><Resource>/bucket/k&amp;y</Resource><RequestId>id</RequestId><httpStatusCode>403</httpStatusCode></Error>"
        ));
    }
}
