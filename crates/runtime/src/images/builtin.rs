//! The built-in image: this program itself, for pods that need only what it brings along.
//!
//! Its layer is no archive: it is named by a digest of the program's identity and of the recipe
//! below instead of a diff id.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::{Error, Result};
use super::index::Record;
use super::store::{Prepared, Store};
use containers::reference;

/// Counted up when the files below change.
const RECIPE: u32 = 2;
const PROGRAM: &str = "everynode";
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What to make the image of.
#[derive(Debug, Clone, Copy)]
pub struct Builtin<'a> {
    /// `everynode.dev/agent:builtin`.
    pub name: &'a str,
    pub program: &'a Path,
    /// What a program that is not static needs: its libraries and its loader. They are found in
    /// /lib and /lib64.
    pub libraries: &'a [PathBuf],
    pub version: &'a str,
    /// Names in /bin that lead to the program; it looks at the name that it was started by.
    pub tools: &'a [&'a str],
}

impl Store {
    /// Makes the image unless it is here; one of an older program loses the name, and goes if no
    /// container holds it. Answers the id.
    pub fn add_builtin(&self, builtin: &Builtin<'_>) -> Result<Digest> {
        let name = reference::parse(builtin.name)?.canonical();
        let before = self.status(&name)?.map(|image| image.id);
        let (program, size_bytes) = identity_of(builtin.program)?;
        let recipe = format!("everynode builtin {RECIPE}\n{program}\n{}\n{}\n", builtin.version, builtin.tools.join(" "));
        let layer = Digest::of(recipe.as_bytes());
        let config = config(&layer, builtin.version);
        let id = Digest::of(&config);
        if before.as_deref() == Some(id.as_str()) {
            return Ok(id);
        }
        let _working = self.working()?;
        self.make_layer(&layer, builtin)?;
        self.put_blob(&config)?;
        let record = Record { layers: vec![layer], manifests: [].into(), size_bytes, user: String::new(), pinned: true };
        self.commit(&[Prepared { id: id.clone(), record, names: vec![name] }])?;
        if let Some(before) = before {
            self.retire(&before)?;
        }
        Ok(id)
    }

    fn make_layer(&self, layer: &Digest, builtin: &Builtin<'_>) -> Result<()> {
        if self.has_layer(layer) {
            return Ok(());
        }
        let scratch = self.scratch()?;
        let diff = scratch.path().join("diff");
        fill(&diff, builtin).map_err(Error::io("fill", &diff))?;
        self.finish_layer(layer, &scratch)
    }

    /// The image of an older program may be collected, now if no container holds it.
    fn retire(&self, id: &str) -> Result<()> {
        self.unpin(id)?;
        match self.remove(id) {
            Err(Error::Held { .. }) => Ok(()),
            other => other,
        }
    }
}

/// By size and time: reading the whole program at each start would take longer than starting.
fn identity_of(program: &Path) -> Result<(String, u64)> {
    let meta = fs::metadata(program).map_err(Error::io("read", program))?;
    Ok((format!("{} {}.{}", meta.len(), meta.mtime(), meta.mtime_nsec()), meta.len()))
}

fn config(layer: &Digest, version: &str) -> Vec<u8> {
    let platform = super::manifest::Platform::current();
    let config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "Entrypoint": [format!("/{PROGRAM}"), "builtin"],
            "Env": ["PATH=/bin"],
            "WorkingDir": "/",
            "Labels": {"org.opencontainers.image.version": version},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    });
    serde_json::to_vec(&config).expect("strings always become JSON")
}

/// A copy, not a hard link: an installer that writes a new program over the old one must not change
/// what containers run from.
fn fill(root: &Path, builtin: &Builtin<'_>) -> io::Result<()> {
    for (name, mode) in [("", 0o755), ("bin", 0o755), ("lib", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        let path = root.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    write_file(&root.join("etc/passwd"), PASSWD)?;
    write_file(&root.join("etc/group"), GROUP)?;
    fs::copy(builtin.program, root.join(PROGRAM))?;
    fs::set_permissions(root.join(PROGRAM), fs::Permissions::from_mode(0o755))?;
    symlink("lib", root.join("lib64"))?;
    for library in builtin.libraries {
        if let Some(name) = library.file_name() {
            fs::copy(library, root.join("lib").join(name))?;
        }
    }
    builtin.tools.iter().try_for_each(|tool| symlink(format!("/{PROGRAM}"), root.join("bin").join(tool)))
}

fn write_file(path: &Path, content: &str) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
