//! A SPDY connection: streams that the client opens arrive as [`Incoming`]; [`Client`] is the other
//! end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::super::{Connection, Duplex, Gone, Inlet, InletSender, Outlet, PIECE_BYTES, Piece, Reset, inlet};
use wire::spdy::frame::{self, Frame, FrameError, REFUSED_STREAM, STREAM_ALREADY_CLOSED};
use wire::spdy::{Headers, Packer, Unpacker};

/// Streams open at once; a forwarded connection has two.
const STREAMS_MAX: usize = 1000;

/// Streams that no task took yet, and control frames on their way.
const INCOMING_MAX: usize = 16;
const CONTROLS_MAX: usize = 32;

/// A stream's window is widened when this much of it was taken.
const WINDOW_STEP_BYTES: u32 = 32 * 1024;

/// A stream that the client opened. [`Connection::outlet`] with its number answers on it.
#[derive(Debug)]
pub struct Incoming {
    pub stream: u32,
    pub headers: Headers,
    pub inlet: Inlet,
}

/// What is sent besides data.
enum Control {
    Open(u32, Headers),
    Reply(u32),
    Frame(Frame),
}

/// Serves a connection: new streams come out of the receiver, which ends with the connection.
pub fn serve(io: Box<dyn Duplex>) -> (Connection, mpsc::Receiver<Incoming>) {
    let (opened, incoming) = mpsc::channel(INCOMING_MAX);
    let (connection, _, _) = start(io, Some(opened));
    (connection, incoming)
}

type Streams = Arc<Mutex<HashMap<u32, Stream>>>;

/// What is kept of an open stream.
struct Stream {
    /// None once the peer closed its half or no task reads.
    inlet: Option<InletSender>,
    /// For streams opened here: gets a message when the peer agreed.
    replied: Option<oneshot::Sender<()>>,
    /// Taken since the window was widened.
    taken_bytes: u32,
}

fn start(io: Box<dyn Duplex>, opened: Option<mpsc::Sender<Incoming>>) -> (Connection, Streams, mpsc::Sender<Control>) {
    let (reader, writer) = tokio::io::split(io);
    let (controls, outgoing) = mpsc::channel(CONTROLS_MAX);
    let streams = Streams::default();
    let reading =
        Reading { reader, streams: streams.clone(), controls: controls.clone(), opened, unpacker: Unpacker::default(), taken_bytes: 0 };
    let open = streams.clone();
    let connection = Connection::start(move |pieces| write(writer, pieces, outgoing), async move {
        if let Err(error) = reading.run().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection broke");
        }
        // Ends all inlets.
        open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    });
    (connection, streams, controls)
}

async fn write(writer: WriteHalf<Box<dyn Duplex>>, mut pieces: mpsc::Receiver<Piece>, mut controls: mpsc::Receiver<Control>) {
    let mut writer = tokio::io::BufWriter::with_capacity(PIECE_BYTES, writer);
    let mut packer = Packer::default();
    loop {
        // Control frames first: a stream is agreed to before anything is sent on it. Receiving from
        // channels is cancel-safe.
        let written = tokio::select! {
            biased;
            Some(control) = controls.recv() => write_control(&mut writer, &mut packer, control).await,
            piece = pieces.recv() => match piece {
                Some(Piece::Data(stream, bytes)) => write_data(&mut writer, stream, &bytes).await,
                Some(Piece::End(stream)) => writer.write_all(&Frame::Data { stream, fin: true, length: 0 }.encode()).await,
                None => break,
            },
        };
        let nothing_waits = pieces.is_empty() && controls.is_empty();
        if written.is_err() || (nothing_waits && writer.flush().await.is_err()) {
            return;
        }
    }
    let _ = writer.write_all(&Frame::GoAway { last_stream: 0 }.encode()).await;
    let _ = writer.flush().await;
    let _ = writer.shutdown().await;
}

async fn write_control(writer: &mut (impl AsyncWrite + Unpin), packer: &mut Packer, control: Control) -> std::io::Result<()> {
    let frame = match control {
        Control::Open(stream, headers) => Frame::SynStream { stream, fin: false, block: packer.pack(&headers) },
        Control::Reply(stream) => Frame::SynReply { stream, fin: false, block: packer.pack(&Headers::new()) },
        Control::Frame(frame) => frame,
    };
    writer.write_all(&frame.encode()).await
}

async fn write_data(writer: &mut (impl AsyncWrite + Unpin), stream: u32, bytes: &Bytes) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    writer.write_all(&Frame::Data { stream, fin: false, length }.encode()).await?;
    writer.write_all(bytes).await
}

/// The reading side.
struct Reading {
    reader: ReadHalf<Box<dyn Duplex>>,
    streams: Streams,
    controls: mpsc::Sender<Control>,
    /// None for clients: servers of Kubernetes open no streams.
    opened: Option<mpsc::Sender<Incoming>>,
    unpacker: Unpacker,
    /// Of all streams, since the connection's window was widened.
    taken_bytes: u32,
}

impl Reading {
    async fn run(mut self) -> Result<(), FrameError> {
        while let Some(frame) = frame::read(&mut self.reader).await? {
            match frame {
                Frame::SynStream { stream, fin, block } => self.open(stream, fin, &block).await?,
                Frame::SynReply { stream, block, .. } => {
                    // Read for the sake of the compression's state.
                    self.unpacker.unpack(&block).map_err(|_| FrameError::Malformed)?;
                    let replied = self.with(stream, |stream| stream.replied.take()).flatten();
                    let _ = replied.map(|replied| replied.send(()));
                }
                Frame::Reset { stream, .. } => self.reset(stream),
                // Odd numbers are the client's: they go back as they came.
                Frame::Ping(id) if (id % 2 == 1) == self.opened.is_some() => tell(&self.controls, Control::Frame(Frame::Ping(id))).await,
                Frame::Data { stream, fin, length } => self.data(stream, fin, length).await?,
                Frame::Ping(_) | Frame::GoAway { .. } | Frame::Window { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    fn with<T>(&self, stream: u32, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&stream).map(act)
    }

    async fn open(&mut self, stream: u32, fin: bool, block: &[u8]) -> Result<(), FrameError> {
        let headers = self.unpacker.unpack(block).map_err(|_| FrameError::Malformed)?;
        let (sender, inlet) = inlet();
        let is_welcome = self.remember(stream, (!fin).then_some(sender));
        let Some(opened) = self.opened.clone().filter(|_| is_welcome) else {
            tell(&self.controls, Control::Frame(Frame::Reset { stream, status: REFUSED_STREAM })).await;
            return Ok(());
        };
        tell(&self.controls, Control::Reply(stream)).await;
        let _ = opened.send(Incoming { stream, headers, inlet }).await;
        Ok(())
    }

    fn remember(&self, stream: u32, inlet: Option<InletSender>) -> bool {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Those on which nothing arrives any more need no place.
        streams.retain(|_, stream| stream.inlet.as_ref().is_some_and(|inlet| !inlet.is_closed()));
        let has_place = streams.len() < STREAMS_MAX && !streams.contains_key(&stream);
        if has_place {
            streams.insert(stream, Stream { inlet, replied: None, taken_bytes: 0 });
        }
        has_place
    }

    fn reset(&self, stream: u32) {
        let forgotten = self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream);
        if let Some(inlet) = forgotten.and_then(|stream| stream.inlet) {
            // A full inlet has a reader who finds the end behind what is in it.
            let _ = inlet.try_send(Err(Reset));
        }
    }

    async fn data(&mut self, stream: u32, fin: bool, length: u32) -> Result<(), FrameError> {
        let inlet = self.with(stream, |stream| stream.inlet.clone()).flatten();
        let mut left = length as usize;
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE_BYTES)];
            self.reader.read_exact(&mut piece).await?;
            left -= piece.len();
            if let Some(inlet) = &inlet {
                let _ = inlet.send(Ok(piece.into())).await;
            }
        }
        if fin {
            self.with(stream, |stream| stream.inlet = None);
        }
        match inlet {
            Some(_) => self.widen(stream, length).await,
            None if length > 0 => tell(&self.controls, Control::Frame(Frame::Reset { stream, status: STREAM_ALREADY_CLOSED })).await,
            None => {}
        }
        Ok(())
    }

    /// Gives back the room that was taken, for the stream and for the connection (stream 0).
    async fn widen(&mut self, stream: u32, bytes: u32) {
        let of_stream = self.with(stream, |stream| stepped(&mut stream.taken_bytes, bytes)).flatten();
        for (stream, delta) in [(stream, of_stream), (0, stepped(&mut self.taken_bytes, bytes))] {
            if let Some(delta) = delta {
                tell(&self.controls, Control::Frame(Frame::Window { stream, delta })).await;
            }
        }
    }
}

/// A writer that is gone takes the connection with it.
async fn tell(controls: &mpsc::Sender<Control>, control: Control) {
    let _ = controls.send(control).await;
}

fn stepped(taken: &mut u32, bytes: u32) -> Option<u32> {
    *taken = taken.saturating_add(bytes);
    (*taken >= WINDOW_STEP_BYTES).then(|| std::mem::take(taken))
}

/// The client's end: opens streams. Tests play `kubectl` with it.
pub struct Client {
    connection: Connection,
    streams: Streams,
    controls: mpsc::Sender<Control>,
    next: u32,
}

impl Client {
    pub fn new(io: Box<dyn Duplex>) -> Client {
        let (connection, streams, controls) = start(io, None);
        Client { connection, streams, controls, next: 1 }
    }

    /// Opens a stream and waits until the server agreed.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<(Outlet, Inlet), Gone> {
        let number = self.next;
        self.next += 2;
        let (sender, inlet) = inlet();
        let (replied, reply) = oneshot::channel();
        let stream = Stream { inlet: Some(sender), replied: Some(replied), taken_bytes: 0 };
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(number, stream);
        let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.controls.send(Control::Open(number, headers)).await.map_err(|_| Gone)?;
        reply.await.map_err(|_| Gone)?;
        Ok((self.connection.outlet(number), inlet))
    }

    pub async fn ping(&self, id: u32) -> Result<(), Gone> {
        self.controls.send(Control::Frame(Frame::Ping(id))).await.map_err(|_| Gone)
    }
}

/// Frames are read from anything.
#[cfg(test)]
pub(super) async fn frames(mut reader: impl tokio::io::AsyncRead + Unpin) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = frame::read(&mut reader).await {
        frames.push(frame);
    }
    frames
}
