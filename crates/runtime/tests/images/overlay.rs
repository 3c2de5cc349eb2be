//! Layers as overlayfs and the kernel see them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use runtime::images::archive::load;
use testing::Need;

use crate::support::*;

/// Unmounted when dropped, also on panic.
struct Mounted(PathBuf);

impl Mounted {
    fn overlay(layers: &[PathBuf], target: &Path) -> Mounted {
        let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        nix::mount::mount(Some("overlay"), target, Some("overlay"), nix::mount::MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        Mounted(target.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn deletions_take_effect_across_layers() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let node = node();
    let lower =
        Layer::new().file("keep/a", b"1").file("gone", b"2").file("opaque/old", b"3").file("again/old", b"4").file("dir/inner", b"5");
    let upper = Layer::new()
        .file(".wh.gone", b"")
        .directory("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"6")
        .file(".wh.again", b"")
        .directory("again")
        .file("again/new", b"7")
        .file("dir/.wh.inner", b"")
        .file("dir/made", b"8")
        .file("dir/.wh.made", b"");
    let image = TestImage::new(vec![(lower.finish(), GZIP), (upper.finish(), GZIP)]);
    load(&node.service.store, &image.save(node.directory.path(), &["w:1"]), None).unwrap();
    let target = tempfile::tempdir().unwrap();
    let content = node.service.store.content(&image.id()).unwrap();
    let _mounted = Mounted::overlay(&content.layers, target.path());
    assert_eq!(names(target.path()), ["again", "dir", "keep", "opaque"]);
    assert_eq!(names(&target.path().join("opaque")), ["new"]);
    assert_eq!(names(&target.path().join("again")), ["new"]);
    assert_eq!(names(&target.path().join("dir")), ["made"]);
}

#[test]
fn owners_modes_times_devices_and_attributes_are_kept() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let node = node();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let layer = Layer::new()
        .directory("home")
        .owned("home/setuid", b"s", 0o4755, 1234)
        .hard_link("home/linked", "home/setuid")
        .symlink("home/link", "/nowhere")
        .device(tar::EntryType::Char, "dev/null", 1, 3)
        .device(tar::EntryType::Fifo, "fifo", 0, 0)
        .extended(&[("SCHILY.xattr.security.capability", capability), ("mtime", b"1600000000.5")])
        .owned("home/ping", b"p", 0o755, 0)
        .file(&long, b"long");
    let image = TestImage::new(vec![(layer.finish(), ZSTD)]);
    load(&node.service.store, &image.save(node.directory.path(), &["m:1"]), None).unwrap();
    let root = node.service.store.content(&image.id()).unwrap().layers.remove(0);
    let setuid = fs::metadata(root.join("home/setuid")).unwrap();
    assert_eq!((setuid.uid(), setuid.gid(), setuid.permissions().mode() & 0o7777, setuid.mtime()), (1234, 1234, 0o4755, 1_700_000_000));
    assert_eq!(fs::metadata(root.join("home/linked")).unwrap().ino(), setuid.ino());
    assert_eq!(fs::read_link(root.join("home/link")).unwrap(), Path::new("/nowhere"));
    let null = fs::metadata(root.join("dev/null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == 0x103);
    assert!(fs::metadata(root.join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(root.join("home")).unwrap().mtime(), 1_700_000_000);
    let ping = fs::metadata(root.join("home/ping")).unwrap();
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (1_600_000_000, 500_000_000));
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(root.join("home/ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..length], capability);
    assert_eq!(fs::read(root.join(long)).unwrap(), b"long");
}
