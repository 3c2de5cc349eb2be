//! pods/eviction: deletes a pod if its disruption budgets allow it.

use bytes::Bytes;
use http::Response;
use kinds::rules::Part;
use kinds::schema::schema;
use kinds::selector::Selector;
use kinds::status::{Cause, Details, Status};
use kinds::table::{self, Kind};
use serde_json::{Value, json};

use super::super::decode::Expected;
use super::super::options::WriteKind;
use super::super::resources::ResourceCall;
use super::created;
use crate::body::Body;
use crate::registry::encoding::parse_stored;
use crate::registry::metadata::metadata_mut;
use crate::registry::update::Changed;
use crate::request::WriteRequest;
use crate::request::options::{DeleteOptions, WriteOptions};

/// How long a client should wait while a budget is not computed yet.
const RETRY_SECONDS: u32 = 10;

/// A budget tracks this many evicted pods at most until its controller has caught up.
const DISRUPTED_PODS_MAX: usize = 2000;

const BLOCKED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn budgets() -> &'static Kind {
    table::by_resource("policy", "v1", "poddisruptionbudgets").expect("the table has disruption budgets")
}

pub async fn evict(request: &ResourceCall<'_>, bytes: Bytes) -> Result<Response<Body>, Status> {
    let write_options = WriteOptions::parse(request.query(), WriteKind::Create)?;
    let eviction = decode(request, &bytes, &write_options)?;
    let name = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != request.path.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::from_value(&eviction["deleteOptions"])?;
    options.dry_run |= write_options.dry_run;
    let write_options = WriteOptions { dry_run: options.dry_run, ..write_options };
    let pod = parse_stored(&request.registry().get(request.kind, &request.path.namespace, &request.path.name)?.value);
    if !ignores_budgets(&pod) {
        let counted = use_budget(request, &pod, &write_options).await?;
        if counted && options.uid.is_none() {
            // The budget was spent on this very pod.
            options.uid = pod["metadata"]["uid"].as_str().map(str::to_owned);
        }
    }
    if !write_options.dry_run {
        mark_disrupted(request, &write_options).await?;
    }
    request.registry().delete(request.admission(), &request.write(Part::Main, &write_options), &options).await?;
    Ok(created())
}

/// Says in the pod's status why it goes, before it goes.
async fn mark_disrupted(request: &ResourceCall<'_>, options: &WriteOptions) -> Result<(), Status> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": kinds::decode::format_time(request.now),
    });
    let marked = |pod: &Value| {
        let mut pod = pod.clone();
        metadata_mut(&mut pod).remove("resourceVersion");
        set_condition(&mut pod["status"], condition.clone());
        Ok(Changed::to(pod))
    };
    request.registry().update(request.admission(), &request.write(None, options), marked).await.map(drop)
}

/// Puts a condition into a status; one of the same type and status stays as it is.
fn set_condition(status: &mut Value, condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let conditions = status["conditions"].as_array_mut().expect("made an array above");
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(existing) if existing["status"] == condition["status"] => {}
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}

/// Bodies of policy/v1beta1 are still accepted.
fn decode(request: &ResourceCall<'_>, bytes: &[u8], options: &WriteOptions) -> Result<Value, Status> {
    let type_id = schema().named("Eviction").expect("types.txt has Eviction");
    let expected = |version: &'static str| Expected { group: "policy", version, kind: "Eviction", type_id };
    let old = bytes.windows(b"policy/v1beta1".len()).any(|window| window == b"policy/v1beta1");
    let version = if old { "v1beta1" } else { "v1" };
    Ok(request.decode(bytes, expected(version), options.field_validation)?.object)
}

/// Evicting a pod that ended, never started or is going away disturbs no application.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending")) || pod["metadata"]["deletionTimestamp"].is_string()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the pod's budget; says whether one was taken.
async fn use_budget(request: &ResourceCall<'_>, pod: &Value, options: &WriteOptions) -> Result<bool, Status> {
    let namespace = request.path.namespace.as_str();
    let registry = request.registry();
    registry.caches.wait_for(registry.revision()).await;
    let all = registry.caches.of(budgets()).snapshot(&format!("{namespace}/"), 0);
    let concerned: Vec<Value> = all.objects.iter().map(|budget| budget.value()).filter(|budget| selects(budget, pod)).collect();
    let budget = match concerned.as_slice() {
        [] => return Ok(false),
        [one] => one,
        _ => {
            return Err(Status::unclassified(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    if !is_ready(pod) && may_go_unready(budget) {
        return Ok(false);
    }
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let write = WriteRequest { kind: budgets(), name, subresource: "status", ..request.write(Part::Status, options) };
    let pod_name = request.path.name.as_str();
    registry.update(request.admission(), &write, |budget| disrupted(budget, name, pod_name, request.now).map(Changed::to)).await?;
    Ok(true)
}

fn selects(budget: &Value, pod: &Value) -> bool {
    match budget["spec"].get("selector") {
        None | Some(Value::Null) => false,
        selector => Selector::from_object(selector).is_ok_and(|selector| selector.matches_labels_of(pod)),
    }
}

fn may_go_unready(budget: &Value) -> bool {
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    match budget["spec"]["unhealthyPodEvictionPolicy"].as_str() {
        Some("AlwaysAllow") => true,
        _ => status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0,
    }
}

/// The budget with one disruption less and the pod noted.
fn disrupted(budget: &Value, name: &str, pod: &str, now: jiff::Timestamp) -> Result<Value, Status> {
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    if status("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let mut refusal = Status::too_many_requests(BLOCKED, RETRY_SECONDS);
        add_cause(&mut refusal, format!("The disruption budget {name} is still being processed by the server."));
        return Err(refusal);
    }
    let allowed = status("disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(budgets().resource(), name, "pdb disruptions allowed is negative"));
    }
    if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
        return Err(Status::forbidden(
            budgets().resource(),
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let mut refusal = Status::new(429, "TooManyRequests", BLOCKED).with_details(Details::default());
        add_cause(&mut refusal, why_none(&budget["status"], name));
        return Err(refusal);
    }
    let mut changed = budget.clone();
    metadata_mut(&mut changed).remove("resourceVersion");
    changed["status"]["disruptionsAllowed"] = (allowed - 1).into();
    changed["status"]["disruptedPods"][pod] = kinds::decode::format_time(now).into();
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": status("observedGeneration"), "lastTransitionTime": kinds::decode::format_time(now),
        });
        set_condition(&mut changed["status"], condition);
    }
    Ok(changed)
}

/// Why a budget allows nothing. While its controller cannot compute it, its numbers mean nothing.
fn why_none(status: &Value, name: &str) -> String {
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
    let said =
        |c: &&Value| c["type"] == "DisruptionAllowed" && c["status"] == "False" && c["message"].as_str().is_some_and(|m| !m.is_empty());
    let condition = status["conditions"].as_array().into_iter().flatten().find(said);
    let said = condition.map(|c| (c["reason"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default()));
    let does_not = format!("The disruption budget {name} does not allow evicting pods currently");
    match said {
        Some(("SyncFailed", message)) => format!("{does_not} because it failed sync: {message}"),
        _ if has <= needs => format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
        Some((reason, message)) => format!("{does_not} ({reason}): {message}"),
        None => does_not,
    }
}

fn add_cause(status: &mut Status, message: String) {
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message, field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_allows_nothing_says_why() {
        let condition =
            |reason: &str, message: &str| json!([{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": message}]);
        let check = |healthy: i64, conditions: Value, expected: &str| {
            let status = json!({"currentHealthy": healthy, "desiredHealthy": 2, "conditions": conditions});
            assert_eq!(why_none(&status, "b"), expected);
        };
        check(2, condition("InsufficientPods", ""), "The disruption budget b needs 2 healthy pods and has 2 currently");
        let failed = "The disruption budget b does not allow evicting pods currently because it failed sync: no scale";
        check(2, condition("SyncFailed", "no scale"), failed);
        check(3, condition("Other", "so"), "The disruption budget b does not allow evicting pods currently (Other): so");
        check(3, Value::Null, "The disruption budget b does not allow evicting pods currently");
    }
}
