//! Nobody may grant what he does not have: checks on writes of roles and bindings.

use kinds::status::Status;
use kinds::table;
use serde_json::Value;

use super::MASTERS;
use super::authorize::{Attributes, What};
use super::rbac::{PolicyRule, not_covered, rules_of_role};
use crate::registry::{Registry, Write, parse_stored};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Checks a role or binding that is about to be stored; `old` is what it replaces.
pub fn check(registry: &Registry, write: &Write<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if write.kind.group != RBAC || write.user.is_in(MASTERS) {
        return Ok(());
    }
    match write.kind.kind {
        "Role" | "ClusterRole" => check_role(registry, write, object, old),
        _ => check_binding(registry, write, object, old),
    }
}

fn is_allowed(registry: &Registry, write: &Write<'_>, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let what = What::Resource { group: RBAC, version: "v1", resource, subresource: "", namespace, name, field_selector: "" };
    registry.authorize(&Attributes { user: write.user, verb, what }).allowed
}

fn check_role(registry: &Registry, write: &Write<'_>, role: &Value, old: Option<&Value>) -> Result<(), Status> {
    let same = |field: &str| old.is_some_and(|old| old[field] == role[field]);
    if same("rules") && same("aggregationRule") {
        return Ok(());
    }
    let name = role["metadata"]["name"].as_str().unwrap_or_default();
    if is_allowed(registry, write, "escalate", write.kind.plural, write.namespace, name) {
        return Ok(());
    }
    let wanted = rules_of_role(role, &cluster_roles(registry));
    grantable(registry, write, name, &wanted)
}

fn check_binding(registry: &Registry, write: &Write<'_>, binding: &Value, old: Option<&Value>) -> Result<(), Status> {
    let same = |field: &str| old.is_some_and(|old| old[field] == binding[field]);
    if same("subjects") && same("roleRef") {
        return Ok(());
    }
    let role_name = binding["roleRef"]["name"].as_str().unwrap_or_default();
    let (resource, role_namespace) = match binding["roleRef"]["kind"].as_str() {
        Some("ClusterRole") => ("clusterroles", ""),
        _ => ("roles", write.namespace),
    };
    if is_allowed(registry, write, "bind", resource, write.namespace, role_name) {
        return Ok(());
    }
    let kind = table::by_resource(RBAC, "v1", resource).expect("the table has the RBAC kinds");
    let role = parse_stored(&registry.get(kind, role_namespace, role_name)?.value);
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    grantable(registry, write, name, &rules_of_role(&role, &cluster_roles(registry)))
}

fn cluster_roles(registry: &Registry) -> Vec<Value> {
    let kind = table::by_resource(RBAC, "v1", "clusterroles").expect("the table has the RBAC kinds");
    registry.caches.of(kind).snapshot("", 0).objects.iter().map(|role| role.value()).collect()
}

fn grantable(registry: &Registry, write: &Write<'_>, name: &str, wanted: &[PolicyRule]) -> Result<(), Status> {
    let held = registry.rules_of(write.user, write.namespace);
    let missing = not_covered(wanted, &held);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(describe).collect();
    let groups = go_list(&write.user.groups);
    let why = format!(
        "user {:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        write.user.name,
        lines.join("\n")
    );
    Err(Status::forbidden(write.kind.resource(), name, &why))
}

fn go_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "))
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`
fn describe(rule: &PolicyRule) -> String {
    let fields = [
        ("NonResourceURLs", &rule.non_resource_urls),
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> =
        fields.iter().filter(|(_, texts)| !texts.is_empty()).map(|(name, texts)| format!("{name}:{}", go_list(texts))).collect();
    format!("{{{}}}", shown.join(", "))
}
