//! Termination messages: what a container left in its file, or the end of its log.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use brain::podsync::config::MESSAGE_POLICY;
use containers::ContainerStatus;

/// Kubernetes' limits: of the file, and of what is taken from a log.
const MESSAGE_MAX: u64 = 4096;
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;

/// The file that a container's termination message path leads to.
pub fn path(root_dir: &Path, uid: &str, container: &str, attempt: u32) -> PathBuf {
    root_dir.join("pods").join(uid).join("containers").join(container).join(attempt.to_string())
}

pub fn read(root_dir: &Path, container: &ContainerStatus) -> String {
    let own = read_file(&path(root_dir, &container.pod.uid, &container.name, container.attempt));
    let falls_back = container.annotations.get(MESSAGE_POLICY).is_some_and(|policy| policy == "FallbackToLogsOnError");
    if !own.is_empty() {
        own
    } else if falls_back && container.exit_code != 0 && container.message.is_empty() {
        log_end(&container.log_path)
    } else {
        container.message.clone()
    }
}

fn read_file(path: &Path) -> String {
    let Ok(file) = std::fs::File::open(path) else { return String::new() };
    let mut bytes = Vec::new();
    if file.take(MESSAGE_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a line of a log holds: a whole line of the program's, or the piece of one, which has no
/// end.
fn piece(line: &str) -> Option<String> {
    let mut fields = line.splitn(4, ' ').skip(2);
    let (tag, text) = (fields.next()?, fields.next()?);
    Some(if tag.starts_with('P') { text.to_owned() } else { format!("{text}\n") })
}

/// The last lines of a log, without times and streams.
fn log_end(path: &Path) -> String {
    // Each line carries 40 bytes of time and stream more than its text.
    let window = (LOG_BYTES_MAX + LOG_LINES_MAX * 48) as u64;
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let length = file.metadata().map(|meta| meta.len()).unwrap_or(0);
    if file.seek(SeekFrom::Start(length.saturating_sub(window))).is_err() {
        return String::new();
    }
    let mut bytes = Vec::new();
    // A container that writes on while it is read gains nothing.
    if file.take(window).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().filter_map(piece).collect();
    let joined = lines[lines.len().saturating_sub(LOG_LINES_MAX)..].concat();
    let cut = joined.len().saturating_sub(LOG_BYTES_MAX);
    let start = (cut..joined.len()).find(|&at| joined.is_char_boundary(at)).unwrap_or(joined.len());
    joined[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_not_ended_stays_so() {
        assert_eq!(piece("2026-01-02T03:04:05Z stdout F a b").as_deref(), Some("a b\n"));
        assert_eq!(piece("2026-01-02T03:04:05Z stdout P DONE").as_deref(), Some("DONE"));
        assert_eq!(piece("2026-01-02T03:04:05Z stdout F ").as_deref(), Some("\n"));
        assert_eq!(piece("cut off"), None);
    }
}
