//! Guards around a request's body, before the S3 framework reads it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
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
    frames::Frames,
    objects::MAX_SINGLE_PUT,
};

/// Largest signed chunk of an aws-chunked body, in bytes. The framework holds a chunk in memory until
/// its signature is checked; SDKs send 64 KiB to 1 MiB.
const MAX_CHUNK: u64 = 16 * 1024 * 1024;
/// Line end of the framing.
const CRLF: &[u8] = b"\r\n";
/// Longest line before a chunk, in bytes.
const MAX_CHUNK_LINE: usize = 1024;

/// Follows the framing of an aws-chunked body. Signed chunks pass as they are, unless they are too large to be held in
/// memory. Unsigned ones, which may be as large as the body, are cut where the bytes come in.
#[derive(Debug)]
struct Chunks {
    signed: bool,
    line: Vec<u8>,
    /// Bytes of the current chunk that are still to come, with its line end; 0 between chunks.
    rest: u64,
    ended: bool,
    /// Content of unsigned chunks that has not gone on yet.
    content: Frames,
    /// What goes on to the framework.
    out: VecDeque<Bytes>,
}

impl Chunks {
    fn new(signed: bool) -> Self {
        Self {
            signed,
            line: Vec::new(),
            rest: 0,
            ended: false,
            content: Frames::default(),
            out: VecDeque::new(),
        }
    }

    fn pass(&mut self, mut bytes: Bytes) -> Result<(), &'static str> {
        if self.signed {
            self.out.push_back(bytes.clone());
        }
        while !bytes.is_empty() && !self.ended {
            match self.rest {
                0 => self.take_line(&mut bytes)?,
                1 | 2 => self.take_line_end(&mut bytes)?,
                _ => self.take_data(&mut bytes),
            }
        }
        if !self.signed {
            self.frame_content();
            if self.ended && !bytes.is_empty() {
                self.out.push_back(bytes);
            }
        }
        Ok(())
    }

    fn take_line(&mut self, bytes: &mut Bytes) -> Result<(), &'static str> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        self.line.extend_from_slice(&bytes.split_to(end.map_or(bytes.len(), |end| end + 1)));
        if self.line.len() > MAX_CHUNK_LINE {
            return Err("the line before a chunk is too long");
        }
        if end.is_none() {
            return Ok(());
        }
        let line = self.line.strip_suffix(CRLF).ok_or("the line before a chunk does not end in CR LF")?;
        let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
            Some(at) => (&line[..at], true),
            None => (line, false),
        };
        if extension && !self.signed {
            return Err("a chunk of an unsigned body has an extension");
        }
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
        let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or("the size of a chunk is not a number")?;
        self.line.clear();
        if size > if self.signed { MAX_CHUNK } else { MAX_SINGLE_PUT } {
            return Err(if self.signed {
                "a signed chunk is larger than 16 MiB"
            } else {
                "a chunk is larger than 5 GiB"
            });
        }
        if size > 0 {
            self.rest = size + CRLF.len() as u64;
            return Ok(());
        }
        self.ended = true;
        if !self.signed {
            self.frame_content();
            self.out.push_back(Bytes::from_static(b"0\r\n"));
        }
        Ok(())
    }

    fn take_data(&mut self, bytes: &mut Bytes) {
        let data = usize::try_from(self.rest - CRLF.len() as u64).unwrap_or(usize::MAX).min(bytes.len());
        let data = bytes.split_to(data);
        self.rest -= data.len() as u64;
        if !self.signed {
            self.content.push(data);
        }
    }

    fn frame_content(&mut self) {
        self.content.flush();
        while let Some(data) = self.content.pop() {
            let line = format!("{:x}\r\n", data.len());
            self.out.extend([line.into(), data, Bytes::from_static(CRLF)]);
        }
    }

    fn take_line_end(&mut self, bytes: &mut Bytes) -> Result<(), &'static str> {
        let expected = &CRLF[CRLF.len() - self.rest as usize..];
        let found = bytes.split_to(expected.len().min(bytes.len()));
        self.rest -= found.len() as u64;
        if expected.starts_with(&found) { Ok(()) } else { Err("a chunk is longer than its size says") }
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
    let mode = headers.get("x-amz-content-sha256").map_or(&b""[..], |value| value.as_bytes());
    let streaming = mode.starts_with(b"STREAMING-");
    let digest = announced_digest(method, uri, headers)?;
    if !streaming && digest.is_none() {
        return Ok((body, None));
    }
    let finding = digest.as_ref().map(|digest| Finding { differs: Arc::default(), header: digest.header });
    let length = if streaming { None } else { http_body::Body::size_hint(&body).exact() };
    let guarded = Guarded {
        body,
        chunks: streaming.then(|| Chunks::new(!mode.starts_with(b"STREAMING-UNSIGNED-"))),
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
    chunks: Option<Chunks>,
    digest: Option<Digest>,
    finding: Option<Finding>,
    length: Option<u64>,
}

impl Guarded {
    /// A frame to pass on, or none yet.
    fn check(&mut self, bytes: Bytes) -> Result<Option<Bytes>, StdError> {
        if let Some(digest) = &mut self.digest {
            digest.update(&bytes);
        }
        match &mut self.chunks {
            None => Ok(Some(bytes)),
            Some(chunks) => {
                chunks.pass(bytes)?;
                Ok(chunks.out.pop_front())
            }
        }
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
        if let Some(bytes) = this.chunks.as_mut().and_then(|chunks| chunks.out.pop_front()) {
            return Poll::Ready(Some(Ok(http_body::Frame::data(bytes))));
        }
        loop {
            let passed = match ready!(Pin::new(&mut this.body).poll_next(cx)) {
                Some(Ok(bytes)) => this.check(bytes),
                Some(Err(source)) => Err(source),
                None => return Poll::Ready(this.end().err().map(Err)),
            };
            if let Some(passed) = passed.transpose() {
                return Poll::Ready(Some(passed.map(http_body::Frame::data)));
            }
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.length.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out for a body that comes in steps of so many bytes.
    fn passed(body: &[u8], step: usize, signed: bool) -> Result<Vec<u8>, &'static str> {
        let mut chunks = Chunks::new(signed);
        body.chunks(step).try_for_each(|piece| chunks.pass(Bytes::copy_from_slice(piece)))?;
        Ok(chunks.out.iter().flatten().copied().collect())
    }

    fn passes(body: &[u8], step: usize) -> bool {
        passed(body, step, true).is_ok()
    }

    /// Takes a body apart as its reader does.
    fn decoded(mut body: &[u8]) -> (Vec<u8>, &[u8]) {
        let mut content = Vec::new();
        loop {
            let end = body.iter().position(|byte| *byte == b'\n').unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&body[..end - 1]).unwrap(), 16).unwrap();
            body = &body[end + 1..];
            if size == 0 {
                return (content, body);
            }
            content.extend_from_slice(&body[..size]);
            assert_eq!(&body[size..size + 2], CRLF);
            body = &body[size + 2..];
        }
    }

    #[test]
    fn chunks_of_sdks_pass_and_huge_ones_do_not() {
        let body =
            b"5;chunk-signature=00\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        for step in 1..=body.len() {
            assert_eq!(passed(body, step, true).unwrap(), body);
        }
        assert!(!passes(b"1000001\r\n", 3));
        assert!(!passes(b"ffffffffffffffff\r\n", 100));
        assert!(!passes(b"zz\r\n", 100));
        assert!(!passes(&[b'1'; 2000], 100));
    }

    /// Amazon's CRT sends a whole part as one chunk, which the framework would hold in memory.
    #[test]
    fn an_unsigned_chunk_is_cut_where_its_bytes_come_in() {
        let body = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        for step in 1..=body.len() {
            let cut = passed(body, step, false).unwrap();
            let (content, trailer) = decoded(&cut);
            assert_eq!(content, b"hello world");
            assert_eq!(trailer, b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n");
        }
        let mut chunks = Chunks::new(false);
        chunks.pass(Bytes::from_static(b"40000000\r\nfirst")).unwrap();
        assert_eq!(chunks.out.make_contiguous().concat(), b"5\r\nfirst\r\n");
        for bad in [
            &b"5\r\nhello!\r\n"[..],
            b"5;a=b\r\n",
            b"+5\r\n",
            b"5\n",
            b"140000001\r\n",
            b"ffffffffffffffff\r\n",
        ] {
            assert!(passed(bad, 3, false).is_err(), "{}", bad.escape_ascii());
        }
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
            let _ = passed(&body, step, true);
            let _ = passed(&body, step, false);
        }
    }
}
