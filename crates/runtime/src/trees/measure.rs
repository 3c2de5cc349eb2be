//! How much a tree takes on its file system. Containers make these trees: the walk is bounded in memory and open files, and what lies deeper than
//! paths can name is not counted.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What is counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    pub bytes: u64,
    /// Files, folders and links, without the folder itself.
    pub inodes: u64,
}

const BLOCK_BYTES: u64 = 512;

/// Folders that wait to be read, and files with several names that are remembered; beyond that each name counts.
const REMEMBERED_MAX: usize = 1_000_000;

/// After so many entries the walk ends with the folder it is in: what was counted so far counts.
const ENTRIES_MAX: usize = 5_000_000;

/// Each file once, however many names it has. File systems that are mounted below are not counted. What cannot be read counts nothing.
pub fn measure(dir: &Path) -> Measure {
    let mut sum = Measure::default();
    let Ok(root) = fs::symlink_metadata(dir) else { return sum };
    let mut seen = HashSet::new();
    let mut folders = vec![dir.to_owned()];
    let mut entries = 0;
    while let Some(folder) = folders.pop().filter(|_| entries < ENTRIES_MAX) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            entries += 1;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            let has_names = metadata.nlink() > 1 && !metadata.is_dir();
            if has_names && seen.len() < REMEMBERED_MAX && !seen.insert(metadata.ino()) {
                continue;
            }
            sum.bytes = sum.bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK_BYTES));
            sum.inodes = sum.inodes.saturating_add(1);
            if metadata.is_dir() && folders.len() < REMEMBERED_MAX {
                folders.push(entry.path());
            }
        }
    }
    sum
}
