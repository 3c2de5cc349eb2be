//! NodeRestriction: an agent writes its own node, the status of the pods on it and their mirrors,
//! its lease and tokens of its pods; no labels by which others trust nodes, and nothing that would
//! let it read more than its pods need.

use std::collections::BTreeSet;

use kinds::status::Status;
use kinds::table;
use serde_json::{Map, Value};

use super::{PodRange, certificates, is_core, refuse};
use crate::auth::authorize::Authorizer;
use crate::auth::node::{self, MIRROR, node_of};
use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::request::{Attributes, What, WriteRequest};

/// Checks a create (`old` is None) or an update by an agent.
pub fn check(registry: &Registry, write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let Some(node) = node_of(write.user) else { return Ok(()) };
    let checked = if is_core(write.kind, "Node") {
        check_node(node, name_of(object), object, old)
    } else if is_core(write.kind, "Pod") {
        match (write.subresource, old) {
            ("", None) => check_mirror(registry, node, object)?,
            ("", Some(_)) => Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
            ("status", Some(old)) => check_pod_status(node, object, old),
            ("eviction", Some(old)) if old["spec"]["nodeName"] == node => Ok(()),
            ("eviction", _) => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
            (other, _) => Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")),
        }
    } else if write.kind.plural == "leases" {
        check_lease(node, write.namespace, name_of(object))
    } else if certificates::is_request(write) && old.is_none() {
        certificates::check_node_request(node, object)
    } else {
        Ok(())
    };
    checked.map_err(|why| refuse(write, object, &why))
}

/// Checks the ranges that a node claims for its pods, when it registers or later. One that took
/// more than its share would get what is meant for pods of others, or leave nothing for nodes to
/// come.
pub fn check_pod_ranges(ranges: &[PodRange], write: &WriteRequest<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let Some(node) = node_of(write.user).filter(|_| is_core(write.kind, "Node") && !ranges.is_empty()) else { return Ok(()) };
    let spec = &object["spec"];
    if old.is_some_and(|old| ["podCIDR", "podCIDRs"].iter().all(|field| old["spec"][field] == spec[field])) {
        return Ok(());
    }
    let claims = spec["podCIDRs"].as_array().into_iter().flatten().chain(Some(&spec["podCIDR"]).filter(|claim| !claim.is_null()));
    for claim in claims {
        let text = claim.as_str().unwrap_or_default();
        let is_share = text.is_empty() || text.parse().is_ok_and(|claim| ranges.iter().any(|range| range.has_share(&claim)));
        if !is_share {
            let shares: Vec<String> = ranges.iter().map(|range| format!("a /{} of {}", range.node_prefix, range.range)).collect();
            let why =
                format!("node {node:?} is not allowed to have the pod range {text}: nodes of this cluster have {}", shares.join(" and "));
            return Err(refuse(write, object, &why));
        }
    }
    Ok(())
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn check_node(node: &str, name: &str, object: &Value, old: Option<&Value>) -> Result<(), String> {
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let labels = forbidden_labels(object, old);
    let source = &object["spec"]["configSource"];
    let Some(old) = old else {
        if !source.is_null() {
            return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
        }
        return match labels.as_str() {
            "" => Ok(()),
            labels => Err(format!("node {node:?} is not allowed to set the following labels: {labels}")),
        };
    };
    if !source.is_null() && *source != old["spec"]["configSource"] {
        return Err(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
    }
    if old["spec"]["taints"] != object["spec"]["taints"] {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    // The garbage collector deletes what its owners are gone of.
    if old["metadata"]["ownerReferences"] != object["metadata"]["ownerReferences"] {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    match labels.as_str() {
        "" => Ok(()),
        labels => Err(format!("is not allowed to modify labels: {labels}")),
    }
}

/// The labels that differ and that an agent may not set, sorted.
fn forbidden_labels(object: &Value, old: Option<&Value>) -> String {
    let empty = Map::new();
    let of = |object: Option<&Value>| object.and_then(|object| object["metadata"]["labels"].as_object().cloned()).unwrap_or(empty.clone());
    let (new, old) = (of(Some(object)), of(old));
    let changed = new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key));
    let forbidden: BTreeSet<&str> = changed.map(String::as_str).filter(|key| !kinds::names::may_be_set_by_nodes(key)).collect();
    forbidden.into_iter().collect::<Vec<_>>().join(", ")
}

/// Agents make only the mirrors of their static pods. What a mirror refers to the agent could read.
fn check_mirror(registry: &Registry, node: &str, pod: &Value) -> Result<Result<(), String>, Status> {
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        return Ok(Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods")));
    }
    if pod["spec"]["nodeName"] != node {
        return Ok(Err(format!("node {node:?} can only create pods with spec.nodeName set to itself")));
    }
    let owner = match pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice) {
        Some([owner]) => owner,
        None | Some([]) => return Ok(Err(format!("node {node:?} can only create pods with an owner reference set to itself"))),
        Some(_) => return Ok(Err(format!("node {node:?} can only create pods with a single owner reference set to itself"))),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Ok(Err(format!("node {node:?} can only create pods with an owner reference set to itself")));
    }
    if owner["controller"] != true {
        return Ok(Err(format!("node {node:?} can only create pods with a controller owner reference set to itself")));
    }
    if owner["blockOwnerDeletion"] == true {
        return Ok(Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference")));
    }
    let nodes = table::by_resource("", "v1", "nodes").expect("the table has nodes");
    let own = parse_stored(&registry.get(nodes, "", node)?.value);
    if owner["uid"] != own["metadata"]["uid"] {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        return Ok(Err(format!("node {node} UID mismatch: expected {} got {}", text(&owner["uid"]), text(&own["metadata"]["uid"]))));
    }
    Ok(match references(pod) {
        None => Ok(()),
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
    })
}

/// What kind of object a pod refers to, if it refers to any.
fn references(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let sources = || volumes().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        Some("a service account")
    } else if node::refers_to_any(spec, "secrets") {
        Some("secrets")
    } else if node::refers_to_any(spec, "configmaps") {
        Some("configmaps")
    } else if sources().any(|source| !source["clusterTrustBundle"].is_null()) {
        Some("clustertrustbundles")
    } else if sources().any(|source| !source["serviceAccountToken"].is_null()) {
        Some("a service account")
    } else if volumes().any(|volume| !volume["persistentVolumeClaim"].is_null() || !volume["ephemeral"].is_null()) {
        Some("persistentvolumeclaims")
    } else if spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()) {
        Some("resourceclaims")
    } else {
        None
    }
}

fn check_pod_status(node: &str, pod: &Value, old: &Value) -> Result<(), String> {
    if old["spec"]["nodeName"] != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old["metadata"]["labels"] != pod["metadata"]["labels"] {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if old["status"]["resourceClaimStatuses"] != pod["status"]["resourceClaimStatuses"] {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    if old["status"]["extendedResourceClaimStatus"] != pod["status"]["extendedResourceClaimStatus"] {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

fn check_lease(node: &str, namespace: &str, name: &str) -> Result<(), String> {
    if namespace != node::LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {:?} system namespace", node::LEASE_NAMESPACE));
    }
    if name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

/// Checks a deletion by an agent.
pub fn check_delete(write: &WriteRequest<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = node_of(write.user) else { return Ok(()) };
    let is_own = object["spec"]["nodeName"] == node;
    let checked = if is_core(write.kind, "Pod") {
        match write.subresource {
            "eviction" if !is_own => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
            _ if !is_own => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
            _ => Ok(()),
        }
    } else if is_core(write.kind, "Node") && name_of(object) != node {
        Err(format!("node {node:?} is not allowed to modify node {:?}", name_of(object)))
    } else if write.kind.plural == "leases" {
        check_lease(node, write.namespace, name_of(object))
    } else {
        Ok(())
    };
    checked.map_err(|why| refuse(write, object, &why))
}

/// Checks a request for a token by an agent; `request` is the TokenRequest. The token must be bound
/// to a pod on the node that runs as the account, and be for an audience that the pod asks for.
pub fn check_token(registry: &Registry, authorizer: &Authorizer, write: &WriteRequest<'_>, request: &Value) -> Result<(), Status> {
    let Some(node) = node_of(write.user) else { return Ok(()) };
    let refused = |why: String| Err(Status::forbidden(write.kind.resource(), write.name, &why));
    let bound = &request["spec"]["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return refused("node requested token not bound to a pod".to_owned());
    }
    if text("uid").is_empty() {
        return refused("node requested token with a pod binding without a uid".to_owned());
    }
    let pods = table::by_resource("", "v1", "pods").expect("the table has pods");
    let pod = parse_stored(&registry.get(pods, write.namespace, text("name"))?.value);
    if pod["metadata"]["uid"] != text("uid") {
        return refused(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refused("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let audience = match request["spec"]["audiences"].as_array().map(Vec::as_slice) {
        None | Some([]) => "",
        Some([audience]) => audience.as_str().unwrap_or_default(),
        Some(_) => return refused("node may only request 0 or 1 audiences".to_owned()),
    };
    if is_asked_for(&pod, audience) || may_ask_for(authorizer, write, audience) {
        return Ok(());
    }
    let user = &write.user.name;
    refused(format!("audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"))
}

/// Has the pod a volume with a token for this audience?
fn is_asked_for(pod: &Value, audience: &str) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let mut tokens = sources.map(|source| &source["serviceAccountToken"]).filter(|token| token.is_object());
    tokens.any(|token| token["audience"].as_str().unwrap_or_default() == audience)
}

fn may_ask_for(authorizer: &Authorizer, write: &WriteRequest<'_>, audience: &str) -> bool {
    let what = What::Resource {
        group: "",
        version: "v1",
        resource: audience,
        subresource: "",
        namespace: write.namespace,
        name: write.name,
        field_selector: "",
    };
    authorizer.authorize(&Attributes { user: write.user, verb: "request-serviceaccounts-token-audience", what }).allowed
}
