//! The real kubectl, with a home of its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use super::{Home, Server, wait_for};

/// A server and its kubectl. None: the test cannot run here.
pub fn kubectl_or_skip(arguments: &[&str]) -> Option<Server> {
    testing::can_run(&[testing::KUBECTL]).then(|| Server::start(arguments))
}

pub struct Kubectl<'a> {
    home: &'a Home,
    kubeconfig: PathBuf,
}

impl<'a> Kubectl<'a> {
    pub fn new(home: &'a Home, kubeconfig: PathBuf) -> Kubectl<'a> {
        Kubectl { home, kubeconfig }
    }

    /// `kubectl LINE`, split at spaces. Returns stdout; a failure fails the test.
    pub fn run(&self, line: &str) -> String {
        self.args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Same, with arguments that may hold spaces.
    pub fn args(&self, arguments: &[&str]) -> String {
        succeeded(arguments, self.output(arguments, "", &[]))
    }

    /// Same, with something to read on standard input.
    pub fn stdin(&self, line: &str, input: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        succeeded(&arguments, self.output(&arguments, input, &[]))
    }

    pub fn with_env(&self, line: &str, env: &[(&str, &str)]) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        succeeded(&arguments, self.output(&arguments, "", env))
    }

    /// Must fail; returns stderr.
    pub fn fails(&self, line: &str) -> String {
        let output = self.output(&line.split_whitespace().collect::<Vec<_>>(), "", &[]);
        assert!(!output.status.success(), "kubectl {line} should have failed; it said {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Repeats a command until its output is as wanted; returns that output.
    pub fn until(&self, line: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        wait_for(&format!("kubectl {line}"), || {
            last = self.run(line);
            wanted(&last).then(|| last.clone())
        })
    }

    /// Starts a command that goes on while the test does.
    pub fn start(&self, line: &str) -> Child {
        let mut command = self.home.command("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("kubectl can be started")
    }

    pub fn output(&self, arguments: &[&str], input: &str, env: &[(&str, &str)]) -> Output {
        let mut command = self.home.command("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).envs(env.iter().copied()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("kubectl can be started");
        // No other process holds the other end: dropping it is the end of the input.
        let mut stdin = process.stdin.take().expect("the input was asked for");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        process.wait_with_output().expect("kubectl can be waited for")
    }
}

fn succeeded(arguments: &[&str], output: Output) -> String {
    let command = arguments.join(" ");
    assert!(output.status.success(), "kubectl {command}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
