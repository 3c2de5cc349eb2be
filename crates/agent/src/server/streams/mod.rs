//! Several streams over one connection that began as an HTTP request: SPDY/3.1, WebSockets, and
//! SPDY within WebSockets.
//!
//! Both kinds end in the same parts, so that processes and forwarded ports know neither: an
//! [`Inlet`] gives what the client sends on one stream, an [`Outlet`] takes what is sent to it, a
//! [`Connection`] tells when the client is gone. Every queue is bounded: a client that does not
//! read stops the writer, a process that does not read stops the client.

pub mod upgrade;

pub mod spdy;
pub mod tunnel;
pub mod websocket;

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What connections are made of.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What is read at once from a process or a port.
pub const PIECE_BYTES: usize = 32 * 1024;

/// Pieces on their way to the client, of all streams together, and from the client, of each stream.
const OUTGOING_PIECES_MAX: usize = 8;
const INCOMING_PIECES_MAX: usize = 8;

/// At the end, the client gets this long to take what was sent, and then to close from its side.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// The client gave up a stream in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset;

/// The connection is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct Gone;

/// What the client sends on one stream; ends when it closes its half.
pub type Inlet = mpsc::Receiver<Result<Bytes, Reset>>;
pub(crate) type InletSender = mpsc::Sender<Result<Bytes, Reset>>;

pub(crate) fn inlet() -> (InletSender, Inlet) {
    mpsc::channel(INCOMING_PIECES_MAX)
}

/// Something to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(u32, Bytes),
    /// Nothing more comes on this stream.
    End(u32),
}

/// One stream to the client.
#[derive(Debug, Clone)]
pub struct Outlet {
    pieces: mpsc::Sender<Piece>,
    stream: u32,
}

impl Outlet {
    pub async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.pieces.send(Piece::Data(self.stream, bytes.into())).await.map_err(|_| Gone)
    }

    pub async fn end(self) -> Result<(), Gone> {
        self.pieces.send(Piece::End(self.stream)).await.map_err(|_| Gone)
    }

    /// Sends all that a reader gives, and the end.
    pub async fn copy_from(self, mut reader: impl AsyncRead + Unpin) -> Result<(), Gone> {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = reader.read(&mut piece).await {
            self.send(Bytes::copy_from_slice(&piece[..read])).await?;
        }
        self.end().await
    }
}

/// A connection with its two tasks: one reads, one writes. Dropping it ends both at once.
pub struct Connection {
    pieces: mpsc::Sender<Piece>,
    /// Closed when the reading task has ended.
    gone: watch::Receiver<()>,
    writer: AbortOnDrop,
    reader: AbortOnDrop,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Starts the tasks: `write` takes pieces until no outlet is left, `read` fills inlets.
    pub(crate) fn start<W, R>(write: impl FnOnce(mpsc::Receiver<Piece>) -> W, read: R) -> Connection
    where
        W: Future<Output = ()> + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let (pieces, outgoing) = mpsc::channel(OUTGOING_PIECES_MAX);
        let (alive, gone) = watch::channel(());
        let writer = AbortOnDrop(tokio::spawn(write(outgoing)));
        let reader = AbortOnDrop(tokio::spawn(async move {
            read.await;
            drop(alive);
        }));
        Connection { pieces, gone, writer, reader }
    }

    pub fn outlet(&self, stream: u32) -> Outlet {
        Outlet { pieces: self.pieces.clone(), stream }
    }

    /// Ends when the client has closed the connection or it broke.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut gone = self.gone.clone();
        async move { while gone.changed().await.is_ok() {} }
    }

    /// Sends what is left, says goodbye and waits a little for the client to do the same: closing
    /// with something unread would cut off what the client has not read yet. Outlets must be
    /// dropped by then.
    pub async fn close(self) {
        let Connection { pieces, mut writer, mut reader, .. } = self;
        drop(pieces);
        if tokio::time::timeout(FLUSH_TIMEOUT, &mut writer.0).await.is_ok() {
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, &mut reader.0).await;
        }
    }
}
