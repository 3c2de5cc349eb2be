//! Volumes made from objects, written so that a reader sees all of a change or nothing of it.
//!
//! The files lie in a folder with a time in its name; `..data` is a link to it, and what users see
//! are links through `..data`. A change writes a new folder and swaps the link with one rename.
//! This is the layout that Kubernetes has, and programs that watch for `..data` rely on it.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::Path;

use brain::podsync::payload::Files;
use runtime::trees;

use super::empty_dir::mount_tmpfs;
use super::{is_mount_point, ownership};
use crate::node::settings::make_closed_dir;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const DIR_MODE: u32 = 0o777;

/// Secrets and tokens stay in memory: `in_memory`.
pub fn write(place: &Path, in_memory: bool, files: &Files, group: Option<i64>) -> std::io::Result<()> {
    make_closed_dir(place)?;
    if in_memory && !is_mount_point(place)? {
        mount_tmpfs(place, None)?;
    }
    if !place.join(DATA).exists() {
        ownership::apply_dir(place, DIR_MODE, group)?;
    }
    check_paths(files)?;
    if is_current(&place.join(DATA), files) {
        return Ok(());
    }
    let old = std::fs::read_link(place.join(DATA)).ok();
    let name = folder_name(place);
    let dir = place.join(&name);
    std::fs::create_dir(&dir)?;
    ownership::apply_dir(&dir, 0o755, group)?;
    for (path, file) in files {
        write_file(&dir, path, file, group)?;
    }
    let new = place.join(DATA_NEW);
    let _ = std::fs::remove_file(&new);
    symlink(&name, &new)?;
    std::fs::rename(&new, place.join(DATA))?;
    update_links(place, files)?;
    match old.filter(|old| is_folder_name(old)) {
        // What is left of it is not seen, and goes with the volume.
        Some(old) => trees::remove(place, old).or_else(|error| {
            tracing::warn!(%error, "cannot remove the files that a volume had before");
            Ok(())
        }),
        None => Ok(()),
    }
}

/// Whether `..data` leads to a folder that was made here: a link elsewhere would have what is there
/// removed (CVE-2017-1002102).
fn is_folder_name(target: &Path) -> bool {
    let name = target.to_str().and_then(|name| name.strip_prefix(".."));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'_' | b'.')))
}

/// Names come from objects: none may lead out of the volume, or be one of ours.
fn check_paths(files: &Files) -> std::io::Result<()> {
    for path in files.keys() {
        let is_plain = !path.is_empty() && Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_plain || path.starts_with("..") {
            return Err(std::io::Error::other(format!("invalid path {path:?} in the volume")));
        }
    }
    Ok(())
}

fn write_file(dir: &Path, path: &str, file: &brain::podsync::payload::File, group: Option<i64>) -> std::io::Result<()> {
    let target = dir.join(path);
    if let Some(parent) = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let mut so_far = dir.to_owned();
        for part in parent.components() {
            so_far.push(part);
            if !so_far.exists() {
                std::fs::create_dir(&so_far)?;
                ownership::apply_dir(&so_far, 0o755, group)?;
            }
        }
    }
    let mut out = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&target)?;
    out.write_all(&file.data)?;
    ownership::apply_file(&target, file.mode, file.owner, group)
}

/// Whether the volume holds exactly these files already.
fn is_current(data: &Path, files: &Files) -> bool {
    if !data.exists() || count_files(data) != files.len() {
        return false;
    }
    files.iter().all(|(path, file)| std::fs::read(data.join(path)).is_ok_and(|content| content == file.data))
}

fn count_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

/// `..2026_11_20_23_28_35.N`; the number makes names differ within a second.
fn folder_name(place: &Path) -> String {
    let now = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let number = (0..u32::MAX).find(|number| !place.join(format!("{now}.{number}")).exists()).unwrap_or(u32::MAX);
    format!("{now}.{number}")
}

/// One link for the first part of each path; links to what is gone are removed.
fn update_links(place: &Path, files: &Files) -> std::io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(|path| first(path)).collect();
    for name in &wanted {
        let link = place.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(place)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}
