//! The kernel's errors as users of other container runtimes know them: lower case, without the number that Rust appends.

use std::io;

/// `no such file or directory`, not `No such file or directory (os error 2)`; an error that is not the kernel's says what it says.
pub fn plain(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| nix::errno::Errno::from_raw(code).desc().to_lowercase())
}
