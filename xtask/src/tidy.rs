//! `cargo xtask tidy`: rules of the house that no other tool checks, with texts that say what to
//! do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Which of our crates a crate may depend on. What is not listed is not allowed.
const ARROWS: &[(&str, &[&str])] = &[
    ("kinds", &[]),
    ("brain", &["kinds"]),
    ("store", &[]),
    ("wire", &[]),
    ("apiserver", &["kinds", "store", "wire"]),
    ("controllers", &["brain"]),
    ("net", &[]),
    ("runtime", &[]),
    ("agent", &["brain", "kinds", "net", "runtime", "wire"]),
    ("everynode", &["agent", "apiserver", "brain", "controllers", "kinds", "net", "runtime", "store"]),
    ("sim", &["brain"]),
    ("xtask", &["apiserver", "kinds", "runtime", "sim", "store"]),
];

/// What the pure crates must not know: I/O, time, randomness, logging.
const IMPURE: &[&str] = &["tokio", "hyper", "kube", "rand", "uuid", "tracing", "redb"];
const PURE: &[&str] = &["kinds", "brain", "sim"];
const IMPURE_TEXTS: &[&str] = &["SystemTime::now", "Instant::now", "Timestamp::now", "std::fs", "TcpStream", "UdpSocket", "std::env"];

/// What removes a tree without asking what is mounted in it. Spelt apart, so that this file does
/// not find itself.
const TREE_REMOVALS: &[&str] = &[concat!("remove_", "dir_all"), concat!("temp", "dir()"), concat!("Temp", "Dir")];

/// Files below this length need no introduction.
const INTRODUCTION_LINES_MIN: usize = 50;

pub fn run() -> anyhow::Result<()> {
    let mut findings = check_arrows()?;
    for file in rust_files(&root()?)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        findings.extend(check_file(&file, &text));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

/// The folder of the workspace.
pub fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the workspace's folder")?.to_owned())
}

fn check_arrows() -> anyhow::Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(krate, _)| *krate == name) else {
            findings.push(format!("{name}: a new crate; say in xtask/src/tidy.rs what it may depend on"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null());
        for dependency in dependencies.filter_map(|d| d["name"].as_str()) {
            if ARROWS.iter().any(|(krate, _)| *krate == dependency) && !allowed.contains(&dependency) {
                findings.push(format!("{name} depends on {dependency}, which ARCHITECTURE.md does not allow"));
            }
            if PURE.contains(&name) && IMPURE.contains(&dependency) {
                findings.push(format!("{name} is pure, but depends on {dependency}"));
            }
        }
    }
    Ok(findings)
}

fn rust_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn check_file(file: &Path, text: &str) -> Vec<String> {
    let place = file.display();
    let mut findings = Vec::new();
    if text.lines().count() > INTRODUCTION_LINES_MIN && !text.starts_with("//!") {
        findings.push(format!("{place}: begin with `//!`: what it does, what goes in, what comes out"));
    }
    // Spelt apart, so that this file does not find itself.
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimplement", "ed!(")];
    for (at, line) in text.lines().enumerate() {
        if let Some(word) = unfinished.iter().find(|word| line.contains(**word)) {
            findings.push(format!("{place}:{}: {word} without an issue; put it into docs/roadmap.md", at + 1));
        }
    }
    let is_test = file.components().any(|part| part.as_os_str() == "tests") || file.file_name().is_some_and(|name| name == "tests.rs");
    let removes = |line: &str| !line.trim_start().starts_with("//") && TREE_REMOVALS.iter().any(|call| line.contains(call));
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    if let Some(at) = code.lines().position(removes).filter(|_| !is_test) {
        findings.push(format!(
            "{place}:{}: remove trees with runtime::trees, which follows no links, crosses no mounts and stays in its folder",
            at + 1
        ));
    }
    let pure = PURE.iter().any(|krate| file.components().any(|c| c.as_os_str() == *krate));
    let test = file.to_string_lossy().contains("test") || file.to_string_lossy().contains("golden");
    if pure && !test {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let found =
            IMPURE_TEXTS.iter().filter(|impure| code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(**impure)));
        findings.extend(found.map(|impure| format!("{place}: {impure} in a pure crate; let the caller give it")));
    }
    findings
}
