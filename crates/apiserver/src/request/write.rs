//! A write, as the registry and admission see it.

use jiff::Timestamp;
use kinds::patch::managers::{ManagerEntry, Operation};
use kinds::rules::Part;
use kinds::table::Kind;

use super::User;
use super::options::WriteOptions;

/// A write request: what, by whom, how.
#[derive(Debug, Clone)]
pub struct WriteRequest<'a> {
    pub kind: &'static Kind,
    pub namespace: &'a str,
    /// From the path; empty for a create.
    pub name: &'a str,
    /// Which part of the object is written; None for writes that the kind's rules do not look at (a
    /// binding).
    pub part: Option<Part>,
    pub subresource: &'a str,
    pub user: &'a User,
    pub options: &'a WriteOptions,
    /// Stands for the field manager when the client names none.
    pub user_agent: &'a str,
    pub now: Timestamp,
}

impl WriteRequest<'_> {
    /// The field manager: as the client says, or the first part of its user agent.
    pub fn manager(&self) -> &str {
        if !self.options.field_manager.is_empty() {
            return &self.options.field_manager;
        }
        let agent = self.user_agent.split('/').next().unwrap_or_default();
        if agent.is_empty() { "unknown" } else { agent }
    }

    /// Who writes, for metadata.managedFields.
    pub fn manager_entry(&self) -> ManagerEntry {
        ManagerEntry {
            manager: self.manager().to_owned(),
            operation: Operation::Update,
            api_version: self.kind.api_version(),
            subresource: self.subresource.to_owned(),
            time: kinds::decode::format_time(self.now),
        }
    }
}
