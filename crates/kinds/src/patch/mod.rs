//! Patches: JSON patch, merge patch, strategic merge patch, server-side apply, and the record of
//! who manages which field.
//!
//! In: the current object, a patch as it was sent. Out: the patched document (not decoded, not
//! defaulted) with what strict decoding of the patch found, or the `Status` that Kubernetes
//! answers. Nothing here knows requests, storage or time.

pub mod apply;
pub mod folded;
pub mod json;
pub mod managed_fields;
pub mod merge;
pub mod strategic;

mod compare;
mod field_set;
mod go_text;
pub mod managers;
mod opened;
mod reset_fields;
mod typed;
mod typed_merge;

use serde_json::Value;

use crate::decode::json_type;
use crate::document::Node;
use crate::field::{FieldError, Path};
use crate::schema::TypeId;
use crate::status::{Details, Status};

pub use opened::Opened;

/// A patch that cannot be applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(pub Status);

impl PatchError {
    pub fn into_status(self) -> Status {
        self.0
    }
}

impl From<Status> for PatchError {
    fn from(status: Status) -> PatchError {
        PatchError(status)
    }
}

/// What is made of unknown and duplicate fields of a patch.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Findings {
    /// They are listed (fieldValidation Warn and Strict).
    Listed,
    Ignored,
}

/// What a patch makes of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Patched {
    pub document: Value,
    /// Unknown and duplicate fields of the patch itself.
    pub findings: Vec<String>,
    pub shown: Shown,
}

/// What an error about the patched document shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// The patched document as JSON; the objects that the patch went through are shown sorted.
    Document { opened: Opened },
    /// The patch as Go prints maps (strategic merge patch), after what was merged by key has been
    /// taken out of it.
    Patch(Value),
}

impl Patched {
    /// Why the document does not decode, in the words of the decoder that Kubernetes uses after
    /// this kind of patch.
    pub fn misfit(&self, decoding: &str, type_id: TypeId) -> String {
        match self.shown {
            Shown::Document { .. } => decoding.to_owned(),
            Shown::Patch(_) => strategic::misfit(&self.document, type_id).unwrap_or_else(|| decoding.to_owned()),
        }
    }

    /// The refusal of a patched document that no longer fits its kind.
    pub fn unfit(&self, why: &str, type_id: TypeId) -> Status {
        match &self.shown {
            Shown::Document { opened } => unfit(&go_text::document_text(&self.document, type_id, opened), why),
            Shown::Patch(patch) => unfit(&go_text::print(patch), why),
        }
    }
}

/// A patched object that no longer fits its kind.
fn unfit(shown: &str, why: &str) -> Status {
    let error = FieldError::invalid(&Path::new("patch"), shown, why);
    Status::invalid("", "", "", &[error])
}

/// The answer to a patch that is well-formed but does not apply.
fn inapplicable() -> Status {
    Status::new(422, "Invalid", "the server rejected our request due to an error in our request").with_details(Details::default())
}

/// One sentence for each field that is there twice, by its path.
fn duplicates(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    find_duplicates(node, &mut Vec::new(), &mut found);
    found
}

/// Findings past this number are not listed; a hostile patch could name millions.
const FINDINGS_MAX: usize = 100;

/// A step of the way to a value.
#[derive(Copy, Clone)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

fn find_duplicates<'a>(node: &'a Node, path: &mut Vec<Step<'a>>, found: &mut Vec<String>) {
    match node {
        Node::Object(fields) => {
            let mut seen = std::collections::BTreeSet::new();
            for (name, child) in fields {
                path.push(Step::Field(name));
                if !seen.insert(name.as_str()) && found.len() < FINDINGS_MAX {
                    found.push(format!("duplicate field \"{}\"", written(path)));
                }
                find_duplicates(child, path, found);
                path.pop();
            }
        }
        Node::List(items) => {
            for (at, item) in items.iter().enumerate() {
                path.push(Step::Index(at));
                find_duplicates(item, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// `spec.containers[0].name`
fn written(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(at) => text.push_str(&format!("[{at}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests;
