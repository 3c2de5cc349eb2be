//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated
//! one.

use std::collections::BTreeMap;

use base64::Engine as _;
use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use kinds::status::Status;
use kinds::table::{KINDS, Kind, Subresource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer;
use super::negotiate::{self, Encoding};
use super::server::Call;
use crate::body::Body;

const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) fn handle(call: &Call, path: &str) -> Result<Response<Body>, Status> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').filter(|p| !p.is_empty()).collect();
    let aggregated = wants_aggregated(call);
    match parts.as_slice() {
        [] => answer_as(call, &json!({"paths": paths()})),
        ["api"] if aggregated => Ok(aggregated_answer(&[""])),
        ["apis"] if aggregated => Ok(aggregated_answer(&group_names())),
        ["api"] => answer_as(call, &core_versions()),
        ["api", "v1"] => answer_as(call, &resource_list("", "v1")),
        ["apis"] => answer_as(call, &group_list()),
        ["apis", group] if group_names().contains(group) => answer_as(call, &group_with_type(group)),
        ["apis", group, version] if versions(group).contains(version) => answer_as(call, &resource_list(group, version)),
        ["apis", group, _] if group_names().contains(group) => Err(Status::no_such_resource()),
        _ => Ok(answer::page_not_found()),
    }
}

fn answer_as(call: &Call, value: &Value) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accepted(&call.parts.headers, call.query.get("pretty"))?;
    Ok(answer::value(200, value, accepted.encoding))
}

fn wants_aggregated(call: &Call) -> bool {
    let accept = call.header(ACCEPT).unwrap_or_default();
    accept.split(',').any(|clause| {
        let has = |text: &str| clause.split(';').any(|part| part.trim() == text);
        has("application/json") && has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    })
}

/// Every named group, in the order in which its kinds come.
pub fn group_names() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for kind in KINDS.iter().filter(|k| !k.group.is_empty()) {
        if !names.contains(&kind.group) {
            names.push(kind.group);
        }
    }
    names
}

fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = KINDS.iter().filter(|k| k.group == group).map(|k| k.version).collect();
    versions.dedup();
    versions
}

fn kinds_of<'a>(group: &'a str, version: &'a str) -> Vec<&'static Kind> {
    let mut kinds: Vec<&'static Kind> = KINDS.iter().filter(|k| k.group == group && k.version == version).collect();
    kinds.sort_by_key(|k| k.plural);
    kinds
}

fn core_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

fn group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name).iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn group_list() -> Value {
    let groups: Vec<Value> = group_names().iter().map(|name| group(name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_with_type(name: &str) -> Value {
    let mut group = group(name);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut resources: BTreeMap<String, Value> = BTreeMap::new();
    for kind in kinds_of(group, version) {
        resources.insert(kind.plural.to_owned(), resource(kind));
        for sub in kind.subresources {
            let name = format!("{}/{}", kind.plural, sub.name);
            resources.insert(name.clone(), subresource(kind, sub, &name));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version,
        "resources": resources.into_values().collect::<Vec<_>>(),
    });
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list
}

fn resource(kind: &Kind) -> Value {
    let mut resource = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if kind.is_stored() {
        resource["storageVersionHash"] = storage_version_hash(kind).into();
    }
    resource
}

/// The first eight bytes of a digest over the stored group, version and kind.
fn storage_version_hash(kind: &Kind) -> String {
    let stored_group = if kind.view.is_some() { "" } else { kind.group };
    let digest = Sha256::digest(format!("{stored_group}/{}/{}", kind.version, kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

fn subresource(kind: &Kind, sub: &Subresource, name: &str) -> Value {
    let mut resource = json!({"name": name, "singularName": "", "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs});
    if let Some((group, version)) = sub.group_version {
        resource["group"] = group.into();
        resource["version"] = version.into();
    }
    resource
}

fn aggregated_answer(groups: &[&str]) -> Response<Body> {
    let items: Vec<Value> = groups.iter().map(|name| aggregated_group(name)).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = answer::value(200, &list, Encoding::Json);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED_TYPE));
    response.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .iter()
        .map(|version| {
            let resources: Vec<Value> = kinds_of(name, version).into_iter().map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": "", "version": "", "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        resource["subresources"] = kind.subresources.iter().map(aggregated_subresource).collect();
    }
    resource
}

fn aggregated_subresource(sub: &Subresource) -> Value {
    let (group, version) = sub.group_version.unwrap_or(("", ""));
    json!({"subresource": sub.name, "responseKind": {"group": group, "version": version, "kind": sub.kind}, "verbs": sub.verbs})
}

/// What `/` lists.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"].map(str::to_owned).into();
    for group in group_names() {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions(group).iter().map(|version| format!("/apis/{group}/{version}")));
    }
    let rest = ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"];
    paths.extend(rest.map(str::to_owned));
    paths.sort();
    paths
}
