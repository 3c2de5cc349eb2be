//! The words between agent and shims: lines of JSON over a Unix socket in the container's
//! directory, with descriptors beside them for attaching. One request per connection, but
//! [`Request::Resize`], which may follow an attachment. A shim that is gone ends all connections.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use super::paths::SOCKET;
use crate::words::plain_text;

/// Requests and answers are short; a longer line is not one.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Standard input, output, error.
const DESCRIPTORS_MAX: usize = 3;

/// A shim answers at once unless the node is out of breath.
const ANSWER_SECONDS_MAX: u64 = 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Keeps the connection open until the shim ends.
    Watch,
    /// To the container's first process.
    Signal(i32),
    ReopenLog,
    /// The descriptors come with it, in this order, those that are wanted.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Resize {
        columns: u16,
        rows: u16,
    },
}

/// What went wrong in another process of ours: only its text comes here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(transparent)]
#[error("{0}")]
pub struct Told(pub String);

impl Told {
    /// The error with its causes, in plain words.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(plain_text(&containers::chain(error)))
    }
}

pub type Answer = Result<(), Told>;

/// What a helper tells while it runs a process: shim at its start, exec helper at start and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The first process as the node sees it.
    Started(i32),
    Failed(Told),
    Exited(i32),
}

pub fn line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages are plain data");
    line.push(b'\n');
    line
}

/// Connects to the shim of the container in `dir`. The name goes over the directory's descriptor:
/// paths of sockets are short by law.
pub fn connect(dir: &Path) -> io::Result<UnixStream> {
    let dir = File::open(dir)?;
    let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
    stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))?;
    stream.set_write_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))?;
    Ok(stream)
}

/// Sends a request and waits for the answer. The stream stays usable for what follows.
pub fn ask(stream: &UnixStream, request: &Request, descriptors: &[RawFd]) -> io::Result<Answer> {
    send(stream, &line(request), descriptors)?;
    let mut received = Vec::new();
    while !received.ends_with(b"\n") {
        // Byte by byte: what follows the line belongs to another reader.
        let mut byte = [0u8];
        match io::Read::read(&mut &*stream, &mut byte)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if received.len() > LINE_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            _ => received.push(byte[0]),
        }
    }
    Ok(serde_json::from_slice(&received)?)
}

pub fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let messages: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(bytes)], messages, MsgFlags::MSG_NOSIGNAL, None)?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])
}

/// One read; descriptors that came with it are closed on exec.
pub fn receive(stream: RawFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<UnixAddr>(stream, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel just made these descriptors for us; no other code knows them.
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::refused;

    /// Shims outlive agents: an agent of another version must understand them.
    #[test]
    fn errors_cross_as_text() {
        let error = refused("open log /l")(io::Error::from_raw_os_error(libc::EROFS));
        let report = Report::Failed(Told::of(&error));
        assert_eq!(line(&report), b"{\"Failed\":\"open log /l: read-only file system\"}\n");
        let Report::Failed(told) = report else { unreachable!("it is above") };
        assert_eq!(line(&Answer::Err(told)), b"{\"Err\":\"open log /l: read-only file system\"}\n");
    }
}
