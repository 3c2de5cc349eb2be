//! An image archive as `docker save` writes it, of nothing but busybox.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 16] =
    ["sh", "sleep", "cat", "echo", "id", "ls", "grep", "nc", "stty", "touch", "env", "kill", "true", "dd", "head", "tty"];

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, mode, bytes: &[u8]| {
        let mut header = header(path, tar::EntryType::Regular, mode, bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    };
    put("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    put("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nworker:x:1000:1001::/:/bin/sh\n");
    put("etc/group", 0o644, b"root:x:0:\nworker:x:1001:\nextra:x:2002:worker\n");
    for applet in APPLETS {
        let mut header = header(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, 0);
        header.set_link_name("busybox").unwrap();
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Both images have the same layer; `config` is added to what each is configured with.
pub fn write(path: &Path, images: &[(&str, Value)]) {
    let layer = layer();
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = header(name, tar::EntryType::Regular, 0o644, bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    };
    put("layer.tar", &layer);
    let mut manifest = Vec::new();
    for (tag, config) in images {
        let config = json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
        });
        let bytes = serde_json::to_vec(&config).unwrap();
        let name = format!("{}.json", digest(&bytes));
        put(&name, &bytes);
        manifest.push(json!({"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}));
    }
    put("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    tar.into_inner().unwrap();
}
