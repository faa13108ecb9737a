//! A request's body that can still be reached after the S3 framework has dropped it.
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

/// Bytes that are thrown away at most.
const MAX_DRAIN: usize = 16 * 1024 * 1024;
/// Time for that.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A handle on a body.
#[derive(Clone)]
pub struct RequestBody(Arc<Shared>);

struct Shared {
    body: Mutex<Body>,
    empty: bool,
    touched: AtomicBool,
    ended: AtomicBool,
}

impl RequestBody {
    /// Takes a body.
    pub fn new(body: Body) -> Self {
        Self(Arc::new(Shared {
            empty: body.is_end_stream(),
            body: Mutex::new(body),
            touched: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }))
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
        if self.0.ended.load(Ordering::Relaxed) || self.lock().is_end_stream() {
            return true;
        }
        let mut rest = std::mem::take(&mut *self.lock());
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

    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.body.lock().unwrap_or_else(PoisonError::into_inner)
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
        let polled = Pin::new(&mut *self.lock()).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) {
            self.0.ended.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&*self.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reusable(body: Body, read: bool, client_waits: bool) -> bool {
        let body = RequestBody::new(body);
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
}
