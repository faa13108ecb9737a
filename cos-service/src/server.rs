//! Connections: accepting, limiting, timing out, closing down.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, Sleep},
};

use crate::{
    config::Config,
    error::Result,
    front::outer::Outer,
    pace::{Pace, Pacer},
};

/// Receive buffer of a connection, in bytes: also the largest body frame.
const READ_BUFFER: usize = 1024 * 1024;

/// Accepts connections until `stop` says so, then lets requests in progress finish within the configured time.
pub async fn serve(
    listener: TcpListener,
    outer: Arc<Outer>,
    config: &Config,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let connections = Arc::new(Semaphore::new(config.max_connections));
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout.0)
        .max_buf_size(READ_BUFFER)
        .keep_alive(true)
        .half_close(false);
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit.map_err(crate::error::Error::internal)?,
            _ = stop.changed() => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Such as too many open files: others may close some.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stop.changed() => break,
        };
        let connection = Connection {
            server: server.clone(),
            outer: Arc::clone(&outer),
            pace: config.pace(),
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            connection.run(stream, peer).await;
            drop(permit);
        });
    }
    drop(listener);
    let all = u32::try_from(config.max_connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(config.shutdown_timeout.0, connections.acquire_many(all)).await.is_err() {
        tracing::warn!("stopping with requests in progress");
    }
    Ok(())
}

struct Connection {
    server: http1::Builder,
    outer: Arc<Outer>,
    pace: Pace,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream, peer: SocketAddr) {
        // Without this, every answer larger than a packet waits for a delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "no TCP_NODELAY");
        }
        let outer = self.outer;
        let busy = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(IdleTimeout::new(stream, self.pace, Arc::clone(&busy)));
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (outer, busy) = (Arc::clone(&outer), Arc::clone(&busy));
            async move {
                busy.store(true, Ordering::Relaxed);
                let response = outer.call(request.map(s3s::Body::from)).await;
                busy.store(false, Ordering::Relaxed);
                response
            }
        });
        let connection = self.server.serve_connection(io, service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            _ = self.stop.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, %peer, "connection ended");
        }
    }
}

/// A stream that fails when nothing moves in either direction for too long, or when the client takes an answer
/// too slowly. While a request is worked on, waiting is the server's affair; the reader of a body has a pacer of its own.
struct IdleTimeout {
    stream: TcpStream,
    idle: Duration,
    busy: Arc<AtomicBool>,
    deadline: Pin<Box<Sleep>>,
    taking: Pacer,
}

impl IdleTimeout {
    fn new(stream: TcpStream, pace: Pace, busy: Arc<AtomicBool>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(pace.idle));
        Self { stream, idle: pace.idle, busy, deadline, taking: Pacer::new(pace) }
    }

    fn watch_write(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &progress {
            Poll::Ready(Ok(bytes)) => self.taking.progress(*bytes),
            Poll::Pending if self.taking.poll_too_slow(cx).is_ready() => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            _ => {}
        }
        self.watch(cx, progress)
    }

    /// Passes progress on and moves the deadline; turns a wait beyond the deadline into an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            // Moving a timer costs a lock: only when a good part of it has passed.
            let next = Instant::now() + self.idle;
            if next - self.deadline.deadline() > self.idle / 8 {
                self.deadline.as_mut().reset(next);
            }
            return progress;
        }
        ready!(self.deadline.as_mut().poll(cx));
        if self.busy.load(Ordering::Relaxed) {
            let next = Instant::now() + self.idle;
            self.deadline.as_mut().reset(next);
            ready!(self.deadline.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for IdleTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(cx, progress)
    }
}

impl AsyncWrite for IdleTimeout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch_write(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch_write(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
