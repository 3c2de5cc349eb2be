//! The Pod Security Standards: what a namespace's labels ask for, and whether a pod keeps to it.
//!
//! In: labels of a namespace, metadata and spec of a pod. Out: a policy, and for each check that
//! the pod fails a reason and a detail, in Kubernetes' words and order. Versions are those of the
//! standards: a namespace may ask for an older one.

mod checks;
mod policy;

pub use policy::{Level, LevelVersion, Policy, Version, policy_of};

use serde_json::Value;

/// The newest version of the standards that is known here; `latest` and newer ones mean it.
const NEWEST: u32 = 36;

/// A check that a pod fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    /// Empty when the reason says it all.
    pub detail: String,
}

/// A check from a version of the standards on, until there is a newer one of the same name.
struct Check {
    /// By which checks are sorted, and by which those of the level restricted replace some of the
    /// level baseline.
    id: &'static str,
    since: u32,
    run: fn(&Pod<'_>) -> Option<Violation>,
    /// The check of the level baseline that this one is stricter than.
    replaces: &'static str,
}

/// What checks look at.
pub(crate) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

/// The checks that a pod fails; none at the level privileged.
pub fn violations(asked: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let version = asked.version.number();
    let baseline = newest(checks::BASELINE, version);
    let checks: Vec<&Check> = match asked.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline,
        Level::Restricted => {
            let restricted = newest(checks::RESTRICTED, version);
            let is_replaced = |check: &&Check| restricted.iter().any(|own| own.replaces == check.id);
            let kept: Vec<&Check> = baseline.into_iter().filter(|check| !is_replaced(check)).collect();
            kept.into_iter().chain(restricted).collect()
        }
    };
    let pod = Pod { metadata, spec };
    checks.into_iter().filter_map(|check| (check.run)(&pod)).collect()
}

/// Of each check the one that holds in a version. The tables are sorted by name, and then by
/// version.
fn newest(table: &'static [Check], version: u32) -> Vec<&'static Check> {
    let mut found: Vec<&Check> = Vec::new();
    for check in table.iter().filter(|check| check.since <= version) {
        found.pop_if(|last| last.id == check.id);
        found.push(check);
    }
    found
}

/// `reason (detail), reason`
pub fn describe(violations: &[Violation]) -> String {
    let one = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `reason, reason`
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
