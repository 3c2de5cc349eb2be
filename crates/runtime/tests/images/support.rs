//! Layers and images made in memory, and a registry of the test's own.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use runtime::images::digest::Digest;
use runtime::images::{Registries, Service, Store};
use tempfile::TempDir;

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer's archive, entry by entry.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    pub fn add(mut self, header: &mut tar::Header, path: &str, content: &[u8]) -> Layer {
        self.0.append_data(header, path, content).unwrap();
        self
    }

    pub fn file(self, path: &str, content: &[u8]) -> Layer {
        self.add(&mut Layer::header(tar::EntryType::Regular, content.len()), path, content)
    }

    pub fn owned(self, path: &str, content: &[u8], mode: u32, uid: u64) -> Layer {
        let mut header = Layer::header(tar::EntryType::Regular, content.len());
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid);
        self.add(&mut header, path, content)
    }

    pub fn directory(self, path: &str) -> Layer {
        self.add(&mut Layer::header(tar::EntryType::Directory, 0), path, b"")
    }

    /// Names as they are: the library itself would refuse bad ones.
    pub fn raw(mut self, kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Layer {
        let mut header = Layer::header(kind, content.len());
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn appended(mut self, header: &tar::Header, content: &[u8]) -> Layer {
        self.0.append(header, content).unwrap();
        self
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.raw(tar::EntryType::Symlink, path, target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.raw(tar::EntryType::Link, path, target, b"")
    }

    pub fn extended(mut self, attributes: &[(&str, &[u8])]) -> Layer {
        self.0.append_pax_extensions(attributes.iter().copied()).unwrap();
        self
    }

    pub fn device(mut self, kind: tar::EntryType, path: &str, major: u32, minor: u32) -> Layer {
        let mut header = Layer::header(kind, 0);
        if kind != tar::EntryType::Fifo {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An image: plain archives of its layers, and how each is to be packed.
pub struct TestImage {
    pub layers: Vec<(Vec<u8>, &'static str)>,
    pub architecture: &'static str,
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl TestImage {
    pub fn new(layers: Vec<(Vec<u8>, &'static str)>) -> TestImage {
        TestImage { layers, architecture: architecture() }
    }

    pub fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|(archive, _)| Digest::of(archive)).collect();
        let config = serde_json::json!({
            "architecture": self.architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=1"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "User": "app:staff", "WorkingDir": "/data",
                       "StopSignal": "SIGINT", "Volumes": {"/cache": {}}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        serde_json::to_vec(&config).unwrap()
    }

    pub fn id(&self) -> String {
        Digest::of(&self.config()).to_string()
    }

    pub fn packed(&self) -> Vec<(Vec<u8>, &'static str)> {
        let pack = |archive: &[u8], media_type| match media_type {
            GZIP => gzip(archive),
            ZSTD => zstd(archive),
            _ => archive.to_vec(),
        };
        self.layers.iter().map(|(archive, media_type)| (pack(archive, media_type), *media_type)).collect()
    }

    /// As `docker save` writes it, into a file in that directory.
    pub fn save(&self, directory: &Path, tags: &[&str]) -> PathBuf {
        let config = self.config();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let names: Vec<String> = (0..self.layers.len()).map(|i| format!("{i}/layer.tar")).collect();
        let manifest = serde_json::json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        let mut archive = Layer::new().file(&config_name, &config);
        for (name, (layer, _)) in names.iter().zip(&self.layers) {
            archive = archive.file(name, layer);
        }
        let path = directory.join(format!("{}.tar", Digest::of(&config).hex()));
        fs::write(&path, archive.file("manifest.json", &serde_json::to_vec(&manifest).unwrap()).finish()).unwrap();
        path
    }
}

pub fn small_image() -> TestImage {
    TestImage::new(vec![
        (Layer::new().directory("bin").file("bin/tool", b"one").finish(), GZIP),
        (Layer::new().file("etc/name", b"two").finish(), ZSTD),
        (Layer::new().file("data/x", b"three").finish(), PLAIN),
    ])
}

/// A store in a directory of its own, and a service with quick retries.
pub struct Node {
    pub directory: TempDir,
    pub service: Service,
}

pub fn quick() -> Registries {
    Registries { stall_seconds: 1, backoff_milliseconds: 5, ..Registries::default() }
}

pub fn node() -> Node {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(directory.path()).unwrap());
    Node { directory, service: Service { store, registries: quick() } }
}

/// All files of a store but the locks, to see what stayed.
pub fn files(store: &Store) -> Vec<String> {
    fn walk(path: &Path, base: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() && !path.ends_with("diff") {
                walk(&path, base, found);
            } else {
                found.push(path.strip_prefix(base).unwrap().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(store.directory(), store.directory(), &mut found);
    found.retain(|path| path != "lock" && path != "working" && !path.starts_with("used"));
    found.sort();
    found
}

/// A registry on the loopback interface; stopped when dropped.
pub struct Registry {
    child: Child,
    pub directory: TempDir,
    pub port: u16,
    auth: RegistryAuth,
}

/// `user` with the password `secret`.
const HTPASSWD: &str = "user:$2y$05$z.ARaOfpMBDFJ1YaZE.yEuZAEykkAj1MlWbJXyu8i.vZfOOFkicm2\n";

impl Registry {
    /// None: the test cannot run here.
    pub fn start(with_password: bool) -> Option<Registry> {
        if !testing::can_run(&[testing::REGISTRY]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = directory.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n"
        );
        if with_password {
            fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n");
        }
        let config_path = directory.path().join("config.yml");
        fs::write(&config_path, config).unwrap();
        let child =
            Command::new("docker-registry").arg("serve").arg(&config_path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let auth = if with_password { RegistryAuth::Basic("user".into(), "secret".into()) } else { RegistryAuth::Anonymous };
        let registry = Registry { child, directory, port, auth };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    pub fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    fn client(&self) -> oci_client::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http_proxy = Some("http://127.0.0.1:9".to_owned());
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            accept_invalid_certificates: true,
            http_proxy,
            no_proxy: Some("*,0.0.0.0/0".into()),
            ..ClientConfig::default()
        };
        oci_client::Client::try_from(config).unwrap()
    }

    /// Answers the digest and size of the manifest.
    pub async fn push(&self, name: &str, image: &TestImage) -> (String, usize) {
        self.push_raw(name, image.packed(), image.config()).await
    }

    pub async fn push_raw(&self, name: &str, layers: Vec<(Vec<u8>, &str)>, config: Vec<u8>) -> (String, usize) {
        let reference: oci_client::Reference = self.name(name).parse().unwrap();
        let layers: Vec<ImageLayer> =
            layers.into_iter().map(|(bytes, media_type)| ImageLayer::new(bytes, media_type.to_owned(), None)).collect();
        let client = self.client();
        client.push(&reference, &layers, Config::oci_v1(config, None), &self.auth, None).await.unwrap();
        let (raw, digest) =
            client.pull_manifest_raw(&reference, &self.auth, &["application/vnd.oci.image.manifest.v1+json"]).await.unwrap();
        (digest, raw.len())
    }

    pub async fn push_index(&self, name: &str, entries: serde_json::Value) -> String {
        let reference: oci_client::Reference = self.name(name).parse().unwrap();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        let client = self.client();
        client.store_auth_if_needed(reference.resolve_registry(), &self.auth).await;
        client.push_manifest_list(&reference, &self.auth, serde_json::from_value(index).unwrap()).await.unwrap();
        client.pull_manifest_raw(&reference, &self.auth, &[media_type]).await.unwrap().1
    }

    /// The registry's own file of a blob.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        self.directory.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{}/data", &digest.hex()[..2], digest.hex()))
    }

    pub fn damage(&self, digest: &Digest) {
        let path = self.blob_file(digest);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
