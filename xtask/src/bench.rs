//! `cargo xtask bench`: measurements, with the figures that docs/performance.md keeps.

use clap::Subcommand;

#[derive(Subcommand)]
pub enum Bench {}

impl Bench {
    pub fn run(self) -> anyhow::Result<()> {
        match self {}
    }
}
