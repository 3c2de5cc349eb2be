//! The shim's loop: from the container's streams to the log and to attached clients, from them to
//! its standard input, and the requests of the agent, until the container's first process has
//! ended.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::super::console;
use super::super::control::{self, Answer, LINE_BYTES_MAX, Request, Told};
use super::super::log::Log;
use super::super::record::Launch;
use super::launch::send_signal;
use super::streams::{Attachment, Sink, Streams, read_some};
use crate::cgroup::Cgroup;

/// Processes outside of the container may hold its pipes open forever.
const DRAIN_MILLISECONDS_MAX: u64 = 500;

/// The agent has one watch; attachments are people.
const CLIENTS_MAX: usize = 64;

/// How long a dead orphan may wait for its burial.
const ORPHANS_SECONDS: u64 = 30;

const BUFFER_BYTES: usize = 16 * 1024;

pub struct End {
    pub code: i32,
    pub signal: i32,
    pub at: Timestamp,
}

pub struct Relay<'a> {
    launch: &'a Launch,
    streams: Streams,
    pidfd: OwnedFd,
    listener: UnixListener,
    log: Log,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    attachment: Option<Attachment>,
    gone: bool,
}

/// Whose turn it is when poll says so.
#[derive(Clone, Copy)]
enum Source {
    Output(usize),
    Input,
    Client(usize),
    ClientInput(usize),
    ClientOutput(usize),
    Listener,
    Process,
}

impl<'a> Relay<'a> {
    pub fn new(launch: &'a Launch, streams: Streams, pidfd: OwnedFd, listener: UnixListener, log: Log) -> Self {
        Self { launch, streams, pidfd, listener, log, clients: Vec::new(), buffer: vec![0; BUFFER_BYTES] }
    }

    pub fn run(&mut self, pid: i32) -> End {
        while !self.turn(true, Duration::from_secs(ORPHANS_SECONDS)) {
            reap_orphans(pid);
        }
        let end = wait(pid);
        if !self.launch.own_pid_namespace {
            // The kernel ends the others only with the first process of a namespace.
            Cgroup::new(&self.launch.cgroup).kill_all();
        }
        self.drain();
        end
    }

    fn drain(&mut self) {
        let until = Instant::now() + Duration::from_millis(DRAIN_MILLISECONDS_MAX);
        while !self.streams.outputs.is_empty() && Instant::now() < until {
            self.turn(false, until.saturating_duration_since(Instant::now()));
        }
        let now = Timestamp::now();
        for output in &mut self.streams.outputs {
            output.lines.end(&mut self.log, now);
        }
        while self.clients.iter().any(Client::is_behind) && Instant::now() < until {
            self.turn(false, Duration::from_millis(20));
        }
    }

    /// Waits for something and handles it. True: the container's process has ended.
    fn turn(&mut self, watch_process: bool, wait: Duration) -> bool {
        let (sources, mut polled) = self.interests(watch_process);
        let behind = self.clients.iter().any(Client::is_behind);
        let wait = if behind { wait.min(Duration::from_secs(1)) } else { wait };
        // SAFETY: the array lives over the call and its length is passed.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, wait.as_millis() as i32) };
        if ready < 0 {
            return false;
        }
        let mut ended = false;
        for (source, _) in sources.iter().zip(&polled).filter(|(_, p)| p.revents != 0) {
            match *source {
                Source::Process => ended = true,
                source => self.handle(source),
            }
        }
        self.sweep();
        ended
    }

    fn interests(&self, watch_process: bool) -> (Vec<Source>, Vec<libc::pollfd>) {
        let (mut sources, mut polled) = (Vec::new(), Vec::new());
        let mut add = |source, fd: RawFd, events| {
            sources.push(source);
            polled.push(libc::pollfd { fd, events, revents: 0 });
        };
        if watch_process {
            add(Source::Process, self.pidfd.as_raw_fd(), libc::POLLIN);
        }
        add(Source::Listener, self.listener.as_raw_fd(), libc::POLLIN);
        // While a client is far behind, the container waits.
        if !self.clients.iter().any(Client::is_full) {
            for (n, output) in self.streams.outputs.iter().enumerate() {
                add(Source::Output(n), output.fd.as_raw_fd(), libc::POLLIN);
            }
        }
        let input_behind = self.streams.input.as_ref().is_some_and(Sink::is_behind);
        if let Some(input) = self.streams.input.as_ref().filter(|_| input_behind) {
            add(Source::Input, input.fd.as_raw_fd(), libc::POLLOUT);
        }
        for (n, client) in self.clients.iter().enumerate() {
            add(Source::Client(n), client.stream.as_raw_fd(), libc::POLLIN);
            let Some(attachment) = &client.attachment else { continue };
            if let Some(stdin) = attachment.stdin.as_ref().filter(|_| !input_behind) {
                add(Source::ClientInput(n), stdin.as_raw_fd(), libc::POLLIN);
            }
            for sink in attachment.outputs.iter().flatten().filter(|s| s.is_behind()) {
                add(Source::ClientOutput(n), sink.fd.as_raw_fd(), libc::POLLOUT);
            }
        }
        (sources, polled)
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Output(n) => self.read_output(n),
            Source::Input => {
                if self.streams.input.as_mut().is_some_and(|i| !i.flush()) {
                    self.streams.input = None;
                }
            }
            Source::Client(n) => self.read_client(n),
            Source::ClientInput(n) => self.read_client_input(n),
            Source::ClientOutput(n) => self.clients[n].flush(),
            Source::Listener => self.accept(),
            Source::Process => {}
        }
    }

    fn read_output(&mut self, n: usize) {
        let output = &mut self.streams.outputs[n];
        let Some(count) = read_some(&output.fd, &mut self.buffer) else { return };
        let (bytes, now) = (&self.buffer[..count], Timestamp::now());
        if count == 0 {
            output.lines.end(&mut self.log, now);
            // Removed after the turn, so that the numbers of the others hold.
            output.which = usize::MAX;
            return;
        }
        output.lines.push(&mut self.log, bytes, now);
        for client in &mut self.clients {
            client.push(output.which, bytes);
        }
    }

    fn read_client_input(&mut self, n: usize) {
        let Some(stdin) = self.clients[n].attachment.as_ref().and_then(|a| a.stdin.as_ref()) else { return };
        let Some(count) = read_some(stdin, &mut self.buffer) else { return };
        if count == 0 {
            self.close_client_input(n);
        } else if let Some(input) = &mut self.streams.input
            && !input.push(&self.buffer[..count])
        {
            self.streams.input = None;
        }
    }

    fn close_client_input(&mut self, n: usize) {
        let had = self.clients[n].attachment.as_mut().and_then(|a| a.stdin.take()).is_some();
        if had && self.launch.stdin_once && self.streams.terminal.is_none() {
            self.streams.input = None;
        }
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && self.clients.len() < CLIENTS_MAX
            && stream.set_nonblocking(true).is_ok()
        {
            self.clients.push(Client { stream, received: Vec::new(), descriptors: Vec::new(), attachment: None, gone: false });
        }
    }

    fn read_client(&mut self, n: usize) {
        for request in self.clients[n].requests() {
            let answer = self.answer(n, &request);
            // No client waits for an answer to this one.
            if !matches!(request, Request::Resize { .. }) && self.clients[n].stream.write_all(&control::line(&answer)).is_err() {
                self.clients[n].gone = true;
            }
        }
    }

    fn answer(&mut self, n: usize, request: &Request) -> Answer {
        let words = |e: io::Error| Told(e.to_string());
        match *request {
            Request::Watch => Ok(()),
            Request::Signal(number) => send_signal(&self.pidfd, number).map_err(words),
            Request::ReopenLog => self.log.reopen().map_err(words),
            Request::Attach { stdin, stdout, stderr } => self.clients[n].attach(stdin, [stdout, stderr]).map_err(words),
            Request::Resize { columns, rows } => {
                if let Some(terminal) = &self.streams.terminal {
                    console::resize(terminal.as_raw_fd(), columns, rows);
                }
                Ok(())
            }
        }
    }

    fn sweep(&mut self) {
        // Also those that take nothing: their patience is measured here.
        for client in self.clients.iter_mut().filter(|c| c.is_behind()) {
            client.flush();
        }
        for n in (0..self.clients.len()).rev().filter(|n| self.clients[*n].gone).collect::<Vec<_>>() {
            self.close_client_input(n);
            self.clients.remove(n);
        }
        self.streams.outputs.retain(|o| o.which != usize::MAX);
    }
}

impl Client {
    fn is_behind(&self) -> bool {
        self.sinks().any(Sink::is_behind)
    }

    fn is_full(&self) -> bool {
        self.sinks().any(Sink::is_full)
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        self.attachment.iter().flat_map(|a| a.outputs.iter().flatten())
    }

    fn push(&mut self, which: usize, bytes: &[u8]) {
        let Some(slot) = self.attachment.as_mut().and_then(|a| a.outputs.get_mut(which)) else { return };
        if slot.as_mut().is_some_and(|sink| !sink.push(bytes)) {
            *slot = None;
        }
    }

    fn flush(&mut self) {
        for slot in self.attachment.iter_mut().flat_map(|a| &mut a.outputs) {
            if slot.as_mut().is_some_and(|sink| !sink.flush()) {
                *slot = None;
            }
        }
    }

    fn attach(&mut self, stdin: bool, outputs: [bool; 2]) -> io::Result<()> {
        let mut descriptors = std::mem::take(&mut self.descriptors).into_iter();
        let mut next = || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
        let mut attachment = Attachment::default();
        if stdin {
            let fd = next()?;
            console::set_nonblocking(&fd)?;
            attachment.stdin = Some(fd);
        }
        for (slot, _) in attachment.outputs.iter_mut().zip(outputs).filter(|(_, wanted)| *wanted) {
            *slot = Some(Sink::new(next()?)?);
        }
        self.attachment = Some(attachment);
        Ok(())
    }

    /// The whole lines that have arrived.
    fn requests(&mut self) -> Vec<Request> {
        let mut bytes = [0u8; 4096];
        match control::receive(self.stream.as_raw_fd(), &mut bytes) {
            Ok((0, _)) => self.gone = true,
            Ok((count, descriptors)) => {
                self.received.extend_from_slice(&bytes[..count]);
                self.descriptors.extend(descriptors);
            }
            Err(e) => self.gone = e.kind() != io::ErrorKind::WouldBlock,
        }
        let mut requests = Vec::new();
        while let Some(end) = self.received.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(request) => requests.push(request),
                Err(_) => self.gone = true,
            }
        }
        self.gone |= self.received.len() > LINE_BYTES_MAX;
        requests
    }
}

/// In the node's process namespace the container's orphans become children of the shim. Its first
/// process is not touched.
fn reap_orphans(first: i32) {
    loop {
        // SAFETY: siginfo_t is plain data; all zero is a valid value of it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the record lives over the call; WNOWAIT leaves the process as it is.
        let found = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
        // SAFETY: waitid filled the record or left it zero, and both are readable.
        let pid = unsafe { info.si_pid() };
        if found != 0 || pid == 0 || pid == first {
            return;
        }
        let _ = waitpid(Pid::from_raw(pid), None);
    }
}

fn wait(pid: i32) -> End {
    loop {
        let (code, signal) = match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => (code, 0),
            Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => continue,
            // Cannot be: it is this process's child and no other process waits for it.
            Err(_) => (255, 0),
        };
        return End { code, signal, at: Timestamp::now() };
    }
}
