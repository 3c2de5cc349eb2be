//! A byte stream within a WebSocket, as `kubectl port-forward` wraps its SPDY: messages are pieces
//! of it, their borders mean nothing.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::PIECE_BYTES;
use super::websocket::{Socket, goodbye};

/// The stream within; ends with the socket. The future does the work and ends when both directions
/// are closed.
pub fn open(socket: Socket) -> (DuplexStream, impl Future<Output = ()> + Send) {
    let (near, far) = tokio::io::duplex(PIECE_BYTES);
    (near, carry(socket, far))
}

async fn carry(socket: Socket, stream: DuplexStream) {
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let incoming = async {
        while let Some(Ok(message)) = messages.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    let outgoing = async {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = reader.read(&mut piece).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&piece[..read]))).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
    };
    tokio::join!(incoming, outgoing);
}
