//! `cargo xtask ci`: what CI runs, in the order in which failures are cheapest to find. Ends with
//! the number of tests that were skipped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

const STEPS: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    DENY,
    &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["xtask", "tidy"],
    &["xtask", "fuzz", "--seconds", "5", "--seed", "1"],
    TEST,
];

const TEST: &[&str] = &["test", "--workspace"];

/// Whether everything may be given to people (deny.toml). A tool of its own, which takes minutes to
/// install.
const DENY: &[&str] = &["deny", "check", "licenses", "bans", "sources"];

/// Below the workspace's folder.
const SKIPS: &str = "target/skipped-tests.txt";

pub fn run() -> anyhow::Result<()> {
    let skips = crate::tidy::root()?.join(SKIPS);
    for step in STEPS {
        if *step == DENY && !has_deny() {
            eprintln!("== cargo deny is left out: it is not installed (cargo install --locked cargo-deny)");
            continue;
        }
        let shown = format!("cargo {}", step.join(" "));
        eprintln!("== {shown}");
        let begin = Instant::now();
        let mut command = Command::new(env!("CARGO"));
        command.args(*step);
        if *step == TEST {
            write(&skips, "")?;
            command.env(testing::SKIPS, &skips);
        }
        let status = command.status().with_context(|| format!("cannot run {shown}"))?;
        if *step == TEST {
            let records = std::fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
            eprintln!("== {}", testing::summary(&records));
        }
        if !status.success() {
            bail!("{shown} failed");
        }
        eprintln!("== {} s: {shown}", begin.elapsed().as_secs());
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn has_deny() -> bool {
    let status = Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
