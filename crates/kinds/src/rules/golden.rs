//! Compares the rules with recorded answers of Kubernetes.
//!
//! `EVERYNODE_GOLDEN=…/golden cargo test -p kinds golden -- --nocapture` creates what the recorded
//! requests create, in a pipeline without admission and storage, and prints every difference in
//! causes or in the defaulted spec. Of updates, PUTs and merge patches of an object that the case
//! created itself are compared too, by their causes.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::Part;
use crate::decode::{decode, normalize};
use crate::document::Node;
use crate::table::{self, Kind};

/// Resources that have rules.
const PLURALS: &[&str] = &[
    "pods",
    "daemonsets",
    "controllerrevisions",
    "nodes",
    "namespaces",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "services",
    "endpoints",
    "endpointslices",
    "events",
    "ipaddresses",
    "leases",
    "servicecidrs",
    "poddisruptionbudgets",
    "priorityclasses",
    "roles",
    "clusterroles",
    "rolebindings",
    "clusterrolebindings",
    "limitranges",
    "resourcequotas",
    "runtimeclasses",
    "certificatesigningrequests",
];

/// What is not decided by the rules alone; the whole server answers these as recorded, but the
/// first and those with a word on them.
const KNOWN: &[&str] = &[
    // A comparison of bytes, blanks included (see `controllerrevision.rs`).
    "crev-revision-up",
    // Refusals of admission: addresses and ports. The last one comes before validation in
    // Kubernetes; here after it.
    "svc-clusterip-range",
    "svc-clusterip-taken",
    "svc-nodeport-range",
    "differ-053-svc-headless-noports",
    // The time of a condition, a namespace where none belongs, and empty rules are the registry's.
    "newer-pod-gates",
    "differ-059-namespace",
    "newer-rbac-name-colon",
    // Labels that are an empty map are none after decoding: null is shown, which counts as
    // equivalent.
    "differ-009-ds-images",
    "differ-025-ds-lifecycle",
    "differ-038-ds-us-ondelete-with-rolling",
    "differ-047-ds-us-rolling-unavail-int",
    "differ-075-ds-vol-image",
];

#[test]
fn golden() {
    let Some(folder) = ::testing::variable("EVERYNODE_GOLDEN") else { return };
    let (mut same, mut different) = (0, Vec::new());
    for area in ["defaulting", "validation", "patch"] {
        let mut files: Vec<_> = fs::read_dir(Path::new(&folder).join(area)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| !KNOWN.iter().any(|known| file.file_stem().is_some_and(|stem| stem == *known)));
        files.sort();
        for file in files {
            let case: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            match replay(&case).or_else(|| replay_update(&case)) {
                None => {}
                Some(None) => same += 1,
                Some(Some(difference)) => different.push(format!("{}: {difference}", file.display())),
            }
        }
    }
    println!("{same} same, {} different\n{}", different.len(), different.join("\n"));
    assert!(different.is_empty());
}

/// Nothing if the case is not about creating one of the kinds; else the difference, if there is
/// one.
fn replay(case: &Value) -> Option<Option<String>> {
    let (request, response) = (&case["request"], &case["response"]);
    let kind = kind_of(request)?;
    let status = response["status"].as_u64()?;
    if !request["body"].is_object() || !matches!(status, 201 | 422) || (status == 422 && is_about_query(response)) {
        return None;
    }
    let mut body = request["body"].clone();
    expand_placeholders(&mut body);
    let object = decode(Node::from(body), kind.type_id()).ok()?.value;
    Some(difference(kind, object, response))
}

/// Like [`replay`] for updates.
fn replay_update(case: &Value) -> Option<Option<String>> {
    let (request, response) = (&case["request"], &case["response"]);
    let path = request["path"].as_str()?.split('?').next()?;
    let (path, part) = match path.strip_suffix("/status") {
        Some(path) => (path, Part::Status),
        None => (path, Part::Main),
    };
    let (collection, name) = path.rsplit_once('/')?;
    let is_put = request["method"] == "PUT";
    let is_merge = request["method"] == "PATCH" && request["headers"]["Content-Type"] == "application/merge-patch+json";
    let [setup] = case["setup"].as_array()?.as_slice() else { return None };
    let is_of_setup = setup["path"] == collection && setup["body"]["metadata"]["name"] == name;
    let is_ours = response["status"] != 422 || !is_about_query(response);
    if !is_ours
        || !(is_put || is_merge)
        || !is_of_setup
        || !request["body"].is_object()
        || !matches!(response["status"].as_u64()?, 200 | 422)
    {
        return None;
    }
    let kind = kind_of(setup)?;
    let mut old = decode(Node::from(setup["body"].clone()), kind.type_id()).ok()?.value;
    let metadata = super::meta::child(&mut old, "metadata");
    metadata.insert("resourceVersion".into(), "1".into());
    metadata.insert("uid".into(), "<uid:1>".into());
    if kind.namespaced {
        metadata.insert("namespace".into(), "golden".into());
    }
    kind.rules.default(&mut old);
    kind.rules.prepare_create(&mut old);
    let old = normalize(old, kind.type_id()).ok()?;
    let mut new = if is_put { Value::Null } else { old.clone() };
    merge(&mut new, &request["body"]);
    let mut new = decode(Node::from(new), kind.type_id()).ok()?.value;
    super::meta::keep_system_fields(&mut new, &old);
    super::meta::child(&mut new, "metadata").remove("managedFields");
    super::meta::child(&mut new, "metadata").insert("namespace".into(), old["metadata"]["namespace"].clone());
    super::meta::child(&mut new, "metadata").insert("resourceVersion".into(), "1".into());
    kind.rules.default(&mut new);
    kind.rules.prepare_update(&mut new, &old, part);
    let new = normalize(new, kind.type_id()).ok()?;
    let errors = kind.rules.validate_update(&new, &old, part);
    let causes: Vec<String> = errors.iter().map(|error| format!("{} {error}", error.cause_reason())).collect();
    let expected = expected_causes(response);
    let is_same = causes == expected;
    Some((!is_same).then(|| format!("\n  want {}\n  have {}", expected.join("\n       "), causes.join("\n       "))))
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// `<1048577 x "x">` stands for a text of that length.
fn expand_placeholders(value: &mut Value) {
    match value {
        Value::String(text) => {
            let count = text.strip_prefix('<').and_then(|text| text.strip_suffix(" x \"x\">")).and_then(|count| count.parse().ok());
            if let Some(count) = count {
                *text = "x".repeat(count);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(expand_placeholders),
        Value::Object(fields) => fields.values_mut().for_each(expand_placeholders),
        _ => {}
    }
}

fn kind_of(request: &Value) -> Option<&'static Kind> {
    let path = request["path"].as_str()?.split('?').next()?;
    let mut parts = path.trim_matches('/').split('/');
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        _ => (parts.next()?, parts.next()?),
    };
    let rest: Vec<&str> = parts.collect();
    let plural = match rest.as_slice() {
        ["namespaces", _, plural] => *plural,
        [plural] => *plural,
        _ => return None,
    };
    let is_wanted = request["method"] == "POST" && PLURALS.contains(&plural);
    if is_wanted { table::by_resource(group, version, plural) } else { None }
}

/// The rules do not judge wrong parameters of the query and unreadable patches.
fn is_about_query(response: &Value) -> bool {
    let field = response.pointer("/body/details/causes/0/field").and_then(Value::as_str).unwrap_or_default();
    ["dryRun", "fieldManager", "fieldValidation", "force", "patch"].contains(&field)
}

fn difference(kind: &Kind, mut object: Value, response: &Value) -> Option<String> {
    let metadata = super::meta::child(&mut object, "metadata");
    if kind.namespaced {
        metadata.insert("namespace".into(), "golden".into());
    }
    if let (Some(prefix), false) = (metadata.get("generateName").cloned(), metadata.contains_key("name")) {
        metadata.insert("name".into(), format!("{}abcde", prefix.as_str().unwrap_or_default()).into());
    }
    let asked = object.clone();
    kind.rules.default(&mut object);
    kind.rules.prepare_create(&mut object);
    let object = normalize(object, kind.type_id()).expect("defaults have the right types");
    let errors = kind.rules.validate_create(&object);
    let causes: Vec<String> = errors.iter().map(|error| format!("{} {error}", error.cause_reason())).collect();
    let expected: Vec<String> = expected_causes(response);
    if causes != expected {
        return Some(format!("\n  want {}\n  have {}", expected.join("\n       "), causes.join("\n       ")));
    }
    if response["status"] != 201 {
        return None;
    }
    let warnings = kind.rules.warnings_create(&object);
    if warnings != expected_warnings(response) {
        return Some(format!("\n  want {:?}\n  have {warnings:?}", expected_warnings(response)));
    }
    let (want, have) = (comparable(&response["body"], &asked, kind), comparable(&object, &asked, kind));
    (want != have).then(|| format!("\n  want {}\n  have {}", Value::from(want), Value::from(have)))
}

fn expected_causes(response: &Value) -> Vec<String> {
    let causes = response.pointer("/body/details/causes").and_then(Value::as_array).into_iter().flatten();
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    causes.map(|cause| format!("{} {}: {}", text(cause, "reason"), text(cause, "field"), text(cause, "message"))).collect()
}

/// Unknown fields are warned of elsewhere.
fn expected_warnings(response: &Value) -> Vec<String> {
    let header = &response["headers"]["Warning"];
    let list = header.as_array().cloned().unwrap_or_else(|| vec![header.clone()]);
    let texts = list.iter().filter_map(Value::as_str).filter_map(|text| text.strip_prefix("299 - "));
    let texts = texts.filter_map(|quoted| serde_json::from_str::<String>(quoted).ok());
    texts.filter(|text| !text.starts_with("unknown field") && !text.starts_with("line ")).collect()
}

/// The object without what names, storage and admission add.
fn comparable(object: &Value, asked: &Value, kind: &Kind) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        fields.remove(name);
    }
    if kind.type_name == "Secret" {
        fields.remove("stringData");
    }
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "name", "namespace", "selfLink"] {
            metadata.remove(name);
        }
    }
    if let Some(spec) = fields.get_mut("spec").filter(|_| kind.plural == "services") {
        remove_allocated(spec, &asked["spec"]);
    }
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut).filter(|_| matches!(kind.plural, "pods" | "nodes")) {
        for name in ["tolerations", "priority", "preemptionPolicy", "taints"] {
            if asked["spec"].get(name).is_none() {
                spec.remove(name);
            }
        }
    }
    fields
}

/// Addresses and ports are given out by admission.
fn remove_allocated(spec: &mut Value, asked: &Value) {
    let ports = spec["ports"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    for (_, port) in ports.iter_mut().enumerate().filter(|(i, _)| asked["ports"][i]["nodePort"].is_null()) {
        port.as_object_mut().map(|port| port.remove("nodePort"));
    }
    for name in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        let is_asked = asked.get(name).is_some() || asked["clusterIP"].is_string();
        spec.as_object_mut().filter(|_| !is_asked).map(|spec| spec.remove(name));
    }
    if spec["ports"].is_null() {
        spec.as_object_mut().map(|spec| spec.remove("ports"));
    }
}
