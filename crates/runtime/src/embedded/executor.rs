//! The last steps inside a container before its program runs: find the program, put signals back,
//! drop what the filter needed, filter.
//!
//! Runs in a process that the library cloned from a single-threaded one, so allocating is fine.
//! [`Causes`] takes what goes wrong while the container is made, in the words that users know from
//! other runtimes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};
use seccompiler::BpfProgram;

use super::causes::Causes;
use super::control::Told;
use super::{capabilities, seccomp};
use crate::words::Plain;

/// Why a container's program does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("the specification has no process")]
    NoProcess,
    #[error("no command specified")]
    NoCommand,
    #[error("exec: {name:?}: stat {name}")]
    Missing {
        name: String,
        #[source]
        source: Plain,
    },
    #[error("exec: {name:?}")]
    Unfit {
        name: String,
        #[source]
        source: Plain,
    },
    #[error("exec: {0:?}: permission denied")]
    Denied(String),
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    #[error("arguments or environment contain a zero byte")]
    ZeroByte,
    #[error("the program's path contains a zero byte")]
    ZeroByteInPath,
    /// Becoming the user that the program runs as.
    #[error(transparent)]
    User(Plain),
    #[error("drop capabilities")]
    Capabilities(#[source] Plain),
    #[error(transparent)]
    Filter(#[from] seccomp::Error),
    #[error("exec {}", program.display())]
    Exec {
        program: PathBuf,
        #[source]
        source: Plain,
    },
}

/// As other runtimes say it.
#[derive(Debug, thiserror::Error)]
#[error("unable to start container process")]
pub struct UnableToStart(#[source] pub ProgramError);

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
        found.map(drop).map_err(|error| {
            let text = containers::chain(&error);
            self.causes.verdict(&containers::chain(&UnableToStart(error)));
            ExecutorValidationError::ArgValidationError(text)
        })
    }

    /// The default takes variables apart into a map and loses their order; [`Executor::exec`]
    /// passes them on as they are.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failed = Told::of(&self.run(spec)).0;
        // The container has begun: this is its own error output.
        eprintln!("{failed}");
        Err(ExecutorError::Other(failed))
    }
}

impl Program {
    /// Comes back only with an error.
    fn run(&self, spec: &Spec) -> ProgramError {
        match process(spec) {
            Ok(process) => self.become_process(process),
            Err(error) => error,
        }
    }

    /// Comes back only with an error.
    pub fn become_process(&self, process: &Process) -> ProgramError {
        match self.try_become(process) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_become(&self, process: &Process) -> Result<Infallible, ProgramError> {
        let program = find_program(process)?;
        let args = c_strings(process.args()).ok_or(ProgramError::ZeroByte)?;
        let env = c_strings(process.env()).ok_or(ProgramError::ZeroByte)?;
        let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| ProgramError::ZeroByteInPath)?;
        reset_signals();
        self.confine()?;
        nix::unistd::execve(&path, &args, &env).map_err(|errno| ProgramError::Exec { program, source: errno.into() })
    }

    /// A filter needs SYS_ADMIN unless no_new_privs is on, which the program is not to have. So the
    /// bounding set is limited first: running the program takes away whatever is outside of it, and
    /// no filter has a say in that. Giving up the capability with a call after the filter would
    /// depend on the filter, which may refuse the call or pretend that it was made.
    fn confine(&self) -> Result<(), ProgramError> {
        if !self.no_new_privileges {
            capabilities::limit_bounding(self.capabilities).map_err(|e| ProgramError::Capabilities(e.into()))?;
        }
        Ok(self.filters.iter().try_for_each(seccomp::install)?)
    }
}

fn process(spec: &Spec) -> Result<&Process, ProgramError> {
    spec.process().as_ref().ok_or(ProgramError::NoProcess)
}

fn c_strings(words: &Option<Vec<String>>) -> Option<Vec<CString>> {
    words.as_deref().unwrap_or_default().iter().map(|w| CString::new(w.as_bytes()).ok()).collect()
}

/// As a shell would, in the container's PATH.
fn find_program(process: &Process) -> Result<PathBuf, ProgramError> {
    let name = process.args().as_deref().unwrap_or_default().first().ok_or(ProgramError::NoCommand)?;
    if name.contains('/') {
        return check_program(Path::new(name)).map(|()| PathBuf::from(name)).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => ProgramError::Missing { name: name.clone(), source: e.into() },
            _ => ProgramError::Unfit { name: name.clone(), source: e.into() },
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
    Err(if denied { ProgramError::Denied(name.clone()) } else { ProgramError::NotFound(name.clone()) })
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
