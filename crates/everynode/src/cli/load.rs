//! `everynode load`: images from archives into a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use runtime::images::{Store, archive};

use super::local::Local;

/// Load images from archives (`docker save`, OCI) or OCI layout directories, for all nodes of a
/// local cluster.
#[derive(Debug, Args)]
pub struct Load {
    /// Archives or directories.
    #[arg(required = true)]
    files: Vec<PathBuf>,

    /// The name that an image gets whose archive names none: NAME:TAG.
    #[arg(long)]
    tag: Option<String>,

    #[command(flatten)]
    local: Local,

    /// Folder of images of a node without a local cluster.
    #[arg(long, conflicts_with_all = ["name", "data_dir"])]
    image_dir: Option<PathBuf>,
}

impl Load {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dir = match self.image_dir {
            Some(dir) => dir,
            None => {
                let cluster = self.local.cluster()?;
                anyhow::ensure!(cluster.exists(), "there is no cluster {}: start one with `everynode up`", cluster.name);
                cluster.image_dir()
            }
        };
        let store = Store::open(&dir).with_context(|| format!("cannot open the images in {}", dir.display()))?;
        for file in &self.files {
            let names = archive::load(&store, file, self.tag.as_deref()).with_context(|| format!("cannot load {}", file.display()))?;
            for name in names {
                println!("{name}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
