//! Images made by tests: busybox, or any files, as an archive for `everynode load` or as documents
//! for a registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The program that all of busybox's commands are; linked statically.
const BUSYBOX: &str = "/bin/busybox";

/// An image of one layer.
pub struct Image {
    /// An uncompressed tar archive.
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
}

impl Image {
    /// All of busybox's commands in /bin, root in /etc/passwd.
    pub fn busybox() -> Image {
        Image::of(busybox_layer())
    }

    /// Programs and files of this machine at the same places, and the shell that busybox is.
    pub fn with_files(files: &[(PathBuf, &str)]) -> Image {
        let mut layer = busybox_layer();
        for (from, to) in files {
            let content = std::fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            add(&mut layer, to, &content, 0o755);
        }
        Image::of(layer)
    }

    fn of(layer: tar::Builder<Vec<u8>>) -> Image {
        let layer = layer.into_inner().expect("memory can be written to");
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        Image { config: config.to_string().into_bytes(), layer }
    }

    /// As `docker save` writes it.
    pub fn save(&self, path: &Path, names: &[&str]) {
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive, "layer.tar", &self.layer, 0o644);
        add(&mut archive, "config.json", &self.config, 0o644);
        let manifest = json!([{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]);
        add(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
        let mut file = std::fs::File::create(path).expect("the temporary folder can be written to");
        file.write_all(&archive.into_inner().expect("memory can be written to")).expect("the archive can be written");
    }

    /// What a registry has to tell what the image consists of.
    pub fn manifest(&self) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json", "size": self.config.len(), "digest": digest(&self.config),
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": self.layer.len(), "digest": digest(&self.layer),
            }],
        })
    }
}

/// `sha256:HEX`.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn busybox_layer() -> tar::Builder<Vec<u8>> {
    let program = std::fs::read(BUSYBOX).expect("busybox-static is installed");
    let listed = Command::new(BUSYBOX).arg("--list").output().expect("busybox runs").stdout;
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin", "etc", "tmp", "root", "var", "dev", "proc", "sys", "usr", "usr/bin"] {
        let mut header = header(tar::EntryType::Directory, 0, if dir == "tmp" { 0o1777 } else { 0o755 });
        layer.append_data(&mut header, dir, std::io::empty()).expect("memory can be written to");
    }
    add(&mut layer, "bin/busybox", &program, 0o755);
    for applet in String::from_utf8_lossy(&listed).split_whitespace().filter(|applet| *applet != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0, 0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory can be written to");
    }
    add(&mut layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
    add(&mut layer, "etc/group", b"root:x:0:\n", 0o644);
    layer
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) {
    let mut header = header(tar::EntryType::Regular, content.len() as u64, mode);
    archive.append_data(&mut header, path, content).expect("memory can be written to");
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
