//! What the built-in image runs: this program as an agent that logs and serves metrics, as the
//! programs of the built-in DaemonSets, and as a few tools.
//!
//! `everynode.dev/agent:builtin` has nothing but this program, so that a machine without any
//! registry has something real to run. No shell: the tools are for looking around with `kubectl
//! exec`. Each is called by its name, or as `everynode builtin NAME`.

mod agent;
mod http;
mod in_cluster;
mod kube_proxy;
mod node_dns;
mod pod_network;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runtime::images::builtin::Builtin;

/// The image's name in manifests.
pub const IMAGE: &str = "everynode.dev/agent:builtin";

/// Names in the image's /bin.
pub const TOOLS: &[&str] = &[
    "agent",
    "cat",
    "echo",
    "env",
    "false",
    "follow",
    "get",
    "hostname",
    "id",
    "kube-proxy",
    "ls",
    "node-dns",
    "pod-network",
    "sleep",
    "true",
];

/// The image of this program.
pub fn image<'a>(program: &'a Path, libraries: &'a [PathBuf]) -> Builtin<'a> {
    Builtin { name: IMAGE, program, libraries, version: env!("CARGO_PKG_VERSION"), tools: TOOLS }
}

/// The shared libraries that this process runs with, its loader among them; none when it is static.
pub fn libraries() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
    let mut paths: Vec<PathBuf> = paths.map(PathBuf::from).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Runs a tool if this process was started as one.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments: Vec<String> = std::env::args().collect();
    let called = arguments.first()?.rsplit('/').next()?.to_owned();
    if TOOLS.contains(&called.as_str()) {
        arguments[0] = called;
        return Some(run(&arguments));
    }
    if arguments.get(1).is_some_and(|first| first == "builtin") {
        let rest = arguments.split_off(2);
        return Some(run(&if rest.is_empty() { vec!["agent".to_owned()] } else { rest }));
    }
    None
}

fn run(arguments: &[String]) -> ExitCode {
    let Some((name, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    let done = match name.as_str() {
        "agent" => agent::run(rest),
        "false" => return ExitCode::FAILURE,
        "true" => Ok(()),
        "cat" => tools::cat(rest),
        "echo" => tools::echo(rest),
        "env" => tools::env(),
        "follow" => tools::follow(rest),
        "get" => tools::get(rest),
        "hostname" => tools::hostname(),
        "id" => tools::id(),
        "kube-proxy" => kube_proxy::run(rest),
        "node-dns" => node_dns::run(rest),
        "pod-network" => pod_network::run(rest),
        "ls" => tools::ls(rest),
        "sleep" => tools::sleep(rest),
        other => Err(format!("{other} is no tool of this image; there are: {}", TOOLS.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
