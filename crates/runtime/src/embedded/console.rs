//! Terminals: how one arrives from the container that it was made in, and its size.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use super::control;

/// The library's child sends the terminal's controlling end here.
pub fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let mut name = [0u8; 4096];
    let (_, mut descriptors) = control::receive(stream.as_raw_fd(), &mut name)?;
    descriptors.pop().ok_or_else(|| io::Error::other("no terminal was sent"))
}

pub fn resize(terminal: RawFd, columns: u16, rows: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives over the call.
    unsafe { libc::ioctl(terminal, libc::TIOCSWINSZ, &size) };
}

pub fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    let flags = nix::fcntl::fcntl(fd.as_raw_fd(), nix::fcntl::FcntlArg::F_GETFL)?;
    let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(fd.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(flags))?;
    Ok(())
}
