//! `cargo xtask ci`: what CI runs, in the order in which failures are cheapest to find.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

const STEPS: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    DENY,
    &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["xtask", "tidy"],
    &["xtask", "fuzz", "--seconds", "5", "--seed", "1"],
    &["test", "--workspace"],
];

/// Whether everything may be given to people (deny.toml). A tool of its own, which takes minutes to
/// install.
const DENY: &[&str] = &["deny", "check", "licenses", "bans", "sources"];

pub fn run() -> anyhow::Result<()> {
    for step in STEPS {
        if *step == DENY && !has_deny() {
            eprintln!("== cargo deny is left out: it is not installed (cargo install --locked cargo-deny)");
            continue;
        }
        let shown = format!("cargo {}", step.join(" "));
        eprintln!("== {shown}");
        let begin = Instant::now();
        let status = Command::new(env!("CARGO")).args(*step).status().with_context(|| format!("cannot run {shown}"))?;
        if !status.success() {
            bail!("{shown} failed");
        }
        eprintln!("== {} s: {shown}", begin.elapsed().as_secs());
    }
    Ok(())
}

fn has_deny() -> bool {
    let status = Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
