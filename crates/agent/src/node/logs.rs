//! Logs that grow: a log beyond its limit is moved aside and a new one begun, and only so many are
//! kept.

use std::path::{Path, PathBuf};

use super::Context;

/// The kubelet's defaults: `containerLogMaxSize`, `containerLogMaxFiles`.
const SIZE_MAX: u64 = 10 * 1024 * 1024;
const FILES_MAX: usize = 5;

/// Why a log was not rotated.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("cannot move it aside: {0}")]
    MoveAside(#[source] std::io::Error),
    #[error("the runtime did not begin a new one: {0}")]
    Reopen(#[source] containers::Error),
    #[error("cannot move it back from {}: {source}", .from.display())]
    MoveBack { from: PathBuf, source: std::io::Error },
}

/// Looks at the logs of all running containers.
pub async fn rotate(context: &Context) {
    let containers = match context.runtime.containers().await {
        Ok(containers) => containers,
        Err(error) => {
            tracing::debug!(%error, "cannot list containers to rotate their logs");
            return;
        }
    };
    for container in containers.iter().filter(|container| container.state == containers::ContainerState::Running) {
        if std::fs::metadata(&container.log_path).is_ok_and(|meta| meta.len() > SIZE_MAX)
            && let Err(error) = rotate_one(context, &container.id, &container.log_path).await
        {
            tracing::warn!(%error, path = %container.log_path.display(), "cannot rotate a log; trying again");
        }
    }
}

async fn rotate_one(context: &Context, id: &str, path: &Path) -> Result<(), RotateError> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let aside = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(path, &aside).map_err(RotateError::MoveAside)?;
    if let Err(error) = context.runtime.reopen_log(id).await {
        // The container still writes to the old file: it gets its name back.
        std::fs::rename(&aside, path).map_err(|source| RotateError::MoveBack { from: aside, source })?;
        return Err(RotateError::Reopen(error));
    }
    let mut old = rotated(path);
    // The one in use counts.
    let surplus = old.len().saturating_sub(FILES_MAX - 1);
    for file in old.drain(..surplus) {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// The files that were moved aside, the oldest first.
pub fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().map(|name| name.to_string_lossy().into_owned())) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let prefix = format!("{name}.");
    let mut files: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Links in /var/log/containers whose container is gone.
pub fn remove_dead_links(context: &Context) {
    for entry in std::fs::read_dir(context.settings.log_links_dir()).into_iter().flatten().flatten() {
        if std::fs::metadata(entry.path()).is_err() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
