//! The `everynode` binary: Kubernetes' DaemonSet system, every role in one program. `main` is one
//! match over the subcommands.

mod addons;
mod builtin;
mod certificates;
mod cli;
mod clusters;
mod connection;
mod data_dir;
mod kubeconfig;
mod nodes;
mod private_file;
mod program;
mod roles;
mod server_lock;

use std::process::ExitCode;

/// A third of the server's time goes into many small allocations, which this one does in half the
/// time of the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything starts a thread: containers are made by copies of this program that have only
    // one.
    if let Some(code) = runtime::embedded::helper::main_if_asked() {
        return code;
    }
    if let Some(code) = builtin::run_if_asked() {
        return code;
    }
    end_quietly_without_reader();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a program killed by SIGPIPE answers in a shell.
const BROKEN_PIPE: i32 = 128 + 13;

/// How `println` and what writes completions say that they cannot write.
const NO_READER: [&str; 2] = ["failed printing to stdout", "failed to write completion file"];

/// `everynode ls | head -1`: a program whose reader has gone has nothing left to do, and nothing to
/// complain about.
fn end_quietly_without_reader() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        if NO_READER.iter().any(|beginning| text.starts_with(beginning)) && text.contains("Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        before(panic);
    }));
}
