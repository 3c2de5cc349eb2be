//! `cargo xtask ci`: what CI runs, in the order in which failures are cheapest to find.

use std::process::Command;

use anyhow::{Context, bail};

const STEPS: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["xtask", "tidy"],
    &["xtask", "fuzz", "--seconds", "5", "--seed", "1"],
    &["test", "--workspace"],
];

pub fn run() -> anyhow::Result<()> {
    for step in STEPS {
        let shown = format!("cargo {}", step.join(" "));
        eprintln!("== {shown}");
        let status = Command::new(env!("CARGO")).args(*step).status().with_context(|| format!("cannot run {shown}"))?;
        if !status.success() {
            bail!("{shown} failed");
        }
    }
    Ok(())
}
