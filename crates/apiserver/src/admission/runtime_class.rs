//! RuntimeClass: a pod's runtime class exists, and brings its overhead and its nodes.

use std::collections::HashSet;

use kinds::status::Status;
use kinds::table;
use serde_json::Value;

use super::{list_mut, refuse};
use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::request::WriteRequest;

pub fn admit(registry: &Registry, write: &WriteRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return refuse_own_overhead(write, pod);
    }
    let classes = table::by_resource("node.k8s.io", "v1", "runtimeclasses").expect("the table has runtime classes");
    let missing = || refuse(write, pod, &format!("pod rejected: RuntimeClass {name:?} not found"));
    let class = parse_stored(&registry.entry(classes, "", &name)?.ok_or_else(missing)?.value);
    set_overhead(write, pod, &class)?;
    add_scheduling(write, pod, &class)
}

/// Overhead comes from classes alone.
fn refuse_own_overhead(write: &WriteRequest<'_>, pod: &Value) -> Result<(), Status> {
    if pod["spec"]["overhead"].is_null() {
        return Ok(());
    }
    Err(refuse(write, pod, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
}

fn set_overhead(write: &WriteRequest<'_>, pod: &mut Value, class: &Value) -> Result<(), Status> {
    let overhead = &class["overhead"]["podFixed"];
    if overhead.is_null() {
        return refuse_own_overhead(write, pod);
    }
    if !pod["spec"]["overhead"].is_null() && pod["spec"]["overhead"] != *overhead {
        return Err(refuse(write, pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
    }
    pod["spec"]["overhead"] = overhead.clone();
    Ok(())
}

fn add_scheduling(write: &WriteRequest<'_>, pod: &mut Value, class: &Value) -> Result<(), Status> {
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (wanted, own) = (text(value), text(own));
            let message = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}");
            return Err(refuse(write, pod, &message));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    let tolerations = class["scheduling"]["tolerations"].as_array().cloned().unwrap_or_default();
    if !tolerations.is_empty() {
        let own = list_mut(&mut pod["spec"], "tolerations");
        let known: HashSet<&Value> = own.iter().collect();
        let added: Vec<Value> = tolerations.into_iter().filter(|toleration| !known.contains(toleration)).collect();
        own.extend(added);
    }
    Ok(())
}
