//! The streams of a container: its own ends, and the clients that attached to them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read, write};

use super::super::console::set_nonblocking;
use super::super::log::Lines;

/// What a client may leave unread before the container has to wait for it.
const PENDING_BYTES_MAX: usize = 256 * 1024;

/// A client that takes nothing for so long is gone, whatever its connection says; the container
/// goes on.
const STALL_SECONDS_MAX: u64 = 10;

pub const OUT: usize = 0;
pub const ERR: usize = 1;

/// The shim's ends.
pub struct Streams {
    pub outputs: Vec<Output>,
    pub input: Option<Sink>,
    /// Also among the outputs.
    pub terminal: Option<OwnedFd>,
}

pub struct Output {
    pub fd: OwnedFd,
    /// [`OUT`] or [`ERR`].
    pub which: usize,
    pub lines: Lines,
}

/// The container's ends.
pub struct Ends {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Streams {
    pub fn pipes(with_stdin: bool, owner: Option<u32>) -> io::Result<(Self, Ends)> {
        let (out, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (err, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdin, input) = if with_stdin { pipe2(OFlag::O_CLOEXEC).map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
        for end in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
            // SAFETY: the descriptor is open and the rest are numbers.
            unsafe { libc::fchown(end.as_raw_fd(), owner.unwrap_or(u32::MAX), u32::MAX) };
        }
        let outputs =
            vec![Output { fd: out, which: OUT, lines: Lines::new("stdout") }, Output { fd: err, which: ERR, lines: Lines::new("stderr") }];
        let input = input.map(Sink::new).transpose()?;
        Ok((Self { outputs, input, terminal: None }, Ends { stdin, stdout, stderr }))
    }

    pub fn terminal(terminal: OwnedFd) -> io::Result<Self> {
        let outputs = vec![Output { fd: terminal.try_clone()?, which: OUT, lines: Lines::new("stdout") }];
        Ok(Self { outputs, input: Some(Sink::new(terminal.try_clone()?)?), terminal: Some(terminal) })
    }
}

/// A descriptor to write to that never blocks the shim.
pub struct Sink {
    pub fd: OwnedFd,
    pending: Vec<u8>,
    stalled_since: Option<Instant>,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self { fd, pending: Vec::new(), stalled_since: None })
    }

    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.pending.len() > PENDING_BYTES_MAX
    }

    /// False: the other side is gone.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    /// False: the other side is gone.
    pub fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match write(&self.fd, &self.pending) {
                Ok(0) | Err(nix::Error::EAGAIN) => {
                    let since = *self.stalled_since.get_or_insert_with(Instant::now);
                    return since.elapsed() < Duration::from_secs(STALL_SECONDS_MAX);
                }
                Ok(n) => {
                    self.pending.drain(..n);
                    self.stalled_since = None;
                }
                Err(nix::Error::EINTR) => {}
                Err(_) => return false,
            }
        }
        self.pending.shrink_to(0);
        true
    }
}

/// None: nothing now. Some(0): the end.
pub fn read_some(fd: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    match read(fd.as_raw_fd(), buffer) {
        Ok(n) => Some(n),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => None,
        // A terminal whose last user is gone answers EIO.
        Err(_) => Some(0),
    }
}

/// A client's ends.
#[derive(Default)]
pub struct Attachment {
    pub stdin: Option<OwnedFd>,
    pub outputs: [Option<Sink>; 2],
}
