//! An aws-chunked body from a stranger, in pieces as a network delivers them: what an unsigned one holds is the same
//! whatever the pieces are.
#![no_main]

use bytes::Bytes;
use cos_service::front::guard;
use futures::{StreamExt, executor::block_on, stream};
use http::{HeaderMap, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;
use s3s::{Body, StdError};

/// What the framework gets to see, or nothing if the body is refused.
fn passed(body: &[u8], step: usize, mode: &'static str) -> Option<Vec<u8>> {
    let pieces: Vec<_> =
        body.chunks(step).map(|piece| Ok::<_, StdError>(http_body::Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let body = Body::http_body_unsync(http_body_util::StreamBody::new(stream::iter(pieces)));
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-amz-content-sha256"), HeaderValue::from_static(mode))]);
    let (mut guarded, _) = guard::guard(&Method::PUT, &Uri::from_static("/b/k"), &headers, body).expect("a guard");
    block_on(async {
        let mut all = Vec::new();
        while let Some(frame) = guarded.next().await {
            all.extend_from_slice(&frame.ok()?);
        }
        Some(all)
    })
}

/// The content up to the last chunk, and the trailer.
fn decoded(mut body: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut content = Vec::new();
    while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end - 1]).expect("digits"), 16).expect("a size");
        body = &body[end + 1..];
        if size == 0 {
            break;
        }
        content.extend_from_slice(&body[..size]);
        assert_eq!(&body[size..size + 2], b"\r\n");
        body = &body[size + 2..];
    }
    (content, body)
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (step, body) = (usize::from(input.0) + 1, input.1);
    if let Some(same) = passed(&body, step, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD") {
        assert_eq!(same, body);
    }
    let unsigned = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let (cut, whole) = (passed(&body, step, unsigned), passed(&body, usize::MAX, unsigned));
    assert_eq!(cut.as_deref().map(decoded), whole.as_deref().map(decoded));
});
