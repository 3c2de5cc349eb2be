//! Why a container could not be made.
//!
//! The library answers with a few general words; the reason is in the events that it traces, and
//! those of the container's own first process come from another process. All of them write into one
//! anonymous file that the shim reads when something failed. The file is not passed on to programs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::control::Told;
use crate::words::plain_debug;

/// Enough for a person; a loop of errors must not fill memory.
const TEXT_BYTES_MAX: u64 = 16 * 1024;

/// Marks the line that says it all: what our own code found out inside the container.
const VERDICT: &str = "verdict: ";

#[derive(Debug, Clone)]
pub struct Causes {
    file: Arc<File>,
}

impl Causes {
    pub fn new() -> std::io::Result<Self> {
        // SAFETY: the name is a constant C string.
        let fd = unsafe { libc::memfd_create(c"causes".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: the descriptor is open; appending keeps lines of several processes apart.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) };
        Ok(Self { file: Arc::new(file) })
    }

    /// From now on errors that this process traces go here.
    pub fn collect(&self) {
        let _ = tracing::subscriber::set_global_default(Collector { causes: self.clone(), spans: AtomicU64::new(1) });
    }

    pub fn verdict(&self, text: &str) {
        self.line(&format!("{VERDICT}{text}"));
    }

    fn line(&self, text: &str) {
        let mut line = text.replace('\n', " ");
        line.push('\n');
        let _ = (&*self.file).write_all(line.as_bytes());
    }

    /// The verdict if there is one, else the innermost traced errors, else the library's own words.
    pub fn explain(&self, error: &(dyn std::error::Error + 'static)) -> Told {
        let text = self.text();
        if let Some(verdict) = text.lines().find_map(|l| l.strip_prefix(VERDICT)) {
            return Told(verdict.to_owned());
        }
        let mut words = containers::chain(error);
        if let Some(first) = text.lines().next() {
            let _ = write!(words, ": {first}");
        }
        Told(words)
    }

    fn text(&self) -> String {
        let mut file = &*self.file;
        let mut bytes = Vec::new();
        let _ = file.rewind();
        let _ = file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

struct Collector {
    causes: Causes,
    spans: AtomicU64,
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.causes.line(&format!("{}{}", line.message, line.fields));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = plain_debug(&format!("{value:?}"));
        let _ = match field.name() {
            "message" => write!(self.message, "{text}"),
            // The library's own names of the cause and of what it concerns.
            "err" | "error" => write!(self.fields, ": {text}"),
            name => write!(self.fields, ", {name} {text}"),
        };
    }
}
