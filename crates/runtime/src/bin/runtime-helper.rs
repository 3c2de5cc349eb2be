//! The runtime's helper processes as a program of their own, for tests: the real ones are modes of
//! the everynode binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::embedded::helper::main_if_asked().unwrap_or_else(|| {
        eprintln!("this program is started by the container runtime only");
        ExitCode::FAILURE
    })
}
