//! A server of the release build, alone and with a data directory of its own: what golden tests and
//! measurements talk to.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

/// The API server without controllers and plugins that change objects on their own.
const ALONE: &[&str] = &["--controllers", "none", "--disable-admission-plugins", "ServiceAccount"];

/// A running server. Process and directory end with this value.
pub struct Server {
    process: Child,
    dir: PathBuf,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Server {
    pub fn build_and_start() -> anyhow::Result<Server> {
        build(&["--package", "everynode"])?;
        Server::start()
    }

    /// Starts what was built, and returns when it is ready.
    pub fn start() -> anyhow::Result<Server> {
        Server::start_with(ALONE)
    }

    /// Starts what was built with these arguments, and returns when it is ready.
    pub fn start_with(arguments: &[&str]) -> anyhow::Result<Server> {
        let dir = std::env::temp_dir().join(format!("everynode-xtask-{}", std::process::id()));
        let program = release_folder()?.join("everynode");
        let mut process = Command::new(&program)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&dir)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = process.stdout.take().context("the output was asked for")?;
        let mut server = Server { process, dir, address: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read the server's output")?;
        let address = line.trim().strip_prefix("ready https://").context("the server did not start")?;
        address.clone_into(&mut server.address);
        Ok(server)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let (Some(parent), Some(name)) = (self.dir.parent(), self.dir.file_name()) {
            let _ = runtime::trees::remove(parent, name);
        }
    }
}

/// Builds packages with optimisation.
pub fn build(packages: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(env!("CARGO")).args(["build", "--release"]).args(packages).status().context("cannot run cargo")?;
    if status.success() { Ok(()) } else { bail!("the release does not build") }
}

/// Where cargo puts releases.
pub fn release_folder() -> anyhow::Result<PathBuf> {
    Ok(target_folder()?.join("release"))
}

/// Where cargo puts what it builds: `CARGO_TARGET_DIR`, or in the workspace.
pub fn target_folder() -> anyhow::Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::env::current_dir().context("there is no current folder")?.join(dir),
        None => crate::tidy::root()?.join("target"),
    })
}
