//! The file that events are written to, line by line, and its rotation.
//!
//! One thread writes. What waits for it is bounded: when the disk is slow, requests wait, so that
//! no request that was answered is missing. When the disk refuses, the events are lost, counted and
//! reported, and the server goes on, as Kubernetes does.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

/// Events that may wait for the disk.
const WAITING_MAX: usize = 1000;

/// Reports about events that were lost come at most this often.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

/// When a file is full, and how many full ones are kept. 0 is no limit.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub megabytes_max: u64,
    pub backups_max: usize,
    pub days_max: u64,
}

/// Where events go.
#[derive(Clone)]
pub struct Log {
    lines: mpsc::Sender<String>,
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Opens the file, which is made with its folder when it is not there, readable by its owner
    /// only.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Log> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut writer = Writer::open(path.to_owned(), rotation)?;
        let (lines, mut waiting) = mpsc::channel::<String>(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || {
            let mut reported: Option<std::time::Instant> = None;
            while let Some(line) = waiting.blocking_recv() {
                let Err(error) = writer.write(&line) else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                if reported.is_none_or(|at| at.elapsed() >= REPORT_PERIOD) {
                    let path = writer.path.display();
                    tracing::error!(error = &error as &dyn std::error::Error, "events are missing in the audit log {path}");
                    reported = Some(std::time::Instant::now());
                }
            }
        })?;
        Ok(Log { lines, lost })
    }

    pub async fn write(&self, line: String) {
        // The thread ends with the last sender only.
        let _ = self.lines.send(line).await;
    }

    /// For where there can be no waiting, the end of a stream: an event that has no room is lost
    /// and counted.
    pub fn write_now(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

struct Writer {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
}

impl Writer {
    fn open(path: PathBuf, rotation: Rotation) -> io::Result<Writer> {
        let file = open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Writer { path, rotation, file, bytes })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let limit = self.rotation.megabytes_max.saturating_mul(1024 * 1024);
        let added = line.len() as u64 + 1;
        if limit > 0 && self.bytes > 0 && self.bytes + added > limit {
            self.rotate()?;
        }
        let mut whole = String::with_capacity(line.len() + 1);
        whole.push_str(line);
        whole.push('\n');
        self.file.write_all(whole.as_bytes())?;
        self.bytes += added;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let now = jiff::Timestamp::now();
        std::fs::rename(&self.path, self.backup(now))?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        self.remove_old(now)
    }

    /// `audit.log` becomes `audit-2026-11-29T10-00-00.000.log`.
    fn backup(&self, now: jiff::Timestamp) -> PathBuf {
        let (stem, extension) = self.names();
        self.path.with_file_name(format!("{stem}-{}{extension}", now.strftime("%Y-%m-%dT%H-%M-%S.%3f")))
    }

    fn names(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let extension = text(self.path.extension()).map(|extension| format!(".{extension}"));
        (text(self.path.file_stem()).unwrap_or_default(), extension.unwrap_or_default())
    }

    fn remove_old(&self, now: jiff::Timestamp) -> io::Result<()> {
        let (stem, extension) = self.names();
        let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if let Some(time) = time.and_then(time_of) {
                backups.push((time, folder.join(name)));
            }
        }
        backups.sort();
        let surplus = backups.len().saturating_sub(if self.rotation.backups_max > 0 { self.rotation.backups_max } else { usize::MAX });
        let days = i64::try_from(self.rotation.days_max).unwrap_or(i64::MAX);
        let is_old = |time: jiff::Timestamp| days > 0 && now.duration_since(time).as_secs() / (24 * 60 * 60) >= days;
        for (at, (time, path)) in backups.iter().enumerate() {
            if at < surplus || is_old(*time) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// The time in a backup's name; None for files that only look like one.
fn time_of(text: &str) -> Option<jiff::Timestamp> {
    let (date, time) = text.split_once('T')?;
    format!("{date}T{}Z", time.replace('-', ":")).parse().ok()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_made_and_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("audit-{}", uuid::Uuid::new_v4()));
        let path = folder.join("deep/audit.log");
        Log::open(&path, Rotation { megabytes_max: 1, backups_max: 2, days_max: 0 }).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("deep")), mode(&path)), (0o700, 0o700, 0o600));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn full_files_are_kept_so_many_and_others_are_left_alone() {
        let folder = std::env::temp_dir().join(format!("audit-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("audit-notes.log"), "mine").unwrap();
        let rotation = Rotation { megabytes_max: 1, backups_max: 2, days_max: 0 };
        let mut writer = Writer::open(folder.join("audit.log"), rotation).unwrap();
        let line = "x".repeat(600 * 1024);
        for _ in 0..5 {
            writer.write(&line).unwrap();
            // Names of backups differ by milliseconds.
            while time_of(&jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string()).is_none() {}
            std::thread::park_timeout(Duration::from_millis(2));
        }
        let mut names: Vec<String> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&"audit-notes.log".to_owned()) && names.contains(&"audit.log".to_owned()));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(folder.join("audit.log")).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        for name in names {
            std::fs::remove_file(folder.join(name)).unwrap();
        }
        std::fs::remove_dir(folder).unwrap();
    }
}
