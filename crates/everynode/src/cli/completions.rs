//! `everynode completions`: what shells need to complete this program's command line.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};

/// Print the completion script for a shell.
///
/// bash: `source <(everynode completions bash)`. zsh: write it to a file `_everynode` in a folder
/// of $fpath. fish: write it to ~/.config/fish/completions/everynode.fish.
#[derive(Debug, Args)]
pub struct Completions {
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        clap_complete::generate(shell, &mut super::Arguments::command(), "everynode", &mut std::io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
