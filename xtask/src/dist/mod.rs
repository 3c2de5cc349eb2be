//! `cargo xtask dist`: what is given to people. A static program, and four forms of it: an archive
//! with manual pages, completions and systemd units, packages for Debian and for RPM, and an OCI
//! image. `SHA256SUMS` is over all of them.
//!
//! All lie in `target/dist`. The same sources make the same files: nothing in them has a time, and
//! everything belongs to root. `--check` takes them apart again and runs the program of each.

mod check;
mod contents;
mod deb;
mod image;
mod rpm;
mod target;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::server::target_folder;
use contents::{Contents, Entry};
use target::Target;

/// What a program may have at most.
const SIZE_MAX_MB: u64 = 40;

pub const NAME: &str = "everynode";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
pub const SUMMARY: &str = "Kubernetes DaemonSets in one binary";
pub const DESCRIPTION: &str = "API server, store, controllers, scheduler and node agent with real containers and a pod network.";
pub const LICENSE: &str = "Apache-2.0";

#[derive(Args)]
pub struct Dist {
    /// What to build for, by Rust's name. This machine without it, with musl where that is
    /// installed.
    #[arg(long)]
    target: Option<String>,

    /// Take everything apart again, and run it.
    #[arg(long)]
    check: bool,
}

/// What was made.
pub struct Made {
    pub archive: PathBuf,
    pub deb: PathBuf,
    pub rpm: PathBuf,
    pub image: PathBuf,
}

impl Dist {
    pub fn run(&self) -> anyhow::Result<()> {
        let target = Target::choose(self.target.as_deref())?;
        let program = target.build()?;
        check_is_static(&program)?;
        let contents = Contents::collect(&target, &program)?;
        let made = make(&target, &contents)?;
        tell(&made, &contents)?;
        if self.check { check::run(&target, &made) } else { Ok(()) }
    }
}

fn make(target: &Target, contents: &Contents) -> anyhow::Result<Made> {
    let dir = target_folder()?.join("dist");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let architecture = target.architecture;
    let stem = format!("{NAME}-{VERSION}-{}", target.triple);
    let made = Made {
        archive: dir.join(format!("{stem}.tar.gz")),
        deb: dir.join(format!("{NAME}_{VERSION}_{}.deb", architecture.debian)),
        rpm: dir.join(format!("{NAME}-{VERSION}-1.{}.rpm", architecture.rpm)),
        image: dir.join(format!("{stem}.oci.tar")),
    };
    let folder = Entry::below(&contents.archive, &stem);
    write(&made.archive, &compressed(&tar(&folder)?)?)?;
    write(&made.deb, &deb::make(contents, architecture)?)?;
    write(&made.rpm, &rpm::make(contents, architecture)?)?;
    write(&made.image, &image::make(&contents.program, architecture)?)?;
    write(&dir.join("SHA256SUMS"), sums(&dir)?.as_bytes())?;
    Ok(made)
}

pub fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A static program needs no loader: its ELF file names none.
fn check_is_static(program: &Path) -> anyhow::Result<()> {
    let headers = output("readelf", &["--program-headers", "--wide", &program.display().to_string()]);
    match headers {
        Err(error) => eprintln!("not checked whether the program is static: {error:#}"),
        Ok(headers) if headers.contains("INTERP") => bail!("{} is not static: it asks for a loader", program.display()),
        Ok(_) => {}
    }
    Ok(())
}

/// A tar of the entries and of the folders above them.
pub fn tar(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for folder in contents::folders(entries) {
        let mut header = header(tar::EntryType::Directory, 0, 0o755);
        tar.append_data(&mut header, format!("{folder}/"), std::io::empty()).context("cannot write a tar")?;
    }
    for entry in entries {
        let mut header = header(tar::EntryType::Regular, entry.content.len() as u64, entry.mode);
        tar.append_data(&mut header, &entry.path, &entry.content[..]).context("cannot write a tar")?;
    }
    tar.into_inner().context("cannot write a tar")
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

pub fn compressed(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).context("cannot compress")?;
    encoder.finish().context("cannot compress")
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of all files for people that are there, those of other targets included.
fn sums(dir: &Path) -> anyhow::Result<String> {
    let is_given = |name: &str| [".tar.gz", ".deb", ".rpm", ".oci.tar"].iter().any(|end| name.ends_with(end));
    let mut lines = String::new();
    for file in contents::files(dir)?.into_iter().filter(|file| is_given(&contents::file_name(file))) {
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        lines += &format!("{}  {}\n", sha256(&bytes), contents::file_name(&file));
    }
    Ok(lines)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(cannot)?;
    std::io::Write::write_all(&mut file, bytes).with_context(cannot)
}

fn tell(made: &Made, contents: &Contents) -> anyhow::Result<()> {
    for entry in &contents.archive {
        println!("{:>12} {}", entry.content.len(), entry.path);
    }
    for file in [&made.archive, &made.deb, &made.rpm, &made.image] {
        let size = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
        println!("{size:>12} {}", file.display());
    }
    let program = contents.program.len() as u64;
    if program > SIZE_MAX_MB * 1_000_000 {
        bail!("the program has {} MB; {SIZE_MAX_MB} are what it may have", program / 1_000_000);
    }
    Ok(())
}
