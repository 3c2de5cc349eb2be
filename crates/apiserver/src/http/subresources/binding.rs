//! pods/binding: puts a pod on a node.

use bytes::Bytes;
use http::Response;
use kinds::schema::schema;
use kinds::status::{GroupResource, Status};
use kinds::table::{self, Kind};
use serde_json::{Value, json};

use super::super::decode::Expected;
use super::super::options::WriteKind;
use super::super::resources::ResourceCall;
use super::created;
use crate::body::Body;
use crate::registry::metadata::metadata_mut;
use crate::registry::update::Changed;
use crate::request::WriteRequest;
use crate::request::options::WriteOptions;

const SUBJECT: GroupResource<'static> = GroupResource { group: "", resource: "pods/binding" };

pub(crate) fn pods() -> &'static Kind {
    table::by_resource("", "v1", "pods").expect("the table has pods")
}

fn expected() -> Expected<'static> {
    let type_id = schema().named("Binding").expect("types.txt has Binding");
    Expected { group: "", version: "v1", kind: "Binding", type_id }
}

/// POST to pods/NAME/binding.
pub async fn bind(request: &ResourceCall<'_>, pod: &str, bytes: Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(request.query(), WriteKind::Create)?;
    let binding = request.decode(&bytes, expected(), options.field_validation)?.object;
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != pod {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    bind_pod(request, pod, &binding, &options).await
}

/// POST to the old collection; the body names the pod.
pub async fn bind_by_body(request: &ResourceCall<'_>, bytes: Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(request.query(), WriteKind::Create)?;
    let binding = request.decode(&bytes, expected(), options.field_validation)?.object;
    let pod = binding["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    bind_pod(request, &pod, &binding, &options).await
}

async fn bind_pod(request: &ResourceCall<'_>, pod: &str, binding: &Value, options: &WriteOptions) -> Result<Response<Body>, Status> {
    check_target(binding)?;
    let write = WriteRequest { kind: pods(), name: pod, subresource: "binding", ..request.write(None, options) };
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    request
        .registry()
        .update_folded(request.admission(), &write, |old| {
            check_bindable(pod, old, uid)?;
            Ok(Changed::to(bound(old, binding)))
        })
        .await?;
    Ok(created())
}

/// Kubernetes answers these as errors of the server.
fn check_target(binding: &Value) -> Result<(), Status> {
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        let why = format!("target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        return Err(Status::unclassified(why));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        return Err(Status::unclassified("target.name: Required value"));
    }
    Ok(())
}

fn check_bindable(pod: &str, old: &Value, uid: &str) -> Result<(), Status> {
    let conflict = |why: String| Err(Status::conflict(SUBJECT, pod, &why));
    let own_uid = old["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != own_uid {
        return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own_uid}"));
    }
    if old["metadata"]["deletionTimestamp"].is_string() {
        return conflict(format!("pod {pod} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = old["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return conflict(format!("pod {pod} is already assigned to node {node:?}"));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {pod} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

fn bound(old: &Value, binding: &Value) -> Value {
    let mut pod = old.clone();
    metadata_mut(&mut pod).remove("resourceVersion");
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            pod["metadata"][field][key] = value.clone();
        }
    }
    set_scheduled(&mut pod);
    // A nomination only says where room is being made; a pod that has its node needs none.
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    pod
}

fn set_scheduled(pod: &mut Value) {
    let now = kinds::decode::format_time(jiff::Timestamp::now());
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let conditions = conditions.as_array_mut().expect("made an array above");
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(existing) if existing["status"] == "True" => {}
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kubernetes since 1.35 (ClearingNominatedNodeNameAfterBinding): `kubectl get pods -o wide`
    /// showed a nomination forever.
    #[test]
    fn a_nomination_ends_with_the_binding() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending", "nominatedNodeName": "a"}});
        let bound = bound(&pod, &json!({"target": {"name": "a"}}));
        assert_eq!(bound["spec"]["nodeName"], "a");
        assert_eq!(bound["status"].get("nominatedNodeName"), None);
        assert_eq!(bound["status"]["phase"], "Pending");
    }
}
