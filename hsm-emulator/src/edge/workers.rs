//! Threads that serve connections, each for itself: a connection stays with the thread that it was given to, so no request
//! waits for another thread to wake up.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
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

/// As many as the machine has processors, and a spare one.
pub struct Workers {
    workers: Vec<Worker>,
    /// For connections that come while all others wait.
    spare: Worker,
}

struct Worker {
    /// `None` only while it ends.
    runtime: Option<Runtime>,
    load: Arc<Load>,
}

/// What a worker has to do.
#[derive(Default)]
struct Load {
    connections: AtomicUsize,
    /// How many of its calls wait: it takes no more connections for now.
    waiting: AtomicUsize,
}

/// One connection of a worker, counted while it is there.
struct Counted(Arc<Load>);

impl Counted {
    /// `None` if the worker waits: it would not come to this connection. One more connection, or the wait, always shows to
    /// the other side.
    fn new(load: &Arc<Load>) -> Option<Self> {
        load.connections.fetch_add(1, Ordering::SeqCst);
        let counted = Self(Arc::clone(load));
        (load.waiting.load(Ordering::SeqCst) == 0).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Workers {
    /// Starts them.
    ///
    /// # Errors
    /// The operating system's, if there can be no more threads.
    pub fn start() -> io::Result<Self> {
        let worker = |name: String, may_wait: bool| {
            let load = Arc::<Load>::default();
            let of_thread = if may_wait { Arc::downgrade(&load) } else { Weak::new() };
            // One thread, in the kind of runtime that hands its connections to another one while a call blocks.
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(name)
                .on_thread_start(move || LOAD.set(of_thread.clone()))
                .enable_all()
                .build()?;
            Ok(Worker { runtime: Some(runtime), load })
        };
        let count = thread::available_parallelism().map_or(1, usize::from);
        let workers = (0..count).map(|i| worker(format!("worker-{i}"), true)).collect::<io::Result<_>>()?;
        Ok(Self { workers, spare: worker("spare-worker".into(), false)? })
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
        for worker in self.workers.iter().chain([&self.spare]) {
            let Some(runtime) = &worker.runtime else { continue };
            let (sender, accepted) = mpsc::unbounded_channel();
            let incoming = UnboundedReceiverStream::new(accepted)
                .map(|(socket, counted)| L::adopt(socket).map(|io| Connection { io, _counted: counted }));
            let routes = Routes::from(app.clone());
            let served = server().add_routes(routes).serve_with_incoming_shutdown(incoming, stop());
            serving.spawn_on(served, runtime.handle());
            senders.push((sender, &worker.load));
        }
        let spare = senders.pop();
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
                // Not by what changes while they are sorted.
                senders.sort_by_cached_key(|(_, load)| load.connections.load(Ordering::Relaxed));
                let chosen = senders
                    .iter()
                    .chain(&spare)
                    .find_map(|(sender, load)| Some((sender, Counted::new(load)?)));
                if let Some((sender, counted)) = chosen {
                    // A server that has ended is told of below.
                    let _ = sender.send((socket, counted));
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stop() => {}
            Some(ended) = serving.join_next() => ended??,
        }
        drop((listener, senders, spare));
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Ends them. Calls that are under way are carried out, if they need no longer than this, but not answered any more.
    /// Waits for it.
    pub fn stop(self, patience: Duration) {
        thread::scope(|scope| {
            let all = self.workers.into_iter().chain([self.spare]);
            for runtime in all.filter_map(|mut worker| worker.runtime.take()) {
                scope.spawn(|| runtime.shutdown_timeout(patience));
            }
        });
    }
}

/// Makes a call that may wait, for the disk, on this thread if it is a worker's that serves one connection alone: nobody
/// else waits for it, and handing the connection over would take longer. New connections go elsewhere meanwhile. Gives the
/// call back otherwise.
///
/// # Errors
/// The call, not made.
pub fn wait_for_one_connection<T, F: FnOnce() -> T>(call: F) -> Result<T, F> {
    let Some(load) = LOAD.with_borrow(Weak::upgrade) else { return Err(call) };
    load.waiting.fetch_add(1, Ordering::SeqCst);
    let _ends = Waiting(&load);
    if load.connections.load(Ordering::SeqCst) != 1 {
        return Err(call);
    }
    Ok(call())
}

/// Until it ends, also by a panic.
struct Waiting<'a>(&'a Load);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
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
    _counted: Counted,
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

thread_local! {
    /// Of the worker whose thread this is.
    static LOAD: RefCell<Weak<Load>> = const { RefCell::new(Weak::new()) };
}

/// There are too many open files, perhaps, and soon fewer.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net;

    use axum::routing::get;
    use parking_lot::{Condvar, Mutex};

    use super::*;

    #[test]
    fn a_thread_waits_for_one_connection_alone() {
        assert!(wait_for_one_connection(|| ()).is_err(), "no worker's thread");
        let load = Arc::<Load>::default();
        LOAD.set(Arc::downgrade(&load));
        assert!(wait_for_one_connection(|| ()).is_err(), "no connection");
        let first = Counted::new(&load).expect("a connection");
        let taken_meanwhile = wait_for_one_connection(|| Counted::new(&load).is_some());
        assert!(matches!(taken_meanwhile, Ok(false)), "taken while the worker waits");
        let second = Counted::new(&load).expect("another connection");
        assert!(wait_for_one_connection(|| ()).is_err(), "two connections");
        drop(first);
        assert!(wait_for_one_connection(|| ()).is_ok());
        drop(second);
        assert!(wait_for_one_connection(|| ()).is_err(), "none is left");
    }

    /// How many wait, and whether they may go on.
    #[derive(Default)]
    struct Barrier {
        state: Mutex<(usize, bool)>,
        changed: Condvar,
    }

    impl Barrier {
        fn wait(&self) {
            let mut state = self.state.lock();
            state.0 += 1;
            self.changed.notify_all();
            self.changed.wait_while_for(&mut state, |(_, open)| !*open, 2 * PATIENCE);
        }

        fn wait_for(&self, count: usize) {
            let mut state = self.state.lock();
            let late = self.changed.wait_while_for(&mut state, |(waiting, _)| *waiting < count, PATIENCE);
            assert!(!late.timed_out(), "{} of {count} workers wait", state.0);
        }

        fn open(&self) {
            self.state.lock().1 = true;
            self.changed.notify_all();
        }
    }

    fn asked(address: net::SocketAddr, path: &str) -> net::TcpStream {
        let mut connection = net::TcpStream::connect(address).expect("connect");
        connection.set_read_timeout(Some(PATIENCE)).expect("timeout");
        write!(connection, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            .expect("request");
        connection
    }

    fn answer(mut connection: net::TcpStream) -> String {
        let mut text = String::new();
        connection.read_to_string(&mut text).expect("an answer in time");
        text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_new_connection_is_served_while_every_worker_waits() {
        let workers = Workers::start().expect("workers");
        let barrier = Arc::<Barrier>::default();
        let waiting = barrier.clone();
        let wait = move || async move { wait_for_one_connection(|| waiting.wait()).is_ok().to_string() };
        let app = Router::new().route("/wait", get(wait)).route("/now", get(|| async { "now" }));
        let runtime = Runtime::new().expect("runtime");
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().expect("address");
        thread::scope(|scope| {
            scope.spawn(|| {
                let until = || {
                    let mut stopped = stopped.clone();
                    async move { drop(stopped.wait_for(|stopped| *stopped).await) }
                };
                let server = || Server::builder().accept_http1(true);
                runtime.block_on(workers.serve(listener, server, &app, until)).expect("serve");
            });
            // Gone with this closure, also by a panic: then the server stops.
            let stop = stop;
            let held: Vec<_> = (1..=workers.workers.len())
                .map(|count| {
                    let connection = asked(address, "/wait");
                    barrier.wait_for(count);
                    connection
                })
                .collect();
            assert_eq!(answer(asked(address, "/now")), "now");
            barrier.open();
            held.into_iter().for_each(|connection| assert_eq!(answer(connection), "true"));
            stop.send_replace(true);
        });
    }

    const PATIENCE: Duration = Duration::from_secs(20);
}
