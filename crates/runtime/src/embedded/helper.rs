//! The hidden modes of the program that this runtime is part of. They must run before the program
//! has made any thread.

use std::path::Path;
use std::process::ExitCode;

use super::{exec, pause, shim, users};

pub const SHIM: &str = "everynode-shim";
pub const EXEC: &str = "everynode-exec";
pub const PAUSE: &str = "everynode-pause";
pub const USERS: &str = "everynode-users";

/// To be called first in `main`. Some: this process was one of the runtime's helpers and is to end
/// with that code.
pub fn main_if_asked() -> Option<ExitCode> {
    let args: Vec<_> = std::env::args_os().take(4).collect();
    let path = |n: usize| args.get(n).map(Path::new);
    if args.first().is_some_and(|name| name == pause::NAME) {
        return Some(pause::main());
    }
    match (args.get(1)?.to_str()?, path(2), path(3)) {
        (SHIM, Some(dir), _) => Some(shim::main(dir)),
        (EXEC, Some(dir), Some(process)) => Some(exec::main(dir, process)),
        (PAUSE, Some(dir), _) => Some(pause::start(dir)),
        (USERS, _, _) => Some(users::start()),
        _ => None,
    }
}
