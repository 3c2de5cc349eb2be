//! The files that are given to people, and where packages put them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::target::Target;
use super::{compressed, target_folder};
use crate::tidy::root;

/// A file of an archive or a package. Paths have no slash at their beginning.
#[derive(Clone)]
pub struct Entry {
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
}

impl Entry {
    fn new(path: String, content: Vec<u8>) -> Entry {
        Entry { path, content, mode: 0o644 }
    }

    pub fn below(entries: &[Entry], folder: &str) -> Vec<Entry> {
        entries.iter().map(|entry| Entry { path: format!("{folder}/{}", entry.path), ..entry.clone() }).collect()
    }

    /// Settings, which upgrades leave as their administrator made them.
    pub fn is_setting(&self) -> bool {
        self.path.starts_with("etc/")
    }

    pub fn is_doc(&self) -> bool {
        self.path.starts_with("usr/share/doc/") || self.path.starts_with("usr/share/man/")
    }
}

pub struct Contents {
    pub program: Vec<u8>,
    /// As the archive has them.
    pub archive: Vec<Entry>,
    /// As packages install them.
    pub installed: Vec<Entry>,
    pub scripts: Scripts,
}

/// What packages run.
pub struct Scripts {
    pub after_install: String,
    pub before_remove: String,
    pub after_remove: String,
}

impl Contents {
    pub fn collect(target: &Target, path: &Path) -> anyhow::Result<Contents> {
        let root = root()?;
        let program = read(path)?;
        let executable = |path: &str| Entry { mode: 0o755, ..Entry::new(path.to_owned(), program.clone()) };
        let mut archive = vec![executable("everynode")];
        let mut installed = vec![executable("usr/bin/everynode")];
        for name in ["LICENSE", "README.md", "CHANGELOG.md"] {
            let content = read(&root.join(name))?;
            archive.push(Entry::new(name.to_owned(), content.clone()));
            let name = if name == "LICENSE" { "copyright" } else { name };
            installed.push(Entry::new(format!("usr/share/doc/everynode/{name}"), content));
        }
        for unit in files(&root.join("packaging/systemd"))? {
            let (name, content) = (file_name(&unit), read(&unit)?);
            // Packages leave /usr/local to the administrator.
            let packaged = String::from_utf8_lossy(&content).replace("/usr/local/bin/", "/usr/bin/");
            archive.push(Entry::new(format!("systemd/{name}"), content));
            installed.push(Entry::new(format!("usr/lib/systemd/system/{name}"), packaged.into_bytes()));
        }
        for settings in files(&root.join("packaging/default"))? {
            installed.push(Entry::new(format!("etc/default/{}", file_name(&settings)), read(&settings)?));
        }
        for (shell, name, place) in COMPLETIONS {
            let script = target.run(path, &["completions", shell])?.into_bytes();
            archive.push(Entry::new(format!("completions/{name}"), script.clone()));
            installed.push(Entry::new((*place).to_owned(), script));
        }
        for page in pages(target, path)? {
            let (name, content) = (file_name(&page), read(&page)?);
            installed.push(Entry::new(format!("usr/share/man/man1/{name}.gz"), compressed(&content)?));
            archive.push(Entry::new(format!("man/man1/{name}"), content));
        }
        Ok(Contents { program, archive, installed, scripts: Scripts::read(&root.join("packaging/scripts"))? })
    }
}

impl Scripts {
    fn read(dir: &Path) -> anyhow::Result<Scripts> {
        let script = |name: &str| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&read(&dir.join(name))?).into_owned());
        Ok(Scripts {
            after_install: script("after-install")?,
            before_remove: script("before-remove")?,
            after_remove: script("after-remove")?,
        })
    }
}

/// Shell, name in the archive, place in packages.
const COMPLETIONS: &[(&str, &str, &str)] = &[
    ("bash", "everynode.bash", "usr/share/bash-completion/completions/everynode"),
    ("zsh", "_everynode", "usr/share/zsh/vendor-completions/_everynode"),
    ("fish", "everynode.fish", "usr/share/fish/vendor_completions.d/everynode.fish"),
];

fn pages(target: &Target, program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let dir = target_folder()?.join("dist/man");
    target.run(program, &["man", &dir.display().to_string()])?;
    files(&dir)
}

/// The folders above the entries, those above before those below.
pub fn folders(entries: &[Entry]) -> BTreeSet<String> {
    let above = |entry: &Entry| {
        let folders = Path::new(&entry.path).ancestors().skip(1).map(|folder| folder.display().to_string());
        folders.filter(|folder| !folder.is_empty()).collect::<Vec<_>>()
    };
    entries.iter().flat_map(above).collect()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

pub fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.sort();
    Ok(files)
}

pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
