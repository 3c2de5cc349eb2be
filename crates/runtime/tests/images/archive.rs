//! Files with images: what is taken, what is refused and how that reads.

use std::fs;
use std::path::Path;

use runtime::images::archive::load;
use runtime::images::digest::Digest;

use crate::support::*;

#[test]
fn a_saved_image_loads_under_its_tags() {
    let node = node();
    let image = small_image();
    let file = image.save(node.directory.path(), &["busybox:1", "example.org/x/y:v2"]);
    let names = load(&node.service.store, &file, None).unwrap();
    assert_eq!(names, ["docker.io/library/busybox:1", "example.org/x/y:v2"]);
    let status = node.service.store.status("busybox:1").unwrap().unwrap();
    assert_eq!(status.id, image.id());
    assert_eq!((status.uid, status.username.as_str()), (None, "app"));
    let content = node.service.store.content(&status.id).unwrap();
    assert_eq!(content.entrypoint, ["/bin/sh"]);
    assert_eq!((content.working_dir.as_str(), content.user.as_str(), content.stop_signal.as_str()), ("/data", "app:staff", "SIGINT"));
    assert_eq!(content.volumes, ["/cache"]);
    assert_eq!(fs::read(content.layers[0].join("data/x")).unwrap(), b"three");
    assert_eq!(fs::read(content.layers[2].join("bin/tool")).unwrap(), b"one");
}

#[test]
fn compressed_archives_load_under_a_given_name() {
    let node = node();
    let image = small_image();
    let file = image.save(node.directory.path(), &[]);
    for pack in [gzip, zstd] {
        fs::write(&file, pack(&fs::read(&file).unwrap())).unwrap();
        assert_eq!(load(&node.service.store, &file, Some("given:1")).unwrap(), ["docker.io/library/given:1"]);
        node.service.store.remove("given:1").unwrap();
        fs::remove_file(&file).unwrap();
        image.save(node.directory.path(), &[]);
    }
}

fn write_layout(image: &TestImage, directory: &Path, nested: bool) -> String {
    let put = |bytes: &[u8]| {
        let path = directory.join("blobs/sha256");
        fs::create_dir_all(&path).unwrap();
        let digest = Digest::of(bytes);
        fs::write(path.join(digest.hex()), bytes).unwrap();
        serde_json::json!({"digest": digest, "size": bytes.len()})
    };
    let typed = |mut descriptor: serde_json::Value, media_type: &str| {
        descriptor["mediaType"] = media_type.into();
        descriptor
    };
    let layers: Vec<_> = image.packed().iter().map(|(bytes, media_type)| typed(put(bytes), media_type)).collect();
    let config = typed(put(&image.config()), "application/vnd.oci.image.config.v1+json");
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut entry = typed(put(&serde_json::to_vec(&manifest).unwrap()), "application/vnd.oci.image.manifest.v1+json");
    if nested {
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture()});
        let other = serde_json::json!({"digest": Digest::of(b"not here"), "size": 8, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                       "platform": {"os": "linux", "architecture": "s390x"}});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [other, entry]});
        entry = typed(put(&serde_json::to_vec(&index).unwrap()), "application/vnd.oci.image.index.v1+json");
    }
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "layouts/app"});
    let digest = entry["digest"].as_str().unwrap().to_owned();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(directory.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}

#[test]
fn layouts_load_from_directories_and_archives() {
    for nested in [false, true] {
        let node = node();
        let layout = tempfile::tempdir().unwrap();
        let digest = write_layout(&small_image(), layout.path(), nested);
        assert_eq!(load(&node.service.store, layout.path(), None).unwrap(), ["docker.io/layouts/app:latest"]);
        let status = node.service.store.status("layouts/app").unwrap().unwrap();
        assert_eq!(status.digests, [format!("docker.io/layouts/app@{digest}")]);
        node.service.store.remove(&status.id).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", layout.path()).unwrap();
        let file = node.directory.path().join("layout.tar");
        fs::write(&file, archive.into_inner().unwrap()).unwrap();
        assert_eq!(load(&node.service.store, &file, Some("mine")).unwrap(), ["docker.io/library/mine:latest"]);
    }
}

fn refused(make: impl FnOnce(&Path) -> std::path::PathBuf) -> String {
    let node = node();
    let outside = tempfile::tempdir().unwrap();
    let before = files(&node.service.store);
    let file = make(outside.path());
    let error = load(&node.service.store, &file, None).unwrap_err().chain();
    assert_eq!(files(&node.service.store), before, "something stayed after: {error}");
    error.replace(&file.display().to_string(), "FILE")
}

#[test]
fn bad_files_say_what_is_wrong_and_change_nothing() {
    let write = |bytes: &'static [u8]| {
        move |directory: &Path| {
            let file = directory.join("image.tar");
            fs::write(&file, bytes).unwrap();
            file
        }
    };
    assert_eq!(refused(write(b"")), "cannot load FILE: it is empty");
    assert!(
        refused(write(b"this is no archive, but it is longer than nothing"))
            .starts_with("cannot load FILE: it is not a complete tar archive")
    );
    let missing = refused(|directory| directory.join("missing"));
    assert_eq!(missing, "cannot load FILE: cannot open FILE: No such file or directory (os error 2)");
    let foreign = refused(|directory| {
        fs::write(directory.join("image.tar"), Layer::new().file("readme", b"hello").finish()).unwrap();
        directory.join("image.tar")
    });
    assert!(foreign.contains("neither a manifest.json (docker save) nor an index.json"), "{foreign}");
}

#[test]
fn cut_and_damaged_archives_are_refused() {
    let cut = refused(|directory| {
        let file = small_image().save(directory, &["a:1"]);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        file
    });
    assert!(cut.starts_with("cannot load FILE: it "), "{cut}");
    let damaged = refused(|directory| {
        let file = small_image().save(directory, &["a:1"]);
        let mut bytes = fs::read(&file).unwrap();
        let place = bytes.windows(5).position(|window| window == b"three").unwrap();
        bytes[place] = b'T';
        fs::write(&file, bytes).unwrap();
        file
    });
    assert!(damaged.contains("failed to extract layer sha256:") && damaged.contains("unexpected digest: expected"), "{damaged}");
    let layout = refused(|directory| {
        write_layout(&small_image(), directory, false);
        let (layer, _) = &small_image().packed()[0];
        fs::write(directory.join("blobs/sha256").join(Digest::of(layer).hex()), b"other").unwrap();
        directory.to_owned()
    });
    assert!(layout.contains("failed to extract layer"), "{layout}");
}

#[test]
fn images_for_other_machines_are_refused() {
    let error = refused(|directory| TestImage { architecture: "s390x", ..small_image() }.save(directory, &["a:1"]));
    assert!(error.contains("the image is for linux/s390x, this node is linux/"), "{error}");
}
