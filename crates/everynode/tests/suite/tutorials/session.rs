//! A bash that runs one command after the other, as a person's terminal does: variables and
//! background jobs live on.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Far more than any single command takes; `kubectl rollout status` is the longest.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(180);
/// Reads which file holds a command and which one gets its output, and answers with the exit code.
const LOOP: &str = r#"while read -r command output; do
    eval "$(cat "$command")" </dev/null >"$output" 2>&1
    echo $?
done
kill $(jobs -p) 2>/dev/null"#;

pub struct Session {
    shell: Child,
    input: Option<ChildStdin>,
    exit_codes: Receiver<i32>,
    dir: PathBuf,
    /// How many commands have been run.
    count: usize,
}

impl Session {
    /// Environment and working directory are the command's; the folder takes commands and outputs.
    pub fn start(mut bash: Command, dir: &Path) -> Session {
        std::fs::create_dir_all(dir).expect("the temporary folder can be written to");
        bash.args(["--norc", "--noprofile", "-c", LOOP]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // A group of its own: a command that never ends can be ended with all that it started.
        let mut shell = bash.process_group(0).spawn().expect("bash can be started");
        let output = BufReader::new(shell.stdout.take().expect("the output was asked for"));
        let (sender, exit_codes) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line.parse().unwrap_or(-1));
            }
        });
        Session { input: shell.stdin.take(), shell, exit_codes, dir: dir.to_owned(), count: 0 }
    }

    /// What the command writes to standard output and error, in order, and `[exit N]` if it fails.
    pub fn run(&mut self, command: &str) -> String {
        self.count += 1;
        // Files of its own: what runs in the background may still write into those of the command
        // that started it.
        let (file, output) = (self.dir.join(format!("command-{}", self.count)), self.dir.join(format!("output-{}", self.count)));
        std::fs::write(&file, command).expect("the temporary folder can be written to");
        let input = self.input.as_mut().expect("the session has not ended");
        writeln!(input, "{} {}", file.display(), output.display()).expect("bash reads");
        let exit_code = self.exit_codes.recv_timeout(COMMAND_TIMEOUT);
        let text = String::from_utf8_lossy(&std::fs::read(output).unwrap_or_default()).into_owned();
        match exit_code {
            Ok(0) => text,
            Ok(code) => format!("{}[exit {code}]\n", with_line_end(text)),
            Err(_) => panic!("the command did not end: {command}\n{text}"),
        }
    }
}

fn with_line_end(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        if std::thread::panicking() {
            let group = rustix::process::Pid::from_child(&self.shell);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_share_a_shell() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let mut session = Session::start(Command::new("bash"), dir.path());
        assert_eq!(session.run("X=1"), "");
        assert_eq!(session.run("echo $X; echo error >&2"), "1\nerror\n");
        assert_eq!(session.run("cat <<EOF\na\n\nb\nEOF"), "a\n\nb\n");
        assert_eq!(session.run("printf half; false"), "half\n[exit 1]\n");
        assert!(session.run("if").ends_with("[exit 1]\n") || session.run("if").ends_with("[exit 2]\n"), "a mistake does not end it");
        assert_eq!(session.run("sleep 1000 & echo started"), "started\n");
    }
}
