//! The data directory of a cluster: made for its owner alone, marked as made by everynode, and
//! removed only if it is.
//!
//! `--data-dir` names any folder, and `down` removes what it names. So nothing is removed without
//! the marker that was written when the folder was new or empty, or without the exact layout that
//! versions before the marker left.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, bail};
use runtime::trees::Folder;

/// Says that the folder and everything in it is everynode's, and of a local cluster in its last
/// line which one it is.
const MARKER: &str = ".everynode-data";
const MARKER_TEXT: &str = "everynode made this folder. `everynode down` removes it with everything in it.\n";
const NAME_PREFIX: &str = "cluster: ";

/// A marker is shorter than this; what is longer is none of ours.
const MARKER_BYTES_MAX: u64 = 4096;

/// For its owner alone: keys, Secrets and what containers write are in it.
const MODE: u32 = 0o700;

/// What versions before the marker put into a data directory.
const KNOWN: &[&str] = &[
    "admin.kubeconfig",
    "admin.new",
    "cluster.json",
    "cluster.new",
    "images",
    "network.json",
    "network.new",
    "nodes",
    "pki",
    "registries.new",
    "registries.yaml",
    "server.lock",
    "server.log",
    "store.redb",
];

/// One of these is in every data directory that holds anything. Certificates alone may belong to
/// any program.
const TELLING: &[&str] = &["cluster.json", "store.redb"];

/// Found in the top folder of a new file system.
const LOST_AND_FOUND: &str = "lost+found";

/// Whose a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is empty.
    Free,
    Marked,
    /// It looks exactly like a data directory from before the marker.
    Unmarked,
    Foreign,
}

/// Makes the directory if it is missing, marks it, and closes it to others. Refuses a folder that
/// holds anything else.
pub fn prepare(dir: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(MODE).create(dir);
    made.with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    match owner(dir)? {
        Owner::Marked => {}
        Owner::Free | Owner::Unmarked => {
            std::fs::write(dir.join(MARKER), MARKER_TEXT).with_context(|| format!("cannot write to {}", dir.display()))?;
        }
        Owner::Foreign => bail!("{} holds files that are not a cluster's: name a new or empty folder as data directory", dir.display()),
    }
    let closed = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(MODE));
    closed.with_context(|| format!("cannot close the data directory {} to others", dir.display()))
}

/// Writes down whose folder it is, if nothing says so yet. To be called after [`prepare`].
pub fn claim(dir: &Path, cluster: &str) -> anyhow::Result<()> {
    check_name(dir, cluster)?;
    if cluster_name(dir)?.is_some() {
        return Ok(());
    }
    let text = format!("{MARKER_TEXT}{NAME_PREFIX}{cluster}\n");
    crate::private_file::write(&dir.join(MARKER), &text)
}

/// Refuses a folder that says that it is another cluster's.
pub fn check_name(dir: &Path, cluster: &str) -> anyhow::Result<()> {
    match cluster_name(dir)? {
        Some(other) if other != cluster => {
            bail!("{} is the data directory of cluster {other}, not of {cluster}: give --name {other}, or another folder", dir.display())
        }
        _ => Ok(()),
    }
}

/// The name of the local cluster that the folder says it belongs to.
pub fn cluster_name(dir: &Path) -> anyhow::Result<Option<String>> {
    let cannot = || format!("cannot read {}", dir.join(MARKER).display());
    let Some(folder) = dir.exists().then(|| Folder::open(dir)).transpose()?.flatten() else { return Ok(None) };
    if !folder.has_file(MARKER) {
        return Ok(None);
    }
    let mut text = String::new();
    let file = std::fs::File::open(dir.join(MARKER)).with_context(cannot)?;
    file.take(MARKER_BYTES_MAX).read_to_string(&mut text).with_context(cannot)?;
    Ok(text.lines().find_map(|line| line.strip_prefix(NAME_PREFIX)).map(str::to_owned))
}

/// Whether there is nothing in the folder, or no folder.
pub fn is_empty(dir: &Path) -> anyhow::Result<bool> {
    Ok(!dir.exists() || owner(dir)? == Owner::Free)
}

/// Refuses a folder of which nothing says that it is a cluster's; one that is missing or empty is
/// fine.
pub fn check_removable(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() && owner(dir)? == Owner::Foreign {
        bail!(
            "{} is no data directory of everynode: it has no file {MARKER} and holds other files. Nothing was removed; if it is to go, remove it yourself",
            dir.display()
        );
    }
    Ok(())
}

/// Removes the directory and everything in it, but nothing that is mounted in it; the marker goes
/// last, so that what fails can be tried again.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot remove {}", dir.display());
    // A link leads to the folder that was marked.
    let real = match std::fs::canonicalize(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        real => real.with_context(cannot)?,
    };
    check_removable(&real)?;
    let Some(folder) = Folder::open(&real)? else { return Ok(()) };
    folder.clear(Some(MARKER))?;
    folder.remove(Path::new(MARKER))?;
    match std::fs::remove_dir(&real) {
        // The top of a file system: it stays, empty.
        Err(error) if matches!(error.kind(), std::io::ErrorKind::ResourceBusy) => {}
        removed => removed.with_context(cannot)?,
    }
    if std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_symlink()) {
        std::fs::remove_file(dir).with_context(cannot)?;
    }
    Ok(())
}

fn owner(dir: &Path) -> anyhow::Result<Owner> {
    let folder = Folder::open(dir)?.with_context(|| format!("{} is gone", dir.display()))?;
    if folder.has_file(MARKER) {
        return Ok(Owner::Marked);
    }
    let names = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<_>>());
    let mut names: BTreeSet<String> = names.with_context(|| format!("cannot list {}", dir.display()))?;
    names.remove(LOST_AND_FOUND);
    let is_layout = TELLING.iter().any(|name| names.contains(*name)) && names.iter().all(|name| KNOWN.contains(&name.as_str()));
    Ok(match (names.is_empty(), is_layout) {
        (true, _) => Owner::Free,
        (false, true) => Owner::Unmarked,
        (false, false) => Owner::Foreign,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        dir
    }

    #[test]
    fn only_what_everynode_made_is_removed() {
        for (names, expected) in [
            (&[][..], Owner::Free),
            (&["lost+found"], Owner::Free),
            (&["photo.jpg", MARKER], Owner::Marked),
            (&["pki", "store.redb", "server.log"], Owner::Unmarked),
            (&["cluster.json", "nodes"], Owner::Unmarked),
            (&["photo.jpg"], Owner::Foreign),
            // Certificates that may belong to any program.
            (&["pki"], Owner::Foreign),
            (&["pki", "store.redb", "photo.jpg"], Owner::Foreign),
            // Nothing of it could only be a cluster's.
            (&["images", "nodes", "server.log"], Owner::Foreign),
        ] {
            let dir = folder(names);
            assert_eq!(owner(dir.path()).unwrap(), expected, "{names:?}");
            let removed = remove(dir.path());
            assert_eq!(removed.is_err(), expected == Owner::Foreign, "{names:?}");
            assert_eq!(dir.path().exists(), expected == Owner::Foreign, "{names:?}");
        }
    }

    #[test]
    fn a_folder_keeps_the_name_of_its_cluster() {
        let dir = folder(&[]);
        let name = || cluster_name(dir.path()).unwrap();
        prepare(dir.path()).unwrap();
        assert_eq!(name(), None);
        check_name(dir.path(), "any").unwrap();
        claim(dir.path(), "one").unwrap();
        prepare(dir.path()).unwrap();
        claim(dir.path(), "one").unwrap();
        assert_eq!(name().as_deref(), Some("one"));
        let refused = claim(dir.path(), "two").unwrap_err().to_string();
        assert!(refused.contains("is the data directory of cluster one, not of two: give --name one"), "{refused}");
        assert_eq!(name().as_deref(), Some("one"));
        assert_eq!(cluster_name(&dir.path().join("missing")).unwrap(), None);
    }

    #[test]
    fn a_marker_that_is_a_link_or_a_folder_says_nothing() {
        let dir = folder(&["photo.jpg"]);
        std::os::unix::fs::symlink("photo.jpg", dir.path().join(MARKER)).unwrap();
        assert!(remove(dir.path()).is_err());
        std::fs::remove_file(dir.path().join(MARKER)).unwrap();
        std::fs::create_dir(dir.path().join(MARKER)).unwrap();
        assert!(remove(dir.path()).is_err());
        assert!(dir.path().join("photo.jpg").exists());
    }

    #[test]
    fn folders_are_closed_to_others_also_those_that_were_there() {
        let dir = folder(&[]);
        for open in [0o755, 0o700] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(open)).unwrap();
            prepare(dir.path()).unwrap();
            assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, MODE);
        }
        let foreign = folder(&["photo.jpg"]);
        std::fs::set_permissions(foreign.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare(foreign.path()).is_err());
        assert_eq!(std::fs::metadata(foreign.path()).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_link_leads_to_the_folder_that_was_marked() {
        let dir = folder(&[]);
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        prepare(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        remove(&link).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
