//! Channels over a WebSocket: the first byte of a message is the number of its channel
//! (`channel.k8s.io`), as a digit with base64 after it in the variants for browsers
//! (`base64.channel.k8s.io`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::{Connection, Duplex, Inlet, InletSender, Piece, inlet};

/// Clients send what they like in one message; it is held whole.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// In `v5.channel.k8s.io`, a message on this channel closes the client's half of the channel that
/// it names.
const CLOSE_CHANNEL: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    pub base64: bool,
    pub has_close_channel: bool,
}

pub type Socket = WebSocketStream<Box<dyn Duplex>>;

/// A WebSocket over a connection whose handshake is done.
pub async fn socket(connection: Box<dyn Duplex>, role: Role) -> Socket {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(connection, role, Some(config)).await
}

/// Starts the channels; answers inlets for those that the client writes to, in their order.
pub fn channels(socket: Socket, dialect: Dialect, written_by_client: &[u8]) -> (Connection, Vec<Inlet>) {
    let (sink, stream) = socket.split();
    let (senders, inlets): (BTreeMap<u8, InletSender>, Vec<Inlet>) = written_by_client
        .iter()
        .map(|&channel| {
            let (sender, inlet) = inlet();
            ((channel, sender), inlet)
        })
        .unzip();
    (Connection::start(move |pieces| write(sink, dialect, pieces), read(stream, dialect, senders)), inlets)
}

async fn write(mut sink: futures::stream::SplitSink<Socket, Message>, dialect: Dialect, mut pieces: mpsc::Receiver<Piece>) {
    while let Some(piece) = pieces.recv().await {
        // A channel of the server has no end of its own: the status, or the connection's end, says
        // that all was sent.
        let Piece::Data(channel, bytes) = piece else { continue };
        if sink.send(encode(dialect, channel, &bytes)).await.is_err() {
            return;
        }
    }
    let _ = sink.send(goodbye()).await;
}

/// Clients take a closing without the code of a normal one for an error.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn encode(dialect: Dialect, channel: u32, bytes: &[u8]) -> Message {
    let channel = u8::try_from(channel).unwrap_or(CLOSE_CHANNEL);
    if dialect.base64 {
        return Message::text(format!("{}{}", char::from(b'0' + channel), BASE64.encode(bytes)));
    }
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

async fn read(mut stream: futures::stream::SplitStream<Socket>, dialect: Dialect, mut senders: BTreeMap<u8, InletSender>) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            // Reading on lets the closing be answered.
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let Some((channel, data)) = decode(dialect, &bytes) else { continue };
        if channel == CLOSE_CHANNEL && dialect.has_close_channel {
            data.iter().for_each(|closed| drop(senders.remove(closed)));
            continue;
        }
        let Some(sender) = senders.get(&channel).filter(|_| !data.is_empty()) else { continue };
        if sender.send(Ok(data)).await.is_err() {
            // No task reads it any more; the others go on.
            senders.remove(&channel);
        }
    }
}

fn decode(dialect: Dialect, message: &Bytes) -> Option<(u8, Bytes)> {
    let (&channel, data) = message.split_first()?;
    if dialect.base64 {
        return Some((channel.checked_sub(b'0')?, BASE64.decode(data).ok()?.into()));
    }
    Some((channel, message.slice(1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_dialects() {
        for base64 in [false, true] {
            let dialect = Dialect { base64, has_close_channel: false };
            let message = encode(dialect, 3, b"hello");
            assert_eq!(decode(dialect, &message.into_data()), Some((3, Bytes::from_static(b"hello"))));
        }
    }
}
