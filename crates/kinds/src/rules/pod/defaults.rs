//! What Kubernetes fills into pods and pod templates.

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;
use crate::quantity::Quantity;
use crate::rules::check;

use super::resources;

const GRACE_SECONDS: i64 = 30;
const FILE_MODE: i64 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

pub fn default_pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    default_spec(spec);
    for container in containers_mut(spec, &["containers", "initContainers"]) {
        requests_from_limits(container);
    }
    default_pod_resources(spec);
    set(spec, "enableServiceLinks", true);
    if spec["hostNetwork"] == true {
        for container in containers_mut(spec, &["containers", "initContainers"]) {
            each(container, "ports", |port| {
                let number = port["containerPort"].clone();
                if !number.is_null() && number != 0 {
                    set(port, "hostPort", number);
                }
            });
        }
    }
}

/// The defaults that templates have too.
pub fn default_spec(spec: &mut Value) {
    each(spec, "volumes", default_volume);
    for container in containers_mut(spec, &["containers", "initContainers", "ephemeralContainers"]) {
        default_container(container);
    }
    default_service_account(spec);
    round_list(spec, "overhead");
    if let Some(resources) = spec.get_mut("resources") {
        round_resources(resources);
    }
    set(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", GRACE_SECONDS);
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", "default-scheduler");
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always written.
fn default_service_account(spec: &mut Value) {
    let name = ["serviceAccountName", "serviceAccount"].iter().find_map(|name| spec.get(name).cloned());
    if let Some(name) = name {
        spec["serviceAccount"] = name.clone();
        spec["serviceAccountName"] = name;
    }
}

fn default_container(container: &mut Value) {
    each(container, "ports", |port| set(port, "protocol", "TCP"));
    each(container, "env", |variable| {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            set(field, "apiVersion", "v1");
        }
    });
    if let Some(resources) = container.get_mut("resources") {
        round_resources(resources);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name) {
            default_probe(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(name)) {
            default_http_get(hook);
        }
    }
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    set(container, "imagePullPolicy", policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
}

fn default_probe(probe: &mut Value) {
    default_http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc") {
        set(grpc, "service", "");
    }
    for (name, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        set(probe, name, value);
    }
}

fn default_http_get(handler: &mut Value) {
    if let Some(action) = handler.get_mut("httpGet") {
        set(action, "path", "/");
        set(action, "scheme", "HTTP");
    }
}

/// Images that may change under their name are pulled every time.
fn pull_policy(image: &str) -> &'static str {
    if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag an image reference means: the one it has, `latest` if it has neither tag nor digest,
/// none if it cannot be read.
fn image_tag(image: &str) -> Option<&str> {
    let (named, digest) = match image.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (image, None),
    };
    let name_start = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[name_start..].split_once(':') {
        Some((name, tag)) => (&named[..name_start + name.len()], Some(tag)),
        None => (named, None),
    };
    let is_component = |part: &str| {
        let is_edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().all(|b| is_edge(b) || matches!(b, b'.' | b'_' | b'-'))
            && part.bytes().next().is_some_and(is_edge)
            && part.bytes().last().is_some_and(is_edge)
    };
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => name,
    };
    if !path.split('/').all(is_component) {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

/// Every volume is something; nothing in particular is an empty directory.
fn default_volume(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else { return };
    if fields.keys().all(|key| key == "name") {
        fields.insert("emptyDir".into(), json!({}));
    }
    for (source, defaults) in SOURCE_DEFAULTS {
        if let Some(source) = fields.get_mut(*source) {
            for (name, value) in *defaults {
                set(source, name, value.to_value());
            }
        }
    }
    default_files(fields);
    if let Some(image) = fields.get_mut("image") {
        let policy = pull_policy(image["reference"].as_str().unwrap_or_default());
        set(image, "pullPolicy", policy);
    }
    let claim = fields.get_mut("ephemeral").and_then(|source| source.pointer_mut("/volumeClaimTemplate/spec"));
    if let Some(claim) = claim {
        set(claim, "volumeMode", "Filesystem");
        if let Some(resources) = claim.get_mut("resources") {
            round_resources(resources);
        }
    }
}

#[derive(Clone, Copy)]
enum Default {
    Text(&'static str),
    Number(i64),
    No,
}

impl Default {
    fn to_value(self) -> Value {
        match self {
            Default::Text(text) => text.into(),
            Default::Number(number) => number.into(),
            Default::No => false.into(),
        }
    }
}

const SOURCE_DEFAULTS: &[(&str, &[(&str, Default)])] = &[
    ("hostPath", &[("type", Default::Text(""))]),
    ("secret", &[("defaultMode", Default::Number(FILE_MODE))]),
    ("configMap", &[("defaultMode", Default::Number(FILE_MODE))]),
    ("downwardAPI", &[("defaultMode", Default::Number(FILE_MODE))]),
    ("projected", &[("defaultMode", Default::Number(FILE_MODE))]),
    ("iscsi", &[("iscsiInterface", Default::Text("default"))]),
    ("rbd", &[("pool", Default::Text("rbd")), ("user", Default::Text("admin")), ("keyring", Default::Text("/etc/ceph/keyring"))]),
    (
        "azureDisk",
        &[
            ("cachingMode", Default::Text("ReadWrite")),
            ("kind", Default::Text("Shared")),
            ("fsType", Default::Text("ext4")),
            ("readOnly", Default::No),
        ],
    ),
    ("scaleIO", &[("storageMode", Default::Text("ThinProvisioned")), ("fsType", Default::Text("xfs"))]),
];

fn default_files(volume: &mut Map<String, Value>) {
    let default_field_refs = |source: &mut Value| {
        each(source, "items", |item| {
            if let Some(field) = item.get_mut("fieldRef") {
                set(field, "apiVersion", "v1");
            }
        });
    };
    if let Some(source) = volume.get_mut("downwardAPI") {
        default_field_refs(source);
    }
    if let Some(projected) = volume.get_mut("projected") {
        each(projected, "sources", |source| {
            if let Some(source) = source.get_mut("downwardAPI") {
                default_field_refs(source);
            }
            if let Some(token) = source.get_mut("serviceAccountToken") {
                set(token, "expirationSeconds", TOKEN_SECONDS);
            }
        });
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").cloned() else { return };
    for (name, amount) in limits.as_object().into_iter().flatten() {
        set(entry(&mut container["resources"], "requests"), name, amount.clone());
    }
}

/// A pod with resources of its own gets those it left out from its containers, then requests from
/// limits.
fn default_pod_resources(spec: &mut Value) {
    let cursor = Cursor::root(spec);
    let (requests, limits) = (resources::aggregate(&cursor, "requests"), resources::aggregate(&cursor, "limits"));
    let names_of_limits = limits_of_all(&cursor);
    let Some(own) = spec.get_mut("resources") else { return };
    let count = |own: &Value, list: &str| own.get(list).and_then(Value::as_object).map_or(0, Map::len);
    if count(own, "limits") + count(own, "requests") == 0 {
        return;
    }
    let is_huge = |name: &str| resources::is_huge_pages(name);
    for (name, amount) in limits.iter().filter(|(name, _)| is_huge(name)) {
        if own.pointer("/requests").and_then(|requests| requests.get(name)).is_none() {
            set(entry(own, "limits"), name, amount.to_string());
        }
    }
    if count(own, "limits") > 0 {
        for (name, amount) in requests.iter().filter(|(name, _)| resources::is_pod_level(name) && !is_huge(name)) {
            set(entry(own, "requests"), name, amount.to_string());
        }
        let limits = own["limits"].clone();
        for (name, amount) in limits.as_object().into_iter().flatten().filter(|(name, _)| resources::is_pod_level(name)) {
            set(entry(own, "requests"), name, amount.clone());
        }
    } else {
        let shared = limits.iter().filter(|(name, _)| resources::is_pod_level(name) && !is_huge(name) && names_of_limits.contains(name));
        for (name, amount) in shared {
            set(entry(own, "limits"), name, amount.to_string());
        }
    }
}

/// The resources that every container has a limit of.
fn limits_of_all(spec: &Cursor<'_>) -> Vec<String> {
    let containers = || ["containers", "initContainers"].map(|name| spec.field(name)).into_iter().flat_map(|list| list.items());
    let has = |container: &Cursor<'_>, name: &str| container.field("resources").field("limits").key(name).exists();
    let Some(first) = containers().next() else { return Vec::new() };
    let names = first.field("resources").field("limits").entries().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    names.into_iter().filter(|name| containers().all(|container| has(&container, name))).collect()
}

fn round_resources(resources: &mut Value) {
    round_list(resources, "limits");
    round_list(resources, "requests");
}

/// Amounts finer than a thousandth are rounded up, so that a tiny request is not none.
pub fn round_list(owner: &mut Value, name: &str) {
    let Some(list) = owner.get_mut(name).and_then(Value::as_object_mut) else { return };
    for amount in list.values_mut() {
        let quantity: Quantity = check::quantity_of(Some(amount));
        let rounded = quantity.round_up_to_milli();
        if rounded != quantity {
            *amount = rounded.to_string().into();
        }
    }
}

fn containers_mut<'a>(spec: &'a mut Value, lists: &[&str]) -> Vec<&'a mut Value> {
    let Some(spec) = spec.as_object_mut() else { return Vec::new() };
    let lists = spec.iter_mut().filter(|(name, _)| lists.contains(&name.as_str()));
    lists.filter_map(|(_, list)| list.as_array_mut()).flatten().collect()
}

fn each(owner: &mut Value, list: &str, change: impl FnMut(&mut Value)) {
    owner.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().for_each(change);
}

/// The map under a key, made if need be.
fn entry<'a>(owner: &'a mut Value, name: &str) -> &'a mut Value {
    set(owner, name, json!({}));
    &mut owner[name]
}

/// Sets a field that is not there.
fn set(owner: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(owner) = owner.as_object_mut() {
        let slot = owner.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_a_moving_tag_are_always_pulled() {
        let latest = ["nginx", "nginx:latest", "a.b:5000/c", "b", "a/b:latest@sha256:0"];
        let fixed = ["nginx:1.27", "nginx@sha256:0", "a.b:5000/c:1", "ngi nx", "Nginx", ""];
        assert!(latest.iter().all(|image| pull_policy(image) == "Always"), "{latest:?}");
        assert!(fixed.iter().all(|image| pull_policy(image) == "IfNotPresent"), "{fixed:?}");
    }
}
