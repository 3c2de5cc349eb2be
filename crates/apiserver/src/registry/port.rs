//! What the registry asks before it stores a write; [`crate::admission`] answers.
//!
//! The order of the calls is Kubernetes': `admit`, the kind's own preparation, `complete`, the
//! kind's validation, `check`, `check_quota`. `old` is the object that an update replaces, None for
//! a create.

use std::collections::BTreeMap;

use kinds::status::Status;
use serde_json::Value;

use super::turns::WriteTurn;
use crate::request::WriteRequest;

/// Admission, and as much of authorization as only a write shows to be needed.
pub trait Admission: Send + Sync {
    /// May the user create the object? Asked when an update or an apply finds none.
    fn authorize_create(&self, write: &WriteRequest<'_>) -> Result<(), Status>;

    /// Mutating plugins, and those that refuse before validation.
    fn admit(&self, write: &WriteRequest<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status>;

    /// What the server adds after the kind's rules have dropped what clients may not say.
    fn complete(&self, write: &WriteRequest<'_>, object: &mut Value, old: Option<&Value>);

    /// Validating plugins, after validation.
    fn check(&self, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<Remarks, Status>;

    /// ResourceQuota, the last of the validating plugins. With the `turn` of the namespace, which
    /// the registry holds until the object is stored, the answer is final.
    fn check_quota(
        &self,
        write: &WriteRequest<'_>,
        object: &Value,
        old: Option<&Value>,
        turn: Option<&WriteTurn>,
    ) -> Result<QuotaVerdict, Status>;

    /// May the object be deleted?
    fn admit_delete(&self, write: &WriteRequest<'_>, object: &Value) -> Result<(), Status>;
}

/// What plugins have to say about a write that they let through.
#[derive(Debug, Default, PartialEq)]
pub struct Remarks {
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// For the audit log, by name.
    pub annotations: BTreeMap<String, String>,
}

/// Whether quotas let a write through.
#[derive(Debug, PartialEq, Eq)]
pub enum QuotaVerdict {
    Passed,
    /// It uses more of what they limit: to be asked again in the namespace's turn.
    AwaitsTurn,
}
