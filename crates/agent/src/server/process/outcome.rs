//! How a process ended, as the error channel tells it.

use serde_json::{Value, json};

/// How the error channel is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A Status, success included: the protocols of version 4 and later.
    Status,
    /// The text of a failure, nothing for success: the older ones.
    Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Exited(i32),
    Failed(String),
}

impl Outcome {
    pub fn of(exit: containers::Result<i32>, what: &str) -> Outcome {
        match exit {
            Ok(code) => Outcome::Exited(code),
            Err(error) => Outcome::Failed(format!("error {what} container: {error}")),
        }
    }

    /// What is sent; empty for nothing.
    pub fn write(&self, form: Form) -> String {
        match (form, self) {
            (Form::Status, _) => self.status().to_string(),
            (Form::Text, Outcome::Exited(0)) => String::new(),
            (Form::Text, Outcome::Exited(code)) => exit_message(*code),
            (Form::Text, Outcome::Failed(text)) => text.clone(),
        }
    }

    fn status(&self) -> Value {
        match self {
            Outcome::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Outcome::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": exit_message(*code),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {text}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            }),
        }
    }
}

fn exit_message(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}
