//! Whom a volume belongs to: with an fsGroup its group may use it, as whichever user the container
//! runs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// New files in such a folder belong to its group.
const SET_GROUP: u32 = 0o2000;

pub fn apply_dir(path: &Path, mode: u32, group: Option<i64>) -> std::io::Result<()> {
    let sticky = std::fs::metadata(path)?.permissions().mode() & 0o1000;
    let group_bits = if group.is_some() { SET_GROUP | 0o770 } else { 0 };
    chown(path, None, group)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | sticky | group_bits))
}

/// A file of a volume that is read-only by nature: its group may read it.
pub fn apply_file(path: &Path, mode: u32, owner: Option<i64>, group: Option<i64>) -> std::io::Result<()> {
    let group_bits = if group.is_some() { 0o440 } else { 0 };
    chown(path, owner, group)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | group_bits))
}

fn chown(path: &Path, owner: Option<i64>, group: Option<i64>) -> std::io::Result<()> {
    let number = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    match (number(owner), number(group)) {
        (None, None) => Ok(()),
        (owner, group) => std::os::unix::fs::lchown(path, owner, group),
    }
}
