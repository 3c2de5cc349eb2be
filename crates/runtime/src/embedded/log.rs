//! A container's log in the format of CRI: `2026-01-02T03:04:05.678901234Z stdout F line`.
//!
//! Lines over [`LINE_BYTES_MAX`] are cut into pieces tagged `P`, and so is what a stream ends with
//! when it is not a whole line (as containerd does it). A full disk loses lines, never the
//! container: writes that fail are dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The length that readers of CRI logs are made for.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

pub struct Log {
    path: PathBuf,
    file: Option<File>,
    entry: Vec<u8>,
    /// The last write stopped in the middle of an entry.
    torn: bool,
}

impl Log {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None, entry: Vec::new(), torn: false };
        log.reopen()?;
        Ok(log)
    }

    /// After a rotation: what follows goes to a new file under the same name.
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        self.file = Some(OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path)?);
        self.torn = false;
        Ok(())
    }

    fn write(&mut self, stream: &str, tag: char, line: &[u8], now: Timestamp) {
        let Some(file) = &mut self.file else { return };
        self.entry.clear();
        if self.torn {
            self.entry.push(b'\n');
        }
        // Cannot fail: a Vec takes everything.
        let _ = write!(self.entry, "{now:.9} {stream} {tag} ");
        self.entry.extend_from_slice(line);
        self.entry.push(b'\n');
        self.torn = file.write_all(&self.entry).is_err();
    }
}

/// Cuts one stream into lines.
pub struct Lines {
    stream: &'static str,
    rest: Vec<u8>,
}

impl Lines {
    pub fn new(stream: &'static str) -> Self {
        Self { stream, rest: Vec::new() }
    }

    pub fn push(&mut self, log: &mut Log, mut bytes: &[u8], now: Timestamp) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.fill(log, &bytes[..end], now);
            let line = self.rest.strip_suffix(b"\r").unwrap_or(&self.rest);
            log.write(self.stream, 'F', line, now);
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        self.fill(log, bytes, now);
    }

    pub fn end(&mut self, log: &mut Log, now: Timestamp) {
        if !self.rest.is_empty() {
            log.write(self.stream, 'P', &self.rest, now);
            self.rest.clear();
        }
    }

    fn fill(&mut self, log: &mut Log, mut bytes: &[u8], now: Timestamp) {
        while self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            let (piece, later) = bytes.split_at(LINE_BYTES_MAX - self.rest.len());
            self.rest.extend_from_slice(piece);
            log.write(self.stream, 'P', &self.rest, now);
            self.rest.clear();
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(pieces: &[&[u8]]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/0.log");
        let mut log = Log::open(&path).unwrap();
        let mut lines = Lines::new("stdout");
        let now = Timestamp::UNIX_EPOCH;
        for piece in pieces {
            lines.push(&mut log, piece, now);
        }
        lines.end(&mut log, now);
        fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|l| l.strip_prefix("1970-01-01T00:00:00.000000000Z stdout ").unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lines_are_joined_over_reads_and_the_rest_is_partial() {
        assert_eq!(logged(&[b"a\nb", b"c\n\n", b"d"]), ["F a", "F bc", "F ", "P d"]);
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; LINE_BYTES_MAX + 5];
        let entries = logged(&[&long, b"\n"]);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].len(), LINE_BYTES_MAX + 2);
        assert_eq!(entries[1], "F xxxxx");
    }
}
