//! `cargo xtask dist`: what is given to people. A static program, and an archive with it, its
//! manual pages, completions and systemd units.
//!
//! `target/dist/everynode-VERSION-TARGET.tar.gz`. The same sources make the same archive: files
//! have no times and belong to root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::server::target_folder;
use crate::tidy::root;

/// What a program may have at most.
const SIZE_MAX_MB: u64 = 40;

/// A file of the archive.
struct Entry {
    path: String,
    content: Vec<u8>,
    mode: u32,
}

pub fn run() -> anyhow::Result<()> {
    let target = target()?;
    let program = build(&target)?;
    check_is_static(&program)?;
    let name = format!("everynode-{}-{target}", env!("CARGO_PKG_VERSION"));
    let entries = entries(&program)?;
    let dir = target_folder()?.join("dist");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let archive = dir.join(format!("{name}.tar.gz"));
    write(&archive, &name, &entries)?;
    tell(&archive, &entries)
}

/// The target to build for: musl where its library and its C compiler are installed, else this
/// machine's own with its C library linked in.
fn target() -> anyhow::Result<String> {
    let version = output("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let musl = host.replace("-gnu", "-musl");
    let libraries = output("rustc", &["--print", "target-libdir", "--target", &musl])?;
    let has_compiler = Command::new("musl-gcc").arg("--version").output().is_ok_and(|output| output.status.success());
    Ok(if has_compiler && Path::new(libraries.trim()).is_dir() { musl } else { host.to_owned() })
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The C library is linked in, and the program is at a fixed address (as other builds are:
/// crates/everynode/build.rs). Randomness comes from the kernel's call and not from /dev/urandom: a
/// static program cannot look up whether its C library has that call, and would take the file.
const FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static --cfg getrandom_backend=\"linux_getrandom\"";

/// With a target that is named, the flags are not those of build scripts, which have to load shared
/// libraries.
fn build(target: &str) -> anyhow::Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--package", "everynode", "--profile", "dist", "--target", target]);
    let status = command.env("RUSTFLAGS", FLAGS).status().context("cannot run cargo")?;
    ensure!(status.success(), "the program does not build");
    Ok(target_folder()?.join(target).join("dist/everynode"))
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

fn entries(program: &Path) -> anyhow::Result<Vec<Entry>> {
    let root = root()?;
    let mut entries = vec![file(program, "everynode", 0o755)?];
    for name in ["LICENSE", "README.md", "CHANGELOG.md"] {
        entries.push(file(&root.join(name), name, 0o644)?);
    }
    for unit in files(&root.join("packaging/systemd"))? {
        entries.push(file(&unit, &format!("systemd/{}", file_name(&unit)), 0o644)?);
    }
    for (shell, name) in [("bash", "everynode.bash"), ("zsh", "_everynode"), ("fish", "everynode.fish")] {
        let script = output(&program.display().to_string(), &["completions", shell])?;
        entries.push(Entry { path: format!("completions/{name}"), content: script.into_bytes(), mode: 0o644 });
    }
    let pages = target_folder()?.join("dist/man");
    output(&program.display().to_string(), &["man", &pages.display().to_string()])?;
    for page in files(&pages)? {
        entries.push(file(&page, &format!("man/man1/{}", file_name(&page)), 0o644)?);
    }
    Ok(entries)
}

fn file(path: &Path, name: &str, mode: u32) -> anyhow::Result<Entry> {
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Entry { path: name.to_owned(), content, mode })
}

fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn write(archive: &Path, folder: &str, entries: &[Entry]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", archive.display());
    let compressed = GzEncoder::new(File::create(archive).with_context(cannot)?, Compression::best());
    let mut tar = tar::Builder::new(compressed);
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.content.len() as u64);
        header.set_mode(entry.mode);
        tar.append_data(&mut header, format!("{folder}/{}", entry.path), &entry.content[..]).with_context(cannot)?;
    }
    tar.into_inner().and_then(GzEncoder::finish).map(drop).with_context(cannot)
}

fn tell(archive: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    for entry in entries {
        println!("{:>12} {}", entry.content.len(), entry.path);
    }
    let size = std::fs::metadata(archive).with_context(|| format!("cannot read {}", archive.display()))?.len();
    println!("{size:>12} {}", archive.display());
    let program = entries.first().map_or(0, |entry| entry.content.len() as u64);
    if program > SIZE_MAX_MB * 1_000_000 {
        bail!("the program has {} MB; {SIZE_MAX_MB} are what it may have", program / 1_000_000);
    }
    Ok(())
}
