//! Images from a registry: a real one, with a password, behind a proxy that misbehaves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use testing::Need;

use super::faulty_proxy::{Mood, Proxy};
use crate::support::cluster::{container, pod, wait_long};
use crate::support::{Cluster, Image, digest};

const USER: &str = "puller";
const PASSWORD: &str = "correct horse";
const REPOSITORY: &str = "team/tool";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[test]
fn images_come_from_a_registry() {
    let Some(cluster) = Cluster::start_or_skip("pulls", 0) else { return };
    let Some(registry) = Registry::start_or_skip(&cluster) else { return };
    let proxy = Proxy::start(&cluster.gateway(), &registry.address);
    // A node that comes now knows which registries have no TLS.
    let settings = json!({"insecure": [registry.address, proxy.address], "stallSeconds": 2, "attempts": 2});
    std::fs::write(cluster.dir().join("registries.yaml"), settings.to_string()).expect("the cluster's folder can be written to");
    cluster.succeed(&["node", "add"]);
    cluster.wait_node(&cluster.worker(), "True");
    create_password(&cluster, "direct", &registry.address, PASSWORD);
    create_password(&cluster, "through-proxy", &proxy.address, PASSWORD);
    create_password(&cluster, "mistaken", &registry.address, "guess");

    with_password(&cluster, &registry);
    with_wrong_password(&cluster, &registry);
    by_digest(&cluster, &registry);
    through_a_bad_network(&cluster, &registry, &proxy);
    lies_are_found(&cluster, &registry, &proxy);
}

fn create_password(cluster: &Cluster, name: &str, host: &str, password: &str) {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    let config = json!({"auths": {host: {"username": USER, "password": password, "auth": auth}}});
    let secret = json!({
        "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config.to_string()},
    });
    cluster.api().create(SECRETS, &secret);
}

fn pulling(cluster: &Cluster, name: &str, image: &str, secret: Option<&str>) -> Value {
    let mut pod = pod(name, "echo pulled; exec sleep 1000");
    pod["spec"]["nodeName"] = cluster.worker().into();
    pod["spec"]["containers"][0]["image"] = image.into();
    pod["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    if let Some(secret) = secret {
        pod["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
    }
    pod
}

fn with_password(cluster: &Cluster, registry: &Registry) {
    let image = registry.push(&Image::busybox(), "1");
    cluster.create_pod(&pulling(cluster, "right", &image, Some("direct")));
    let pod = cluster.wait_ready("right");
    let id = container(&pod)["imageID"].as_str().unwrap_or_default();
    assert!(id.contains(&format!("{}/{REPOSITORY}@sha256:", registry.address)), "{id}");
    // Events are written beside everything else.
    let told = || cluster.events("right").iter().any(|event| event.starts_with("Pulled: Successfully pulled image"));
    cluster.wait_pod("right", "told of", |_| told());
}

fn with_wrong_password(cluster: &Cluster, registry: &Registry) {
    let image = registry.image("1");
    cluster.create_pod(&pulling(cluster, "wrong", &image, Some("mistaken")));
    cluster.create_pod(&pulling(cluster, "none", &image, None));
    for name in ["wrong", "none"] {
        cluster.wait_pod(name, "refused", |pod| {
            let waiting = &container(pod)["state"]["waiting"];
            ["ErrImagePull", "ImagePullBackOff"].contains(&waiting["reason"].as_str().unwrap_or_default())
        });
        let described = cluster.kubectl().until(&format!("describe pod {name}"), |text| text.contains("Back-off pulling image"));
        assert!(described.contains("ErrImagePull") && described.contains("Failed to pull image"), "{described}");
        let is_named = described.contains("authorization failed") || described.contains("401 Unauthorized");
        assert!(is_named, "the cause is named: {described}");
        assert!(!described.contains("guess"), "the password is not");
        cluster.delete_pod(name);
    }
}

fn by_digest(cluster: &Cluster, registry: &Registry) {
    let manifest = Image::busybox().manifest().to_string();
    let image = format!("{}/{REPOSITORY}@{}", registry.address, digest(manifest.as_bytes()));
    cluster.create_pod(&pulling(cluster, "digest", &image, Some("direct")));
    cluster.wait_ready("digest");
}

/// An image that no node has yet, as big as a real one's layer.
fn new_image(cluster: &Cluster, name: &str) -> Image {
    let filling: Vec<u8> = (0..6_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).chain(name.bytes()).collect();
    let path = cluster.home.path(name);
    std::fs::write(&path, filling).expect("the temporary folder can be written to");
    Image::with_files(&[(path, "filling")])
}

/// The registry says nothing, or is gone, and then it is well again; or it breaks off all the time,
/// and each time a piece more has come.
fn through_a_bad_network(cluster: &Cluster, registry: &Registry, proxy: &Proxy) {
    for (name, mood) in [("stalls", Mood::Silent), ("gone", Mood::Refuses)] {
        registry.push(&new_image(cluster, name), name);
        proxy.set(mood);
        cluster.create_pod(&pulling(cluster, name, &format!("{}/{REPOSITORY}:{name}", proxy.address), Some("through-proxy")));
        cluster.wait_pod(name, "stuck", |_| cluster.events(name).iter().any(|event| event.starts_with("Failed: Failed to pull image")));
        proxy.set(Mood::Well);
        cluster.wait_ready(name);
        cluster.delete_pod(name);
    }
    registry.push(&new_image(cluster, "breaks"), "breaks");
    proxy.set(Mood::BreaksOff(2_000_000));
    cluster.create_pod(&pulling(cluster, "breaks", &format!("{}/{REPOSITORY}:breaks", proxy.address), Some("through-proxy")));
    cluster.wait_ready("breaks");
    proxy.set(Mood::Well);
}

/// A layer that is not what its digest says must never run.
fn lies_are_found(cluster: &Cluster, registry: &Registry, proxy: &Proxy) {
    let image = new_image(cluster, "lies");
    registry.push(&image, "lies");
    proxy.set(Mood::Lies);
    cluster.create_pod(&pulling(cluster, "lies", &format!("{}/{REPOSITORY}:lies", proxy.address), Some("through-proxy")));
    let layer = digest(&image.layer);
    cluster.wait_pod("lies", "refused", |_| {
        cluster.events("lies").iter().any(|event| event.starts_with("Failed: Failed to pull image") && event.contains(&layer))
    });
    assert_eq!(container(&cluster.pod("lies"))["restartCount"], 0);
    proxy.set(Mood::Well);
    cluster.wait_ready("lies");
}

/// Debian's docker-registry, which ends with the value.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    fn start_or_skip(cluster: &Cluster) -> Option<Registry> {
        if !testing::can_run(&[testing::REGISTRY, Need::Program { name: "htpasswd", package: "apache2-utils" }]) {
            return None;
        }
        let passwords = Command::new("htpasswd").args(["-Bbn", "-C", "4", USER, PASSWORD]).output().expect("htpasswd runs").stdout;
        let passwords = cluster.home.file("htpasswd", &String::from_utf8_lossy(&passwords));
        let address = format!("{}:{}", cluster.gateway(), free_port(&cluster.gateway()));
        let config = cluster.home.file("registry.yml", &configuration(&address, &cluster.home.path("registry"), &passwords));
        let log = std::fs::File::create(cluster.home.path("registry.log")).expect("the temporary folder can be written to");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(log).stderr(errors);
        let registry = Registry { process: command.spawn().expect("the registry can be started"), address };
        wait_long("the registry", || (registry.ask("GET", "/v2/", None, "").0 == 200).then_some(()));
        Some(registry)
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.address)
    }

    /// Puts the image there and returns its name.
    fn push(&self, image: &Image, tag: &str) -> String {
        for bytes in [&image.layer, &image.config] {
            let (code, location) = self.ask("POST", &format!("/v2/{REPOSITORY}/blobs/uploads/"), Some(b""), "");
            assert_eq!(code, 202, "an upload begins");
            let place = location.split_once(&self.address).map_or(location.clone(), |(_, path)| path.to_owned());
            let joint = if place.contains('?') { '&' } else { '?' };
            let (code, _) = self.ask("PUT", &format!("{place}{joint}digest={}", digest(bytes)), Some(bytes), "application/octet-stream");
            assert_eq!(code, 201, "a blob is stored");
        }
        let manifest = image.manifest();
        let kind = manifest["mediaType"].as_str().expect("manifests have types");
        let (code, _) = self.ask("PUT", &format!("/v2/{REPOSITORY}/manifests/{tag}"), Some(manifest.to_string().as_bytes()), kind);
        assert_eq!(code, 201, "a manifest is stored");
        self.image(tag)
    }

    /// Code and Location of the answer to a request as the user.
    fn ask(&self, method: &str, path: &str, body: Option<&[u8]>, kind: &str) -> (u16, String) {
        super::faulty_proxy::request(&self.address, method, path, &format!("{USER}:{PASSWORD}"), kind, body.unwrap_or_default())
            .unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port(address: &str) -> u16 {
    let listener = std::net::TcpListener::bind((address, 0)).expect("the cluster's address is the machine's");
    listener.local_addr().expect("it listens").port()
}

fn configuration(address: &str, storage: &Path, passwords: &PathBuf) -> String {
    let text = json!({
        "version": 0.1, "log": {"level": "warn"}, "http": {"addr": address, "secret": "of the test"},
        "storage": {"filesystem": {"rootdirectory": storage}},
        "auth": {"htpasswd": {"realm": "test", "path": passwords}},
    });
    text.to_string()
}
