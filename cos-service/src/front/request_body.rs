//! A request's body: no slower than clients must be, in frames of some size, and still within reach after the
//! S3 framework has dropped it.
//!
//! A connection whose request was answered before its body was read can't be used again, and
//! closing it with bytes unread may destroy the answer on its way. So what remains of a body is
//! read and thrown away, within limits; otherwise the answer says that the connection closes.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body as _, Frame, SizeHint};
use s3s::{Body, StdError};

use crate::{
    frames::Frames,
    pace::{Pace, Pacer},
};

/// Bytes that are thrown away at most.
const MAX_DRAIN: usize = 16 * 1024 * 1024;
/// Time for that.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A handle on a body.
#[derive(Clone)]
pub struct RequestBody(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    empty: bool,
    touched: AtomicBool,
    ended: AtomicBool,
    too_slow: AtomicBool,
}

struct Inner {
    body: Body,
    frames: Frames,
    pacer: Pacer,
}

impl RequestBody {
    /// Takes a body.
    pub fn new(body: Body, pace: Pace) -> Self {
        Self(Arc::new(Shared {
            empty: body.is_end_stream(),
            inner: Mutex::new(Inner { body, frames: Frames::default(), pacer: Pacer::new(pace) }),
            touched: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            too_slow: AtomicBool::new(false),
        }))
    }

    /// Whether the body was given up because the client was too slow.
    pub fn was_too_slow(&self) -> bool {
        self.0.too_slow.load(Ordering::Relaxed)
    }

    /// Deals with what nobody has read. True if the connection can be used again.
    ///
    /// A client that waits for `100 Continue` gets it when the body is first read, unless the body is
    /// empty. Without it, Python's SDKs take the next answer on this connection for garbage.
    pub async fn finish(self, client_waits: bool) -> bool {
        // Reading now would make the server ask for a body that nobody wants.
        if client_waits && (self.0.empty || !self.0.touched.load(Ordering::Relaxed)) {
            return false;
        }
        if self.0.ended.load(Ordering::Relaxed) || self.lock().body.is_end_stream() {
            return true;
        }
        if self.was_too_slow() {
            return false;
        }
        let mut rest = std::mem::take(&mut self.lock().body);
        let drain = async {
            let mut drained = 0;
            while drained < MAX_DRAIN {
                match rest.next().await {
                    Some(Ok(bytes)) => drained += bytes.len(),
                    Some(Err(_)) => return false,
                    None => return true,
                }
            }
            false
        };
        tokio::time::timeout(DRAIN_TIME, drain).await.unwrap_or(false)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.0.touched.store(true, Ordering::Relaxed);
        let Inner { body, frames, pacer } = &mut *self.lock();
        loop {
            if let Some(bytes) = frames.pop() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => {
                        pacer.progress(bytes.len());
                        frames.push(bytes);
                    }
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(None) if frames.is_empty() => {
                    self.0.ended.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => frames.flush(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Pending if pacer.poll_too_slow(cx).is_ready() => {
                    self.0.too_slow.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("the client was too slow".into())));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.lock();
        inner.frames.is_empty() && inner.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.lock();
        let (held, rest) = (inner.frames.len() as u64, http_body::Body::size_hint(&inner.body));
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + held);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { idle: Duration::from_millis(200), min_rate: 1 };

    async fn reusable(body: Body, read: bool, client_waits: bool) -> bool {
        let body = RequestBody::new(body, PACE);
        if read {
            let mut reader = Body::http_body(body.clone());
            while reader.next().await.is_some() {}
        }
        body.finish(client_waits).await
    }

    #[tokio::test]
    async fn a_connection_closes_when_its_client_was_not_told_to_continue() {
        let some = || Body::from(Bytes::from_static(b"x"));
        assert!(reusable(some(), true, true).await);
        assert!(!reusable(some(), false, true).await);
        assert!(!reusable(Body::empty(), true, true).await);
        assert!(reusable(Body::empty(), false, false).await);
        assert!(reusable(some(), false, false).await);
    }

    #[tokio::test]
    async fn a_body_that_stops_is_given_up() {
        let stops = futures::stream::iter([Ok::<_, StdError>(Frame::data(Bytes::from_static(b"x")))])
            .chain(futures::stream::pending());
        let body = RequestBody::new(Body::http_body_unsync(http_body_util::StreamBody::new(stops)), PACE);
        let mut reader = Body::http_body(body.clone());
        assert!(reader.next().await.is_some_and(|frame| frame.is_err()));
        assert!(body.was_too_slow());
        assert!(!body.finish(false).await);
    }
}
