//! Which mounts of a container the node shares, where one of its volumes is bidirectional.
//!
//! The library knows one answer for all mounts of a container, and with a bidirectional volume that
//! is "shared". Before the container starts, every other mount gets what its volume asks for:
//! private, or following the node.

use std::fs::File;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::super::control::Told;
use crate::trees;
use crate::words::{Plain, plain};
use containers::{Mount, Propagation};

/// An error's text is one line.
const TEXT_BYTES_MAX: u64 = 4096;

/// Why the mounts of a container are not shared as asked.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("settle mount propagation")]
    Node(#[source] Plain),
    /// The process that entered the container's mounts.
    #[error("settle mount propagation")]
    Inside(#[source] Told),
}

/// `pid`: the container's first process, which waits to be started, so that nothing of the
/// container runs yet.
pub fn settle(pid: i32, volumes: &[Mount]) -> Result<(), SettleError> {
    let words = |e: io::Error| SettleError::Node(e.into());
    let process = Path::new("/proc").join(pid.to_string());
    let points = trees::mount_points(&process.join("mountinfo")).map_err(words)?;
    let namespace = File::open(process.join("ns/mnt")).map_err(words)?;
    let (trouble, tell_trouble) = io::pipe().map_err(words)?;
    // SAFETY: this process has one thread, so the child may do everything.
    match unsafe { fork() }.map_err(|e| words(e.into()))? {
        ForkResult::Child => {
            drop(trouble);
            inside(&namespace, &points, volumes, tell_trouble)
        }
        ForkResult::Parent { child } => {
            drop(tell_trouble);
            let mut said = String::new();
            let read = trouble.take(TEXT_BYTES_MAX).read_to_string(&mut said);
            let _ = waitpid(child, None);
            read.map_err(words)?;
            if said == DONE { Ok(()) } else { Err(SettleError::Inside(Told(said))) }
        }
    }
}

/// What the child says at its end. A child that dies says nothing, which is an error.
const DONE: &str = "done";

fn inside(namespace: &File, points: &[PathBuf], volumes: &[Mount], mut tell: PipeWriter) -> ! {
    let said = match setns(namespace, CloneFlags::CLONE_NEWNS).map_err(io::Error::from).and_then(|()| apply(points, volumes)) {
        Ok(()) => DONE.to_owned(),
        Err(e) => plain(&e),
    };
    let _ = tell.write_all(said.as_bytes());
    // SAFETY: ends the child at once; the parent's streams and locks are not touched.
    unsafe { libc::_exit(0) }
}

/// Paths are the container's: links in its image lead no further than its own root.
fn apply(points: &[PathBuf], volumes: &[Mount]) -> io::Result<()> {
    let places: Vec<(PathBuf, Propagation)> =
        volumes.iter().map(|volume| Ok((volume.container_path.canonicalize()?, volume.propagation))).collect::<io::Result<_>>()?;
    for point in points {
        for flags in changes(point, &places) {
            mount(None::<&str>, point, None::<&str>, flags, None::<&str>)
                .map_err(|e| io::Error::other(format!("{}: {}", point.display(), plain(&e.into()))))?;
        }
    }
    Ok(())
}

/// What makes the mount at `point` what it should be. All are shared with those that they were
/// copied from.
fn changes(point: &Path, places: &[(PathBuf, Propagation)]) -> Vec<MsFlags> {
    // Its own mounts stay shared among themselves, as with other runtimes, and are not those of the
    // node.
    if point == Path::new("/") {
        return vec![MsFlags::MS_PRIVATE, MsFlags::MS_SHARED];
    }
    let covering = places.iter().filter(|(place, _)| point.starts_with(place)).max_by_key(|(place, _)| place.components().count());
    match covering.map_or(Propagation::Private, |(_, propagation)| *propagation) {
        Propagation::Private => vec![MsFlags::MS_PRIVATE],
        Propagation::HostToContainer => vec![MsFlags::MS_SLAVE],
        Propagation::Bidirectional => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bidirectional_volumes_stay_shared_with_the_node() {
        let places = [
            (PathBuf::from("/csi"), Propagation::Bidirectional),
            (PathBuf::from("/csi/own"), Propagation::Private),
            (PathBuf::from("/host"), Propagation::HostToContainer),
            (PathBuf::from("/data"), Propagation::Private),
        ];
        let changed = |point: &str| changes(Path::new(point), &places);
        assert_eq!(changed("/"), [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED]);
        assert!(changed("/csi").is_empty());
        assert!(changed("/csi/below").is_empty());
        assert_eq!(changed("/csi/own"), [MsFlags::MS_PRIVATE]);
        assert_eq!(changed("/host/proc"), [MsFlags::MS_SLAVE]);
        for private in ["/data", "/etc/hosts", "/proc", "/csix"] {
            assert_eq!(changed(private), [MsFlags::MS_PRIVATE], "{private}");
        }
    }
}
