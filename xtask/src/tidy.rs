//! `cargo xtask tidy`: rules of the house that no other tool checks, with texts that say what to
//! do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::modules;

/// Which of our crates a crate may depend on. What is not listed is not allowed.
const ARROWS: &[(&str, &[&str])] = &[
    ("kinds", &[]),
    ("containers", &[]),
    ("brain", &["containers", "kinds"]),
    ("rust-criu", &[]),
    ("store", &[]),
    // For tests: among the dev-dependencies every crate may name it.
    ("testing", &[]),
    ("wire", &[]),
    ("apiserver", &["kinds", "store", "wire"]),
    ("controllers", &["brain"]),
    ("net", &["containers"]),
    ("runtime", &["containers", "wire"]),
    ("agent", &["brain", "containers", "kinds", "net", "runtime", "wire"]),
    ("addons", &["brain", "containers", "net", "wire"]),
    ("everynode", &["addons", "agent", "apiserver", "brain", "containers", "controllers", "kinds", "net", "runtime", "store"]),
    ("sim", &["brain"]),
    ("xtask", &["addons", "apiserver", "brain", "containers", "kinds", "net", "runtime", "sim", "store", "testing"]),
];

/// What the pure crates must not know: I/O, time, randomness, logging.
const IMPURE: &[&str] = &["tokio", "hyper", "kube", "rand", "uuid", "tracing", "redb"];
const PURE: &[&str] = &["kinds", "containers", "brain", "sim"];
const IMPURE_TEXTS: &[&str] = &["SystemTime::now", "Instant::now", "Timestamp::now", "std::fs", "TcpStream", "UdpSocket", "std::env"];

/// What removes a tree without asking what is mounted in it. Spelt apart, so that this file does
/// not find itself.
const TREE_REMOVALS: &[&str] = &[concat!("remove_", "dir_all"), concat!("temp", "dir()"), concat!("Temp", "Dir")];

/// What a test does that decides by itself whether it can run. Spelt apart, as above.
const SKIPS_BY_HAND: &[&str] =
    &[concat!("get", "euid("), concat!("get", "uid("), concat!("var(\"EVERYNODE_", "GOLDEN"), concat!("var_os(\"EVERYNODE_", "GOLDEN")];
const PRINTS: &[&str] = &["println!(", "print!("];
const SKIP_WORDS: &[&str] = &["skipped", "left out"];

/// Folders and files that only tests are compiled with.
const TEST_STEMS: &[&str] = &["tests", "testing", "golden", "fixture"];

/// Files below this length need no introduction.
const INTRODUCTION_LINES_MIN: usize = 50;

/// Columns of comments and of pages.
const COLUMNS_MAX: usize = 100;

pub fn run() -> anyhow::Result<()> {
    let root = root()?;
    let mut findings = check_arrows()?;
    for file in files(&root, "rs")? {
        let text = read(&root, &file)?;
        findings.extend(check_file(&file, &text));
        findings.extend(modules::check(&file, &text));
        findings.extend(root.join(file.with_extension("")).is_dir().then(|| {
            let folder = file.with_extension("");
            format!("{}: a module with a folder is {}/mod.rs", file.display(), folder.display())
        }));
    }
    for file in files(&root, "md")? {
        findings.extend(check_page(&file, &read(&root, &file)?));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

fn read(root: &Path, file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))
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

/// Paths below `root`, relative to it: how the checkout's own folders are called decides nothing.
fn files(root: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(root.join(&folder));
        for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `file` is relative to the workspace's folder.
fn check_file(file: &Path, text: &str) -> Vec<String> {
    let place = file.display();
    let mut findings = Vec::new();
    if text.lines().count() > INTRODUCTION_LINES_MIN && !text.starts_with("//!") {
        findings.push(format!("{place}: begin with `//!`: what it does, what goes in, what comes out"));
    }
    let comments = text.lines().map(|line| if line.trim_start().starts_with("//") { line } else { "" });
    findings.extend(wide_lines(comments).map(|line| format!("{place}:{line}: a comment of more than {COLUMNS_MAX} columns")));
    // Spelt apart, so that this file does not find itself.
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimplement", "ed!(")];
    for (at, line) in text.lines().enumerate() {
        if let Some(word) = unfinished.iter().find(|word| line.contains(**word)) {
            findings.push(format!("{place}:{}: {word} without an issue; put it into docs/roadmap.md", at + 1));
        }
    }
    let is_test = is_test(file);
    let removes = |line: &str| !line.trim_start().starts_with("//") && TREE_REMOVALS.iter().any(|call| line.contains(call));
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    if let Some(at) = code.lines().position(removes).filter(|_| !is_test) {
        findings.push(format!(
            "{place}:{}: remove trees with runtime::trees, which follows no links, crosses no mounts and stays in its folder",
            at + 1
        ));
    }
    if !file.starts_with("crates/testing") {
        let from = if is_test { 0 } else { code.lines().count() };
        findings.extend(
            skips_by_hand(text, from).map(|at| {
                format!("{place}:{at}: let testing::can_run decide whether a test can run, and say so: it counts what is skipped")
            }),
        );
    }
    let pure = PURE.iter().any(|krate| file.starts_with(Path::new("crates").join(krate)));
    if pure && !is_test {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let found =
            IMPURE_TEXTS.iter().filter(|impure| code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(**impure)));
        findings.extend(found.map(|impure| format!("{place}: {impure} in a pure crate; let the caller give it")));
    }
    findings
}

/// The numbers of lines behind the first `from` where a test asks the machine itself what it needs,
/// or tells by itself that it is skipped.
fn skips_by_hand(text: &str, from: usize) -> impl Iterator<Item = usize> {
    let lines: Vec<&str> = text.lines().collect();
    let finds = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    (from..lines.len()).map(move |at| (at, lines[at], lines.get(at + 1).copied().unwrap_or_default())).filter_map(
        move |(at, line, next)| {
            let tells = finds(line, PRINTS) && (finds(line, SKIP_WORDS) || finds(next, SKIP_WORDS));
            (tells || finds(line, SKIPS_BY_HAND)).then_some(at + 1)
        },
    )
}

/// Whether a folder of the path, or the file, is for tests only.
fn is_test(file: &Path) -> bool {
    let named = |part: &Path| part.file_stem().is_some_and(|stem| TEST_STEMS.iter().any(|test| stem == *test));
    file.components().any(|part| named(part.as_ref()))
}

fn check_page(file: &Path, text: &str) -> Vec<String> {
    let place = file.display();
    wide_lines(text.lines()).map(|line| format!("{place}:{line}: a line of more than {COLUMNS_MAX} columns")).collect()
}

/// The numbers of lines of prose that are too wide. Tables, code and what cannot be broken (links,
/// long words) may be.
fn wide_lines<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = usize> {
    let mut in_code = false;
    lines.enumerate().filter_map(move |(at, line)| {
        let said = line.trim_start().trim_start_matches(['/', '!']);
        if said.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let is_code = in_code || said.starts_with("    ") || (line.starts_with("    ") && said == line.trim_start());
        let is_table = said.trim_start().starts_with('|');
        let is_unbreakable = line.contains("](") || line.split_whitespace().any(|word| word.chars().count() > COLUMNS_MAX / 2);
        let is_wide = line.chars().count() > COLUMNS_MAX;
        (is_wide && !is_code && !is_table && !is_unbreakable).then_some(at + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        check_file(Path::new(file), text)
    }

    #[test]
    fn a_pure_crate_is_checked_wherever_the_checkout_lies() {
        let impure = "fn f() { std::fs::read(\"x\"); }";
        assert_eq!(findings("crates/brain/src/a.rs", impure).len(), 1);
        assert!(findings("crates/store/src/a.rs", impure).is_empty());
        assert!(findings("crates/brain/src/a/tests/b.rs", impure).is_empty());
        // Only a whole part of the path makes a test.
        assert_eq!(findings("crates/brain/src/attest.rs", impure).len(), 1);
    }

    #[test]
    fn removing_trees_is_refused_outside_of_tests() {
        let removes = concat!("fn f() { std::fs::remove_", "dir_all(\"x\"); }");
        assert_eq!(findings("crates/store/src/a.rs", removes).len(), 1);
        assert!(findings("crates/store/tests/a.rs", removes).is_empty());
    }

    #[test]
    fn tests_do_not_decide_by_themselves_whether_they_can_run() {
        let tells = concat!("#[test]\nfn f() { if none { println!(\"skip", "ped: no kubectl\"); } }");
        let asks = concat!("#[test]\nfn f() { if get", "euid() != 0 { return; } }");
        let broken = concat!("#[test]\nfn f() {\n    eprintln!(\n        \"{x} is left", " out\",\n    );\n}");
        for by_hand in [tells, asks, broken] {
            assert_eq!(findings("crates/net/tests/a.rs", by_hand).len(), 1, "{by_hand}");
            assert_eq!(findings("crates/net/src/a.rs", &format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{\n{by_hand}\n}}")).len(), 1);
            assert!(findings("crates/net/src/a.rs", by_hand).is_empty(), "only tests are meant: {by_hand}");
            assert!(findings("crates/testing/src/a.rs", by_hand).is_empty());
        }
    }

    #[test]
    fn wide_prose_is_found_and_wide_tables_and_code_are_not() {
        let wide = "a ".repeat(60);
        assert_eq!(findings("crates/store/src/a.rs", &format!("// {wide}")).len(), 1);
        let page = |text: String| check_page(Path::new("README.md"), &text).len();
        assert_eq!(page(wide.clone()), 1);
        assert_eq!(page(format!("| {wide} |")), 0);
        assert_eq!(page(format!("```text\n{wide}\n```")), 0);
    }
}
