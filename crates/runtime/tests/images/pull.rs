//! Pulling from a real registry.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use containers::Credentials;
use runtime::images::digest::Digest;
use runtime::images::{Service, Store};
use runtime::port::Images;
use testing::Need;

use crate::support::*;

fn basic(password: &str) -> Credentials {
    Credentials::Basic { username: "user".into(), password: password.into() }
}

#[tokio::test]
async fn an_image_comes_and_stays() {
    let Some(registry) = Registry::start(false) else { return };
    let node = node();
    let image = small_image();
    let (digest, _) = registry.push("app:1", &image).await;
    let name = registry.name("app:1");
    assert_eq!(node.service.status(&name).await, Ok(None));
    let id = node.service.pull(&name, &[]).await.unwrap();
    assert_eq!(id, image.id());
    assert_eq!(node.service.pull(&name, &[]).await.as_ref(), Ok(&id));
    let status = node.service.status(&id).await.unwrap().unwrap();
    assert_eq!(status.tags, [name.as_str()]);
    assert_eq!(status.digests, [registry.name(&format!("app@{digest}"))]);
    assert_eq!(node.service.status(&status.digests[0]).await.unwrap().unwrap().id, id);
    let content = node.service.store.content(&id).unwrap();
    assert_eq!(fs::read(content.layers[2].join("bin/tool")).unwrap(), b"one");
    assert_eq!(fs::read_dir(node.directory.path().join("partial")).unwrap().count(), 0);
    node.service.pull(&registry.name(&format!("app@{digest}")), &[]).await.unwrap();
    assert_eq!(node.service.list().await.unwrap().len(), 1);
    node.service.remove(&id).await.unwrap();
    assert!(node.service.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine() {
    let Some(registry) = Registry::start(false) else { return };
    let node = node();
    let (own, foreign) = (small_image(), TestImage { architecture: "s390x", ..small_image() });
    let mut entries = Vec::new();
    for (image, tag) in [(&foreign, "app:other"), (&own, "app:own")] {
        let (digest, size) = registry.push(tag, image).await;
        entries.push(serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                                        "platform": {"os": "linux", "architecture": image.architecture}}));
    }
    let top = registry.push_index("app:multi", entries.clone().into()).await;
    let id = node.service.pull(&registry.name("app:multi"), &[]).await.unwrap();
    assert_eq!(id, own.id());
    assert_eq!(node.service.status(&id).await.unwrap().unwrap().digests, [registry.name(&format!("app@{top}"))]);
    let none = registry.push_index("app:none", vec![entries.remove(0)].into()).await;
    let error = node.service.pull(&registry.name("app:none"), &[]).await.unwrap_err().to_string();
    let name = registry.name("app:none");
    assert_eq!(error, format!("failed to pull and unpack image \"{name}\": no match for platform in manifest {none}: not found"));
}

#[tokio::test]
async fn what_is_not_there_reads_as_in_containerd() {
    let Some(registry) = Registry::start(false) else { return };
    let node = node();
    let name = registry.name("library/nope:1");
    let error = node.service.pull(&name, &[]).await.unwrap_err();
    let text = format!("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found");
    assert_eq!(error, containers::Error::Failed(text.into()));
    let error = node.service.pull("127.0.0.1:9/none/none:1", &[]).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "failed to pull and unpack image \"127.0.0.1:9/none/none:1\": failed to resolve reference \"127.0.0.1:9/none/none:1\": failed to do \
         request: Head \"http://127.0.0.1:9/v2/none/none/manifests/1\": dial tcp 127.0.0.1:9: connect: connection refused"
    );
    let error = node.service.pull("Bad_NAME//x:1", &[]).await.unwrap_err();
    assert_eq!(error, containers::Error::Invalid("couldn't parse image name \"Bad_NAME//x:1\": invalid reference format".into()));
}

#[tokio::test]
async fn credentials_are_tried_in_order() {
    let Some(registry) = Registry::start(true) else { return };
    let node = node();
    registry.push("app:1", &small_image()).await;
    let name = registry.name("app:1");
    for credentials in [vec![], vec![basic("wrong")]] {
        let error = node.service.pull(&name, &credentials).await.unwrap_err();
        assert!(matches!(error, containers::Error::Unauthorized(_)), "{error:?}");
        let text = error.to_string();
        let start = format!("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": ");
        assert!(text.starts_with(&start) && !text.contains("secret") && !text.contains("wrong"), "{text}");
    }
    node.service.pull(&name, &[basic("wrong"), basic("secret")]).await.unwrap();
}

#[tokio::test]
async fn damaged_blobs_are_refused_and_leave_nothing() {
    let Some(registry) = Registry::start(false) else { return };
    let node = node();
    let image = small_image();
    registry.push("app:1", &image).await;
    let before = files(&node.service.store);
    let damaged = Digest::of(&image.packed()[1].0);
    registry.damage(&damaged);
    let error = node.service.pull(&registry.name("app:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to copy: layer of") && error.contains(&format!("unexpected digest: expected {damaged}")), "{error}");
    assert!(node.service.list().await.unwrap().is_empty());
    // Another layer may have been half unpacked.
    let given_up = async {
        while std::fs::read_dir(node.directory.path().join("tmp")).unwrap().next().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), given_up).await.expect("all layers are given up");
    node.service.store.tidy();
    let stayed: Vec<String> = files(&node.service.store).into_iter().filter(|file| !before.contains(file)).collect();
    // Good layers that were on their way may be gone on with.
    assert!(stayed.iter().all(|file| file.starts_with("partial/") && !file.contains(damaged.hex())), "{stayed:?}");
}

#[tokio::test]
async fn lying_manifests_and_diff_ids_are_refused() {
    let Some(registry) = Registry::start(false) else { return };
    let node = node();
    let (digest, _) = registry.push("app:1", &small_image()).await;
    registry.damage(&digest.parse().unwrap());
    let error = node.service.pull(&registry.name("app:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to resolve reference"), "{error}");
    // A configuration that promises other layers than those the manifest has.
    registry.push_raw("liar:1", small_image().packed(), small_image_of("something else").config()).await;
    let error = node.service.pull(&registry.name("liar:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to extract layer sha256:") && error.contains("unexpected digest"), "{error}");
    assert!(node.service.list().await.unwrap().is_empty());
}

fn small_image_of(content: &str) -> TestImage {
    let mut image = small_image();
    image.layers[1].0 = Layer::new().file("etc/name", content.as_bytes()).finish();
    image
}

#[tokio::test]
async fn mirrors_are_asked_first_and_may_fail() {
    let Some(registry) = Registry::start(false) else { return };
    let mut node = node();
    let image = small_image();
    registry.push("library/app:1", &image).await;
    let mirrors = vec!["http://127.0.0.1:9".to_owned(), format!("127.0.0.1:{}", registry.port)];
    node.service.registries.mirrors = BTreeMap::from([("registry.invalid".to_owned(), mirrors)]);
    let id = node.service.pull("registry.invalid/library/app:1", &[]).await.unwrap();
    assert_eq!(id, image.id());
    assert_eq!(node.service.status(&id).await.unwrap().unwrap().tags, ["registry.invalid/library/app:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_once_share_downloads() {
    let Some(registry) = Registry::start(false) else { return };
    let image = TestImage::new((0..4).map(|i| (Layer::new().file(&format!("f{i}"), &noise(2 << 20, i)).finish(), GZIP)).collect());
    registry.push("app:1", &image).await;
    let proxy = crate::resume::Proxy::start(registry.port, |_| crate::resume::Fate::Pass);
    let node = node();
    let other = Service { store: std::sync::Arc::new(Store::open(node.directory.path()).unwrap()), registries: quick() };
    let name = format!("127.0.0.1:{}/app:1", proxy.port);
    let pulls = (0..6).map(|i| {
        let (service, name) = (if i % 2 == 0 { node.service.clone() } else { other.clone() }, name.clone());
        tokio::spawn(async move { service.pull(&name, &[]).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        assert_eq!(pull.await.unwrap().unwrap(), image.id());
    }
    let size: usize = image.packed().iter().map(|(bytes, _)| bytes.len()).sum();
    assert!(proxy.bytes() < size + size / 4, "{} bytes came for {size}", proxy.bytes());
}

/// A registry that answers requests other than `/v2/` with these, one after the other, the last for
/// ever.
fn scripted(answers: Vec<(&'static str, &'static str)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut i = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap();
            let (status, body) = if request[..n].starts_with(b"GET /v2/ ") { ("200 OK", "{}") } else { answers[i] };
            if !request[..n].starts_with(b"GET /v2/ ") {
                i = (i + 1).min(answers.len() - 1);
            }
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    });
    port
}

#[tokio::test]
async fn old_schemas_are_named() {
    let port = scripted(vec![("200 OK", r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#)]);
    let error = node().service.pull(&format!("127.0.0.1:{port}/a:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("has schema version 1, only version 2 is supported"), "{error}");
}

#[tokio::test]
async fn errors_of_the_server_are_tried_again() {
    let name = format!("127.0.0.1:{}/a:1", scripted(vec![("503 Busy", ""), ("500 Broken", ""), ("404 Not Found", "")]));
    let error = node().service.pull(&name, &[]).await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("{name}: not found")), "{error}");
    let name = format!("127.0.0.1:{}/a:1", scripted(vec![("503 Busy", "come back later")]));
    let error = node().service.pull(&name, &[]).await.unwrap_err().to_string();
    assert!(error.ends_with("/v2/a/manifests/1: 503 come back later"), "{error}");
}

#[tokio::test]
async fn silent_servers_are_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut node = node();
    node.service.registries.attempts = 1;
    let name = format!("127.0.0.1:{}/a:1", listener.local_addr().unwrap().port());
    let error = node.service.pull(&name, &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to do request") && error.contains("timed out"), "{error}");
}

/// A file system of a few megabytes; unmounted when dropped, also on panic.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("small"), directory.path(), Some("tmpfs"), flags, Some(options)).unwrap();
        SmallDisk(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_breaks() {
    if !testing::can_run(&[Need::Root]) {
        return;
    }
    let Some(registry) = Registry::start(false) else { return };
    let disk = SmallDisk::mount("size=6m");
    let store = std::sync::Arc::new(Store::open(disk.0.path().join("store")).unwrap());
    let service = Service { store, registries: quick() };
    let small = small_image();
    registry.push("small:1", &small).await;
    service.pull(&registry.name("small:1"), &[]).await.unwrap();
    let before = files(&service.store);
    // The first does not fit while it comes, the second comes but cannot be unpacked.
    let zeros = vec![0; 16 << 20];
    for (tag, content) in [("big:1", noise(8 << 20, 1)), ("bomb:1", zeros)] {
        let image = TestImage::new(vec![(Layer::new().file("big", &content).finish(), GZIP)]);
        registry.push(tag, &image).await;
        let error = service.pull(&registry.name(tag), &[]).await.unwrap_err().to_string();
        assert!(error.contains("No space left on device"), "{error}");
        assert_eq!(files(&service.store), before);
    }
    assert_eq!(service.list().await.unwrap().len(), 1);
    assert_eq!(service.pull(&registry.name("small:1"), &[]).await.unwrap(), small.id());
}

#[test]
fn proxies_do_not_matter_on_the_loopback_interface() {
    if !testing::can_run(&[testing::REGISTRY]) {
        return;
    }
    // The environment is read when a client is made, and must not be changed in a process with
    // threads: another one does it.
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    let output = command.args(["--exact", "pull::an_image_comes_and_stays"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

const WITHOUT_CERTIFICATES: &str = "EVERYNODE_TEST_WITHOUT_CERTIFICATES";

/// In a process of its own, for the environment.
#[tokio::test]
async fn missing_certificates_are_an_error() {
    if std::env::var_os(WITHOUT_CERTIFICATES).is_some() {
        let error = node().service.pull("127.0.0.1:9/a:1", &[]).await.unwrap_err().to_string();
        assert!(error.contains("this machine has no CA certificates"), "{error}");
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env(WITHOUT_CERTIFICATES, "1").env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    let output = command.args(["--exact", "pull::missing_certificates_are_an_error"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
