//! A home directory for programs under test: HOME, KUBECONFIG and data, gone with the value.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub struct Home(TempDir);

impl Home {
    pub fn new() -> Home {
        Home(tempfile::Builder::new().prefix("everynode-test-").tempdir().expect("a temporary folder can be made"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// What KUBECONFIG points to.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// A file with this text.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the temporary folder can be written to");
        path
    }

    /// A command that knows no other home than this.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.0.path()).env("KUBECONFIG", self.kubeconfig());
        command.env_remove("XDG_STATE_HOME").env_remove("RUST_LOG").stdin(Stdio::null()).current_dir(self.0.path());
        command
    }

    pub fn everynode(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_everynode"));
        command.args(arguments);
        command
    }
}
