//! A TCP line that can be cut, stalled in one direction or both, and slowed down.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// How the line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Connections are closed, and no new ones are made.
    pub cut: bool,
    /// Nothing comes through from whoever has connected; it is kept, and comes late.
    pub stalled_forth: bool,
    /// Nor back to it.
    pub stalled_back: bool,
    /// One side of a connection may end: the other one does not notice.
    pub held: bool,
    /// In each direction.
    pub delay: Duration,
}

/// A line to an address, by an address of its own.
pub struct Proxy {
    /// Whoever is to use the line connects to this.
    pub address: SocketAddr,
    condition: watch::Sender<Condition>,
}

impl Proxy {
    /// A good line.
    pub async fn open(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let condition = watch::Sender::new(Condition::default());
        tokio::spawn(accept(listener, target, condition.clone()));
        Ok(Self { address, condition })
    }

    /// From now on.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, condition: watch::Sender<Condition>) {
    while let Ok((near, _)) = listener.accept().await {
        if !condition.borrow().cut {
            tokio::spawn(connect(near, target, condition.subscribe()));
        }
    }
}

/// Until one side closes, or the line is cut.
async fn connect(near: TcpStream, target: SocketAddr, condition: watch::Receiver<Condition>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = condition.clone();
    tokio::select! {
        () = carry(near_read, far_write, condition.clone(), |now| now.stalled_forth) => {}
        () = carry(far_read, near_write, condition, |now| now.stalled_back) => {}
        _ = cut.wait_for(|now| now.cut) => {}
    }
}

/// One direction. What is read while it is delayed does not wait for what was read before.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut condition: watch::Receiver<Condition>,
    stalled: fn(&Condition) -> bool,
) {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::select! {
        () = read(&mut from, sender, condition.clone()) => {}
        () = write(&mut to, receiver, condition.clone(), stalled) => {}
    }
    condition.wait_for(|now| !now.held).await.ok();
}

type Piece = (Instant, Vec<u8>);

async fn read(from: &mut OwnedReadHalf, sender: mpsc::Sender<Piece>, condition: watch::Receiver<Condition>) {
    loop {
        let mut bytes = vec![0; PIECE_BYTES];
        let Ok(length @ 1..) = from.read(&mut bytes).await else { return };
        bytes.truncate(length);
        let due = Instant::now() + condition.borrow().delay;
        if sender.send((due, bytes)).await.is_err() {
            return;
        }
    }
}

async fn write(
    to: &mut OwnedWriteHalf,
    mut receiver: mpsc::Receiver<Piece>,
    mut condition: watch::Receiver<Condition>,
    stalled: fn(&Condition) -> bool,
) {
    while let Some((due, bytes)) = receiver.recv().await {
        sleep_until(due).await;
        if condition.wait_for(|now| !stalled(now)).await.is_err() || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

const PIECES: usize = 256;
const PIECE_BYTES: usize = 16 << 10;
