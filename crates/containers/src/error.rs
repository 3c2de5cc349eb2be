//! Why a call of a container runtime failed.

/// Why a call failed. The texts reach users in events and container statuses: they say what was
/// wrong and with which part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    /// The call cannot succeed in the state that the container or sandbox is in.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request itself is wrong: a malformed image name, an unknown capability.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The registry wants other credentials.
    #[error("{0}")]
    Unauthorized(String),
    #[error("{0}")]
    Failed(String),
}

pub type Result<T> = std::result::Result<T, Error>;
