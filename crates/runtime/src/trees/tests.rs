//! Trees as containers might leave them: deep, wide, full of links and mounts, and changing while
//! they are removed.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use testing::Need;

use super::*;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// `own` is ours; `outside` is not.
    fn new() -> World {
        World::within(tempfile::tempdir().unwrap())
    }

    /// On a file system in memory, where there is one: disks take long for many folders.
    fn in_memory() -> World {
        World::within(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn within(dir: tempfile::TempDir) -> World {
        for name in ["own/tree/a/b", "outside/precious"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("own/tree/a/file"), "x").unwrap();
        fs::write(dir.path().join("outside/precious/data"), "x").unwrap();
        World { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn own(&self) -> Folder {
        Folder::open(&self.path("own")).unwrap().unwrap()
    }

    fn assert_outside_is_whole(&self) {
        assert_eq!(fs::read_to_string(self.path("outside/precious/data")).unwrap(), "x");
    }
}

fn bind(from: &Path, to: &Path) -> Mounted {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    Mounted(to.to_owned())
}

/// Unmounted when dropped, if it still is mounted.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn left(error: Error) -> Vec<Left> {
    match error {
        Error::Left { left, .. } => left,
        other => panic!("{other}"),
    }
}

#[test]
fn files_and_trees_go_and_what_is_not_there_is_no_error() {
    let world = World::new();
    fs::write(world.path("own/file"), "").unwrap();
    for below in ["tree", "file", "file", "tree/a", "nothing/at/all"] {
        world.own().remove(Path::new(below)).unwrap();
        assert!(!world.path("own").join(below).exists(), "{below}");
    }
    remove(&world.path("nowhere"), "x").unwrap();
    assert!(world.path("own").exists());
}

#[test]
fn links_are_removed_and_never_followed() {
    let world = World::new();
    symlink(world.path("outside"), world.path("own/tree/absolute")).unwrap();
    symlink("../../../outside/precious", world.path("own/tree/a/relative")).unwrap();
    symlink("..", world.path("own/tree/a/up")).unwrap();
    symlink(world.path("outside"), world.path("own/link")).unwrap();
    let refused = world.own().remove(Path::new("link/precious")).unwrap_err();
    assert!(refused.to_string().contains("it is no folder, or leads through a link"), "{refused}");
    world.own().remove(Path::new("tree")).unwrap();
    world.own().remove(Path::new("link")).unwrap();
    assert!(!world.path("own/tree").exists() && fs::symlink_metadata(world.path("own/link")).is_err());
    world.assert_outside_is_whole();
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let world = World::new();
    for below in ["../outside", "tree/../../outside", "/", "..", ".", "", world.path("outside").to_str().unwrap()] {
        assert!(matches!(world.own().remove(Path::new(below)), Err(Error::Outside { .. })), "{below}");
        assert!(matches!(world.own().detach(Path::new(below)), Err(Error::Outside { .. })), "{below}");
    }
    world.assert_outside_is_whole();
}

/// A bind mount of the same file system looks like any folder to code that compares devices.
#[test]
fn mounts_are_not_crossed_and_the_rest_goes() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let world = World::new();
    for place in ["own/tree/a/b", "own/whole", "own/tree/file"] {
        let place = world.path(place);
        if place.ends_with("file") { fs::write(&place, "").unwrap() } else { fs::create_dir_all(&place).unwrap() }
    }
    let _folder = bind(&world.path("outside"), &world.path("own/tree/a/b"));
    let _file = bind(&world.path("outside/precious/data"), &world.path("own/tree/file"));
    let _top = bind(&world.path("outside"), &world.path("own/whole"));
    let found = left(world.own().remove(Path::new("tree")).unwrap_err());
    let expected = ["own/tree/a/b", "own/tree/file"].map(|name| Left { path: world.path(name), reason: removal::MOUNTED.to_owned() });
    assert_eq!(found, expected);
    assert!(!world.path("own/tree/a/file").exists(), "what is not mounted is gone");
    assert!(world.own().remove(Path::new("whole")).is_err());
    assert!(world.own().remove(Path::new("whole/precious")).is_err(), "not even what is named lies below a mount");
    world.assert_outside_is_whole();
}

#[test]
fn mounts_of_ours_are_detached_however_they_are_stacked() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let world = World::new();
    fs::create_dir_all(world.path("outside/inner")).unwrap();
    let space = world.path("own/tree/a b\\c");
    fs::create_dir(&space).unwrap();
    let _mounts = [
        bind(&world.path("outside"), &world.path("own/tree/a/b")),
        bind(&world.path("outside"), &world.path("own/tree/a/b/inner")),
        bind(&world.path("outside"), &world.path("own/tree/a/b")),
        bind(&world.path("outside/precious/data"), &world.path("own/tree/a/file")),
        bind(&world.path("outside"), &space),
        bind(&world.path("own/tree"), &world.path("own/tree")),
    ];
    world.own().detach(Path::new("tree")).unwrap();
    world.own().remove(Path::new("tree")).unwrap();
    assert!(!world.path("own/tree").exists());
    world.assert_outside_is_whole();
}

/// A name that begins like the tree's is another one.
#[test]
fn mounts_of_neighbours_stay() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let world = World::new();
    fs::create_dir(world.path("own/tree2")).unwrap();
    let _neighbour = bind(&world.path("outside"), &world.path("own/tree2"));
    detach_and_remove(&world.path("own"), "tree").unwrap();
    assert!(!world.path("own/tree").exists());
    assert!(world.path("own/tree2/precious").exists(), "it is still mounted");
}

/// Paths of such a tree cannot be written down, and recursion would end the process.
#[test]
fn a_tree_of_a_hundred_thousand_levels_goes() {
    let world = World::in_memory();
    let before = measure(&world.path("own/tree")).inodes;
    let mut here = rustix::fs::open(world.path("own/tree"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for level in 0..100_000 {
        rustix::fs::mkdirat(&here, "d", Mode::from_raw_mode(0o700)).unwrap();
        if level % 10_000 == 0 {
            let file = CString::new(format!("/proc/self/fd/{}/file", here.as_raw_fd())).unwrap();
            fs::write(Path::new(file.to_str().unwrap()), "x").unwrap();
        }
        here = rustix::fs::openat(&here, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    drop(here);
    assert_eq!(measure(&world.path("own/tree")).inodes, before + 100_010, "also what no path can name");
    let stack_bytes = 128 * 1024;
    let own = world.own();
    let removing = std::thread::Builder::new().stack_size(stack_bytes).spawn(move || own.remove(Path::new("tree")));
    removing.unwrap().join().unwrap().unwrap();
    assert!(!world.path("own/tree").exists());
}

#[test]
fn many_entries_go() {
    let world = World::in_memory();
    for n in 0..20_000 {
        fs::write(world.path("own/tree").join(n.to_string()), "").unwrap();
    }
    world.own().clear(Some("kept")).unwrap();
    assert_eq!(fs::read_dir(world.path("own")).unwrap().count(), 0);
}

#[test]
fn clearing_leaves_the_folder_and_what_is_to_be_kept() {
    let world = World::new();
    fs::write(world.path("own/marker"), "").unwrap();
    world.own().clear(Some("marker")).unwrap();
    let names: Vec<_> = fs::read_dir(world.path("own")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["marker"]);
}

#[test]
fn what_cannot_be_removed_is_reported_after_the_rest_is_gone() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let world = World::new();
    let immutable = world.path("own/tree/a/file");
    let is_set = |flag: &str| Command::new("chattr").arg(flag).arg(&immutable).status().is_ok_and(|status| status.success());
    if !testing::can_run(&[Need::Machine { what: "a file system with immutable files", is_there: is_set("+i") }]) {
        return;
    }
    fs::create_dir_all(world.path("own/tree/z/deeper")).unwrap();
    let error = world.own().remove(Path::new("tree")).unwrap_err();
    assert!(is_set("-i"));
    assert!(!error.to_string().contains("os error"), "{error}");
    assert_eq!(left(error), [Left { path: immutable, reason: "operation not permitted (it may be immutable)".to_owned() }]);
    assert!(!world.path("own/tree/z").exists() && !world.path("own/tree/a/b").exists());
    world.own().remove(Path::new("tree")).unwrap();
}

/// A process that swaps folders for links while the tree is removed gains nothing, and the removal
/// ends.
#[test]
fn a_tree_that_changes_all_the_time_never_leads_outside() {
    let world = World::new();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, parked) = (world.path("own/tree/a"), world.path("own/parked"));
            while !end.load(Ordering::Relaxed) {
                let _ = fs::create_dir_all(a.join("b/c"));
                let _ = fs::write(a.join("b/c/file"), "");
                let _ = fs::rename(&a, &parked);
                let _ = symlink(world.path("outside"), &a);
                let _ = fs::remove_file(&a);
                let _ = fs::rename(&parked, &a);
            }
        });
        for _ in 0..300 {
            let _ = world.own().remove(Path::new("tree"));
        }
        end.store(true, Ordering::Relaxed);
    });
    world.own().clear(None).unwrap();
    world.assert_outside_is_whole();
}

/// What is mounted is not even looked at: a server that does not answer would hold up the caller. A
/// bind mount of the same file system has the same device as the folder around it.
#[test]
fn folders_with_many_deep_ones_are_measured_whole() {
    let world = World::new();
    let before = measure(&world.path("own")).inodes;
    for branch in ["1", "2", "3"] {
        // On the way back to each of these folders more are open than may be.
        let mut path = world.path("own").join(branch);
        for _ in 0..120 {
            path.push("d");
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            fs::create_dir(path.join("beside")).unwrap();
            fs::write(path.join("beside/file"), "x").unwrap();
        }
    }
    assert_eq!(measure(&world.path("own")).inodes, before + 3 * (1 + 120 * 4));
}

#[test]
fn what_is_mounted_in_a_tree_is_not_measured() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let world = World::new();
    fs::write(world.path("outside/precious/large"), vec![1; 1 << 20]).unwrap();
    let before = measure(&world.path("own"));
    fs::create_dir(world.path("own/whole")).unwrap();
    let with_folder = measure(&world.path("own"));
    let _folder = bind(&world.path("outside"), &world.path("own/tree/a/b"));
    let _file = bind(&world.path("outside/precious/large"), &world.path("own/tree/a/file"));
    let _top = bind(&world.path("outside"), &world.path("own/whole"));
    assert_eq!(measure(&world.path("own")).inodes, before.inodes - 2, "without the folder and the file that are covered");
    assert_eq!(measure_in(&world.path("own"), OsStr::new("whole")), Measure::default());
    assert_eq!(with_folder.inodes, before.inodes + 1);
    symlink(world.path("outside"), world.path("own/link")).unwrap();
    assert_eq!(measure_in(&world.path("own"), OsStr::new("link")), Measure::default(), "a link leads elsewhere");
}

#[test]
fn folders_without_permissions_are_measured_and_removed() {
    let world = World::new();
    fs::hard_link(world.path("own/tree/a/file"), world.path("own/tree/again")).unwrap();
    assert_eq!(measure(&world.path("own/tree")).inodes, 3, "a, b, and one file with two names");
    assert_eq!(measure(&world.path("own/nothing")), Measure::default());
    if testing::is_root() {
        fs::set_permissions(world.path("own/tree/a"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    world.own().remove(Path::new("tree")).unwrap();
}
