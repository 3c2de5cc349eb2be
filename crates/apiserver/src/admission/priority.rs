//! Priority: a pod's priority is that of its class.

use kinds::status::Status;
use kinds::table::{self, Kind};
use serde::Deserialize;
use serde_json::Value;

use super::refuse;
use crate::registry::Registry;
use crate::registry::encoding::read_stored;
use crate::request::WriteRequest;

/// What matters of a class; it is read for every pod.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Class {
    metadata: ClassMetadata,
    value: Option<i64>,
    #[serde(default)]
    global_default: bool,
    preemption_policy: Option<String>,
}

#[derive(Deserialize)]
struct ClassMetadata {
    name: String,
}

fn classes() -> &'static Kind {
    table::by_resource("scheduling.k8s.io", "v1", "priorityclasses").expect("the table has priority classes")
}

pub fn admit(registry: &Registry, write: &WriteRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    let class_name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if class_name.is_empty() {
        default_class(registry)
    } else {
        let entry = registry.entry(classes(), "", &class_name)?;
        let missing = || refuse(write, pod, &format!("no PriorityClass with name {class_name} was found"));
        Some(read_stored::<Class>(&entry.ok_or_else(missing)?.value))
    };
    let value = class.as_ref().and_then(|class| class.value).unwrap_or(0);
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|&given| given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(refuse(write, pod, &why));
    }
    let policy = class.as_ref().and_then(|class| class.preemption_policy.as_deref()).unwrap_or("PreemptLowerPriority").to_owned();
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|&given| given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(refuse(write, pod, &why));
    }
    if let (true, Some(class)) = (class_name.is_empty(), &class) {
        pod["spec"]["priorityClassName"] = class.metadata.name.as_str().into();
    }
    pod["spec"]["priority"] = value.into();
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// Of several global defaults the lowest counts.
fn default_class(registry: &Registry) -> Option<Class> {
    let snapshot = registry.caches.of(classes()).snapshot("", 0);
    // Most classes are no defaults, and nearly every pod asks.
    let may_be_default = |bytes: &[u8]| memchr::memmem::find(bytes, b"globalDefault").is_some();
    let may_be = snapshot.objects.iter().filter(|object| may_be_default(&object.bytes));
    let defaults = may_be.map(|object| read_stored::<Class>(&object.bytes)).filter(|class| class.global_default);
    defaults.min_by_key(|class| class.value)
}

/// There is one default, or none (`validatePriorityClass`).
pub fn check_class(registry: &Registry, write: &WriteRequest<'_>, class: &Value) -> Result<(), Status> {
    if !std::ptr::eq(write.kind, classes()) || class["globalDefault"] != true {
        return Ok(());
    }
    match default_class(registry).map(|default| default.metadata.name) {
        Some(default) if class["metadata"]["name"] != default => {
            Err(refuse(write, class, &format!("PriorityClass {default} is already marked as default. Only one default can exist")))
        }
        _ => Ok(()),
    }
}

pub fn admit_delete(write: &WriteRequest<'_>) -> Result<(), Status> {
    if write.kind.plural == classes().plural && matches!(write.name, "system-cluster-critical" | "system-node-critical") {
        return Err(Status::forbidden(write.kind.resource(), write.name, "this is a system priority class and cannot be deleted"));
    }
    Ok(())
}
