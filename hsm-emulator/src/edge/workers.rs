//! Threads that serve connections, each for itself: a connection stays with the thread that it was given to, so no request
//! waits for another thread to wake up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// As many as the machine has processors.
pub struct Workers(Vec<Worker>);

struct Worker {
    /// `None` only while it ends.
    runtime: Option<Runtime>,
    /// Held by each of its connections.
    load: Arc<()>,
}

impl Workers {
    /// Starts them.
    ///
    /// # Errors
    /// The operating system's, if there can be no more threads.
    pub fn start() -> io::Result<Self> {
        let worker = |i| {
            // One thread, in the kind of runtime that hands its connections to another one while a call blocks.
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(format!("worker-{i}"))
                .enable_all()
                .build()?;
            Ok(Worker { runtime: Some(runtime), load: Arc::default() })
        };
        let count = thread::available_parallelism().map_or(1, usize::from);
        (0..count).map(worker).collect::<io::Result<_>>().map(Self)
    }

    /// Serves what is accepted here until `stop` is done, and then what is under way. `server` makes a server, for each
    /// worker.
    ///
    /// # Errors
    /// Those of a server that ends before.
    pub async fn serve<L: Listener, F: Future<Output = ()> + Send + 'static>(
        &self,
        listener: L,
        server: impl Fn() -> Server,
        app: &Router,
        stop: impl Fn() -> F,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut serving = JoinSet::new();
        let mut senders = Vec::new();
        for worker in &self.0 {
            let Some(runtime) = &worker.runtime else { continue };
            let (sender, accepted) = mpsc::unbounded_channel();
            let incoming = UnboundedReceiverStream::new(accepted)
                .map(|(socket, load)| L::adopt(socket).map(|io| Connection { io, _load: load }));
            let routes = Routes::from(app.clone());
            let served = server().add_routes(routes).serve_with_incoming_shutdown(incoming, stop());
            serving.spawn_on(served, runtime.handle());
            senders.push((sender, &worker.load));
        }
        let accepting = async {
            loop {
                let socket = match listener.accept().await {
                    Ok(socket) => socket,
                    // Of one connection alone.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(AFTER_FAILURE).await;
                        continue;
                    }
                };
                let least = senders.iter().min_by_key(|(_, load)| Arc::strong_count(load));
                if let Some((sender, load)) = least {
                    // A server that has ended is told of below.
                    let _ = sender.send((socket, Arc::clone(load)));
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stop() => {}
            Some(ended) = serving.join_next() => ended??,
        }
        drop((listener, senders));
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Ends them. Calls that are under way are carried out, if they need no longer than this, but not answered any more.
    /// Waits for it.
    pub fn stop(self, patience: Duration) {
        thread::scope(|scope| {
            for runtime in self.0.into_iter().filter_map(|mut worker| worker.runtime.take()) {
                scope.spawn(|| runtime.shutdown_timeout(patience));
            }
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be dropped where nobody may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where connections come in.
pub trait Listener {
    /// A connection between runtimes.
    type Socket: Send + 'static;
    /// One in use.
    type Io: AsyncRead
        + AsyncWrite
        + Connected<ConnectInfo: Clone + Send + Sync + 'static>
        + Send
        + Unpin
        + 'static;

    /// The next one.
    ///
    /// # Errors
    /// The operating system's.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Socket>>;

    /// Takes it into the runtime that this is called in.
    ///
    /// # Errors
    /// The operating system's.
    fn adopt(socket: Self::Socket) -> io::Result<Self::Io>;
}

impl Listener for TcpListener {
    type Socket = std::net::TcpStream;
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<Self::Socket> {
        let (connection, _) = TcpListener::accept(self).await?;
        // If it is closed already, that shows soon.
        let _ = connection.set_nodelay(true);
        connection.into_std()
    }

    fn adopt(socket: Self::Socket) -> io::Result<TcpStream> {
        TcpStream::from_std(socket)
    }
}

impl Listener for UnixListener {
    type Socket = std::os::unix::net::UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<Self::Socket> {
        let (connection, _) = UnixListener::accept(self).await?;
        connection.into_std()
    }

    fn adopt(socket: Self::Socket) -> io::Result<UnixStream> {
        UnixStream::from_std(socket)
    }
}

/// A connection, counted while it is open.
struct Connection<T> {
    io: T,
    _load: Arc<()>,
}

impl<T: Connected> Connected for Connection<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// There are too many open files, perhaps, and soon fewer.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
