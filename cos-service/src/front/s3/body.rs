//! Bodies: from the framework's stream to ours and back.

use futures::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::{StdError, TrailingHeaders, dto::StreamingBlob};

use crate::{
    content::checksum::Algorithm,
    error::{Error, Result},
    objects::{
        Body,
        ingest::{Announced, Upload},
    },
};

/// What a request says about its body.
pub struct Given<'a> {
    /// The body.
    pub body: Option<StreamingBlob>,
    /// Its length.
    pub length: Option<i64>,
    /// `Content-MD5`.
    pub content_md5: Option<String>,
    /// A checksum in a header.
    pub checksum: Option<(Algorithm, String)>,
    /// An algorithm without a value: it comes in a trailer.
    pub algorithm: Option<Algorithm>,
    /// All headers.
    pub headers: &'a http::HeaderMap,
    /// Trailers to come.
    pub trailers: Option<TrailingHeaders>,
}

/// An upload, as the object layer wants it. Without any announced checksum, `default` is computed.
pub fn upload(given: Given<'_>, default: Algorithm) -> Result<Upload> {
    let trailer = given.headers.get("x-amz-trailer").and_then(|value| value.to_str().ok());
    let in_trailer = trailer.and_then(|names| {
        Algorithm::ALL.into_iter().find(|algorithm| {
            names.split(',').any(|name| name.trim().eq_ignore_ascii_case(algorithm.header()))
        })
    });
    let decoded = given
        .headers
        .get("x-amz-decoded-content-length")
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let length = decoded.or(given.length.and_then(|length| u64::try_from(length).ok()));
    let (algorithm, announced): (_, Announced) = match (given.checksum, in_trailer) {
        (Some((algorithm, value)), _) => (algorithm, Box::new(move || Some(value))),
        (None, Some(algorithm)) => {
            let trailers = given.trailers;
            let read = move || {
                let value = trailers?.read(|map| map.get(algorithm.header()).cloned())??;
                value.to_str().map(str::to_owned).ok()
            };
            // A trailer that was promised and did not come matches nothing.
            (algorithm, Box::new(move || Some(read().unwrap_or_default())))
        }
        (None, None) => (given.algorithm.unwrap_or(default), Box::new(|| None)),
    };
    let body = match given.body {
        Some(body) => body.map(|frame| frame.map_err(|source| body_error(source.as_ref()))).boxed(),
        None => futures::stream::empty().boxed(),
    };
    Ok(Upload { body, length, content_md5: given.content_md5, algorithm, kept: None, announced })
}

/// A stream for the framework. An error in it makes the server break the connection.
pub fn streaming(body: Body) -> StreamingBlob {
    let frames = body.map(|frame| frame.map(Frame::data).map_err(|error| Box::new(error) as StdError));
    StreamingBlob::from(s3s::Body::http_body_unsync(StreamBody::new(frames)))
}

/// The framework keeps its stream errors to itself: their names are all there is.
fn body_error(source: &(dyn std::error::Error + Send + Sync)) -> Error {
    let text = source.to_string();
    if text.contains("Sha256Mismatch") {
        return Error::new(
            "XAmzContentSHA256Mismatch",
            400,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        );
    }
    if text.contains("SignatureMismatch") {
        return Error::new(
            "SignatureDoesNotMatch",
            403,
            "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
        );
    }
    if text.contains("ChunkMetaTooLarge") || text.contains("Trailer") || text.contains("chunk") {
        return Error::invalid_request("The chunked body is malformed.").because(text);
    }
    Error::incomplete_body(text)
}
