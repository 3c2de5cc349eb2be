//! Frames of SPDY/3.1: eight bytes of head, then what the head says. Compression is not done here.
//!
//! Data frames are given in parts: the head first, so that no reader holds the 16 MiB that a frame
//! may have.

use tokio::io::{AsyncRead, AsyncReadExt};

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

/// Control frames hold header blocks; nothing of Kubernetes comes near this.
const CONTROL_BYTES_MAX: u32 = 64 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is reset.
pub const REFUSED_STREAM: u32 = 3;
pub const STREAM_ALREADY_CLOSED: u32 = 9;

/// A frame; blocks of headers as they are on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        block: Vec<u8>,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Vec<u8>,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last_stream: u32,
    },
    Window {
        stream: u32,
        delta: u32,
    },
    /// That many bytes follow.
    Data {
        stream: u32,
        fin: bool,
        length: u32,
    },
    /// Known or not, it changes nothing here.
    Other,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("cannot read a frame")]
    Read(#[from] std::io::Error),
    #[error("a frame is malformed")]
    Malformed,
}

/// Reads the next frame; None at the end.
pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; 8];
    if reader.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut head[1..]).await?;
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let (fin, length) = (head[4] & FLAG_FIN != 0, u32::from_be_bytes([0, head[5], head[6], head[7]]));
    if first >> 31 == 0 {
        return Ok(Some(Frame::Data { stream: first, fin, length }));
    }
    if length > CONTROL_BYTES_MAX || (first >> 16) as u16 & 0x7fff != VERSION {
        return Err(FrameError::Malformed);
    }
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload).await?;
    control((first & 0xffff) as u16, fin, &payload).map(Some).ok_or(FrameError::Malformed)
}

fn control(kind: u16, fin: bool, payload: &[u8]) -> Option<Frame> {
    let number = |at: usize| payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let stream = || number(0).map(|stream| stream & 0x7fff_ffff);
    Some(match kind {
        SYN_STREAM => Frame::SynStream { stream: stream()?, fin, block: payload.get(10..)?.to_vec() },
        SYN_REPLY => Frame::SynReply { stream: stream()?, fin, block: payload.get(4..)?.to_vec() },
        RST_STREAM => Frame::Reset { stream: stream()?, status: number(4)? },
        PING => Frame::Ping(number(0)?),
        GOAWAY => Frame::GoAway { last_stream: stream()? },
        WINDOW_UPDATE => Frame::Window { stream: stream()?, delta: number(4)? },
        _ => Frame::Other,
    })
}

impl Frame {
    /// As it is on the wire; for data, the head.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_be_bytes()).collect() };
        match self {
            Frame::SynStream { stream, fin, block } => framed(SYN_STREAM, *fin, &[&numbers(&[*stream, 0]), &[0, 0], block]),
            Frame::SynReply { stream, fin, block } => framed(SYN_REPLY, *fin, &[&numbers(&[*stream]), block]),
            Frame::Reset { stream, status } => framed(RST_STREAM, false, &[&numbers(&[*stream, *status])]),
            Frame::Ping(id) => framed(PING, false, &[&numbers(&[*id])]),
            Frame::GoAway { last_stream } => framed(GOAWAY, false, &[&numbers(&[*last_stream, 0])]),
            Frame::Window { stream, delta } => framed(WINDOW_UPDATE, false, &[&numbers(&[*stream, *delta])]),
            Frame::Data { stream, fin, length } => {
                let mut out = numbers(&[*stream, *length]);
                out[4] = u8::from(*fin);
                out
            }
            Frame::Other => Vec::new(),
        }
    }
}

fn framed(kind: u16, fin: bool, parts: &[&[u8]]) -> Vec<u8> {
    let payload = parts.concat();
    let mut out = (0x8000 | VERSION).to_be_bytes().to_vec();
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out[4] = u8::from(fin);
    out.extend_from_slice(&payload);
    out
}
