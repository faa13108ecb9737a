//! Requests that follow each other closely.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use tokio_stream::Stream;

/// A stream whose next message often comes sooner than a sleeping processor wakes up: the worker looks for it for a while
/// before it sleeps. Any other thread comes first.
pub struct Watched<S> {
    messages: S,
    /// How long to look, since the stream ran dry.
    end: Option<Instant>,
    /// How often it has been looked at since.
    looks: u32,
}

impl<S> Watched<S> {
    /// Of these messages.
    pub fn new(messages: S) -> Self {
        Self { messages, end: None, looks: 0 }
    }
}

impl<S: Stream + Unpin> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let message = Pin::new(&mut self.messages).poll_next(context);
        if message.is_ready() {
            (self.end, self.looks) = (None, 0);
            return message;
        }
        let now = Instant::now();
        if now < *self.end.get_or_insert(now + WATCH) {
            self.looks += 1;
            // Not before the last answer has left.
            if self.looks > LOOKS_WHILE_ANSWERING {
                thread::yield_now();
            }
            // Comes back once the worker has looked for what has arrived.
            let _ = pin!(tokio::task::yield_now()).poll(context);
        }
        Poll::Pending
    }
}

const WATCH: Duration = Duration::from_micros(50);
/// Tonic and hyper look for more before they hand an answer over.
const LOOKS_WHILE_ANSWERING: u32 = 3;
