//! Layers that try to leave their directory.

use std::fs;

use runtime::images::archive::load;
use testing::Need;

use crate::support::*;

/// Loads an image of that one layer; answers its directory or the error.
fn unpack(node: &Node, layer: Vec<u8>) -> Result<std::path::PathBuf, String> {
    let image = TestImage::new(vec![(layer, PLAIN)]);
    let file = image.save(node.directory.path(), &["escape:1"]);
    load(&node.service.store, &file, None).map_err(|error| error.chain())?;
    Ok(node.service.store.content(&image.id()).unwrap().layers.remove(0))
}

#[test]
fn paths_upwards_are_refused() {
    for path in ["../escaped", "a/../../escaped", "/../escaped", "a/.."] {
        let error = unpack(&node(), Layer::new().raw(tar::EntryType::Regular, path, "", b"x").finish()).unwrap_err();
        assert!(error.contains("its path leads upwards"), "{path}: {error}");
    }
    let linked = Layer::new().raw(tar::EntryType::Link, "passwd", "../../etc/passwd", b"").finish();
    assert!(unpack(&node(), linked).unwrap_err().contains("its path leads upwards"));
}

#[test]
fn links_lead_to_places_inside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let node = node();
    let layer = Layer::new()
        .symlink("absolute", target)
        .raw(tar::EntryType::Regular, "absolute/file", "", b"x")
        .symlink("upwards", "../../../../..")
        .raw(tar::EntryType::Regular, "upwards/tmp/other", "", b"y")
        .symlink("var/run", "/run")
        .raw(tar::EntryType::Regular, "var/run/pid", "", b"z")
        .finish();
    let root = unpack(&node, layer).unwrap();
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "a file got out");
    assert_eq!(fs::read(root.join(target.trim_start_matches('/')).join("file")).unwrap(), b"x");
    assert_eq!(fs::read(root.join("tmp/other")).unwrap(), b"y");
    assert_eq!(fs::read(root.join("run/pid")).unwrap(), b"z");
}

#[test]
fn a_file_never_goes_through_a_link_of_its_own_name() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, b"before").unwrap();
    let layer = Layer::new()
        .symlink("link", victim.to_str().unwrap())
        .raw(tar::EntryType::Regular, "link", "", b"after")
        .symlink("other", victim.to_str().unwrap())
        .raw(tar::EntryType::Link, "hard", "other", b"")
        .finish();
    let root = unpack(&node(), layer);
    assert_eq!(fs::read(&victim).unwrap(), b"before");
    drop(root.unwrap());
}

#[test]
fn loops_of_links_end() {
    let layer = Layer::new().symlink("a", "b").symlink("b", "a").raw(tar::EntryType::Regular, "a/x", "", b"").finish();
    assert!(unpack(&node(), layer).unwrap_err().contains("Too many levels of symbolic links"));
}

#[test]
fn whiteouts_do_not_escape_either() {
    for path in [".wh...", ".wh..", "d/.wh.", "../.wh.x"] {
        let error = unpack(&node(), Layer::new().raw(tar::EntryType::Regular, path, "", b"").finish()).unwrap_err();
        assert!(error.contains("cannot unpack"), "{path}: {error}");
    }
}

#[test]
fn what_overlayfs_believes_is_not_taken_from_images() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let node = node();
    let layer = Layer::new()
        .extended(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.user.note", b"kept")])
        .directory("d")
        .finish();
    let Ok(root) = unpack(&node, layer) else { panic!("not unpacked") };
    let mut value = [0; 16];
    assert!(rustix::fs::lgetxattr(root.join("d"), "trusted.overlay.redirect", &mut value[..]).is_err());
}

#[test]
fn headers_do_not_fill_the_memory() {
    let layer = Layer::new().extended(&[("comment", &vec![b'x'; 5 << 20])]).file("a", b"").finish();
    let error = unpack(&node(), layer).unwrap_err();
    assert!(error.contains("the headers of an entry are too large"), "{error}");
    let layer = Layer::new().extended(&[("comment", &vec![b'x'; 1 << 20])]).file("a", b"").finish();
    unpack(&node(), layer).unwrap();
}

/// Ten kilobytes may stand for any number of bytes: a hole stays one, and what could not fit is
/// refused before it is written.
#[test]
fn holes_stay_holes_and_are_counted() {
    let sparse = |real_size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_path("hole").unwrap();
        header.set_mode(0o644);
        header.set_size(512);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(real_size);
        gnu.sparse[0].set_offset(real_size - 512);
        gnu.sparse[0].set_length(512);
        header.set_cksum();
        Layer::new().appended(&header, &[7; 512]).finish()
    };
    let node = node();
    let root = unpack(&node, sparse(1 << 26)).unwrap();
    let file = fs::metadata(root.join("hole")).unwrap();
    assert_eq!(file.len(), 1 << 26);
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&file) * 512 < 1 << 20,
        "it takes {} blocks",
        std::os::unix::fs::MetadataExt::blocks(&file)
    );
    let error = unpack(&node, sparse(1 << 50)).unwrap_err();
    assert!(error.contains("the layer has more than"), "{error}");
}

#[test]
fn paths_longer_than_linux_has_them_are_refused() {
    let path = "d/".repeat(2100);
    let long = Layer::new().extended(&[("path", path.as_bytes())]).raw(tar::EntryType::Regular, "x", "", b"").finish();
    assert!(unpack(&node(), long).unwrap_err().contains("its path has 4200 bytes, more than 4096"));
    let node = node();
    let deep = "d/".repeat(1900);
    let layer = Layer::new().extended(&[("path", deep.as_bytes())]).raw(tar::EntryType::Directory, "x", "", b"").finish();
    unpack(&node, layer).unwrap();
}
