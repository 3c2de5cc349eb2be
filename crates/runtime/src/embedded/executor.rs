//! The last steps inside a container before its program runs: find the program, put signals back,
//! drop what the filter needed, filter.
//!
//! Runs in a process that the library cloned from a single-threaded one, so allocating is fine.
//! [`Causes`] takes what goes wrong while the container is made, in the words that users know from
//! other runtimes.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};
use seccompiler::BpfProgram;

use super::causes::Causes;
use super::{capabilities, seccomp};
use crate::words::plain;

#[derive(Clone)]
pub struct Program {
    pub causes: Causes,
    pub filters: Vec<BpfProgram>,
    pub capabilities: u64,
    pub no_new_privileges: bool,
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let found = process(spec).and_then(find_program);
        found.map(drop).map_err(|text| {
            self.causes.verdict(&format!("unable to start container process: {text}"));
            ExecutorValidationError::ArgValidationError(text)
        })
    }

    /// The default takes variables apart into a map and loses their order; [`Executor::exec`]
    /// passes them on as they are.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failed = self.run(spec);
        // The container has begun: this is its own error output.
        eprintln!("{failed}");
        Err(ExecutorError::Other(failed))
    }
}

impl Program {
    /// Comes back only with an error.
    fn run(&self, spec: &Spec) -> String {
        match process(spec) {
            Ok(process) => self.become_process(process),
            Err(text) => text,
        }
    }

    /// Comes back only with an error.
    pub fn become_process(&self, process: &Process) -> String {
        let program = match find_program(process) {
            Ok(program) => program,
            Err(text) => return text,
        };
        let (Some(args), Some(env)) = (c_strings(process.args()), c_strings(process.env())) else {
            return "arguments or environment contain a zero byte".to_owned();
        };
        let Ok(path) = CString::new(program.as_os_str().as_bytes()) else { return "the program's path contains a zero byte".to_owned() };
        reset_signals();
        if let Err(text) = self.confine() {
            return text;
        }
        match nix::unistd::execve(&path, &args, &env) {
            Ok(never) => match never {},
            Err(errno) => format!("exec {}: {}", program.display(), plain(&errno.into())),
        }
    }

    /// A filter needs SYS_ADMIN unless no_new_privs is on, which the program is not to have. So the
    /// bounding set is limited first: running the program takes away whatever is outside of it, and
    /// no filter has a say in that. Giving up the capability with a call after the filter would
    /// depend on the filter, which may refuse the call or pretend that it was made.
    fn confine(&self) -> Result<(), String> {
        if !self.no_new_privileges {
            capabilities::limit_bounding(self.capabilities).map_err(|e| format!("drop capabilities: {}", plain(&e)))?;
        }
        self.filter()
    }

    fn filter(&self) -> Result<(), String> {
        self.filters.iter().try_for_each(seccomp::install).map_err(|e| match std::error::Error::source(&e) {
            Some(cause) => format!("{e}: {}", cause.downcast_ref().map_or_else(|| cause.to_string(), plain)),
            None => e.to_string(),
        })
    }
}

fn process(spec: &Spec) -> Result<&Process, String> {
    spec.process().as_ref().ok_or_else(|| "the specification has no process".to_owned())
}

fn c_strings(words: &Option<Vec<String>>) -> Option<Vec<CString>> {
    words.as_deref().unwrap_or_default().iter().map(|w| CString::new(w.as_bytes()).ok()).collect()
}

/// As a shell would, in the container's PATH.
fn find_program(process: &Process) -> Result<PathBuf, String> {
    let name = process.args().as_deref().unwrap_or_default().first().ok_or("no command specified")?;
    if name.contains('/') {
        return check_program(Path::new(name)).map(|()| PathBuf::from(name)).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => format!("exec: {name:?}: stat {name}: {}", plain(&e)),
            _ => format!("exec: {name:?}: {}", plain(&e)),
        });
    }
    let env = process.env().as_deref().unwrap_or_default();
    let path = env.iter().find_map(|v| v.strip_prefix("PATH=")).unwrap_or(super::spec::DEFAULT_PATH);
    let candidates = path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    let mut denied = false;
    for candidate in candidates {
        match check_program(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) => denied |= e.raw_os_error() == Some(libc::EACCES),
        }
    }
    Err(format!("exec: {name:?}: {}", if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

/// With the rights of the container's user, not by looking at mode bits.
fn check_program(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the name is a C string that lives over the call.
    let allowed = unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    if allowed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A container does not inherit what Rust's start-up code, a shell or a service manager chose to
/// ignore or block.
fn reset_signals() {
    /// The kernel's number of signals; libc's wrapper refuses the two that it keeps for itself, so
    /// the call is made without it.
    const SIGNALS: i32 = 64;
    // The kernel's sigaction: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: the record has the size of the kernel's structure; KILL and STOP answer EINVAL,
        // which changes nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u8>(), 8) };
    }
    let none = 0u64;
    // SAFETY: eight bytes of mask are read.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &none, std::ptr::null_mut::<u8>(), 8) };
}
