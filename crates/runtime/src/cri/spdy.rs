//! The client's half of SPDY/3.1, as far as streaming servers of container runtimes need it.
//!
//! The streams are opened at once, in order; then data goes both ways and each side ends its half
//! of each stream. WebSockets would be less work, but the dialect that all runtimes know has no end
//! of standard input. Header blocks that come are not read: they say nothing here. Windows are not
//! kept either, since no implementation that Kubernetes uses knows them; what bounds memory is that
//! a stream that is not read holds up the connection.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use wire::spdy::{Frame, FrameError, Headers, Packer, frame};

/// Each read and each data frame that is sent.
const PIECE_BYTES: usize = 32 * 1024;

/// What a stream holds that no task has read yet.
const BUFFER_BYTES: usize = 64 * 1024;

/// Frames on their way to the socket; each holds one piece.
const FRAMES_MAX: usize = 16;

/// A stream's two halves. Dropping the writer, or shutting it down, ends that half.
pub struct Stream {
    pub reader: DuplexStream,
    pub writer: DuplexStream,
}

/// Runs a connection that is there; ends when the other side closes it.
pub struct Connection<S> {
    socket: S,
    inlets: Vec<Option<DuplexStream>>,
    outlets: Vec<DuplexStream>,
}

/// Opens a stream for each of the headers.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, all: &[Headers]) -> io::Result<(Connection<S>, Vec<Stream>)> {
    let mut packer = Packer::default();
    let (mut inlets, mut outlets, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for (index, headers) in all.iter().enumerate() {
        let opening = Frame::SynStream { stream: number(index), fin: false, block: packer.pack(headers) };
        socket.write_all(&opening.encode()).await?;
        let (inlet, reader) = tokio::io::duplex(BUFFER_BYTES);
        let (writer, outlet) = tokio::io::duplex(BUFFER_BYTES);
        inlets.push(Some(inlet));
        outlets.push(outlet);
        streams.push(Stream { reader, writer });
    }
    socket.flush().await?;
    Ok((Connection { socket, inlets, outlets }, streams))
}

/// Clients' streams have odd numbers.
fn number(index: usize) -> u32 {
    u32::try_from(index * 2 + 1).expect("a handful of streams")
}

fn index(number: u32) -> usize {
    (number / 2) as usize
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Connection<S> {
    pub async fn run(self) -> io::Result<()> {
        let (reader, writer) = tokio::io::split(self.socket);
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(write_frames(writer, queue));
        for (index, outlet) in self.outlets.into_iter().enumerate() {
            tasks.spawn(send_stream(number(index), outlet, frames.clone()));
        }
        // The tasks end with the set: nothing is sent when no task reads.
        read_frames(reader, self.inlets, frames).await
    }
}

async fn write_frames(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        let written = writer.write_all(&frame).await;
        if written.is_err() || (queue.is_empty() && writer.flush().await.is_err()) {
            return;
        }
    }
}

async fn send_stream(stream: u32, mut outlet: DuplexStream, frames: mpsc::Sender<Vec<u8>>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = outlet.read(&mut piece).await.unwrap_or(0);
        if frames.send(data(stream, &piece[..length])).await.is_err() || length == 0 {
            return;
        }
    }
}

async fn read_frames(
    mut reader: impl AsyncRead + Unpin,
    mut inlets: Vec<Option<DuplexStream>>,
    frames: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    while let Some(frame) = frame::read(&mut reader).await.map_err(cause)? {
        match frame {
            Frame::Data { stream, fin, length } => read_data(&mut reader, inlets.get_mut(index(stream)), length, fin).await?,
            Frame::Reset { stream, .. } => drop(inlets.get_mut(index(stream)).and_then(Option::take)),
            // Servers' have even numbers, and want them back.
            Frame::Ping(number) if number % 2 == 0 => drop(frames.send(Frame::Ping(number).encode()).await),
            _ => {}
        }
    }
    Ok(())
}

fn cause(error: FrameError) -> io::Error {
    match error {
        FrameError::Read(cause) => cause,
        malformed @ FrameError::Malformed => io::Error::other(malformed),
    }
}

async fn read_data(
    reader: &mut (impl AsyncRead + Unpin),
    inlet: Option<&mut Option<DuplexStream>>,
    length: u32,
    ends: bool,
) -> io::Result<()> {
    let mut nobody = None;
    let inlet = inlet.unwrap_or(&mut nobody);
    let mut left = length as usize;
    while left > 0 {
        let mut piece = vec![0; left.min(PIECE_BYTES)];
        reader.read_exact(&mut piece).await?;
        left -= piece.len();
        if let Some(there) = inlet
            && there.write_all(&piece).await.is_err()
        {
            // No task reads it any more; the other streams go on.
            *inlet = None;
        }
    }
    if ends {
        *inlet = None;
    }
    Ok(())
}

/// Without data: the end of this half.
fn data(stream: u32, piece: &[u8]) -> Vec<u8> {
    let length = u32::try_from(piece.len()).expect("pieces are short");
    let mut frame = Frame::Data { stream, fin: piece.is_empty(), length }.encode();
    frame.extend_from_slice(piece);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_piece_ends_a_stream() {
        assert_eq!(data(5, &[]), [0, 0, 0, 5, 1, 0, 0, 0]);
        assert_eq!(data(5, &[9]), [0, 0, 0, 5, 0, 0, 0, 1, 9]);
    }

    fn of_type(kind: &str) -> Headers {
        Headers::from([("streamtype".to_owned(), kind.to_owned())])
    }

    #[tokio::test]
    async fn streams_go_both_ways_and_end_by_halves() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (connection, mut streams) = open(near, &[of_type("error"), of_type("stdin")]).await.unwrap();
        let running = tokio::spawn(connection.run());
        let mut stream = streams.remove(1);
        stream.writer.write_all(b"hi").await.unwrap();
        drop(stream.writer);
        far.write_all(&data(3, b"there")).await.unwrap();
        far.write_all(&Frame::Ping(2).encode()).await.unwrap();
        far.write_all(&data(3, &[])).await.unwrap();
        let mut text = String::new();
        stream.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "there");
        let expected = [data(3, b"hi"), data(3, &[])].concat();
        let mut sent = Vec::new();
        while !sent.windows(expected.len()).any(|w| w == expected) {
            far.read_buf(&mut sent).await.unwrap();
        }
        drop(far);
        running.await.unwrap().unwrap();
    }
}
