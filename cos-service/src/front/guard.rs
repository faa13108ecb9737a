//! Guards around a request's body, before the S3 framework reads it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Method, Uri};
use s3s::{Body, StdError};

use crate::{
    content::{
        checksum::{Algorithm, Hasher},
        etag::Md5,
    },
    error::{Error, Result},
};

/// Largest chunk of an aws-chunked body, in bytes. The framework holds a chunk in memory until
/// its signature is checked; SDKs send 64 KiB to 1 MiB.
const MAX_CHUNK: u64 = 16 * 1024 * 1024;
/// Longest line before a chunk, in bytes.
const MAX_CHUNK_LINE: usize = 1024;

/// Follows the framing of an aws-chunked body and refuses chunks that are too large.
#[derive(Debug, Default)]
struct ChunkGuard {
    line: Vec<u8>,
    /// Bytes of the current chunk that are still to come, with its line end; `None` between chunks.
    rest: Option<u64>,
    ended: bool,
}

impl ChunkGuard {
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() && !self.ended {
            if let Some(rest) = &mut self.rest {
                let now = usize::try_from(*rest).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[now..];
                *rest -= now as u64;
                if *rest == 0 {
                    self.rest = None;
                }
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, later) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            self.line.extend_from_slice(line);
            bytes = later;
            if self.line.len() > MAX_CHUNK_LINE {
                return Err("the line before a chunk is too long");
            }
            if end.is_some() {
                let digits =
                    self.line.split(|byte| matches!(byte, b';' | b'\r' | b'\n')).next().unwrap_or_default();
                let size = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
                self.line.clear();
                match size {
                    None => return Err("the size of a chunk is not a number"),
                    Some(0) => self.ended = true,
                    Some(size) if size > MAX_CHUNK => return Err("a chunk is larger than 16 MiB"),
                    Some(size) => self.rest = Some(size + 2),
                }
            }
        }
        Ok(())
    }
}

/// Compares an XML document with the digest that its headers announce.
struct Digest {
    hasher: DigestHasher,
    announced: String,
    header: &'static str,
}

enum DigestHasher {
    Md5(Md5),
    Checksum(Hasher),
}

impl Digest {
    fn update(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            DigestHasher::Md5(md5) => md5.update(bytes),
            DigestHasher::Checksum(hasher) => hasher.update(bytes),
        }
    }

    fn agrees(self) -> bool {
        let found = match self.hasher {
            DigestHasher::Md5(md5) => BASE64_STANDARD.encode(md5.finish()),
            DigestHasher::Checksum(hasher) => hasher.finish().value,
        };
        found == self.announced
    }
}

/// What a guard found, readable after the framework has answered.
#[derive(Debug, Clone)]
pub struct Finding {
    differs: Arc<AtomicBool>,
    header: &'static str,
}

impl Finding {
    /// The error that takes the place of the framework's answer.
    pub fn error(&self) -> Option<Error> {
        self.differs.load(Ordering::Relaxed).then(|| Error::bad_digest(self.header))
    }
}

/// Puts the guards that a request needs around its body.
///
/// # Errors
/// A multi-object delete must announce a digest.
pub fn guard(method: &Method, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<(Body, Option<Finding>)> {
    let streaming =
        headers.get("x-amz-content-sha256").is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-"));
    let digest = announced_digest(method, uri, headers)?;
    if !streaming && digest.is_none() {
        return Ok((body, None));
    }
    let finding = digest.as_ref().map(|digest| Finding { differs: Arc::default(), header: digest.header });
    let length = if streaming { None } else { http_body::Body::size_hint(&body).exact() };
    let guarded = Guarded {
        body,
        chunks: streaming.then(ChunkGuard::default),
        digest,
        finding: finding.clone(),
        length,
    };
    Ok((Body::http_body(guarded), finding))
}

fn announced_digest(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<Digest>> {
    if method != Method::POST {
        return Ok(None);
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(announced) = text("content-md5") {
        return Ok(Some(Digest { hasher: DigestHasher::Md5(Md5::new()), announced, header: "Content-MD5" }));
    }
    let is_delete =
        uri.query().unwrap_or_default().split('&').any(|pair| pair.split('=').next() == Some("delete"));
    if !is_delete {
        // On a completion, a checksum header speaks of the object.
        return Ok(None);
    }
    for algorithm in Algorithm::ALL {
        if let Some(announced) = text(algorithm.header()) {
            let hasher = DigestHasher::Checksum(Hasher::new(algorithm));
            return Ok(Some(Digest { hasher, announced, header: algorithm.header() }));
        }
    }
    if headers.contains_key("x-amz-trailer") {
        return Ok(None);
    }
    Err(Error::invalid_request("Missing required header for this request: Content-MD5 OR x-amz-checksum-*"))
}

struct Guarded {
    body: Body,
    chunks: Option<ChunkGuard>,
    digest: Option<Digest>,
    finding: Option<Finding>,
    length: Option<u64>,
}

impl Guarded {
    fn check(&mut self, bytes: &Bytes) -> Result<(), StdError> {
        if let Some(chunks) = &mut self.chunks {
            chunks.pass(bytes)?;
        }
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), StdError> {
        if let (Some(digest), Some(finding)) = (self.digest.take(), &self.finding)
            && !digest.agrees()
        {
            finding.differs.store(true, Ordering::Relaxed);
            return Err("the digest of the body differs".into());
        }
        Ok(())
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_next(cx).map(|frame| match frame {
            Some(Ok(bytes)) => Some(this.check(&bytes).map(|()| http_body::Frame::data(bytes))),
            Some(Err(source)) => Some(Err(source)),
            None => this.end().err().map(Err),
        })
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.length.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passes(body: &[u8], step: usize) -> bool {
        let mut guard = ChunkGuard::default();
        body.chunks(step).all(|piece| guard.pass(piece).is_ok())
    }

    #[test]
    fn chunks_of_sdks_pass_and_huge_ones_do_not() {
        let body =
            b"5;chunk-signature=00\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        for step in 1..body.len() {
            assert!(passes(body, step));
        }
        assert!(!passes(b"1000001\r\n", 3));
        assert!(!passes(b"ffffffffffffffff\r\n", 100));
        assert!(!passes(b"zz\r\n", 100));
        assert!(!passes(&[b'1'; 2000], 100));
    }

    #[test]
    fn a_multi_object_delete_needs_a_digest() {
        let check = |uri: &str, headers: &HeaderMap| {
            announced_digest(&Method::POST, &uri.parse().unwrap(), headers).map(|digest| digest.is_some())
        };
        let none = HeaderMap::new();
        assert!(check("/b?delete", &none).is_err());
        assert!(check("/b?delete=", &none).is_err());
        assert!(!check("/b/k?uploadId=1", &none).unwrap());
        let md5 = HeaderMap::from_iter([(
            http::HeaderName::from_static("content-md5"),
            http::HeaderValue::from_static("x"),
        )]);
        assert!(check("/b?delete", &md5).unwrap());
    }

    proptest! {
        #[test]
        fn hostile_framing_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300), step in 1_usize..50) {
            passes(&body, step);
        }
    }
}
