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
    touched: AtomicBool,
    ended: AtomicBool,
}

impl RequestBody {
    /// Takes a body.
    pub fn new(body: Body) -> Self {
        Self(Arc::new(Shared {
            body: Mutex::new(body),
            touched: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }))
    }

    /// Deals with what nobody has read. True if the connection can be used again.
    pub async fn finish(self, client_waits: bool) -> bool {
        if self.0.ended.load(Ordering::Relaxed) || self.lock().is_end_stream() {
            return true;
        }
        // Reading would make the server ask for a body that the client has not sent yet.
        if client_waits && !self.0.touched.load(Ordering::Relaxed) {
            return false;
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
