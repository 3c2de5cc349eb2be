//! What stays on the disk: holders, removal, crashes, several processes.

use std::fs;
use std::sync::Arc;

use runtime::images::archive::load;
use runtime::images::builtin::Builtin;
use runtime::images::{Contents, Store};

use crate::support::*;

fn other_image() -> TestImage {
    let shared = small_image().layers.remove(0);
    TestImage::new(vec![shared, (Layer::new().file("own", b"own").finish(), PLAIN)])
}

fn loaded(node: &Node, image: &TestImage, tag: &str) -> String {
    load(&node.service.store, &image.save(node.directory.path(), &[tag]), None).unwrap();
    image.id()
}

fn layers(store: &Store) -> usize {
    fs::read_dir(store.directory().join("layers/sha256")).unwrap().count()
}

#[test]
fn what_is_held_is_not_removed() {
    let node = node();
    let store = &node.service.store;
    let id = loaded(&node, &small_image(), "a:1");
    Contents::hold(&**store, &id, "node-1.c1").unwrap();
    store.hold(&id, "node-2.c1").unwrap();
    let error = containers::Error::from(store.remove(&id).unwrap_err());
    assert_eq!(error, containers::Error::FailedPrecondition(format!("image {id} is in use by node-1.c1, node-2.c1").into()));
    assert!(store.unused().unwrap().is_empty());
    store.release_all("node-1.").unwrap();
    store.release(&id, "node-2.c1").unwrap();
    store.release(&id, "node-2.c1").unwrap();
    assert_eq!(store.unused().unwrap().len(), 1);
    store.remove(&id).unwrap();
    store.remove(&id).unwrap();
    assert!(store.status("a:1").unwrap().is_none());
    assert_eq!(layers(store), 0);
    assert!(store.hold(&id, "x").is_err());
}

#[test]
fn holders_are_plain_names() {
    let node = node();
    let id = loaded(&node, &small_image(), "a:1");
    for holder in ["", "../x", "a/b", ".hidden"] {
        let error = containers::Error::from(node.service.store.hold(&id, holder).unwrap_err());
        assert!(matches!(error, containers::Error::Invalid(_)), "{holder}");
    }
}

#[test]
fn shared_layers_stay_with_the_other_image() {
    let node = node();
    let store = &node.service.store;
    let (first, second) = (loaded(&node, &small_image(), "a:1"), loaded(&node, &other_image(), "b:1"));
    assert_eq!(layers(store), 4);
    store.remove(&first).unwrap();
    assert_eq!(layers(store), 2);
    let content = store.content(&second).unwrap();
    assert!(content.layers.iter().all(|layer| layer.is_dir()));
    let error = containers::Error::from(store.content(&first).unwrap_err());
    assert!(matches!(error, containers::Error::NotFound { kind: "image", .. }));
}

#[test]
fn a_name_goes_before_its_image() {
    let node = node();
    let store = &node.service.store;
    let image = small_image();
    load(store, &image.save(node.directory.path(), &["a:1", "a:2"]), None).unwrap();
    store.remove("a:1").unwrap();
    assert_eq!(store.status(&image.id()).unwrap().unwrap().tags, ["docker.io/library/a:2"]);
    store.remove("a:2").unwrap();
    assert!(store.status(&image.id()).unwrap().is_none());
}

#[test]
fn a_moved_tag_leaves_the_older_image_unused() {
    let node = node();
    let store = &node.service.store;
    let first = loaded(&node, &small_image(), "a:1");
    let second = loaded(&node, &other_image(), "a:1");
    assert_eq!(store.status("a:1").unwrap().unwrap().id, second);
    assert!(store.status(&first).unwrap().unwrap().tags.is_empty());
    let unused = store.unused().unwrap();
    assert_eq!(unused.iter().map(|unused| unused.image.id.as_str()).collect::<Vec<_>>(), [first.as_str(), second.as_str()]);
    store.hold(&first, "c").unwrap();
    store.release(&first, "c").unwrap();
    assert_eq!(store.unused().unwrap()[0].image.id, second);
}

#[test]
fn a_damaged_index_is_named_and_kept() {
    let node = node();
    loaded(&node, &small_image(), "a:1");
    let path = node.directory.path().join("index.json");
    fs::write(&path, b"{ damaged").unwrap();
    let error = Store::open(node.directory.path()).unwrap_err().chain();
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert!(node.service.store.list().is_err());
    assert_eq!(fs::read(&path).unwrap(), b"{ damaged");
    assert_eq!(layers(&node.service.store), 3);
}

#[test]
fn leftovers_of_crashes_are_removed_and_work_in_progress_is_not() {
    let node = node();
    let directory = node.directory.path();
    let id = loaded(&node, &small_image(), "a:1");
    let before = files(&node.service.store);
    fs::create_dir_all(directory.join("tmp/7-18bc-0/diff")).unwrap();
    fs::create_dir_all(directory.join("layers/sha256").join("0".repeat(64)).join("diff")).unwrap();
    fs::write(directory.join("blobs/sha256").join("1".repeat(64)), b"x").unwrap();
    fs::create_dir_all(directory.join("tmp/8-18bd-1/diff")).unwrap();
    let working = fs::File::open(directory.join("tmp/8-18bd-1")).unwrap();
    working.lock().unwrap();
    // A folder called `tmp` may belong to another program, too.
    fs::create_dir_all(directory.join("tmp/photos")).unwrap();
    let store = Store::open(directory).unwrap();
    assert!(directory.join("tmp/8-18bd-1/diff").exists());
    drop(working);
    assert!(directory.join("tmp/photos").exists());
    fs::remove_dir(directory.join("tmp/photos")).unwrap();
    let again = Store::open(directory).unwrap();
    assert_eq!(files(&again), before);
    assert!(store.content(&id).is_ok());
}

#[test]
fn handles_on_one_directory_see_the_same() {
    let node = node();
    let other = Arc::new(Store::open(node.directory.path()).unwrap());
    let image = small_image();
    let file = image.save(node.directory.path(), &["a:1"]);
    std::thread::scope(|scope| {
        for store in [&node.service.store, &other] {
            for i in 0..8 {
                let (file, store, image) = (&file, Arc::clone(store), &image);
                scope.spawn(move || {
                    load(&store, file, Some(&format!("t{i}:1"))).unwrap();
                    store.hold(&image.id(), &format!("h{i}")).unwrap();
                    store.release(&image.id(), &format!("h{i}")).unwrap();
                });
            }
        }
    });
    assert_eq!(other.status(&image.id()).unwrap().unwrap().tags.len(), 8);
    other.remove(&image.id()).unwrap();
    assert!(node.service.store.list().unwrap().is_empty());
    assert_eq!(layers(&other), 0);
}

#[test]
fn usage_counts_bytes_and_inodes() {
    let node = node();
    let before = node.service.store.usage().unwrap();
    let image = TestImage::new(vec![(Layer::new().file("big", &noise(1 << 20, 1)).finish(), PLAIN)]);
    loaded(&node, &image, "a:1");
    let after = node.service.store.usage().unwrap();
    assert!(after.used_bytes >= before.used_bytes + (1 << 20), "{before:?} {after:?}");
    assert!(after.inodes_used >= before.inodes_used + 2);
    let unused = node.service.store.unused().unwrap();
    assert!(unused[0].frees_bytes >= 1 << 20);
}

#[test]
fn the_builtin_image_follows_the_program() {
    let node = node();
    let store = &node.service.store;
    let program = node.directory.path().join("program");
    let builtin =
        Builtin { name: "everynode.dev/agent:builtin", program: &program, libraries: &[], version: "1", tools: &["sleep", "cat"] };
    fs::write(&program, b"first").unwrap();
    let first = store.add_builtin(&builtin).unwrap();
    assert_eq!(store.add_builtin(&builtin).unwrap(), first);
    let content = store.content(first.as_str()).unwrap();
    assert_eq!(content.entrypoint, ["/everynode", "builtin"]);
    assert_eq!(fs::read(content.layers[0].join("everynode")).unwrap(), b"first");
    assert_eq!(fs::read_link(content.layers[0].join("bin/cat")).unwrap().to_str(), Some("/everynode"));
    assert!(content.layers[0].join("etc/passwd").exists() && content.layers[0].join("tmp").is_dir());
    assert!(store.unused().unwrap().is_empty() && store.list().unwrap()[0].pinned);
    store.hold(first.as_str(), "c").unwrap();
    fs::write(&program, b"second").unwrap();
    let second = store.add_builtin(&builtin).unwrap();
    assert_eq!(store.status(builtin.name).unwrap().unwrap().id, second.to_string());
    assert_eq!(fs::read(content.layers[0].join("everynode")).unwrap(), b"first");
    store.release(first.as_str(), "c").unwrap();
    assert_eq!(store.unused().unwrap()[0].image.id, first.to_string());
    fs::write(&program, b"third").unwrap();
    store.add_builtin(&builtin).unwrap();
    assert!(store.status(second.as_str()).unwrap().is_none());
}

const CHILD_STORE: &str = "EVERYNODE_TEST_STORE";
const CHILD_FILE: &str = "EVERYNODE_TEST_FILE";

/// Does nothing unless [`killed_processes_leave_a_consistent_store`] starts it.
#[test]
fn a_process_to_be_killed() {
    let (Ok(directory), Ok(file)) = (std::env::var(CHILD_STORE), std::env::var(CHILD_FILE)) else { return };
    loop {
        let store = Store::open(&directory).unwrap();
        load(&store, file.as_ref(), None).unwrap();
        store.remove("killed:1").unwrap();
    }
}

#[test]
fn killed_processes_leave_a_consistent_store() {
    let node = node();
    let mut layer = Layer::new();
    for i in 0..200 {
        layer = layer.file(&format!("d{}/f{i}", i % 7), &noise(2000, i));
    }
    let image = TestImage::new(vec![small_image().layers.remove(0), (layer.finish(), PLAIN)]);
    let files_directory = tempfile::tempdir().unwrap();
    let file = image.save(files_directory.path(), &["killed:1"]);
    let keep = loaded(&node, &small_image(), "keep:1");
    for round in 0..12 {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.env(CHILD_STORE, node.directory.path()).env(CHILD_FILE, &file);
        let mut child = command.args(["--exact", "store::a_process_to_be_killed"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + 13 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(node.directory.path()).unwrap();
        assert_eq!(fs::read_dir(node.directory.path().join("tmp")).unwrap().count(), 0);
        for image in store.list().unwrap() {
            assert!(store.content(&image.id).unwrap().layers.iter().all(|layer| layer.is_dir()), "round {round}");
        }
        assert!(store.status(&keep).unwrap().is_some());
    }
    load(&node.service.store, &file, None).unwrap();
    let content = node.service.store.content(&image.id()).unwrap();
    assert_eq!(fs::read(content.layers[0].join("d3/f10")).unwrap(), noise(2000, 10));
}
