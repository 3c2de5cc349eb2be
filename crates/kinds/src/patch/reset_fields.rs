//! Which fields a write of an object or of a subresource does not keep, and so does not own
//! (Kubernetes' reset fields).

use super::field_set::FieldSet;
use crate::table::Kind;

/// What a write may own.
pub enum Ownable {
    AllBut(FieldSet),
    /// Only what one of these paths is a prefix of; `*` is any list element.
    Below(&'static [&'static [&'static str]]),
}

impl Ownable {
    /// `subresource` is empty for the object itself.
    pub fn of(kind: &Kind, subresource: &str) -> Ownable {
        let paths: &[&[&str]] = match (kind.kind, subresource) {
            ("Pod", "ephemeralcontainers") => return Ownable::Below(&[&["f:spec", "f:ephemeralContainers"]]),
            ("Pod", "resize") => return Ownable::Below(RESIZE),
            ("Pod", "status") => &[&["f:spec"], &["f:metadata", "f:deletionTimestamp"], &["f:metadata", "f:ownerReferences"]],
            ("CertificateSigningRequest", "status") => &[&["f:spec"], &["f:status", "f:conditions"]],
            ("CertificateSigningRequest", "approval") => &[&["f:spec"], &["f:status", "f:certificate"]],
            (_, "status") => &[&["f:spec"]],
            (_, "" | "finalize") if kind.subresource("status").is_some() => &[&["f:status"]],
            _ => &[],
        };
        let mut set = FieldSet::default();
        paths.iter().for_each(|path| set.insert(path));
        Ownable::AllBut(set)
    }

    /// Takes away what may not be owned.
    pub fn filter(&self, set: &mut FieldSet) {
        match self {
            Ownable::AllBut(reset) => set.subtract_below(reset),
            Ownable::Below(patterns) => set.retain_below(patterns),
        }
    }
}

const RESIZE: &[&[&str]] = &[
    &["f:spec", "f:containers", "*", "f:resources"],
    &["f:spec", "f:containers", "*", "f:resizePolicy"],
    &["f:spec", "f:initContainers", "*", "f:resources"],
    &["f:spec", "f:initContainers", "*", "f:resizePolicy"],
];
