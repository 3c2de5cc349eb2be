//! subPath: a part of a volume. It may not lead out of the volume, through `..` or through links that a container left there.

use std::path::{Component, Path, PathBuf};

/// The real place of `sub` below `volume`; folders that are missing are made.
pub fn resolve(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let sub = Path::new(sub);
    if sub.is_absolute() || sub.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{} must not be absolute or contain '..'", sub.display()));
    }
    let root = volume.canonicalize().map_err(|error| format!("{}: {error}", volume.display()))?;
    let mut so_far = root.clone();
    for part in sub.components() {
        let next = so_far.join(part);
        so_far = match next.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir(&next).map_err(|error| format!("{}: {error}", next.display()))?;
                next
            }
            Err(error) => return Err(format!("{}: {error}", next.display())),
        };
        if !so_far.starts_with(&root) {
            return Err(format!("subpath {} is not within the volume path {}", sub.display(), volume.display()));
        }
    }
    Ok(so_far)
}
