//! Why a call of the embedded runtime fails, beside what the node refuses ([`failed`]).
//!
//! [`failed`]: crate::words::failed

use std::path::PathBuf;

use super::control::Told;
use super::spec;
use crate::words::Plain;
use containers::{Cause, Error};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    // The state of things.
    #[error("sandbox {0:?} is not running")]
    SandboxNotRunning(String),
    #[error("container {0:?} is not running")]
    NotRunning(String),
    #[error("container {0:?} was started before")]
    StartedBefore(String),
    #[error("target container {0:?} is not running")]
    TargetNotRunning(String),

    // The request.
    #[error("target container {0:?} is in another sandbox")]
    TargetElsewhere(String),
    #[error(transparent)]
    Specification(#[from] spec::Error),
    #[error(transparent)]
    Capability(#[from] super::capabilities::Unknown),
    #[error("unknown signal {0:?}")]
    Signal(String),
    #[error("a container cannot mount an image beside a volume with bidirectional propagation")]
    ImageBesideShared,
    #[error("bidirectional mount propagation is for privileged containers only")]
    SharedUnprivileged,
    #[error("bidirectional mount propagation is not for pods with users of their own")]
    SharedWithUsers,
    #[error("id {id} is none of the pod's: it has the users and groups 0 to {last}")]
    ForeignId { id: i64, last: u32 },
    #[error(
        "a privileged container has the node's devices, which users of the pod's own (hostUsers: false) cannot have: drop one of the two"
    )]
    PrivilegedWithUsers,

    // Time.
    #[error("what is to be mounted does not answer within {0} s")]
    MountsHang(u64),
    #[error("the container did not start within {0} s")]
    StartHangs(u64),
    #[error("container {0:?} is still being started")]
    StillStarting(String),
    #[error("container {id:?} did not end within {seconds} s of SIGKILL")]
    Unkillable { id: String, seconds: u64 },
    #[error("command timed out: timeout {seconds}s exceeded")]
    CommandTimeout { seconds: f64 },

    // The runtime's own work.
    #[error("failed to get sandbox runtime: no runtime for {0:?} is configured")]
    Handler(String),
    #[error("failed to generate container spec: failed to stat {path:?}: stat {}", path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: Plain,
    },
    #[error("{database}")]
    Database {
        database: &'static str,
        #[source]
        source: Plain,
    },
    #[error(transparent)]
    User(#[from] super::user::Error),
    #[error("cannot load seccomp profile \"{}\"", path.display())]
    Profile {
        path: PathBuf,
        #[source]
        source: Cause,
    },
    #[error("write specification")]
    WriteSpecification(#[source] oci_spec::OciSpecError),
    #[error("the runtime's task failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("the check of what is to be mounted failed")]
    MountCheck(#[source] tokio::sync::oneshot::error::RecvError),
    /// What a shim or a helper says: errors cross the border of a process as text.
    #[error(transparent)]
    Told(#[from] Told),
    #[error("the shim answered out of turn")]
    OutOfTurn,
    #[error("the shim ended without a word: {said}")]
    SilentShim { said: String },
    #[error("exec failed")]
    Exec(#[source] Told),
    #[error("exec failed: the helper ended without a word")]
    SilentHelper,
    #[error("the command's end is not known: its helper is gone")]
    HelperGone,
    #[error("the session is gone")]
    SessionGone,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        use Failure as F;
        let class = match &failure {
            F::SandboxNotRunning(_) | F::NotRunning(_) | F::StartedBefore(_) | F::TargetNotRunning(_) => Error::FailedPrecondition,
            F::TargetElsewhere(_)
            | F::Specification(_)
            | F::Capability(_)
            | F::Signal(_)
            | F::ImageBesideShared
            | F::SharedUnprivileged
            | F::SharedWithUsers
            | F::ForeignId { .. }
            | F::PrivilegedWithUsers => Error::Invalid,
            F::MountsHang(_) | F::StartHangs(_) | F::StillStarting(_) | F::Unkillable { .. } | F::CommandTimeout { .. } => {
                Error::DeadlineExceeded
            }
            F::Handler(_)
            | F::Mount { .. }
            | F::Database { .. }
            | F::User(_)
            | F::Profile { .. }
            | F::WriteSpecification(_)
            | F::Task(_)
            | F::MountCheck(_)
            | F::Told(_)
            | F::OutOfTurn
            | F::SilentShim { .. }
            | F::Exec(_)
            | F::SilentHelper
            | F::HelperGone
            | F::SessionGone => Error::Failed,
        };
        class(Box::new(failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_read_each_cause_once() {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        let device = super::super::devices::Error::Missing("/dev/none".into());
        let cases: [(Failure, &str); 4] = [
            (spec::Error::Device(device).into(), "device \"/dev/none\" does not exist"),
            (
                Failure::Mount { path: "/v".into(), source: gone.into() },
                "failed to generate container spec: failed to stat \"/v\": stat /v: no such file or directory",
            ),
            (Failure::Exec(Told("no such user".to_owned())), "exec failed: no such user"),
            (Failure::ForeignId { id: 7, last: 5 }, "id 7 is none of the pod's: it has the users and groups 0 to 5"),
        ];
        for (failure, text) in cases {
            assert_eq!(Error::from(failure).to_string(), text);
        }
    }
}
