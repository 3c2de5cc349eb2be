//! Roots with hostile links in them, and links that come while a path is resolved.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags};

use super::*;

/// A root with a file and a folder, and a secret beside it.
fn world() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("root");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/file"), "inside").unwrap();
    std::fs::create_dir(dir.path().join("secret")).unwrap();
    std::fs::write(dir.path().join("secret/file"), "outside").unwrap();
    (dir, root)
}

fn place(found: &Found) -> PathBuf {
    std::fs::read_link(found.name()).unwrap()
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn links_stay_inside() {
    let (_dir, path) = world();
    symlink("/a", path.join("absolute")).unwrap();
    symlink("../../../a", path.join("up")).unwrap();
    symlink("../a", path.join("a/back")).unwrap();
    let root = Root::open(&path).unwrap();
    for (asked, expected) in
        [("absolute/file", "a/file"), ("/up/file", "a/file"), ("a/back/b", "a/b"), ("../../a", "a"), ("", ""), ("/", "")]
    {
        assert_eq!(place(&root.find(Path::new(asked)).unwrap()), path.join(expected).components().collect::<PathBuf>(), "{asked}");
    }
    symlink("../secret", path.join("out")).unwrap();
    symlink("/etc/passwd", path.join("passwd")).unwrap();
    for asked in ["out", "out/file", "passwd", "../secret", "/etc/passwd", "a/../../secret"] {
        assert_eq!(errno(root.find(Path::new(asked))), Some(libc::ENOENT), "{asked}");
    }
    symlink("circle", path.join("circle")).unwrap();
    assert_eq!(errno(root.find(Path::new("circle"))), Some(libc::ELOOP));
}

#[test]
fn the_root_itself_may_be_a_link() {
    let (dir, path) = world();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert_eq!(place(&Root::open(&link).unwrap().find(Path::new("a")).unwrap()), path.join("a"));
    assert_eq!(errno(Root::open(&path.join("a/file"))), Some(libc::ENOTDIR));
}

#[test]
fn links_of_the_kernel_are_refused() {
    let root = Root::open(Path::new("/proc/self")).unwrap();
    for asked in ["cwd", "root/etc", "fd/0", "exe"] {
        assert_eq!(errno(root.find(Path::new(asked))), Some(libc::ELOOP), "{asked}");
    }
    assert!(root.find(Path::new("status")).is_ok());
}

#[test]
fn without_links_none_is_followed() {
    let (_dir, path) = world();
    symlink("a", path.join("inside")).unwrap();
    let root = Root::open(&path).unwrap().without_links();
    assert!(root.find(Path::new("a/file")).is_ok());
    for asked in ["inside", "inside/file"] {
        assert_eq!(errno(root.find(Path::new(asked))), Some(libc::ELOOP), "{asked}");
    }
    assert!(root.make_dirs(Path::new("inside/new"), 0o755, None).is_err());
    let open = |below: &str| open_dir(File::open(&path).unwrap(), Path::new(below), OFlags::RDONLY);
    assert!(open("").is_ok() && open("a/b").is_ok());
    assert_eq!(errno(open("inside")), Some(libc::ELOOP));
    assert_eq!(errno(open("a/file")), Some(libc::ENOTDIR));
    assert!(!path.join("a/new").exists());
}

#[test]
fn folders_are_made_inside() {
    let (dir, path) = world();
    symlink("/real", path.join("link")).unwrap();
    std::fs::create_dir(path.join("real")).unwrap();
    let root = Root::open(&path).unwrap();
    for _ in 0..2 {
        root.make_dirs(Path::new("/link/x/y"), 0o700, None).unwrap();
    }
    let made = std::fs::metadata(path.join("real/x/y")).unwrap();
    assert!(made.is_dir() && made.mode() & 0o777 == 0o700);
    symlink("../secret", path.join("out")).unwrap();
    symlink("nowhere", path.join("dangling")).unwrap();
    for asked in ["out/x", "dangling/x", "dangling"] {
        assert!(root.make_dirs(Path::new(asked), 0o755, None).is_err(), "{asked}");
    }
    assert_eq!(errno(root.make_dirs(Path::new("a/file"), 0o755, None)), Some(libc::ENOTDIR));
    root.make_dirs(Path::new("../../up"), 0o755, None).unwrap();
    assert!(path.join("up").is_dir() && !dir.path().join("up").exists() && !dir.path().join("secret/x").exists());
}

#[test]
fn folders_belong_to_their_owner() {
    if !testing::can_run(&[testing::Need::Root]) {
        return;
    }
    let (_dir, path) = world();
    Root::open(&path).unwrap().make_dirs(Path::new("a/new/deep"), 0o755, Some(4711)).unwrap();
    let owner = |below: &str| std::fs::metadata(path.join(below)).map(|made| (made.uid(), made.gid())).unwrap();
    assert_eq!([owner("a"), owner("a/new"), owner("a/new/deep")], [(0, 0), (4711, 4711), (4711, 4711)]);
}

#[test]
fn only_files_of_a_bearable_size_are_read() {
    let (_dir, path) = world();
    let root = Root::open(&path).unwrap();
    let read = |below: &str| root.find(Path::new(below)).and_then(|found| found.read(8)).map_err(|error| error.to_string());
    assert_eq!(read("a/file").as_deref(), Ok(&b"inside"[..]));
    nix::unistd::mkfifo(&path.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for no_file in ["a", "pipe"] {
        assert_eq!(read(no_file), Err("is not a file".to_owned()), "{no_file}");
    }
    // Holes make it as large as an attacker likes.
    File::create(path.join("huge")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(read("huge"), Err("has 1099511627776 bytes; at most 8 are read".to_owned()));
}

/// The name may be a link by the time that the file is opened.
#[test]
fn what_was_found_is_what_is_opened() {
    let (dir, path) = world();
    let found = Root::open(&path).unwrap().find(Path::new("a/file")).unwrap();
    std::fs::remove_file(path.join("a/file")).unwrap();
    symlink(dir.path().join("secret/file"), path.join("a/file")).unwrap();
    assert_eq!(found.read(100).unwrap(), b"inside");
}

#[test]
fn links_of_the_node_are_followed_within_the_folder() {
    let (dir, path) = world();
    symlink(path.join("a/file"), path.join("absolute")).unwrap();
    symlink("../secret/file", path.join("out")).unwrap();
    let found = |below: &str| find_real(&path, Path::new(below)).map(|found| place(&found));
    assert_eq!(found("absolute").unwrap(), path.join("a/file"));
    assert_eq!(found("").unwrap(), path);
    let secret = dir.path().join("secret");
    for outside in ["out", "../secret", "a/../../secret", secret.to_str().unwrap(), "/etc/passwd"] {
        assert_eq!(found(outside).unwrap_err().kind(), io::ErrorKind::NotFound, "{outside}");
    }
}

/// A container that exchanges a folder for a link again and again, while paths through it are
/// resolved.
#[test]
fn races_lead_nowhere_else() {
    const TRIES: usize = 3000;
    /// Also when a check fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (dir, path) = world();
    symlink("../secret", path.join("swapped")).unwrap();
    let root = Root::open(&path).unwrap();
    let strict = Root::open(&path).unwrap().without_links();
    let is_over = AtomicBool::new(false);
    let mut inside = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, path.join("a"), CWD, path.join("swapped"), RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _end = End(&is_over);
        for n in 0..TRIES {
            let asked = Path::new("a/file");
            for found in [root.find(asked), strict.find(asked), find_real(&path, asked)].into_iter().flatten() {
                assert_eq!(found.read(100).unwrap(), b"inside");
                inside += 1;
            }
            let _ = root.make_dirs(&Path::new("a/new").join(n.to_string()), 0o755, None);
            let _ = strict.make_dirs(&Path::new("a/strict").join(n.to_string()), 0o755, None);
        }
    });
    assert!(inside > 0, "the folder was there now and then");
    let left: Vec<_> = std::fs::read_dir(dir.path().join("secret")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["file"], "nothing was made outside");
}
