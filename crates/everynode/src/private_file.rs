//! Files that only their owner may read: keys, kubeconfigs, records of clusters.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;

/// Writes a file that only its owner may read, at once or not at all.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    // No other process and no other thread uses that name.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}-{}.new", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let attempt = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    attempt().inspect_err(|_| drop(std::fs::remove_file(&temporary))).with_context(|| format!("cannot write {}", path.display()))
}
