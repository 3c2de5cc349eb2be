//! The options of each verb, however they were sent.

use kinds::selector::{FieldRequirement, FieldSelector, Selector};

/// How unknown and duplicate fields are answered.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    pub force: bool,
}

impl WriteOptions {
    /// For writes of the server's own parts.
    pub const INTERNAL: WriteOptions =
        WriteOptions { dry_run: false, field_manager: String::new(), field_validation: FieldValidation::Ignore, force: false };
}

/// Which version of the data a read may show.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum ReadAt {
    /// What is newest now.
    Latest,
    /// Whatever is at hand.
    Any,
    NotOlderThan(u64),
    Exactly(u64),
}

/// Options of list and watch.
#[derive(Debug, Clone, PartialEq)]
pub struct ListOptions {
    pub labels: Selector,
    pub fields: FieldSelector,
    pub limit: usize,
    pub continue_token: String,
    /// None: unset.
    pub resource_version: Option<u64>,
    pub read_at: ReadAt,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
    pub timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Narrows the selection to one name.
    pub fn select_name(&mut self, name: &str) {
        let requirement = FieldRequirement { field: "metadata.name".to_owned(), value: name.to_owned(), is_equal: true };
        self.fields.requirements.push(requirement);
    }

    pub fn selects_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.requirements.is_empty()
    }

    /// The value that a field must equal, where the selector says so.
    pub fn field_equals(&self, field: &str) -> Option<&str> {
        self.fields.requirements.iter().find(|r| r.field == field && r.is_equal).map(|r| r.value.as_str())
    }
}

/// What to do with the objects that the deleted one owns.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a deletion, from the query or the body.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}
