//! What failed calls are to the port's users, and why others fail here.

use super::grpc::{CallError, Code};
use containers::Error;

/// Why a call fails beside what the runtime's answers and the node's refusals are.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("container runtime endpoint {0:?} is not unix:///path/to/socket")]
    Endpoint(String),
    #[error("images as volumes are not supported with this container runtime")]
    ImageVolumes,
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("the session is gone")]
    SessionGone,
    /// What the streaming server says about a command or a port, as text.
    #[error("{0}")]
    Told(String),
    #[error("the runtime's streaming server at {0} does not answer")]
    Silent(String),
    #[error("the runtime's streaming URL {url:?}")]
    Url {
        url: String,
        #[source]
        source: http::uri::InvalidUri,
    },
    #[error("the runtime's streaming URL {0:?} is not http with a port")]
    Scheme(String),
    #[error("the runtime's streaming URL makes no request")]
    Request(#[source] http::Error),
    #[error("the runtime's streaming server")]
    Server(#[source] hyper::Error),
    #[error("the runtime's streaming server: {status}: {text}")]
    Refused { status: http::StatusCode, text: String },
    #[error("the runtime's stream broke")]
    Broken(#[source] std::io::Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let class = match &failure {
            Failure::Endpoint(_) | Failure::ImageVolumes => Error::Invalid,
            Failure::Silent(_) => Error::DeadlineExceeded,
            Failure::Task(_)
            | Failure::SessionGone
            | Failure::Told(_)
            | Failure::Url { .. }
            | Failure::Scheme(_)
            | Failure::Request(_)
            | Failure::Server(_)
            | Failure::Refused { .. }
            | Failure::Broken(_) => Error::Failed,
        };
        class(Box::new(failure))
    }
}

/// What a call was about: its id tells "that is gone" from "something that it needs is missing".
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub kind: &'static str,
    pub id: &'a str,
}

pub fn sandbox(id: &str) -> Subject<'_> {
    Subject { kind: "sandbox", id }
}

pub fn container(id: &str) -> Subject<'_> {
    Subject { kind: "container", id }
}

pub fn image(id: &str) -> Subject<'_> {
    Subject { kind: "image", id }
}

impl Subject<'_> {
    pub fn error(self, error: CallError) -> Error {
        match error {
            CallError::Status { code: Code::NotFound, message } if self.is_missed_by(&message) => {
                Error::NotFound { kind: self.kind, id: self.id.to_owned() }
            }
            other => general(other),
        }
    }
}

impl Subject<'_> {
    /// Not every message names the id: `an error occurred when try to find sandbox: not found`.
    fn is_missed_by(self, message: &str) -> bool {
        message.contains(self.id) || message.contains(&format!("find {}", self.kind))
    }
}

pub fn general(error: CallError) -> Error {
    let class = match &error {
        CallError::TooLate(_) => Error::DeadlineExceeded,
        CallError::Status { code, .. } => match code {
            Code::InvalidArgument => Error::Invalid,
            Code::DeadlineExceeded => Error::DeadlineExceeded,
            Code::FailedPrecondition => Error::FailedPrecondition,
            Code::Unauthenticated | Code::PermissionDenied => Error::Unauthorized,
            Code::NotFound | Code::Unimplemented | Code::Other(_) => Error::Failed,
        },
        CallError::Connect { .. } | CallError::Broken(_) | CallError::Malformed(_) => Error::Failed,
    };
    class(Box::new(error))
}

/// Runtimes say "unknown" for whatever a registry answers; only the text tells.
pub fn pull(error: CallError) -> Error {
    const REFUSALS: [&str; 5] =
        ["401 Unauthorized", "403 Forbidden", "authorization failed", "authentication required", "no basic auth credentials"];
    match general(error) {
        Error::Failed(cause) if REFUSALS.iter().any(|r| cause.to_string().contains(r)) => Error::Unauthorized(cause),
        other => other,
    }
}

/// Removing and stopping what is gone has succeeded.
pub fn gone_is_done(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}
