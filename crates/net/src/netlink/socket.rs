//! A netlink socket: messages in one send, their answers, and dumps.
//!
//! A socket belongs to the namespace in which it was opened, whatever thread uses it later.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, SndBufForce};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::{NetlinkError, Result};
use crate::namespace;

/// The largest batch: the rules of some ten thousand host ports.
const SEND_BUFFER_BYTES: usize = 8 << 20;
/// The kernel answers at once; a wait longer than this is for a message that was lost.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// The kernel fills dumps in chunks of at most 32 KiB.
const RECEIVE_CHUNK_BYTES: usize = 64 << 10;
/// A dump that changed while it was read is read again, this often.
const DUMP_ATTEMPTS_MAX: usize = 5;
const HEADER_BYTES: usize = 16;

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(super) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(super) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
pub(super) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
const DUMP_INTERRUPTED: u16 = 0x10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Route,
    Netfilter,
    /// Of parts of the kernel that have no family of their own.
    Generic,
}

/// A message to send: REQUEST and a sequence number are added on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub payload: Vec<u8>,
}

/// A message that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: Vec<u8>,
}

impl Reply {
    /// Of an answer that only says how it went: 0 or an error number.
    fn errno(&self) -> Option<i32> {
        self.code().filter(|_| self.kind == NLMSG_ERROR)
    }

    /// The error number that an answer, or the end of a list, begins with.
    fn code(&self) -> Option<i32> {
        let code = self.payload.get(..4)?;
        Some(-i32::from_ne_bytes(code.try_into().expect("four bytes were taken")))
    }
}

/// How long to wait for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// In a transaction nothing comes after the first refusal, not even an answer to the last
    /// message.
    UntilRefused,
    UntilLast,
}

/// What came back.
#[derive(Debug, Default)]
struct Conversation {
    answers: Vec<Reply>,
    /// The places of messages that the kernel refused, and its error numbers.
    refusals: Vec<(u32, i32)>,
}

#[derive(Debug)]
pub struct Socket {
    file: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// In the calling thread's namespace.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
            Family::Generic => SockProtocol::NetlinkGeneric,
        };
        let file = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&file, SndBufForce, &SEND_BUFFER_BYTES)?;
        setsockopt(&file, RcvBufForce, &SEND_BUFFER_BYTES)?;
        setsockopt(&file, ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0))?;
        Ok(Self { file, sequence: 0 })
    }

    pub fn open_in(namespace: &File, family: Family) -> io::Result<Self> {
        namespace::inside(namespace, || Self::open(family))
    }

    /// Sends all messages at once and returns what the kernel answered. The last message asks for
    /// an answer unless another one does. The first error fails the call, named by `operation` and
    /// the message's place.
    ///
    /// Errors are always answered, success only when asked: one answer for a batch keeps thousands
    /// of messages out of the queue.
    pub fn execute(&mut self, operation: &str, messages: Vec<Message>) -> Result<Vec<Reply>> {
        let count = messages.len();
        let Conversation { answers, refusals } = self.converse(operation, messages, Patience::UntilRefused)?;
        match refusals.into_iter().next() {
            Some((place, errno)) => Err(refused(operation, errno, place, count)),
            None => Ok(answers),
        }
    }

    /// Sends messages that do not depend on each other. Answers which of them the kernel refused,
    /// by place, and why.
    pub fn execute_each(&mut self, operation: &str, messages: Vec<Message>) -> Result<Vec<(usize, io::Error)>> {
        let refusals = self.converse(operation, messages, Patience::UntilLast)?.refusals;
        Ok(refusals.into_iter().map(|(place, errno)| (place as usize, io::Error::from_raw_os_error(errno))).collect())
    }

    fn converse(&mut self, operation: &str, mut messages: Vec<Message>, patience: Patience) -> Result<Conversation> {
        let Some(end) = messages.len().checked_sub(1) else { return Ok(Conversation::default()) };
        let asking = messages.iter().rposition(|message| message.flags & ACK != 0).unwrap_or(end);
        messages[asking].flags |= ACK;
        let (first, last) = self.send(operation, &messages)?;
        let asking = first.wrapping_add(u32::try_from(asking).expect("batches are far below four thousand million messages"));
        let Conversation { mut answers, mut refusals } = Conversation::default();
        let mut done = false;
        // The kernel works inside send(): whatever it has to say is queued already. Only without
        // the last answer is there a wait.
        while let Some(replies) = self.receive(operation, done || (patience == Patience::UntilRefused && !refusals.is_empty()))? {
            for reply in replies.into_iter().filter(|reply| reply.sequence.wrapping_sub(first) <= last.wrapping_sub(first)) {
                match reply.errno() {
                    Some(errno) => {
                        done |= reply.sequence == asking;
                        if errno != 0 {
                            refusals.push((reply.sequence.wrapping_sub(first), errno));
                        }
                    }
                    None => answers.push(reply),
                }
            }
        }
        Ok(Conversation { answers, refusals })
    }

    /// Asks for a whole list.
    pub fn dump(&mut self, operation: &str, message: &Message) -> Result<Vec<Reply>> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            if let Some(replies) = self.try_dump(operation, message)? {
                return Ok(replies);
            }
        }
        Err(NetlinkError::new(operation, io::Error::other("the list changed while it was read, again and again")))
    }

    /// None when the list changed on the way.
    fn try_dump(&mut self, operation: &str, message: &Message) -> Result<Option<Vec<Reply>>> {
        let request = Message { flags: message.flags | DUMP, ..message.clone() };
        let (sequence, _) = self.send(operation, &[request])?;
        let (mut answers, mut consistent) = (Vec::new(), true);
        loop {
            let replies = self.receive(operation, false)?.unwrap_or_default();
            for reply in replies.into_iter().filter(|reply| reply.sequence == sequence) {
                consistent &= reply.flags & DUMP_INTERRUPTED == 0;
                match (reply.kind, reply.errno()) {
                    // A list that broke off would look short.
                    (NLMSG_DONE, _) if reply.code().is_some_and(|code| code != 0) => {
                        return Err(refused(operation, reply.code().unwrap_or_default(), 0, 1));
                    }
                    (NLMSG_DONE, _) => return Ok(consistent.then_some(answers)),
                    (_, Some(errno)) => return Err(refused(operation, errno, 0, 1)),
                    _ => answers.push(reply),
                }
            }
        }
    }

    /// Answers the first and the last sequence number.
    fn send(&mut self, operation: &str, messages: &[Message]) -> Result<(u32, u32)> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            encode(&mut bytes, message, self.sequence);
        }
        send(self.file.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|errno| NetlinkError::new(operation, errno))?;
        Ok((first, self.sequence))
    }

    /// None when nothing is queued and the caller does not want to wait.
    fn receive(&self, operation: &str, only_queued: bool) -> Result<Option<Vec<Reply>>> {
        let flags = if only_queued { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let mut buffer = vec![0; RECEIVE_CHUNK_BYTES];
        loop {
            match recv(self.file.as_raw_fd(), &mut buffer, flags) {
                Ok(length) => return Ok(Some(decode(&buffer[..length]))),
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) if only_queued => return Ok(None),
                Err(errno) => return Err(NetlinkError::new(operation, errno)),
            }
        }
    }
}

fn refused(operation: &str, errno: i32, place: u32, count: usize) -> NetlinkError {
    let operation = if count > 1 { format!("{operation} (message {} of {count})", place + 1) } else { operation.to_string() };
    NetlinkError::new(operation, io::Error::from_raw_os_error(errno))
}

fn encode(bytes: &mut Vec<u8>, message: &Message, sequence: u32) {
    let length = u32::try_from(HEADER_BYTES + message.payload.len()).expect("messages are far below 4 GiB");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(message.kind.to_ne_bytes());
    bytes.extend((message.flags | REQUEST).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(&message.payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn decode(mut rest: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(header) = rest.get(..HEADER_BYTES) {
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = u32_at(0) as usize;
        let Some(payload) = rest.get(HEADER_BYTES..length) else { break };
        replies.push(Reply { kind: u16_at(4), flags: u16_at(6), sequence: u32_at(8), payload: payload.to_vec() });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}
