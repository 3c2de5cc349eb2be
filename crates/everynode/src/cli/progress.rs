//! Progress of a command: a spinner on a terminal, plain lines elsewhere; always on stderr.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows what is being done and what is done.
pub struct Progress {
    /// None where nobody looks at a terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn start() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar =
                ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is valid"));
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Progress { bar }
    }

    /// What is going on now; replaced by the next.
    pub fn doing(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// A line that stays.
    pub fn done(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("✓ {what}")),
            None => eprintln!("{what}"),
        }
    }

    /// The end, with what to do next.
    pub fn finish(self, next: &str) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{next}");
    }
}
