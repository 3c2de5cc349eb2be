//! The connection to a container runtime's unix socket, with a limit of time for each call.
//!
//! There is one connection; when the runtime restarts, the next call makes another.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use wire::grpc::{self, Sender};

pub use wire::grpc::Code;

/// A command's output of 16 MiB on both streams is the largest answer that runtimes give.
const ANSWER_BYTES_MAX: usize = 40 * 1024 * 1024;

/// A socket on this machine answers at once, or no program listens on it.
const CONNECT_SECONDS_MAX: u64 = 5;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("connect to {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: Unreachable,
    },
    #[error("the connection to the container runtime broke: {0}")]
    Broken(String),
    #[error("no answer from the container runtime within {} seconds", .0.as_secs())]
    TooLate(Duration),
    #[error("the container runtime's answer is not understood: {0}")]
    Malformed(String),
    /// What the server says.
    #[error("{message}")]
    Status { code: Code, message: String },
}

/// Why there is no connection to a socket.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error(transparent)]
    Socket(std::io::Error),
    #[error(transparent)]
    Handshake(grpc::CallError),
    #[error("timed out")]
    TooLate,
}

impl From<grpc::CallError> for CallError {
    fn from(error: grpc::CallError) -> CallError {
        match error {
            grpc::CallError::Broken(cause) => CallError::Broken(cause),
            grpc::CallError::Malformed(why) => CallError::Malformed(why),
            grpc::CallError::Status { code, message } => CallError::Status { code, message: plain(&message) },
        }
    }
}

/// How a method is called: it takes a `Q` and answers an `A`.
pub struct Method<Q, A> {
    /// `runtime.v1.RuntimeService/Version`.
    pub name: &'static str,
    pub limit: Duration,
    /// Changes nothing: it may be asked again when the connection broke.
    pub is_read: bool,
    messages: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    pub const fn new(name: &'static str, limit: Duration, is_read: bool) -> Self {
        Self { name, limit, is_read, messages: PhantomData }
    }
}

pub struct Channel {
    path: PathBuf,
    connection: Mutex<Option<Sender>>,
}

impl Channel {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: Mutex::new(None) }
    }

    pub async fn call<Q: Message, A: Message + Default>(&self, method: Method<Q, A>, question: &Q) -> Result<A, CallError> {
        let body = grpc::framed(question);
        let tried = timeout(method.limit, async {
            match self.try_call(method.name, body.clone()).await {
                Err(CallError::Broken(_)) if method.is_read => self.try_call(method.name, body).await,
                tried => tried,
            }
        });
        tried.await.map_err(|_| CallError::TooLate(method.limit))?
    }

    async fn try_call<A: Message + Default>(&self, name: &str, body: Bytes) -> Result<A, CallError> {
        let mut connection = self.connection().await?;
        let method = grpc::Method { authority: "localhost", name, answer_bytes_max: ANSWER_BYTES_MAX };
        Ok(grpc::call(&mut connection, method, body).await?)
    }

    async fn connection(&self) -> Result<Sender, CallError> {
        let mut known = self.connection.lock().await;
        if let Some(connection) = known.as_mut().filter(|c| !c.is_closed())
            && connection.ready().await.is_ok()
        {
            return Ok(connection.clone());
        }
        let connect = timeout(Duration::from_secs(CONNECT_SECONDS_MAX), self.connect());
        let connection =
            connect.await.unwrap_or(Err(Unreachable::TooLate)).map_err(|source| CallError::Connect { path: self.path.clone(), source })?;
        *known = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<Sender, Unreachable> {
        let stream = UnixStream::connect(&self.path).await.map_err(Unreachable::Socket)?;
        grpc::connect(stream).await.map_err(Unreachable::Handshake)
    }
}

/// Servers that are clients of others repeat what those said with `rpc error: code = Unknown desc =
/// ` before it, which tells users nothing.
fn plain(message: &str) -> String {
    const HEAD: &str = "rpc error: code = ";
    const DESCRIPTION: &str = " desc = ";
    let mut text = message.to_owned();
    while let Some(begin) = text.find(HEAD) {
        let Some(length) = text[begin..].find(DESCRIPTION) else { break };
        text.replace_range(begin..begin + length + DESCRIPTION.len(), "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_freed_of_boilerplate() {
        assert_eq!(
            plain("failed: rpc error: code = Unknown desc = create: rpc error: code = NotFound desc = no x"),
            "failed: create: no x"
        );
        assert_eq!(plain("rpc error: code = odd"), "rpc error: code = odd");
    }
}
