//! Priority: a pod's priority is that of its class.

use kinds::status::Status;
use kinds::table::{self, Kind};
use serde_json::Value;

use super::refuse;
use crate::registry::{Registry, Write, parse_stored};

fn classes() -> &'static Kind {
    table::by_resource("scheduling.k8s.io", "v1", "priorityclasses").expect("the table has priority classes")
}

pub fn admit(registry: &Registry, write: &Write<'_>, pod: &mut Value) -> Result<(), Status> {
    let class_name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if class_name.is_empty() {
        default_class(registry)
    } else {
        let entry = registry.entry(classes(), "", &class_name)?;
        let missing = || refuse(write, pod, &format!("no PriorityClass with name {class_name} was found"));
        Some(parse_stored(&entry.ok_or_else(missing)?.value))
    };
    let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|&given| given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(refuse(write, pod, &why));
    }
    let policy = class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority").to_owned();
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|&given| given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(refuse(write, pod, &why));
    }
    if let (true, Some(class)) = (class_name.is_empty(), &class) {
        pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
    }
    pod["spec"]["priority"] = value.into();
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// Of several global defaults the lowest counts.
fn default_class(registry: &Registry) -> Option<Value> {
    let snapshot = registry.caches.of(classes()).snapshot("", 0);
    let defaults = snapshot.objects.iter().map(|o| o.value()).filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64())
}

pub fn admit_delete(write: &Write<'_>) -> Result<(), Status> {
    if write.kind.plural == classes().plural && matches!(write.name, "system-cluster-critical" | "system-node-critical") {
        return Err(Status::forbidden(write.kind.resource(), write.name, "this is a system priority class and cannot be deleted"));
    }
    Ok(())
}
