//! PodSecurity: namespaces say by labels which of the Pod Security Standards their pods must keep
//! to, or earn a warning for.
//!
//! There are no exemptions, and without labels a namespace asks for nothing, as in Kubernetes
//! without a configuration.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kinds::field::FieldError;
use kinds::pod_security::{Level, LevelVersion, Policy, describe, policy_of, reasons, violations};
use kinds::status::Status;
use kinds::table;
use serde_json::Value;

use super::{is_core, refuse};
use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::registry::port::Remarks;
use crate::request::WriteRequest;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// Existing pods that a new level is compared with; more than these are not looked at.
const PODS_CHECKED_MAX: usize = 3000;

/// Writes of these parts of a pod cannot change what is checked.
const IGNORED_SUBRESOURCES: [&str; 3] = ["binding", "eviction", "status"];

/// Checks a create (`old` is None) or an update.
pub fn check(registry: &Registry, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<Remarks, Status> {
    let is_pod = is_core(write.kind, "Pod");
    match write.kind.kind {
        "Namespace" if write.subresource.is_empty() => check_namespace(registry, write, object, old),
        "Pod" if is_pod && !IGNORED_SUBRESOURCES.contains(&write.subresource) => check_pod(registry, write, object, old),
        "DaemonSet" if write.subresource.is_empty() => {
            let Some((policy, errors)) = policy_for(registry, write.namespace)? else { return Ok(Remarks::default()) };
            Ok(remarks(&policy, &errors, &object["spec"]["template"]))
        }
        _ => Ok(Remarks::default()),
    }
}

/// What a namespace asks for; None for nearly all, whose labels say nothing.
fn policy_for(registry: &Registry, namespace: &str) -> Result<Option<(Policy, Vec<FieldError>)>, Status> {
    let namespaces = table::by_resource("", "v1", "namespaces").expect("the table has namespaces");
    let Some(entry) = registry.entry(namespaces, "", namespace)? else { return Ok(None) };
    let mentioned = entry.value.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes());
    Ok(mentioned.then(|| policy_of(&parse_stored(&entry.value)["metadata"]["labels"])))
}

fn check_pod(registry: &Registry, write: &WriteRequest<'_>, pod: &Value, old: Option<&Value>) -> Result<Remarks, Status> {
    let Some((policy, errors)) = policy_for(registry, write.namespace)? else { return Ok(Remarks::default()) };
    if old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(Remarks::default());
    }
    let violations = violations(policy.enforce, &pod["metadata"], &pod["spec"]);
    if !violations.is_empty() {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, describe(&violations));
        return Err(refuse(write, pod, &why));
    }
    let mut remarks = remarks(&policy, &errors, pod);
    remarks.annotations.insert(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
    Ok(remarks)
}

/// What a pod, or the template of one, earns without being refused.
fn remarks(policy: &Policy, errors: &[FieldError], pod: &Value) -> Remarks {
    let would_violate = |asked: LevelVersion| {
        let violations = violations(asked, &pod["metadata"], &pod["spec"]);
        (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{asked}\": {}", describe(&violations)))
    };
    let audit = would_violate(policy.audit).map(|text| (format!("{PREFIX}audit-violations"), text));
    let unreadable = (!errors.is_empty()).then(|| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (format!("{PREFIX}error"), format!("Failed to parse policy: {}", errors.join(", ")))
    });
    Remarks { warnings: would_violate(policy.warn).into_iter().collect(), annotations: audit.into_iter().chain(unreadable).collect() }
}

/// Does an update of a pod change what is checked? Containers and images are all that can change.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let replaced = ["containers", "initContainers"].iter().any(|name| {
        let (new, old) = (list(pod, name), list(old, name));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new["image"] != old["image"])
    });
    let identity = |container: &'_ Value| (container["name"].clone(), container["image"].clone());
    let known: HashSet<(Value, Value)> = list(old, "ephemeralContainers").iter().map(identity).collect();
    replaced || list(pod, "ephemeralContainers").iter().any(|container| !known.contains(&identity(container)))
}

fn list<'a>(pod: &'a Value, name: &str) -> &'a [Value] {
    pod["spec"][name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Labels must be readable; a stricter level earns a warning for the pods that are there.
fn check_namespace(registry: &Registry, write: &WriteRequest<'_>, namespace: &Value, old: Option<&Value>) -> Result<Remarks, Status> {
    let (policy, errors) = policy_of(&namespace["metadata"]["labels"]);
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let before = old.map(|old| policy_of(&old["metadata"]["labels"]));
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, before)| *before != errors) {
        return Err(Status::invalid(write.kind.group, write.kind.kind, name, &errors));
    }
    let Some((before, _)) = before else { return Ok(Remarks::default()) };
    let (new, old) = (policy.enforce, before.enforce);
    let is_stricter = new != old && new.level != Level::Privileged && (new.version != old.version || new.level > old.level);
    let warnings = if is_stricter { warnings_about_pods(registry, name, new) } else { Vec::new() };
    Ok(Remarks { warnings, annotations: BTreeMap::new() })
}

/// Which pods of a namespace a new level would refuse. Of pods with the same owner the first is
/// looked at first: they are alike.
fn warnings_about_pods(registry: &Registry, namespace: &str, enforce: LevelVersion) -> Vec<String> {
    let pods = table::by_resource("", "v1", "pods").expect("the table has pods");
    let objects = registry.caches.of(pods).snapshot(&format!("{namespace}/"), 0).objects;
    let total = objects.len();
    let mut owners = BTreeSet::new();
    let mut failing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut first, mut alike) = (Vec::new(), Vec::new());
    // Parsing more than are looked at would make the limit useless.
    for object in objects.iter().take(2 * PODS_CHECKED_MAX) {
        let pod = object.value();
        let references = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = references.filter(|owner| owner["controller"] == true).find_map(|owner| owner["uid"].as_str().map(str::to_owned));
        match owner {
            Some(owner) if !owners.insert(owner.clone()) => alike.push(pod),
            _ => first.push(pod),
        }
    }
    let checked: Vec<Value> = first.into_iter().chain(alike).take(PODS_CHECKED_MAX).collect();
    for pod in &checked {
        let violations = violations(enforce, &pod["metadata"], &pod["spec"]);
        if !violations.is_empty() {
            failing.entry(reasons(&violations)).or_default().push(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    let mut warnings = Vec::new();
    if checked.len() < total {
        let count = checked.len();
        warnings.push(format!("new PodSecurity enforce level only checked against the first {count} of {total} existing pods"));
    }
    if !failing.is_empty() {
        warnings.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""));
    }
    let mut about_pods: Vec<String> = failing.iter().map(|(reasons, names)| about(names, reasons)).collect();
    about_pods.sort_unstable();
    warnings.extend(about_pods);
    warnings
}

/// `web-1 (and 2 other pods): privileged`
fn about(names: &[String], reasons: &str) -> String {
    let name = names.iter().min().map_or("", String::as_str);
    match names.len() - 1 {
        0 => format!("{name}: {reasons}"),
        1 => format!("{name} (and 1 other pod): {reasons}"),
        others => format!("{name} (and {others} other pods): {reasons}"),
    }
}
