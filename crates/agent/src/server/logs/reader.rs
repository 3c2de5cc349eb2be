//! From log files to output, one piece at a time: parts of lines joined, what is too old or of
//! another stream left out, cut at the limit.
//!
//! Reads on over rotations: a file is read to its end before the one that replaced it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;

use super::files::{Log, Start};
use super::line::Line;
use super::options::{LogOptions, Streams};

/// What is read, and at most sent, at once. Lines of the runtimes are at most 16 KiB and a head.
const PIECE_BYTES: usize = 64 * 1024;

/// Runtimes write no longer lines; one that is longer is no log line and is skipped in parts.
const LINE_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// May be empty, when all that was read was left out.
    Lines(Bytes),
    /// Everything that is there now was read.
    Nothing,
    /// The limit is reached.
    Done,
}

pub struct Reader {
    log: Log,
    options: LogOptions,
    open: Option<Open>,
    /// What may still be sent.
    left_bytes: u64,
    /// The last line that was sent was a part; the next one continues it.
    is_within_line: bool,
    /// Everything from here on is new enough: times do not go back far enough to look at each.
    is_since_reached: bool,
}

struct Open {
    file: File,
    /// Files that were there at the start after this one, the oldest first.
    newer: std::collections::VecDeque<File>,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
}

impl Reader {
    pub fn new(log: Log, options: LogOptions) -> Reader {
        Reader {
            log,
            left_bytes: options.limit_bytes.unwrap_or(u64::MAX),
            is_since_reached: options.since.is_none(),
            options,
            open: None,
            is_within_line: false,
        }
    }

    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Blocks on the disk.
    pub fn next(&mut self) -> io::Result<Piece> {
        if self.left_bytes == 0 {
            return Ok(Piece::Done);
        }
        if self.open.is_none() {
            let Some(start) = self.log.start(self.options.tail_lines)? else { return Ok(Piece::Nothing) };
            self.open = Some(Open::at(start)?);
        }
        let Some(open) = &mut self.open else { return Ok(Piece::Nothing) };
        let mut block = vec![0; PIECE_BYTES];
        let mut read = open.file.read(&mut block)?;
        if read == 0 {
            let Some(next) = open.following(&self.log)? else { return Ok(Piece::Nothing) };
            // The old file may have grown between the read above and the look for a new one.
            read = open.file.read(&mut block)?;
            if read == 0 {
                open.file = next;
                open.rest.clear();
                return Ok(Piece::Lines(Bytes::new()));
            }
            open.newer.push_front(next);
        }
        let mut bytes = std::mem::take(&mut open.rest);
        bytes.extend_from_slice(&block[..read]);
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = bytes.split_off(whole);
        if rest.len() <= LINE_BYTES_MAX {
            open.rest = rest;
        }
        Ok(Piece::Lines(self.lines(&bytes)))
    }

    fn lines(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len());
        for line in bytes.split(|&byte| byte == b'\n').filter_map(Line::parse) {
            if self.is_wanted(&line) {
                self.write(&line, &mut out);
            }
        }
        let allowed = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
        out.truncate(allowed);
        self.left_bytes -= out.len() as u64;
        out.into()
    }

    fn is_wanted(&mut self, line: &Line<'_>) -> bool {
        if let (false, Some(since)) = (self.is_since_reached, self.options.since) {
            self.is_since_reached = line.timestamp().is_none_or(|time| time >= since);
        }
        let of_stream = match self.options.streams {
            Streams::All => true,
            Streams::Stdout => !line.is_stderr,
            Streams::Stderr => line.is_stderr,
        };
        self.is_since_reached && of_stream
    }

    fn write(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.options.timestamps && !self.is_within_line {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if !line.is_partial {
            out.push(b'\n');
        }
        self.is_within_line = line.is_partial;
    }
}

impl Open {
    fn at(start: Start) -> io::Result<Open> {
        let mut file = start.file;
        file.seek(SeekFrom::Start(start.offset))?;
        Ok(Open { file, newer: start.newer.into(), rest: Vec::new() })
    }

    /// The file after this one, which is read to its end.
    fn following(&mut self, log: &Log) -> io::Result<Option<File>> {
        match self.newer.pop_front() {
            Some(file) => Ok(Some(file)),
            None => log.successor(&self.file),
        }
    }
}
