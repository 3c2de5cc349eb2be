//! The client's half of SPDY/3.1, as far as streaming servers of container runtimes need it.
//!
//! The streams are opened at once, in order; then data goes both ways and each side ends its half
//! of each stream. WebSockets would be less work, but the dialect that all runtimes know has no end
//! of standard input. Header blocks are sent without the protocol's dictionary, which receivers
//! must allow, and those that come are not read: they say nothing here. Windows are not kept
//! either, since no implementation that Kubernetes uses knows them; what bounds memory is that a
//! stream nobody reads holds up the connection.

use std::io;

use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

const CONTROL: u8 = 0x80;
const VERSION: u8 = 3;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;

/// Each read and each data frame that is sent.
const PIECE_BYTES: usize = 32 * 1024;

/// What a stream holds that nobody has read yet.
const BUFFER_BYTES: usize = 64 * 1024;

/// Frames on their way to the socket; each holds one piece.
const FRAMES_MAX: usize = 16;

pub type Headers<'a> = &'a [(&'a str, &'a str)];

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
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, all: &[Headers<'_>]) -> io::Result<(Connection<S>, Vec<Stream>)> {
    let mut zlib = Compress::new(Compression::default(), true);
    let (mut inlets, mut outlets, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for (index, headers) in all.iter().enumerate() {
        // Associated stream (none), priority (highest), slot (none).
        let mut payload = [number(index).to_be_bytes(), [0; 4]].concat();
        payload.extend_from_slice(&[0, 0]);
        payload.extend(packed(&mut zlib, headers)?);
        socket.write_all(&control(SYN_STREAM, &payload)).await?;
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
        // The tasks end with the set: nothing is sent when nobody reads.
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
    let mut head = [0; 8];
    while reader.read(&mut head[..1]).await? == 1 {
        reader.read_exact(&mut head[1..]).await?;
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        if head[0] & CONTROL == 0 {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let inlet = inlets.get_mut(index(stream));
            read_data(&mut reader, inlet, length, head[4] & FLAG_FIN != 0).await?;
            continue;
        }
        let mut payload = vec![0; length as usize];
        reader.read_exact(&mut payload).await?;
        let first = payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        match u16::from_be_bytes([head[2], head[3]]) {
            RST_STREAM => drop(inlets.get_mut(index(first)).and_then(Option::take)),
            // Servers' have even numbers, and want them back.
            PING if first % 2 == 0 => drop(frames.send(control(PING, &payload)).await),
            _ => {}
        }
    }
    Ok(())
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
            // Nobody reads it any more; the other streams go on.
            *inlet = None;
        }
    }
    if ends {
        *inlet = None;
    }
    Ok(())
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("control frames are short");
    let mut frame = vec![CONTROL, VERSION];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Without data: the end of this half.
fn data(stream: u32, piece: &[u8]) -> Vec<u8> {
    let length = u32::try_from(piece.len()).expect("pieces are short");
    let mut frame = [stream.to_be_bytes(), length.to_be_bytes()].concat();
    frame[4] = if piece.is_empty() { FLAG_FIN } else { 0 };
    frame.extend_from_slice(piece);
    frame
}

/// All blocks of a direction are one zlib stream, flushed after each.
fn packed(zlib: &mut Compress, headers: Headers<'_>) -> io::Result<Vec<u8>> {
    let mut block = number_of(headers.len());
    for text in headers.iter().flat_map(|&(name, value)| [name, value]) {
        block.extend(number_of(text.len()));
        block.extend_from_slice(text.as_bytes());
    }
    // Room for the worst case: then one call takes all.
    let mut out = Vec::with_capacity(block.len() + 128);
    zlib.compress_vec(&block, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
    Ok(out)
}

fn number_of(length: usize) -> Vec<u8> {
    u32::try_from(length).expect("headers are short").to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_protocol() {
        assert_eq!(control(PING, &[0, 0, 0, 1]), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        assert_eq!(data(5, &[]), [0, 0, 0, 5, 1, 0, 0, 0]);
        assert_eq!(data(5, &[9]), [0, 0, 0, 5, 0, 0, 0, 1, 9]);
    }

    #[tokio::test]
    async fn streams_go_both_ways_and_end_by_halves() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (connection, mut streams) = open(near, &[&[("streamtype", "error")], &[("streamtype", "stdin")]]).await.unwrap();
        let running = tokio::spawn(connection.run());
        let mut stream = streams.remove(1);
        stream.writer.write_all(b"hi").await.unwrap();
        drop(stream.writer);
        far.write_all(&data(3, b"there")).await.unwrap();
        far.write_all(&control(PING, &[0, 0, 0, 2])).await.unwrap();
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
