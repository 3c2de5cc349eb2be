//! One line of a log file: `TIME STREAM TAG CONTENT`, the format that CRI prescribes to runtimes.

use jiff::Timestamp;

/// A line, without its line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written: nanoseconds, RFC 3339.
    pub time: &'a str,
    pub is_stderr: bool,
    /// The rest of what the process wrote on this line follows in the stream's next line.
    pub is_partial: bool,
    pub content: &'a [u8],
}

/// Longer heads than this are no heads: time (35), stream (6), tag and spaces.
pub const HEAD_BYTES_MAX: usize = 64;

impl<'a> Line<'a> {
    /// None for what is no log line.
    pub fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let is_stderr = match parts.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        // Tags can be several, separated by colons; only the first is defined.
        let is_partial = match parts.next()?.split(|&byte| byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Line { time, is_stderr, is_partial, content: parts.next().unwrap_or_default() })
    }

    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Tells from the first bytes of a line whether its end is the end of what was written.
pub fn is_whole(head: &[u8]) -> bool {
    let tag = head.splitn(4, |&byte| byte == b' ').nth(2).unwrap_or_default();
    !tag.starts_with(b"P")
}
