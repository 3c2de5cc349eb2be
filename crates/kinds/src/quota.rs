//! What counts against a ResourceQuota: the names that quotas limit, what objects use of them, and
//! which pods a quota is about.
//!
//! Admission refuses by it, and the quota controller counts by it. Both read pods in their own way;
//! this is the one place that says what a name means. After `pkg/quota/v1/evaluator/core` and
//! `apiserver/pkg/quota/v1`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::quantity::Quantity;
use crate::table::{self, Kind};

pub type Amounts = BTreeMap<String, Quantity>;

/// What a name in `spec.hard` counts.
#[derive(Debug, Clone, Copy)]
pub enum Counted<'a> {
    /// Pods that have not ended.
    LivePods,
    /// Of pods that have not ended.
    Requests(&'a str),
    Limits(&'a str),
    Objects(&'static Kind),
    NodePorts,
    LoadBalancers,
    /// Kinds that Kubernetes has and this server does not: there are none.
    Absent,
}

/// Older names for counts of objects.
const PLAIN_COUNTS: [&str; 4] = ["configmaps", "resourcequotas", "secrets", "services"];

/// What a name counts; None for names that mean nothing.
pub fn counted(name: &str) -> Option<Counted<'_>> {
    if let Some(resource) = name.strip_prefix("count/") {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let kind = table::KINDS.iter().find(|kind| kind.group == group && kind.plural == plural && kind.namespaced && kind.is_stored());
        return kind.map(Counted::Objects);
    }
    match name {
        "pods" => Some(Counted::LivePods),
        "cpu" | "memory" | "ephemeral-storage" => Some(Counted::Requests(name)),
        "services.nodeports" => Some(Counted::NodePorts),
        "services.loadbalancers" => Some(Counted::LoadBalancers),
        "persistentvolumeclaims" | "replicationcontrollers" => Some(Counted::Absent),
        _ if name.ends_with("requests.storage") || name.ends_with("storageclass.storage.k8s.io/persistentvolumeclaims") => {
            Some(Counted::Absent)
        }
        _ if name.starts_with("hugepages-") => Some(Counted::Requests(name)),
        _ if PLAIN_COUNTS.contains(&name) => table::by_resource("", "v1", name).map(Counted::Objects),
        _ => match name.split_once('.') {
            Some(("requests", resource)) => Some(Counted::Requests(resource)),
            Some(("limits", resource @ ("cpu" | "memory" | "ephemeral-storage"))) => Some(Counted::Limits(resource)),
            _ => None,
        },
    }
}

/// What matters of a pod for the scopes of quotas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PodTraits<'a> {
    pub has_deadline: bool,
    pub is_best_effort: bool,
    pub priority_class: &'a str,
    /// Does its affinity look at pods of other namespaces?
    pub looks_elsewhere: bool,
}

/// Is a quota about such pods? All its scopes must fit.
pub fn covers_pod(quota: &Value, pod: &PodTraits<'_>) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let expressions = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    scopes.into_iter().all(|scope| pod.has(scope)) && expressions.into_iter().all(|expression| pod.fits(expression))
}

/// Only pods have scopes: a quota with any is about nothing else.
pub fn has_scopes(quota: &Value) -> bool {
    let is_some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    is_some(&quota["spec"]["scopes"]) || is_some(&quota["spec"]["scopeSelector"]["matchExpressions"])
}

impl<'a> PodTraits<'a> {
    pub fn of(pod: &'a Value) -> PodTraits<'a> {
        let spec = &pod["spec"];
        PodTraits {
            has_deadline: spec["activeDeadlineSeconds"].as_i64().is_some(),
            is_best_effort: is_best_effort(pod),
            priority_class: spec["priorityClassName"].as_str().unwrap_or_default(),
            looks_elsewhere: looks_elsewhere(&spec["affinity"]),
        }
    }

    fn has(&self, scope: &str) -> bool {
        match scope {
            "Terminating" => self.has_deadline,
            "NotTerminating" => !self.has_deadline,
            "BestEffort" => self.is_best_effort,
            "NotBestEffort" => !self.is_best_effort,
            "PriorityClass" => !self.priority_class.is_empty(),
            "CrossNamespacePodAffinity" => self.looks_elsewhere,
            _ => false,
        }
    }

    fn fits(&self, expression: &Value) -> bool {
        let listed = expression["values"].as_array().into_iter().flatten().any(|value| value == self.priority_class);
        match (expression["scopeName"].as_str().unwrap_or_default(), expression["operator"].as_str().unwrap_or_default()) {
            ("PriorityClass", "In") => listed,
            ("PriorityClass", "NotIn") => !listed,
            ("PriorityClass", "DoesNotExist") => self.priority_class.is_empty(),
            (scope, _) => self.has(scope),
        }
    }
}

fn is_best_effort(pod: &Value) -> bool {
    ["requests", "limits"].iter().all(|which| {
        let amounts = totals(pod, which);
        ["cpu", "memory"].iter().all(|resource| amounts.get(*resource).is_none_or(Quantity::is_zero))
    })
}

fn looks_elsewhere(affinity: &Value) -> bool {
    let is_elsewhere = |term: &Value| {
        let term = term.get("podAffinityTerm").unwrap_or(term);
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
    };
    let lists = ["podAffinity", "podAntiAffinity"].iter().flat_map(|kind| affinity[kind].as_object().into_iter().flatten());
    lists.flat_map(|(_, terms)| terms.as_array().into_iter().flatten()).any(is_elsewhere)
}

/// Is a pod counted as running? One that ended is not, nor one whose time to end has long run out
/// (`QuotaV1Pod`).
pub fn is_live(phase: &str, deleted: Option<(Timestamp, i64)>, now: Timestamp) -> bool {
    !matches!(phase, "Succeeded" | "Failed")
        && deleted.is_none_or(|(at, grace)| now <= at.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX))
}

/// What an object uses of what some names count.
pub fn usage<'a>(names: impl Iterator<Item = &'a String>, kind: &Kind, object: &Value, now: Timestamp) -> Amounts {
    let is_pod = kind.group.is_empty() && kind.plural == "pods";
    let is_service = kind.group.is_empty() && kind.plural == "services";
    let (requests, limits) = if is_pod { (held(object, "requests"), held(object, "limits")) } else { Default::default() };
    let live = is_pod && is_live_object(object, now);
    let amount = |name: &str| match counted(name)? {
        Counted::LivePods => live.then(|| Quantity::from_units(1)),
        Counted::Requests(resource) => requests.get(resource).filter(|_| live).cloned(),
        Counted::Limits(resource) => limits.get(resource).filter(|_| live).cloned(),
        Counted::Objects(counted) => (counted.group == kind.group && counted.plural == kind.plural).then(|| Quantity::from_units(1)),
        Counted::NodePorts => is_service.then(|| Quantity::from_units(node_ports_of(&object["spec"]))),
        Counted::LoadBalancers => (is_service && object["spec"]["type"] == "LoadBalancer").then(|| Quantity::from_units(1)),
        Counted::Absent => None,
    };
    names.filter_map(|name| Some((name.clone(), amount(name)?))).collect()
}

fn is_live_object(pod: &Value, now: Timestamp) -> bool {
    let at = pod["metadata"]["deletionTimestamp"].as_str().and_then(|at| at.parse().ok());
    let deleted = at.zip(pod["metadata"]["deletionGracePeriodSeconds"].as_i64());
    is_live(pod["status"]["phase"].as_str().unwrap_or_default(), deleted, now)
}

/// Ports of nodes that a Service takes, from its spec.
pub fn node_ports_of(spec: &Value) -> i64 {
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let given = || ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let taken = match spec["type"].as_str() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => given(),
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    i64::try_from(taken).unwrap_or(i64::MAX)
}

/// The sum of two usages.
pub fn add(mut sum: Amounts, usage: Amounts) -> Amounts {
    for (name, amount) in usage {
        let total = sum.get(&name).map_or(amount.clone(), |so_far| so_far.add(&amount));
        sum.insert(name, total);
    }
    sum
}

/// What a usage has more than one before.
pub fn increase(mut usage: Amounts, before: &Amounts) -> Amounts {
    for (name, amount) in &mut usage {
        let Some(before) = before.get(name) else { continue };
        *amount = if *amount > *before { amount.sub(before) } else { Quantity::ZERO };
    }
    usage
}

/// A map of quantities, without what is none.
pub fn amounts(list: &Value) -> Amounts {
    let read = |value: &Value| Quantity::parse(&value.as_str().map_or_else(|| value.to_string(), str::to_owned)).ok();
    list.as_object().into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), read(value)?))).collect()
}

/// What a pod asks of its node (`PodRequests`, `PodLimits`): all containers with the sidecars, or
/// one init container with the sidecars before it if that is more; what the pod says as a whole
/// replaces that; overhead comes on top.
pub fn totals(pod: &Value, which: &str) -> Amounts {
    totals_of(pod, which, |container| amounts(&container["resources"][which]))
}

/// What a pod takes of its node (with `UseStatusResources`): while a resize is under way, the
/// larger of what a container asks for and what it was given; what it was given if its node will
/// never give it what it asks for.
pub fn held(pod: &Value, which: &str) -> Amounts {
    let lists = ["initContainerStatuses", "containerStatuses"].iter();
    let statuses = lists.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    let statuses = statuses.filter(|status| status["resources"].is_object());
    let statuses: BTreeMap<&str, &Value> = statuses.filter_map(|status| Some((status["name"].as_str()?, status))).collect();
    let is_refused = is_resize_refused(pod);
    totals_of(pod, which, |container| {
        let asked = amounts(&container["resources"][which]);
        let Some(status) = container["name"].as_str().and_then(|name| statuses.get(name)) else { return asked };
        let mut given = amounts(&status["resources"][which]);
        if which == "requests" {
            given = larger(given, amounts(&status["allocatedResources"]));
        }
        if is_refused { given } else { larger(given, asked) }
    })
}

/// Will the node never give the pod what it asks for? What it said of an earlier generation is not
/// about this one, but of pods that go: deletion counts as a generation.
fn is_resize_refused(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let Some(pending) = conditions.find(|condition| condition["type"] == "PodResizePending") else { return false };
    let generation = pod["metadata"]["generation"].as_i64().unwrap_or(0);
    let is_of_old = pending["observedGeneration"].as_i64().is_some_and(|observed| observed < generation);
    pending["reason"] == "Infeasible" && (!is_of_old || !pod["metadata"]["deletionTimestamp"].is_null())
}

fn totals_of(pod: &Value, which: &str, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let spec = &pod["spec"];
    let containers = |list: &str| spec[list].as_array().map_or(&[][..], Vec::as_slice).iter();
    let mut running = containers("containers").map(&of).fold(Amounts::new(), add);
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in containers("initContainers") {
        let together = add(sidecars.clone(), of(container));
        if container["restartPolicy"] == "Always" {
            sidecars.clone_from(&together);
        }
        starting = larger(starting, together);
    }
    running = larger(add(running, sidecars), starting);
    let whole = amounts(&spec["resources"][which]);
    running.extend(whole.into_iter().filter(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !amount.is_zero()));
    let overhead = amounts(&spec["overhead"]).into_iter();
    let counts = |name: &String| which == "requests" || running.get(name).is_some_and(|amount| !amount.is_zero());
    let overhead: Amounts = overhead.filter(|(name, _)| counts(name)).collect();
    add(running, overhead)
}

fn larger(mut one: Amounts, other: Amounts) -> Amounts {
    for (name, amount) in other {
        if one.get(&name).is_none_or(|mine| *mine < amount) {
            one.insert(name, amount);
        }
    }
    one
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn show(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    fn check(resource: &str, names: &[&str], object: &Value, expected: Expect) {
        let kind = table::by_resource("", "v1", resource).expect("a kind of the table");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        expected.assert_eq(&show(&usage(names.iter(), kind, object, Timestamp::UNIX_EPOCH)));
    }

    #[test]
    fn pods_use_what_their_containers_ask_for() {
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "100m", "memory": "64Mi", "example.com/gpu": "1"}, "limits": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "200m"}}},
        ]}});
        let names = ["pods", "count/pods", "cpu", "requests.memory", "limits.cpu", "limits.memory", "requests.example.com/gpu", "secrets"];
        check("pods", &names, &pod, expect!["count/pods=1 cpu=300m limits.cpu=1 pods=1 requests.example.com/gpu=1 requests.memory=64Mi"]);
    }

    #[test]
    fn pods_that_ended_are_only_objects() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}, "status": {"phase": "Failed"}});
        check("pods", &["pods", "count/pods", "cpu"], &pod, expect!["count/pods=1"]);
    }

    #[test]
    fn pods_that_should_long_be_gone_are_only_objects() {
        let metadata = json!({"deletionTimestamp": "1969-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30});
        check("pods", &["pods", "count/pods"], &json!({"metadata": metadata}), expect!["count/pods=1"]);
    }

    #[test]
    fn sidecars_count_all_the_time_and_init_containers_at_the_start() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = json!("Always");
        let mut pod = json!({"spec": {"initContainers": [sidecar, container("5")], "containers": [container("2")]}});
        check("pods", &["cpu"], &pod, expect!["cpu=6"]);
        pod["spec"]["overhead"] = json!({"cpu": "500m"});
        check("pods", &["cpu"], &pod, expect!["cpu=6500m"]);
        pod["spec"]["resources"] = json!({"requests": {"cpu": "3"}});
        check("pods", &["cpu"], &pod, expect!["cpu=3500m"]);
    }

    #[test]
    fn pods_use_what_they_were_given_until_a_resize_is_done() {
        let status = json!({"name": "c", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4"}}});
        let mut pod = json!({
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "5"}}}]},
            "status": {"containerStatuses": [status]},
        });
        let names = ["cpu", "limits.cpu"];
        check("pods", &names, &pod, expect!["cpu=2 limits.cpu=5"]);
        pod["status"]["containerStatuses"][0]["allocatedResources"] = json!({"cpu": "3"});
        check("pods", &names, &pod, expect!["cpu=3 limits.cpu=5"]);
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("9");
        check("pods", &names, &pod, expect!["cpu=9 limits.cpu=5"]);
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        check("pods", &names, &pod, expect!["cpu=3 limits.cpu=4"]);
    }

    #[test]
    fn an_increase_is_what_is_more_than_before() {
        let of = |list: Value| amounts(&list);
        let more = increase(of(json!({"cpu": "3", "memory": "1", "pods": "1"})), &of(json!({"cpu": "1", "memory": "2"})));
        expect!["cpu=2 memory=0 pods=1"].assert_eq(&show(&more));
    }

    #[test]
    fn services_use_ports_of_nodes_and_load_balancers() {
        let names = ["services", "count/services", "services.nodeports", "services.loadbalancers"];
        let ports = json!([{"port": 1, "nodePort": 30001}, {"port": 2}]);
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": ports}});
        check("services", &names, &service("ClusterIP"), expect!["count/services=1 services=1 services.nodeports=0"]);
        check("services", &names, &service("NodePort"), expect!["count/services=1 services=1 services.nodeports=2"]);
        check(
            "services",
            &names,
            &service("LoadBalancer"),
            expect!["count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"],
        );
        let mut without = service("LoadBalancer");
        without["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
        check("services", &["services.nodeports"], &without, expect!["services.nodeports=1"]);
    }

    #[test]
    fn names_count_kinds_that_are_served() {
        let known = |name: &str| counted(name).is_some();
        assert!(
            known("count/daemonsets.apps") && known("persistentvolumeclaims") && known("gold.storageclass.storage.k8s.io/requests.storage")
        );
        assert!(!known("count/widgets.example.com") && !known("count/nodes") && !known("limits.example.com/gpu"));
    }

    #[test]
    fn all_scopes_of_a_quota_must_fit() {
        let pod = json!({"spec": {"priorityClassName": "high", "containers": [{"resources": {"limits": {"memory": "1Gi"}}}]}});
        let covers = |quota: Value| covers_pod(&json!({"spec": quota}), &PodTraits::of(&pod));
        assert!(covers(json!({})));
        assert!(covers(json!({"scopes": ["NotTerminating", "NotBestEffort", "PriorityClass"]})));
        assert!(!covers(json!({"scopes": ["NotTerminating", "BestEffort"]})));
        let expression = |operator: &str| json!([{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]);
        assert!(covers(json!({"scopeSelector": {"matchExpressions": expression("In")}})));
        assert!(!covers(json!({"scopeSelector": {"matchExpressions": expression("NotIn")}})));
        assert!(!covers(json!({"scopes": ["CrossNamespacePodAffinity"]})));
    }

    #[test]
    fn affinity_to_other_namespaces_is_a_scope() {
        let term = json!({"topologyKey": "zone", "namespaces": ["other"]});
        let required = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let preferred = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": term}]}});
        for affinity in [required, preferred] {
            assert!(PodTraits::of(&json!({"spec": {"affinity": affinity}})).looks_elsewhere);
        }
    }
}
