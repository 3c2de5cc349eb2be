//! An OCI image: the program and nothing else. The tar is an OCI layout, and has the file that
//! `docker load` reads, too.

use anyhow::Context;
use serde_json::{Value, json};

use super::contents::Entry;
use super::target::Architecture;
use super::{LICENSE, NAME, SUMMARY, VERSION, compressed, sha256, tar};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub fn make(program: &[u8], architecture: Architecture) -> anyhow::Result<Vec<u8>> {
    let files = [Entry { path: "usr/bin/everynode".to_owned(), content: program.to_vec(), mode: 0o755 }];
    let plain = tar(&files)?;
    let (name, tag) = (format!("docker.io/library/{NAME}:{VERSION}"), format!("{NAME}:{VERSION}"));
    let mut blobs = Vec::new();
    let layer = blob(&mut blobs, LAYER, compressed(&plain)?);
    let config = json!({
        "architecture": architecture.oci,
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/everynode"],
            "Env": ["PATH=/usr/bin"],
            "Labels": {"org.opencontainers.image.title": NAME, "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.description": SUMMARY, "org.opencontainers.image.licenses": LICENSE},
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&plain))]},
        "history": [{"created_by": "cargo xtask dist"}],
    });
    let config = blob(&mut blobs, CONFIG, bytes(&config)?);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut manifest = blob(&mut blobs, MANIFEST, bytes(&manifest)?);
    manifest["platform"] = json!({"architecture": architecture.oci, "os": "linux"});
    manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": VERSION});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]});
    let docker = json!([{"Config": path(&config), "RepoTags": [tag], "Layers": [path(&layer)]}]);
    let text = |path: &str, value: &Value| Ok::<_, anyhow::Error>(Entry { path: path.to_owned(), content: bytes(value)?, mode: 0o644 });
    blobs.push(text("index.json", &index)?);
    blobs.push(text("manifest.json", &docker)?);
    blobs.push(text("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?);
    tar(&blobs)
}

/// Adds a blob and answers its descriptor.
fn blob(blobs: &mut Vec<Entry>, media_type: &str, content: Vec<u8>) -> Value {
    let digest = format!("sha256:{}", sha256(&content));
    let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
    blobs.push(Entry { path: path(&descriptor), content, mode: 0o644 });
    descriptor
}

fn path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

fn bytes(value: &Value) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(value).context("cannot write JSON")
}
