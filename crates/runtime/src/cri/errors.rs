//! What failed calls are to the port's users.

use super::grpc::{CallError, Code};
use containers::Error;

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
    let text = error.to_string();
    match error {
        CallError::TooLate(_) => Error::DeadlineExceeded(text),
        CallError::Status { code, .. } => match code {
            Code::InvalidArgument => Error::Invalid(text),
            Code::DeadlineExceeded => Error::DeadlineExceeded(text),
            Code::FailedPrecondition => Error::FailedPrecondition(text),
            Code::Unauthenticated | Code::PermissionDenied => Error::Unauthorized(text),
            Code::NotFound | Code::Unimplemented | Code::Other(_) => Error::Failed(text),
        },
        CallError::Connect { .. } | CallError::Broken(_) | CallError::Malformed(_) => Error::Failed(text),
    }
}

/// Runtimes say "unknown" for whatever a registry answers; only the text tells.
pub fn pull(error: CallError) -> Error {
    const REFUSALS: [&str; 5] =
        ["401 Unauthorized", "403 Forbidden", "authorization failed", "authentication required", "no basic auth credentials"];
    match general(error) {
        Error::Failed(text) if REFUSALS.iter().any(|r| text.contains(r)) => Error::Unauthorized(text),
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
