//! Why a call of a container runtime failed.

use std::error::Error as StdError;
use std::fmt::Write as _;

/// The failed part's own error, with its causes as sources.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call failed: one variant for each thing that a caller may do about it.
///
/// The texts reach users in events and container statuses. So the text of an error is whole: it
/// says what was wrong, with which part, and why, down to the last cause. `source` would make
/// printers of causes say it twice; code that needs the cause finds it in the variant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    /// The call cannot succeed in the state that the container, sandbox or image is in.
    #[error("{}", chain(.0.as_ref()))]
    FailedPrecondition(Cause),
    /// The request itself is wrong: a malformed image name, an unknown capability.
    #[error("{}", chain(.0.as_ref()))]
    Invalid(Cause),
    #[error("{}", chain(.0.as_ref()))]
    DeadlineExceeded(Cause),
    /// The registry wants other credentials.
    #[error("{}", chain(.0.as_ref()))]
    Unauthorized(Cause),
    /// The node's kernel or file system refused an operation.
    #[error("{operation}: {}", chain(.cause.as_ref()))]
    Io { operation: String, cause: Cause },
    /// The runtime itself failed, or what it asked.
    #[error("{}", chain(.0.as_ref()))]
    Failed(Cause),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Equal errors read the same and mean the same to callers; causes have no equality of their own.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.to_string() == other.to_string()
    }
}

/// The text of an error and of its causes.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("make sandbox")]
    struct Step(#[source] std::io::Error);

    fn full() -> std::io::Error {
        std::io::Error::other("the disk is full")
    }

    #[test]
    fn texts_are_whole_and_said_once() {
        let error = Error::Failed(Box::new(Step(full())));
        assert_eq!(error.to_string(), "make sandbox: the disk is full");
        assert!(error.source().is_none());
        let error = Error::Io { operation: "make /a".to_owned(), cause: Box::new(Step(full())) };
        assert_eq!(error.to_string(), "make /a: make sandbox: the disk is full");
    }

    #[test]
    fn what_callers_do_about_it_makes_a_difference() {
        assert_eq!(Error::Failed(Box::new(Step(full()))), Error::Failed("make sandbox: the disk is full".into()));
        assert_ne!(Error::Failed("late".into()), Error::DeadlineExceeded("late".into()));
    }
}
