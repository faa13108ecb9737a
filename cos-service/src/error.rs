//! What went wrong, in the words that S3 clients know.
//!
//! An error is made where the fault is understood, by a constructor named after
//! the situation; the front end only converts it. `detail` is for the log and
//! never reaches a client.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// A failed operation: S3 code, HTTP status, message for the client, detail for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}{}", .detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct Error {
    /// S3 error code, such as `NoSuchKey`.
    pub code: &'static str,
    /// HTTP status code.
    pub status: u16,
    /// Text for the client.
    pub message: Cow<'static, str>,
    /// Text for the log alone.
    pub detail: Option<String>,
    /// Headers of the answer.
    pub headers: Vec<(HeaderName, String)>,
}

/// The result of every layer of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a code, a status and a message.
    pub fn new(code: &'static str, status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status, message: message.into(), detail: None, headers: Vec::new() }
    }

    /// The same error, with something more for the log.
    #[must_use]
    pub fn because(mut self, detail: impl std::fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The same error, with a header for its answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Its headers.
    pub fn header_map(&self) -> HeaderMap {
        let value = |text: &String| HeaderValue::from_str(text).ok();
        self.headers.iter().filter_map(|(name, text)| Some((name.clone(), value(text)?))).collect()
    }

    /// Our own fault: a bug, a broken disk, a damaged record.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self::new("InternalError", 500, "We encountered an internal error. Please try again.").because(detail)
    }

    /// Stored bytes or records are missing or do not authenticate. Logged loudly, never answered with 404.
    pub fn damaged(detail: impl std::fmt::Display) -> Self {
        let error = Self::internal(detail);
        tracing::error!(detail = error.detail, "stored data is missing or damaged");
        error
    }

    /// The HSM can't be reached: nothing is known about the key.
    pub fn hsm_unreachable(detail: impl std::fmt::Display) -> Self {
        Self::new(
            "ServiceUnavailable",
            503,
            "The key management service of this bucket cannot be reached. Please retry.",
        )
        .because(detail)
        .with_header(header::RETRY_AFTER, "1")
    }

    /// The root key is disabled, destroyed, or gone.
    pub fn key_not_active(detail: impl std::fmt::Display) -> Self {
        Self::new("AccessDenied", 403, "The encryption key for this bucket is not active.").because(detail)
    }

    /// IBM's answer for a root key that is unknown, unusable, or of another instance.
    pub fn key_crn_not_found(detail: impl std::fmt::Display) -> Self {
        Self::new("InvalidRequest", 400, "The Key CRN could not be found").because(detail)
    }

    /// A header or parameter has a value that can't be used.
    pub fn invalid_argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("InvalidArgument", 400, message)
    }

    /// The request as a whole makes no sense.
    pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("InvalidRequest", 400, message)
    }

    /// The operation or option is known to S3 and absent here.
    pub fn not_implemented(what: &str) -> Self {
        Self::new("NotImplemented", 501, format!("{what} is not implemented by this service."))
    }

    /// No such bucket.
    pub fn no_such_bucket() -> Self {
        Self::new("NoSuchBucket", 404, "The specified bucket does not exist.")
    }

    /// No such object.
    pub fn no_such_key() -> Self {
        Self::new("NoSuchKey", 404, "The specified key does not exist.")
    }

    /// No such multipart upload.
    pub fn no_such_upload() -> Self {
        Self::new(
            "NoSuchUpload",
            404,
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
        )
    }

    /// A condition header does not hold.
    pub fn precondition_failed() -> Self {
        Self::new("PreconditionFailed", 412, "At least one of the pre-conditions you specified did not hold")
    }

    /// `If-None-Match` or `If-Modified-Since` on a read: the client's copy is current.
    pub fn not_modified(etag: &str) -> Self {
        Self::new("NotModified", 304, "Not Modified").with_header(header::ETAG, format!("\"{etag}\""))
    }

    /// A digest that the client announced differs from the body's.
    pub fn bad_digest(header: &str) -> Self {
        Self::new("BadDigest", 400, format!("The {header} you specified did not match what we received"))
    }

    /// The body ended early, was too long, or was not framed as announced.
    pub fn incomplete_body(detail: impl std::fmt::Display) -> Self {
        Self::new(
            "IncompleteBody",
            400,
            "You did not provide the number of bytes specified by the Content-Length HTTP header",
        )
        .because(detail)
    }

    /// The client stopped sending.
    pub fn request_timeout() -> Self {
        Self::new(
            "RequestTimeout",
            400,
            "Your socket connection to the server was not read from or written to within the timeout period.",
        )
    }

    /// More than one upload may hold.
    pub fn entity_too_large() -> Self {
        Self::new("EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed object size.")
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::internal(format_args!("metadata: {source}"))
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::internal(format_args!("storage: {source}"))
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(source: tokio::task::JoinError) -> Self {
        Self::internal(format_args!("a worker failed: {source}"))
    }
}
