//! Bytes between a process and its client, until the process has ended or the client has gone.

use std::time::Duration;

use containers::TerminalSize;
use runtime::port::{Runtime, Session, Writer};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::client::Client;
use super::outcome::Outcome;
use super::{Act, Task};
use crate::server::streams::{Inlet, Outlet, PIECE_BYTES};

/// When the process has ended and something else holds its output open (a child in the background),
/// silence this long is the end.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sizes are small; more than this without a whole one is no size.
const SIZES_BYTES_MAX: usize = 4096;

pub async fn run(runtime: &dyn Runtime, client: Client, task: Task) {
    let Client { connection, stdin, stdout, stderr, error, resize, form } = client;
    let streams = Streams { stdin, stdout, stderr, resize };
    let gone = connection.gone();
    // Dropping the conversation closes the process's streams; no client is left to report the end
    // to.
    let outcome = tokio::select! {
        outcome = converse(runtime, streams, &task) => outcome,
        () = gone => return,
    };
    if let Some(error) = error {
        let told = outcome.write(form);
        if !told.is_empty() {
            let _ = error.send(told).await;
        }
        let _ = error.end().await;
    }
    connection.close().await;
}

struct Streams {
    stdin: Option<Inlet>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    resize: Option<Inlet>,
}

async fn converse(runtime: &dyn Runtime, streams: Streams, task: &Task) -> Outcome {
    let (started, what) = match task.act {
        Act::Exec => (runtime.exec(&task.container_id, &task.request).await, "executing command in"),
        Act::Attach => (runtime.attach(&task.container_id, &task.request).await, "attaching to"),
    };
    match started {
        Ok(session) => Outcome::of(pump(session, streams).await, what),
        Err(error) => {
            for outlet in [streams.stdout, streams.stderr].into_iter().flatten() {
                let _ = outlet.end().await;
            }
            Outcome::of(Err(error), what)
        }
    }
}

/// Ends with the process, when all that it wrote is on its way.
async fn pump(session: Session, streams: Streams) -> containers::Result<i32> {
    let (ended, end) = watch::channel(false);
    let exit = async {
        let exit = session.exit.await;
        ended.send_replace(true);
        exit
    };
    let output = async {
        let stdout = copy(session.stdout, streams.stdout, end.clone());
        let stderr = copy(session.stderr, streams.stderr, end.clone());
        tokio::join!(stdout, stderr);
    };
    let input = async {
        tokio::join!(feed(streams.stdin, session.stdin), resize(streams.resize, session.resize));
        std::future::pending::<()>().await;
    };
    // What the client still sends when the process has ended is dropped.
    tokio::select! {
        (exit, ()) = async { tokio::join!(exit, output) } => exit,
        () = input => unreachable!("input ends with nothing to tell"),
    }
}

async fn copy(reader: Option<impl AsyncRead + Unpin>, outlet: Option<Outlet>, end: watch::Receiver<bool>) {
    let Some(outlet) = outlet else { return };
    if let Some(mut reader) = reader {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            // Reading is cancel-safe; silence is counted anew with each read.
            let read = tokio::select! {
                read = reader.read(&mut piece) => read,
                () = silence(end.clone()) => break,
            };
            let Ok(read @ 1..) = read else { break };
            if outlet.send(piece[..read].to_vec()).await.is_err() {
                return;
            }
        }
    }
    let _ = outlet.end().await;
}

async fn silence(mut end: watch::Receiver<bool>) {
    let _ = end.wait_for(|&ended| ended).await;
    tokio::time::sleep(SILENCE_TIMEOUT).await;
}

/// Hands the client's input to the process, and its end. A process that closed its input lets the
/// inlet drop: the rest is thrown away.
async fn feed(inlet: Option<Inlet>, writer: Option<Writer>) {
    let (Some(mut inlet), Some(mut writer)) = (inlet, writer) else { return };
    while let Some(Ok(bytes)) = inlet.recv().await {
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

async fn resize(inlet: Option<Inlet>, sizes: Option<mpsc::Sender<TerminalSize>>) {
    let (Some(mut inlet), Some(sizes)) = (inlet, sizes) else { return };
    let mut buffer = Vec::new();
    while let Some(Ok(bytes)) = inlet.recv().await {
        buffer.extend_from_slice(&bytes);
        for size in take_sizes(&mut buffer) {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}

/// Takes whole sizes from the front; they come one after the other, in pieces of any length.
fn take_sizes(buffer: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut values = serde_json::Deserializer::from_slice(buffer).into_iter::<Size>();
    let mut sizes = Vec::new();
    while let Some(Ok(size)) = values.next() {
        sizes.push(TerminalSize { columns: size.width, rows: size.height });
    }
    let taken = values.byte_offset();
    buffer.drain(..taken);
    if buffer.len() > SIZES_BYTES_MAX {
        buffer.clear();
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_pieces() {
        let mut buffer = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,".to_vec();
        assert_eq!(take_sizes(&mut buffer), [TerminalSize { columns: 80, rows: 24 }]);
        buffer.extend_from_slice(b"\"Height\":30}\n");
        assert_eq!(take_sizes(&mut buffer), [TerminalSize { columns: 100, rows: 30 }]);
        assert!(take_sizes(&mut buffer).is_empty());
    }
}
