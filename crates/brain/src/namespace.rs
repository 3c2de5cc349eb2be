//! Deletion of namespaces: deletes what is in a deleted one, and lets it go when nothing is left.
//!
//! After `pkg/controller/namespace/deletion`: pods go before the rest, because they may use it;
//! what has finalizers is waited for, and the namespace's status says so.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Meta, Namespace};
use crate::picture::{Change, Kind, Object, Picture};
use crate::request::{EVENTS, NAMESPACES, Request, Verb};

/// Deletions of one plan.
const DELETIONS_MAX: usize = 500;

#[derive(Debug, Default)]
pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let name = match (&change.old, &change.new) {
            (_, Some(Object::Namespace(namespace))) => &namespace.meta.name,
            // Something left a namespace, or is deleted and waits for its finalizers.
            (Some(object), None) => &object.meta().namespace,
            (_, Some(object)) if object.meta().is_deleted() => &object.meta().namespace,
            _ => return,
        };
        if picture.namespaces.get(name).is_some_and(|namespace| namespace.meta.is_deleted()) {
            add(Key { namespace: "".into(), name: name.clone() });
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, now: Timestamp) -> Work {
        match picture.namespaces.get(&key.name).filter(|namespace| namespace.meta.is_deleted()) {
            Some(namespace) => plan(picture, namespace, now),
            None => Work::default(),
        }
    }
}

fn plan(picture: &Picture, ending: &Namespace, now: Timestamp) -> Work {
    let namespace = &ending.meta;
    let mut left = in_namespace(picture, &namespace.name);
    if left.iter().any(|(kind, _)| *kind == Kind::Pod) {
        left.retain(|(kind, _)| *kind == Kind::Pod);
    }
    if !left.is_empty() {
        let due = left.iter().filter(|(_, meta)| !meta.is_deleted()).take(DELETIONS_MAX);
        let deletions: Vec<Request> = due.map(|(kind, meta)| Request::delete(kind.resource(), meta)).collect();
        let more = deletions.len() == DELETIONS_MAX;
        if deletions.is_empty() {
            return Work { steps: report(ending, &left, now).into_iter().collect(), ..Work::default() };
        }
        return Work { steps: vec![Step { independent: true, ..Step::all_at_once(deletions) }], more, ..Work::default() };
    }
    // The picture does not follow events: no controller decides on them.
    let events = Request::new(EVENTS, Key::new(&namespace.name, ""), Verb::DeleteCollection);
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name, "uid": namespace.uid}, "spec": {"finalizers": []},
    });
    let finalize = Request::new(NAMESPACES, namespace.key(), Verb::Replace(body)).on("finalize");
    Work { steps: vec![Step::all_at_once(vec![events]), Step::all_at_once(vec![finalize])], ..Work::default() }
}

/// Says what is left, and which finalizers keep it; None when the namespace says so already.
fn report(ending: &Namespace, left: &[(Kind, &Meta)], now: Timestamp) -> Option<Step> {
    let mut of_resources = BTreeMap::<String, usize>::new();
    let mut of_finalizers = BTreeMap::<&str, usize>::new();
    for (kind, meta) in left {
        let resource = kind.resource();
        *of_resources.entry(format!("{}.{}", resource.plural, resource.group)).or_default() += 1;
        for finalizer in &meta.finalizers {
            *of_finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let listed = |texts: Vec<String>| texts.join(", ");
    let remaining = listed(of_resources.iter().map(|(resource, count)| format!("{resource} has {count} resource instances")).collect());
    let finalizers = listed(of_finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect());
    let mut wanted = vec![
        ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", format!("Some resources are remaining: {remaining}")),
    ];
    wanted.push(match finalizers.as_str() {
        "" => ("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned()),
        finalizers => {
            let message = format!("Some content in the namespace has finalizers remaining: {finalizers}");
            ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
        }
    });
    let known = |kind: &str| ending.status.conditions.iter().find(|condition| &*condition.kind == kind);
    let is_told = |(kind, status, reason, message): &(&str, &str, &str, String)| {
        known(kind).is_some_and(|own| &*own.status == *status && &*own.reason == *reason && *own.message == **message)
    };
    if wanted.iter().all(is_told) {
        return None;
    }
    let conditions: Vec<Value> = wanted
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let since = known(kind).filter(|own| &*own.status == status).and_then(|own| own.last_transition_time.as_deref());
            let since = since.map_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), str::to_owned);
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
        })
        .collect();
    let body = json!({"metadata": {"uid": ending.meta.uid}, "status": {"conditions": conditions}});
    Some(Step::all_at_once(vec![Request::new(NAMESPACES, ending.meta.key(), Verb::Merge(body)).on("status")]))
}

/// Everything in a namespace, events apart.
pub fn in_namespace<'a>(picture: &'a Picture, namespace: &str) -> Vec<(Kind, &'a Meta)> {
    let from = Key::new(namespace, "");
    let mut found = Vec::new();
    let within = |key: &Key| *key.namespace == *namespace;
    found.extend(picture.sets.range(&from..).take_while(|(key, _)| within(key)).map(|(_, set)| (Kind::DaemonSet, &set.meta)));
    found.extend(picture.pods.range(&from..).take_while(|(key, _)| within(key)).map(|(_, pod)| (Kind::Pod, &pod.meta)));
    let revisions = picture.revisions.range(&from..).take_while(|(key, _)| within(key));
    found.extend(revisions.map(|(_, revision)| (Kind::ControllerRevision, &revision.meta)));
    found.extend(picture.leases.range(&from..).take_while(|(key, _)| within(key)).map(|(_, lease)| (Kind::Lease, &lease.meta)));
    let budgets = picture.budgets.range(&from..).take_while(|(key, _)| within(key));
    found.extend(budgets.map(|(_, budget)| (Kind::PodDisruptionBudget, &budget.meta)));
    let services = picture.services.range(&from..).take_while(|(key, _)| within(key));
    found.extend(services.map(|(_, service)| (Kind::Service, &service.meta)));
    let slices = picture.slices.range(&from..).take_while(|(key, _)| within(key));
    found.extend(slices.map(|(_, slice)| (Kind::EndpointSlice, &slice.meta)));
    let endpoints = picture.endpoints.range(&from..).take_while(|(key, _)| within(key));
    found.extend(endpoints.map(|(_, endpoints)| (Kind::Endpoints, &endpoints.meta)));
    let quotas = picture.quotas.range(&from..).take_while(|(key, _)| within(key));
    found.extend(quotas.map(|(_, quota)| (Kind::ResourceQuota, &quota.meta)));
    for (resource, objects) in &picture.others {
        let objects = objects.range(&from..).take_while(|(key, _)| within(key));
        found.extend(objects.map(|(_, meta)| (Kind::Other(*resource), &**meta)));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn ending() -> Picture {
        let mut picture = crate::fixture::picture("node a; ds web; pod p@a");
        let mut namespace = Namespace::default();
        namespace.meta.name = "ns".into();
        namespace.meta.deletion_timestamp = Some(crate::fixture::now());
        picture.put(Object::Namespace(Arc::new(namespace)));
        picture
    }

    fn paths(work: &Work) -> Vec<String> {
        work.steps.iter().flat_map(|step| &step.requests).map(Request::path).collect()
    }

    #[test]
    fn what_is_in_a_namespace_goes_before_it() {
        let picture = ending();
        let work = NamespaceController.plan(&picture, &Key::new("", "ns"), crate::fixture::now());
        assert_eq!(paths(&work), ["/api/v1/namespaces/ns/pods/p"]);
    }

    #[test]
    fn the_rest_goes_when_the_pods_are_gone() {
        let mut picture = ending();
        for key in picture.keys(Kind::Pod) {
            picture.remove(Kind::Pod, &key, 0);
        }
        let work = NamespaceController.plan(&picture, &Key::new("", "ns"), crate::fixture::now());
        let wanted = ["/apis/apps/v1/namespaces/ns/daemonsets/web", "/apis/apps/v1/namespaces/ns/controllerrevisions/web-h1"];
        assert_eq!(paths(&work), wanted);
    }

    #[test]
    fn what_waits_for_finalizers_is_told_once() {
        let mut picture = ending();
        let (key, pod) = picture.pods.iter().next().map(|(key, pod)| (key.clone(), pod.clone())).unwrap();
        let mut pod = (*pod).clone();
        pod.meta.deletion_timestamp = Some(crate::fixture::now());
        pod.meta.finalizers = vec!["example.com/wait".into()];
        assert_eq!(&*key.name, "p");
        picture.put(Object::Pod(Arc::new(pod)));
        let work = NamespaceController.plan(&picture, &Key::new("", "ns"), crate::fixture::now());
        assert_eq!(paths(&work), ["/api/v1/namespaces/ns/status"]);
        let body = work.steps[0].requests[0].body().2.clone();
        let conditions = body["status"]["conditions"].as_array().unwrap();
        let told = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind).unwrap()["message"].clone();
        assert_eq!(told("NamespaceContentRemaining"), "Some resources are remaining: pods. has 1 resource instances");
        let finalizers = "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances";
        assert_eq!(told("NamespaceFinalizersRemaining"), finalizers);
        assert_eq!(conditions.len(), 5);
        let mut namespace = (*picture.namespaces["ns"]).clone();
        namespace.status.conditions = serde_json::from_value(conditions.clone().into()).unwrap();
        picture.put(Object::Namespace(Arc::new(namespace)));
        assert_eq!(paths(&NamespaceController.plan(&picture, &Key::new("", "ns"), crate::fixture::now())), [""; 0]);
    }

    #[test]
    fn an_empty_namespace_is_let_go() {
        let mut picture = ending();
        for kind in [Kind::DaemonSet, Kind::Pod, Kind::ControllerRevision] {
            for key in picture.keys(kind) {
                picture.remove(kind, &key, 0);
            }
        }
        let work = NamespaceController.plan(&picture, &Key::new("", "ns"), crate::fixture::now());
        assert_eq!(paths(&work), ["/api/v1/namespaces/ns/events", "/api/v1/namespaces/ns/finalize"]);
    }
}
