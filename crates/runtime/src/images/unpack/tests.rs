//! Hostile archives, against limits that are made small: what costs the node anything is counted,
//! wherever it stands in the archive.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use tar::{Builder, EntryType, Header};

use super::*;
use crate::images::stop;

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, content: &[u8]) -> Archive {
        self.0.append(&header(kind, name, content.len() as u64), content).unwrap();
        self
    }

    fn directory(self, name: &str) -> Archive {
        self.entry(EntryType::Directory, name, b"")
    }

    fn file(self, name: &str, content: &[u8]) -> Archive {
        self.entry(EntryType::Regular, name, content)
    }

    fn extended(mut self, attributes: &[(&str, &[u8])]) -> Archive {
        self.0.append_pax_extensions(attributes.iter().copied()).unwrap();
        self
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Archive {
        self.extended(&[("linkpath", target.as_bytes())]).entry(kind, name, b"")
    }

    /// A hole of that size under a name that has no content.
    fn hole(mut self, name: &str, size: u64) -> Archive {
        let mut header = header(EntryType::GNUSparse, name, 0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        gnu.sparse[0].set_offset(size);
        gnu.sparse[0].set_length(0);
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    fn unpack(self, limits: Limits) -> (tempfile::TempDir, std::result::Result<(), String>) {
        unpack_bytes(&self.0.into_inner().unwrap(), limits)
    }
}

/// On a file system in memory, where there is one: disks take long for many folders.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn unpack_bytes(archive: &[u8], limits: Limits) -> (tempfile::TempDir, std::result::Result<(), String>) {
    let dir = directory();
    let result = unpack_within(limits, archive, dir.path()).map(drop).map_err(|error| error.chain());
    (dir, result)
}

fn limits() -> Limits {
    Limits::new(Stop::default())
}

#[track_caller]
fn refused(archive: Archive, limits: Limits, why: &str) -> tempfile::TempDir {
    let (dir, result) = archive.unpack(limits);
    let error = result.expect_err("it was unpacked");
    assert!(error.contains(why), "{error}");
    dir
}

/// One entry may name as many folders as fit into its path, and its links again as many.
#[test]
fn folders_that_only_paths_name_are_entries() {
    let archive = || Archive::new().file("a/b/c/d/file", b"");
    archive().unpack(Limits { entries: 5, ..limits() }).1.unwrap();
    refused(archive(), Limits { entries: 4, ..limits() }, "more than 2000000 entries");
    let linked = || Archive::new().link(EntryType::Symlink, "link", "/w/x/y/z").file("link/file", b"");
    linked().unpack(Limits { entries: 6, ..limits() }).1.unwrap();
    refused(linked(), Limits { entries: 5, ..limits() }, "more than 2000000 entries");
}

/// A short path takes as many steps as the link in it, each time.
#[test]
fn steps_through_links_are_counted() {
    let start = Archive::new().link(EntryType::Symlink, "l", &"d/".repeat(500));
    let archive = (0..10).fold(start, |archive, n| archive.file(&format!("l/{n}/x"), b""));
    refused(archive, Limits { steps: 3000, ..limits() }, "lead through too many folders");
}

#[test]
fn where_links_lead_is_no_longer_than_linux_has_paths() {
    let deep = "d/".repeat(1500);
    let archive = Archive::new()
        .link(EntryType::Symlink, "a", &deep)
        .extended(&[("path", format!("{deep}b").as_bytes()), ("linkpath", "e/".repeat(1500).as_bytes())])
        .entry(EntryType::Symlink, "x", b"")
        .file("a/b/file", b"");
    refused(archive, limits(), "one of more than 4096 bytes");
}

/// Four mebibytes of headers are read of each entry: a target that long would be millions of
/// folders.
#[test]
fn targets_of_links_are_bounded_and_never_made() {
    let long = "t/".repeat(100_000);
    for kind in [EntryType::Link, EntryType::Symlink] {
        refused(Archive::new().link(kind, "link", &long), limits(), "the target of the link has 200000 bytes, more than 4096");
    }
    let dir = refused(Archive::new().link(EntryType::Link, "link", "not/there"), limits(), "No such file");
    assert!(!dir.path().join("not").exists());
    let targets = Archive::new().link(EntryType::Symlink, "a", &"t".repeat(400)).link(EntryType::Symlink, "b", &"t".repeat(400));
    refused(targets, Limits { bytes: 500, ..limits() }, "more than 137438953472 bytes");
}

/// However deep a path leads, few folders are open at a time.
#[test]
fn depth_takes_no_open_files() {
    let deep = "d/".repeat(2000);
    let archive = Archive::new().extended(&[("path", format!("{deep}file").as_bytes())]).file("x", b"1");
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let dir = directory();
    let mut root = Root::open(dir.path()).unwrap();
    let (before, mut charged) = (open(), limits());
    let place = root.place(Path::new(&format!("{deep}file")), &mut charged).unwrap_or_else(|_| panic!("not found"));
    assert!(open() < before + 100, "other tests open files, too, but not thousands");
    assert_eq!(place.path, Path::new(&format!("{deep}file")));
    archive.unpack(limits()).1.unwrap();
}

#[test]
fn links_upwards_lead_to_the_folder_above() {
    let archive = Archive::new()
        .directory("a/b/c")
        .link(EntryType::Symlink, "a/b/c/up", "../../beside")
        .link(EntryType::Symlink, "a/b/c/out", "../../../../../../top")
        .file("a/b/c/up/file", b"1")
        .file("a/b/c/out/file", b"2");
    let (dir, result) = archive.unpack(limits());
    result.unwrap();
    assert_eq!(std::fs::read(dir.path().join("a/beside/file")).unwrap(), b"1");
    assert_eq!(std::fs::read(dir.path().join("top/file")).unwrap(), b"2");
}

#[test]
fn extended_attributes_are_counted() {
    let value = vec![b'v'; 600];
    let archive = || Archive::new().extended(&[("SCHILY.xattr.user.a", &value), ("SCHILY.xattr.user.b", &value)]).directory("d");
    refused(archive(), Limits { bytes: 1000, ..limits() }, "more than 137438953472 bytes");
    refused(archive(), Limits { entries: 2, ..limits() }, "more than 2000000 entries");
    let (_dir, result) = archive().unpack(Limits { entries: 3, bytes: 1300, ..limits() });
    result.unwrap();
}

/// What is not kept takes time all the same: a hole under the name of a deletion was gone through
/// without an end.
#[test]
fn what_is_skipped_is_counted() {
    let half = || vec![7; 600];
    for name in [".wh.gone", ".wh..wh.note", "d"] {
        let kind = if name == "d" { EntryType::Directory } else { EntryType::Regular };
        let archive = Archive::new().entry(kind, name, &half()).entry(kind, &format!("{name}2"), &half());
        refused(archive, Limits { bytes: 1000, ..limits() }, "more than 137438953472 bytes");
    }
    let holes = Archive::new().hole(".wh.a", 1 << 20).hole(".wh.b", 1 << 20);
    refused(holes, Limits { bytes: 3 << 19, ..limits() }, "more than 137438953472 bytes");
    let globals = (0..3).fold(Archive::new(), |archive, _| archive.entry(EntryType::XGlobalHeader, "pax_global_header", b""));
    refused(globals, Limits { entries: 2, ..limits() }, "more than 2000000 entries");
}

#[test]
fn what_follows_the_end_of_an_archive_is_counted() {
    let mut bytes = Archive::new().file("a", b"1").0.into_inner().unwrap();
    bytes.write_all(&vec![0; 1 << 20]).unwrap();
    unpack_bytes(&bytes, Limits { archive_bytes: 2 << 20, ..limits() }).1.unwrap();
    let error = unpack_bytes(&bytes, Limits { archive_bytes: 1 << 20, ..limits() }).1.unwrap_err();
    assert!(error.contains("its archive has more than 137438953472 bytes"), "{error}");
}

#[test]
fn remembered_paths_are_counted_where_links_lead() {
    let long = "n".repeat(200);
    let archive = (0..10).fold(Archive::new().link(EntryType::Symlink, "l", &long), |archive, n| archive.file(&format!("l/{n}"), b""));
    refused(archive, Limits { remembered_bytes: 2000, ..limits() }, "too many long paths");
}

/// A file in the place of a folder, and a link in the place of another: neither is followed to set
/// a folder's time.
#[test]
fn folders_that_were_replaced_get_no_time() {
    let archive = Archive::new().directory("gone/inner").file("gone", b"now a file").directory("led/inner").directory("other/inner").link(
        EntryType::Symlink,
        "led",
        "other",
    );
    let (dir, result) = archive.unpack(limits());
    result.unwrap();
    assert_eq!(std::fs::read(dir.path().join("gone")).unwrap(), b"now a file");
    assert_eq!(std::fs::metadata(dir.path().join("other/inner")).unwrap().mtime(), 1_700_000_000);
}

/// The stack is small and the folders many: what replaces a tree removes it without going down by
/// recursion.
#[test]
fn a_deep_tree_is_replaced_on_a_small_stack() {
    let deep = "d/".repeat(2000);
    let archive = Archive::new().extended(&[("path", deep.as_bytes())]).directory("x").file("d", b"file");
    let work = move || archive.unpack(limits()).1;
    std::thread::Builder::new().stack_size(512 * 1024).spawn(work).unwrap().join().unwrap().unwrap();
}

/// Sets `stop` when so many bytes have been read.
struct StopsAfter {
    bytes: usize,
    waiting: Option<stop::Waiting>,
    read: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Read for StopsAfter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes = self.bytes.saturating_sub(buffer.len());
        if self.bytes == 0 {
            self.waiting = None;
        }
        self.read.fetch_add(buffer.len(), std::sync::atomic::Ordering::Relaxed);
        buffer.fill(0);
        Ok(buffer.len())
    }
}

/// A pull whose caller has gone ends, wherever it is: in a file without an end, or in zeros after
/// the archive.
#[test]
fn unpacking_ends_when_it_is_stopped() {
    let file = header(EntryType::Regular, "file", 1 << 30).as_bytes().to_vec();
    let ended = Archive::new().file("a", b"").0.into_inner().unwrap();
    for start in [file, ended] {
        let waiting = stop::Waiting::default();
        let stop = waiting.stop();
        let read = std::sync::Arc::default();
        let endless = StopsAfter { bytes: 1 << 20, waiting: Some(waiting), read: std::sync::Arc::clone(&read) };
        let dir = tempfile::tempdir().unwrap();
        let layer = io::BufReader::new(io::Cursor::new(start).chain(endless));
        let error = unpack(layer, dir.path(), &stop).unwrap_err().chain();
        assert!(error.contains("it was stopped"), "{error}");
        assert!(read.load(std::sync::atomic::Ordering::Relaxed) < 4 << 20, "soon after");
    }
}
