//! What ResourceQuotas say is used.
//!
//! After `pkg/controller/resourcequota`. Admission makes its own count, from what is stored; this
//! is for people to see. What the names mean is in `kinds::quota`. Memory is written the way the
//! limit is (`Mi`, `M`): the picture has bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::quantity::Quantity;
use kinds::quota::{self, Amounts, Counted, PodTraits};
use serde_json::{Map, Value, json};

use crate::controller::{Controller, Work};
use crate::model::{Key, Phase, Pod, PodAffinityTerm, PodSpec, ResourceQuota, Resources};
use crate::picture::{Change, Kind, Object, Picture};
use crate::request::{QUOTAS, Request, Resource, Verb};

/// How long a quota rests after each plan, so that many pods are counted at once.
const REST: SignedDuration = SignedDuration::from_millis(500);

#[derive(Debug, Default)]
pub struct QuotaController;

impl Controller for QuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        if picture.quotas.is_empty() {
            return;
        }
        let concerns_all = match (&change.old, &change.new) {
            (_, Some(Object::ResourceQuota(quota))) => {
                add(quota.meta.key());
                change.old.is_none()
            }
            (Some(Object::Pod(old)), Some(Object::Pod(new))) => !counts_the_same(old, new),
            (Some(Object::Service(old)), Some(Object::Service(new))) => {
                (old.node_ports, old.is_load_balancer) != (new.node_ports, new.is_load_balancer)
            }
            (old, new) => old.is_none() || new.is_none(),
        };
        if concerns_all {
            quotas_in(picture, &change.object().meta().namespace).for_each(add);
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        let Some(quota) = picture.quotas.get(key).filter(|quota| !quota.meta.is_deleted()) else { return Work::default() };
        let mut count = Count::default();
        count.add_pods(picture, quota, now);
        let hard = quota::amounts(&quota.spec["hard"]);
        let used = hard.iter().filter_map(|(name, limit)| Some((name.clone(), count.used(picture, quota, name, limit)?))).collect();
        let requests = write(quota, &hard, &used).into_iter().collect();
        Work { wake_at: count.changes_at, rest: REST, ..Work::requests(requests) }
    }
}

fn quotas_in<'a>(picture: &'a Picture, namespace: &'a str) -> impl Iterator<Item = Key> + 'a {
    let from = Key::new(namespace, "");
    picture.quotas.range(from..).map(|(key, _)| key.clone()).take_while(move |key| *key.namespace == *namespace)
}

fn counts_the_same(old: &Pod, new: &Pod) -> bool {
    old.is_terminal() == new.is_terminal()
        && old.meta.deletion_timestamp == new.meta.deletion_timestamp
        && (Arc::ptr_eq(&old.spec, &new.spec) || old.spec == new.spec)
        && old.status.held == new.status.held
}

/// What the pods of a namespace use together.
#[derive(Debug, Default)]
struct Count {
    live: i64,
    requests: Resources,
    limits: Resources,
    all: i64,
    /// When a pod that is going away stops to count.
    changes_at: Option<Timestamp>,
}

impl Count {
    fn add_pods(&mut self, picture: &Picture, quota: &ResourceQuota, now: Timestamp) {
        let whole = json!({"spec": quota.spec});
        // Pods that are alike share their spec, and are in scope together.
        let mut covered: BTreeMap<*const PodSpec, bool> = BTreeMap::new();
        for pod in picture.pods_in(&quota.meta.namespace) {
            let covers = || quota::covers_pod(&whole, &traits(&pod.spec));
            if !*covered.entry(Arc::as_ptr(&pod.spec)).or_insert_with(covers) {
                continue;
            }
            self.all += 1;
            let deleted = pod.meta.deletion_timestamp.zip(pod.meta.deletion_grace_period_seconds);
            if !quota::is_live(phase(pod), deleted, now) {
                continue;
            }
            let ends =
                deleted.map(|(at, grace)| at.saturating_add(SignedDuration::from_secs(grace.saturating_add(1))).unwrap_or(Timestamp::MAX));
            self.changes_at = self.changes_at.into_iter().chain(ends).min();
            self.live += 1;
            self.requests += pod.requests();
            self.limits += pod.limits();
        }
    }

    /// None for names that mean nothing.
    fn used(&self, picture: &Picture, quota: &ResourceQuota, name: &str, limit: &Quantity) -> Option<Quantity> {
        let is_about_pods_alone = quota::has_scopes(&json!({"spec": quota.spec}));
        let services = || picture.services.range(Key::new(&quota.meta.namespace, "")..).map(|(_, service)| service);
        let services = || services().take_while(|service| service.meta.namespace == quota.meta.namespace);
        Some(match quota::counted(name)? {
            Counted::LivePods => Quantity::from_units(self.live),
            Counted::Requests(resource) => amount(&self.requests, resource).written_like(limit),
            Counted::Limits(resource) => amount(&self.limits, resource).written_like(limit),
            Counted::Objects(kind) if kind.plural == "pods" => Quantity::from_units(self.all),
            Counted::Absent => Quantity::ZERO,
            _ if is_about_pods_alone => Quantity::ZERO,
            Counted::Objects(kind) => Quantity::from_units(objects(picture, kind, &quota.meta.namespace)),
            Counted::NodePorts => Quantity::from_units(services().map(|service| service.node_ports).sum()),
            Counted::LoadBalancers => {
                let count = services().filter(|service| service.is_load_balancer).count();
                Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX))
            }
        })
    }
}

fn phase(pod: &Pod) -> &'static str {
    match pod.status.phase {
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        _ => "",
    }
}

/// As `PodTraits::of` reads them from a pod's JSON.
fn traits(spec: &PodSpec) -> PodTraits<'_> {
    let is_nothing = |resources: &Resources| resources.milli_cpu == 0 && resources.memory == 0;
    let required = spec.pod_affinity.iter().chain(&spec.pod_anti_affinity);
    let preferred = spec.preferred_pods.iter().chain(&spec.unwanted_pods).map(|weighted| &weighted.term);
    let is_elsewhere = |term: &PodAffinityTerm| !term.namespaces.is_empty() || term.namespace_selector.is_some();
    PodTraits {
        has_deadline: spec.has_deadline,
        is_best_effort: is_nothing(&spec.requests) && is_nothing(&spec.limits),
        priority_class: &spec.priority_class,
        looks_elsewhere: required.chain(preferred).any(is_elsewhere),
    }
}

fn amount(resources: &Resources, name: &str) -> Quantity {
    match name {
        "cpu" => Quantity::from_millis(resources.milli_cpu),
        "memory" => Quantity::from_units(resources.memory),
        "ephemeral-storage" => Quantity::from_units(resources.ephemeral_storage),
        _ => Quantity::from_units(resources.others.get(name).copied().unwrap_or(0)),
    }
}

/// Objects of a kind in a namespace. Events are not followed, and not limited either.
fn objects(picture: &Picture, kind: &'static kinds::table::Kind, namespace: &str) -> i64 {
    let followed = Resource { group: kind.group, version: kind.version, plural: kind.plural, kind: kind.kind }.followed();
    let from = Key::new(namespace, "");
    let within = |key: &&Key| *key.namespace == *namespace;
    let count = match followed {
        Kind::Service => picture.services.range(from..).map(|(key, _)| key).take_while(within).count(),
        Kind::ResourceQuota => picture.quotas.range(from..).map(|(key, _)| key).take_while(within).count(),
        Kind::Other(resource) => {
            picture.others.get(&resource).map_or(0, |objects| objects.range(from..).map(|(key, _)| key).take_while(within).count())
        }
        other => picture.keys(other).iter().filter(within).count(),
    };
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// None when the status says so already.
fn write(quota: &ResourceQuota, hard: &Amounts, used: &Amounts) -> Option<Request> {
    let there = |field: &str| quota::amounts(&quota.status[field]);
    if there("hard") == *hard && there("used") == *used && quota.status["used"].is_object() {
        return None;
    }
    let patch = |field: &str, wanted: &Amounts| {
        let gone = quota.status[field].as_object().into_iter().flatten().filter(|(name, _)| !wanted.contains_key(*name));
        let gone = gone.map(|(name, _)| (name.clone(), Value::Null));
        let wanted = wanted.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string())));
        Value::Object(gone.chain(wanted).collect::<Map<String, Value>>())
    };
    let meta = &quota.meta;
    let body = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version.to_string()},
        "status": {"hard": patch("hard", hard), "used": patch("used", used)},
    });
    Some(Request::new(QUOTAS, meta.key(), Verb::Merge(body)).on("status"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::fixture::{at, now};

    /// A pod from what differs from an empty one.
    fn pod(name: &str, spec: Value, status: Value) -> Object {
        let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec, "status": status});
        Object::Pod(Arc::new(serde_json::from_value(pod).expect("pods of tests are well formed")))
    }

    fn asking(requests: Value) -> Value {
        json!({"containers": [{"resources": {"requests": requests, "limits": {"memory": "1Gi"}}}]})
    }

    fn picture(quota: Value, objects: Vec<Object>) -> Picture {
        let mut picture = Picture::default();
        let quota = json!({"metadata": {"name": "q", "namespace": "ns", "uid": "q-uid"}, "spec": quota["spec"], "status": quota["status"]});
        picture.put(Object::ResourceQuota(Arc::new(serde_json::from_value(quota).expect("quotas of tests are well formed"))));
        objects.into_iter().for_each(|object| drop(picture.put(object)));
        picture
    }

    fn check(picture: &Picture, expected: Expect) {
        let work = QuotaController.plan(picture, &Key::new("ns", "q"), now());
        let request = work.steps.iter().flat_map(|step| &step.requests).map(|request| request.body().2["status"].to_string());
        expected.assert_eq(&request.collect::<String>());
    }

    #[test]
    fn what_live_pods_ask_for_is_used() {
        let pods = vec![
            pod("a", asking(json!({"cpu": "100m", "memory": "64Mi"})), json!({})),
            pod("b", asking(json!({"cpu": "250m"})), json!({})),
            pod("ended", asking(json!({"cpu": "8"})), json!({"phase": "Succeeded"})),
        ];
        let hard = json!({"pods": "5", "count/pods": "9", "requests.cpu": "1", "memory": "1Gi", "limits.memory": "4Gi", "unknown": "1"});
        check(
            &picture(json!({"spec": {"hard": hard}}), pods),
            expect![[
                r#"{"hard":{"count/pods":"9","limits.memory":"4Gi","memory":"1Gi","pods":"5","requests.cpu":"1","unknown":"1"},"used":{"count/pods":"3","limits.memory":"2Gi","memory":"64Mi","pods":"2","requests.cpu":"350m"}}"#
            ]],
        );
    }

    #[test]
    fn a_status_that_is_right_is_not_written_again() {
        let quota = json!({
            "spec": {"hard": {"pods": "5", "cpu": "1"}},
            "status": {"hard": {"pods": "5", "cpu": "1"}, "used": {"pods": "1", "cpu": "0.1"}},
        });
        check(&picture(quota, vec![pod("a", asking(json!({"cpu": "100m"})), json!({}))]), expect![""]);
    }

    #[test]
    fn names_that_are_limited_no_longer_leave_the_status() {
        let quota = json!({"spec": {"hard": {"pods": "5"}}, "status": {"hard": {"cpu": "1"}, "used": {"cpu": "1"}}});
        check(&picture(quota, vec![]), expect![[r#"{"hard":{"cpu":null,"pods":"5"},"used":{"cpu":null,"pods":"0"}}"#]]);
    }

    #[test]
    fn pods_outside_the_scopes_are_not_counted() {
        let with_deadline = json!({"activeDeadlineSeconds": 9, "containers": []});
        let pods = vec![pod("a", asking(json!({"cpu": "1"})), json!({})), pod("b", with_deadline, json!({}))];
        let quota = json!({"spec": {"hard": {"pods": "5"}, "scopes": ["Terminating"]}});
        check(&picture(quota, pods), expect![[r#"{"hard":{"pods":"5"},"used":{"pods":"1"}}"#]]);
    }

    #[test]
    fn objects_are_counted_by_kind() {
        let meta = |name: &str| Arc::new(crate::model::Meta { namespace: "ns".into(), name: name.into(), ..Default::default() });
        let service = |name: &str, spec: Value| {
            let service = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
            Object::Service(Arc::new(serde_json::from_value(service).expect("services of tests are well formed")))
        };
        let objects = vec![
            Object::Other(crate::request::CONFIG_MAPS, meta("a")),
            Object::Other(crate::request::CONFIG_MAPS, meta("b")),
            service("c", json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]})),
            service("d", json!({"type": "LoadBalancer", "ports": [{"port": 1}]})),
        ];
        let hard = json!({
            "configmaps": "9", "count/configmaps": "9", "services": "9", "services.nodeports": "9", "services.loadbalancers": "9",
            "count/resourcequotas": "9", "persistentvolumeclaims": "9", "count/daemonsets.apps": "9",
        });
        let picture = picture(json!({"spec": {"hard": hard}}), objects);
        let work = QuotaController.plan(&picture, &Key::new("ns", "q"), now());
        let used = &work.steps[0].requests[0].body().2["status"]["used"];
        expect![[
            r#"{"configmaps":"2","count/configmaps":"2","count/daemonsets.apps":"0","count/resourcequotas":"1","persistentvolumeclaims":"0","services":"2","services.loadbalancers":"1","services.nodeports":"3"}"#
        ]]
        .assert_eq(&used.to_string());
    }

    #[test]
    fn a_pod_that_should_be_gone_stops_to_count() {
        let going = json!({
            "metadata": {"name": "a", "namespace": "ns", "deletionTimestamp": now().to_string(), "deletionGracePeriodSeconds": 30},
        });
        let going = Object::Pod(Arc::new(serde_json::from_value(going).expect("pods of tests are well formed")));
        let picture = picture(json!({"spec": {"hard": {"pods": "5"}}}), vec![going]);
        let used = |now| {
            let work = QuotaController.plan(&picture, &Key::new("ns", "q"), now);
            (work.steps[0].requests[0].body().2["status"]["used"]["pods"].clone(), work.wake_at)
        };
        assert_eq!(used(now()), (json!("1"), Some(at(31))));
        assert_eq!(used(at(31)), (json!("0"), None));
    }

    #[test]
    fn the_picture_and_the_json_of_a_pod_agree() {
        let term = json!({"topologyKey": "zone", "namespaces": ["other"]});
        let container = |requests: Value| json!({"resources": {"requests": requests, "limits": requests}});
        let mut sidecar = container(json!({"cpu": "1", "ephemeral-storage": "1Gi"}));
        sidecar["restartPolicy"] = json!("Always");
        let specs = [
            json!({"containers": [container(json!({"cpu": "100m", "memory": "64Mi", "example.com/gpu": "2"}))]}),
            json!({"initContainers": [sidecar, container(json!({"cpu": "5"}))], "containers": [container(json!({"cpu": "2"}))],
                "overhead": {"cpu": "250m", "memory": "1Mi"}}),
            json!({"containers": [{}], "resources": {"requests": {"memory": "1Gi"}}, "priorityClassName": "high"}),
            json!({"containers": [{}], "activeDeadlineSeconds": 5,
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        ];
        for spec in specs {
            let json = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
            let pod: Pod = serde_json::from_value(json.clone()).expect("pods of tests are well formed");
            assert_eq!(traits(&pod.spec), PodTraits::of(&json), "{spec}");
            for (which, resources) in [("requests", &pod.spec.requests), ("limits", &pod.spec.limits)] {
                for (name, total) in quota::totals(&json, which) {
                    assert_eq!(amount(resources, &name), total, "{which} of {name} in {spec}");
                }
            }
        }
    }

    /// CPU that a pod with a sidecar of one core asks for, with what its main container and the
    /// status say.
    fn resized(asked: &str, mut status: Value, metadata: Value) -> (Value, Pod) {
        let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        let given = |name: &str, cpu: &str| json!({"name": name, "resources": resources(cpu), "allocatedResources": {"cpu": cpu}});
        status["containerStatuses"] = json!([given("main", "3")]);
        status["initContainerStatuses"] = json!([given("side", "2")]);
        let side = json!({"name": "side", "restartPolicy": "Always", "resources": resources("1")});
        let containers = json!([{"name": "main", "resources": resources(asked)}, {"name": "new", "resources": resources("1")}]);
        let spec = json!({"initContainers": [side], "containers": containers, "overhead": {"cpu": "500m"}});
        let json = json!({"metadata": metadata, "spec": spec, "status": status});
        let pod = serde_json::from_value(json.clone()).expect("pods of tests are well formed");
        (json, pod)
    }

    #[test]
    fn a_pod_that_is_resized_holds_what_it_was_given() {
        let pending =
            |reason: &str, generation: i64| json!({"type": "PodResizePending", "reason": reason, "observedGeneration": generation});
        let status = |reason: &str, generation: i64| json!({"conditions": [pending(reason, generation)]});
        let metadata = json!({"generation": 2});
        let going = json!({"generation": 3, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let cases = [
            ("shrinks", "1", json!({}), &metadata, "6500m"),
            ("grows", "9", json!({}), &metadata, "12500m"),
            ("waits", "9", status("Deferred", 2), &metadata, "12500m"),
            ("is refused", "9", status("Infeasible", 2), &metadata, "6500m"),
            ("was refused something else", "9", status("Infeasible", 1), &metadata, "12500m"),
            ("was refused and goes", "9", status("Infeasible", 2), &going, "6500m"),
        ];
        for (what, asked, status, metadata, expected) in cases {
            let (json, pod) = resized(asked, status, metadata.clone());
            for (which, resources) in [("requests", pod.requests()), ("limits", pod.limits())] {
                let held = quota::held(&json, which)["cpu"].to_string();
                assert_eq!((&*held, &*amount(resources, "cpu").to_string()), (expected, expected), "{which} of one that {what}");
            }
        }
    }

    #[test]
    fn pods_that_have_what_they_ask_for_keep_it_once() {
        let (_, pod) = resized("3", json!({}), json!({}));
        assert!(pod.status.held.is_some(), "its sidecar was given more");
        let mut json = resized("3", json!({}), json!({})).0;
        json["status"]["initContainerStatuses"] = json!([]);
        let pod: Pod = serde_json::from_value(json).expect("pods of tests are well formed");
        assert_eq!(pod.status.held, None);
    }

    #[test]
    fn the_end_of_a_resize_is_counted() {
        let (json, pod) = resized("1", json!({}), json!({"name": "p", "namespace": "ns"}));
        let mut done = json;
        done["status"] = json!({});
        let done: Pod = serde_json::from_value(done).expect("pods of tests are well formed");
        assert!(!counts_the_same(&pod, &done));
    }
}
