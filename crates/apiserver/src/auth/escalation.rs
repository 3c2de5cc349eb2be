//! No user may grant permissions that the user does not have: checks on writes of roles and
//! bindings.

use kinds::status::Status;
use kinds::table;
use serde_json::Value;

use super::authorize::Authorizer;
use super::rbac::{PolicyRule, not_covered, rules_of_role};
use crate::registry::encoding::parse_stored;
use crate::request::{Attributes, MASTERS, What, WriteRequest};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Checks a role or binding that is about to be stored; `old` is what it replaces.
pub fn check(authorizer: &Authorizer, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if write.kind.group != RBAC || write.user.is_in(MASTERS) {
        return Ok(());
    }
    match write.kind.kind {
        "Role" | "ClusterRole" => check_role(authorizer, write, object, old),
        _ => check_binding(authorizer, write, object, old),
    }
}

fn is_allowed(authorizer: &Authorizer, write: &WriteRequest<'_>, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let what = What::Resource { group: RBAC, version: "v1", resource, subresource: "", namespace, name, field_selector: "" };
    authorizer.authorize(&Attributes { user: write.user, verb, what }).allowed
}

fn check_role(authorizer: &Authorizer, write: &WriteRequest<'_>, role: &Value, old: Option<&Value>) -> Result<(), Status> {
    let name = role["metadata"]["name"].as_str().unwrap_or_default();
    if is_only_for_garbage_collection(role, old) || is_allowed(authorizer, write, "escalate", write.kind.plural, write.namespace, name) {
        return Ok(());
    }
    grantable(authorizer, write, name, &rules_of_role(role))?;
    // Such a role can collect any rules, now or later.
    let aggregates = role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|selectors| !selectors.is_empty());
    if aggregates && grantable(authorizer, write, name, &[PolicyRule::everything(), PolicyRule::every_path()]).is_err() {
        return Err(Status::forbidden(write.kind.resource(), name, "must have cluster-admin privileges to use an aggregationRule"));
    }
    Ok(())
}

fn check_binding(authorizer: &Authorizer, write: &WriteRequest<'_>, binding: &Value, old: Option<&Value>) -> Result<(), Status> {
    if is_only_for_garbage_collection(binding, old) {
        return Ok(());
    }
    let role_name = binding["roleRef"]["name"].as_str().unwrap_or_default();
    let (resource, role_namespace) = match binding["roleRef"]["kind"].as_str() {
        Some("ClusterRole") => ("clusterroles", ""),
        _ => ("roles", write.namespace),
    };
    if is_allowed(authorizer, write, "bind", resource, write.namespace, role_name) {
        return Ok(());
    }
    let kind = table::by_resource(RBAC, "v1", resource).expect("the table has the RBAC kinds");
    let role = parse_stored(&authorizer.registry.get(kind, role_namespace, role_name)?.value);
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    grantable(authorizer, write, name, &rules_of_role(&role))
}

/// Does the update change only what lets the object be deleted: its owners and finalizers?
///
/// Labels count: aggregation rules select roles by them. (Kubernetes: `IsOnlyMutatingGCFields`.)
fn is_only_for_garbage_collection(object: &Value, old: Option<&Value>) -> bool {
    const OF_GARBAGE_COLLECTION: [&str; 2] = ["ownerReferences", "finalizers"];
    const OF_THE_SERVER: [&str; 3] = ["managedFields", "resourceVersion", "generation"];
    let Some(old) = old else { return false };
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            // They stand in what clients send, and not always in what is stored.
            fields.retain(|name, _| !matches!(name.as_str(), "kind" | "apiVersion"));
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|name, _| !OF_GARBAGE_COLLECTION.contains(&name.as_str()) && !OF_THE_SERVER.contains(&name.as_str()));
        }
        object
    };
    rest(object) == rest(old)
}

fn grantable(authorizer: &Authorizer, write: &WriteRequest<'_>, name: &str, wanted: &[PolicyRule]) -> Result<(), Status> {
    let held = authorizer.rules_of(write.user, write.namespace);
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
