//! The command line: one file for each subcommand, with its arguments and what it does.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 refused or failed, 2 wrong
//! usage (and `plan`: a node would lose its pod).

mod addons;
mod agent;
mod completions;
mod controller;
mod down;
mod load;
mod local_node;
mod ls;
mod man;
mod node;
mod plan;
mod plugin;
mod server;
mod status;
mod store;
mod up;
mod why;

mod apply;
mod board;
mod live;
mod local;
mod progress;
mod table;
mod target;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Run one copy of an agent on every node of a fleet, with Kubernetes' own API and kubectl.
#[derive(Debug, Parser)]
#[command(name = "everynode", version, disable_help_subcommand = true)]
struct Arguments {
    /// Say more on stderr; twice for everything. RUST_LOG overrides.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Down(down::Down),
    Load(load::Load),
    Ls(ls::Ls),
    Node(node::NodeCommand),
    #[command(hide = true)]
    LocalNode(local_node::LocalNode),
    Status(status::Status),
    Why(why::Why),
    Plan(plan::Plan),
    Server(server::Server),
    Store(store::Store),
    Agent(Box<agent::Agent>),
    Addons(addons::Addons),
    Controller(controller::Controller),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
}

/// Reads the command line and does what it says.
pub fn run() -> anyhow::Result<ExitCode> {
    if plugin::is_asked() {
        let asked = plugin::Plugin::parse();
        start_logging(asked.verbose);
        return asked.run();
    }
    let arguments = Arguments::parse();
    start_logging(arguments.verbose);
    arguments.run()
}

impl Arguments {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Up(up) => up.run(),
            Command::Down(down) => down.run(),
            Command::Load(load) => load.run(),
            Command::Node(node) => node.run(),
            Command::LocalNode(node) => node.run(),
            Command::Ls(ls) => ls.run(),
            Command::Status(status) => status.run(),
            Command::Why(why) => why.run(),
            Command::Plan(plan) => plan.run(),
            Command::Server(server) => server.run(),
            Command::Store(store) => store.run(),
            Command::Agent(agent) => agent.run(),
            Command::Addons(addons) => addons.run(),
            Command::Controller(controller) => controller.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
        }
    }
}

/// Runs the requests of a command that asks a cluster.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?.block_on(work)
}

/// Logs go to stderr: warnings, or more with `-v`.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    // The library calls each peer that is silent for a while an error.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},boringtun=off")));
    // A log on a full disk cannot be written to. Saying so on stderr, which is that log, would
    // panic in whatever wanted to tell something.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Colours are for eyes; logs of nodes and servers are files.
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    subscriber.log_internal_errors(false).init();
}
