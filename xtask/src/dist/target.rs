//! What is built for, and with which tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::output;
use crate::server::target_folder;

/// How each packaging format names an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    pub rust: &'static str,
    pub debian: &'static str,
    pub rpm: &'static str,
    pub oci: &'static str,
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture { rust: "x86_64", debian: "amd64", rpm: "x86_64", oci: "amd64" },
    Architecture { rust: "aarch64", debian: "arm64", rpm: "aarch64", oci: "arm64" },
];

pub struct Target {
    pub triple: String,
    pub architecture: Architecture,
    /// What runs its programs here, when this machine does not.
    emulator: Option<&'static str>,
    /// The C compiler and linker; None: the machine's own.
    compiler: Option<String>,
}

impl Target {
    /// The target that was asked for; else musl where its library and its C compiler are installed,
    /// else this machine's own with its C library linked in.
    pub fn choose(asked: Option<&str>) -> anyhow::Result<Target> {
        let version = output("rustc", &["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
        let musl = host.replace("-gnu", "-musl");
        let triple = match asked {
            Some(triple) => triple.to_owned(),
            None if runs("musl-gcc") && has_library(&musl)? => musl,
            None => host.to_owned(),
        };
        let machine = |triple: &str| triple.split('-').next().unwrap_or_default().to_owned();
        let Some(architecture) = ARCHITECTURES.iter().copied().find(|known| known.rust == machine(&triple)) else {
            bail!("{triple}: packages are made for x86_64 and aarch64 alone");
        };
        ensure!(has_library(&triple)?, "the standard library for {triple} is not installed: rustup target add {triple}");
        let is_foreign = machine(&triple) != machine(host);
        Ok(Target {
            emulator: if is_foreign { Some(emulator(architecture)?) } else { None },
            compiler: compiler(&triple, is_foreign)?,
            triple,
            architecture,
        })
    }

    /// With a target that is named, the flags are not those of build scripts, which have to load
    /// shared libraries.
    pub fn build(&self) -> anyhow::Result<PathBuf> {
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--package", "everynode", "--profile", "dist", "--target", &self.triple]);
        if let Some(compiler) = &self.compiler {
            let name = self.triple.replace('-', "_");
            command.env(format!("CC_{name}"), compiler);
            command.env(format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()), compiler);
        }
        let status = command.env("RUSTFLAGS", FLAGS).status().context("cannot run cargo")?;
        ensure!(status.success(), "the program does not build");
        Ok(target_folder()?.join(&self.triple).join("dist/everynode"))
    }

    /// Runs a program of this target.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let program = program.display().to_string();
        match self.emulator {
            None => output(&program, arguments),
            Some(emulator) => output(emulator, &[&[program.as_str()], arguments].concat()),
        }
    }
}

/// The C library is linked in, and the program is at a fixed address (as other builds are:
/// crates/everynode/build.rs). Randomness comes from the kernel's call and not from /dev/urandom: a
/// static program cannot look up whether its C library has that call, and would take the file.
const FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static --cfg getrandom_backend=\"linux_getrandom\"";

fn has_library(triple: &str) -> anyhow::Result<bool> {
    let libraries = output("rustc", &["--print", "target-libdir", "--target", triple])?;
    Ok(Path::new(libraries.trim()).is_dir())
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Completions and manual pages come from the program itself, which has to run.
fn emulator(architecture: Architecture) -> anyhow::Result<&'static str> {
    let names: &[&str] = match architecture.rust {
        "aarch64" => &["qemu-aarch64-static", "qemu-aarch64"],
        _ => &["qemu-x86_64-static", "qemu-x86_64"],
    };
    let found = names.iter().copied().find(|name| runs(name));
    found.with_context(|| format!("nothing here runs programs for {}: apt-get install qemu-user-static", architecture.rust))
}

/// Some libraries are C and assembler.
fn compiler(triple: &str, is_foreign: bool) -> anyhow::Result<Option<String>> {
    let machine = triple.split('-').next().unwrap_or_default();
    let (name, package) = match (triple.ends_with("musl"), is_foreign) {
        (false, false) => return Ok(None),
        (true, false) => ("musl-gcc".to_owned(), "musl-tools".to_owned()),
        (true, true) => (format!("{machine}-linux-musl-gcc"), format!("a cross compiler for {machine} with musl")),
        (false, true) => (format!("{machine}-linux-gnu-gcc"), format!("gcc-{}-linux-gnu", machine.replace('_', "-"))),
    };
    ensure!(runs(&name), "{triple} needs the C compiler {name}: install {package}");
    Ok(Some(name))
}
