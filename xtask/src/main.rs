//! Development tasks: `cargo xtask ci|dist|tidy|fuzz|golden|sim|bench`.

mod bench;
mod ci;
mod dist;
mod fuzz;
mod golden;
mod modules;
mod server;
mod sim;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of everynode")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// What CI runs: fmt, licences, clippy, tidy, a little fuzzing, tests.
    Ci,
    /// Build what is given to people: a static program, as an archive, packages and an image.
    Dist(dist::Dist),
    /// Rules of the house that no other tool checks.
    Tidy,
    /// Look for requests that make the server panic.
    Fuzz(fuzz::Fuzz),
    /// Compare a server with recorded answers of Kubernetes.
    Golden(golden::Golden),
    /// Run the deterministic cluster with faults.
    Sim(sim::Sim),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Ci => ci::run(),
        Task::Dist(dist) => dist.run(),
        Task::Tidy => tidy::run(),
        Task::Fuzz(fuzz) => fuzz.run(),
        Task::Golden(golden) => golden.run(),
        Task::Sim(sim) => sim.run(),
        Task::Bench(bench) => bench.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
