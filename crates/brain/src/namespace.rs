//! The end of namespaces: deletes what is in one that was deleted, and lets it go when nothing is left.
//!
//! After `pkg/controller/namespace/deletion`. What has finalizers is waited for.

use jiff::Timestamp;
use serde_json::json;

use crate::cluster::{Change, Cluster, Kind, Object};
use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Meta};
use crate::request::{EVENTS, NAMESPACES, Request, Verb};

/// Deletions of one plan.
const DELETIONS_MAX: usize = 500;

#[derive(Debug, Default)]
pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn concerns(&mut self, cluster: &Cluster, change: &Change, add: &mut dyn FnMut(Key)) {
        let name = match (&change.old, &change.new) {
            (_, Some(Object::Namespace(namespace))) => &namespace.meta.name,
            // Something left a namespace.
            (Some(object), None) => &object.meta().namespace,
            _ => return,
        };
        if cluster.namespaces.get(name).is_some_and(|namespace| namespace.meta.is_deleted()) {
            add(Key { namespace: "".into(), name: name.clone() });
        }
    }

    fn plan(&mut self, cluster: &Cluster, key: &Key, _now: Timestamp) -> Work {
        match cluster.namespaces.get(&key.name).filter(|namespace| namespace.meta.is_deleted()) {
            Some(namespace) => plan(cluster, &namespace.meta),
            None => Work::default(),
        }
    }
}

fn plan(cluster: &Cluster, namespace: &Meta) -> Work {
    let mut left = false;
    let mut deletions = Vec::new();
    for (kind, meta) in in_namespace(cluster, &namespace.name) {
        left = true;
        if !meta.is_deleted() && deletions.len() < DELETIONS_MAX {
            deletions.push(Request::delete(kind.resource(), meta));
        }
    }
    if left {
        let more = deletions.len() == DELETIONS_MAX;
        return Work { steps: vec![Step { independent: true, ..Step::all_at_once(deletions) }], more, ..Work::default() };
    }
    // Events are not followed: nobody decides on them.
    let events = Request::new(EVENTS, Key::new(&namespace.name, ""), Verb::DeleteCollection);
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name, "uid": namespace.uid}, "spec": {"finalizers": []},
    });
    let finalize = Request::new(NAMESPACES, namespace.key(), Verb::Replace(body)).on("finalize");
    Work { steps: vec![Step::all_at_once(vec![events]), Step::all_at_once(vec![finalize])], ..Work::default() }
}

/// Everything in a namespace, events apart.
pub fn in_namespace<'a>(cluster: &'a Cluster, namespace: &str) -> Vec<(Kind, &'a Meta)> {
    let from = Key::new(namespace, "");
    let mut found = Vec::new();
    let within = |key: &Key| *key.namespace == *namespace;
    found.extend(cluster.sets.range(&from..).take_while(|(key, _)| within(key)).map(|(_, set)| (Kind::DaemonSet, &set.meta)));
    found.extend(cluster.pods.range(&from..).take_while(|(key, _)| within(key)).map(|(_, pod)| (Kind::Pod, &pod.meta)));
    let revisions = cluster.revisions.range(&from..).take_while(|(key, _)| within(key));
    found.extend(revisions.map(|(_, revision)| (Kind::ControllerRevision, &revision.meta)));
    found.extend(cluster.leases.range(&from..).take_while(|(key, _)| within(key)).map(|(_, lease)| (Kind::Lease, &lease.meta)));
    let budgets = cluster.budgets.range(&from..).take_while(|(key, _)| within(key));
    found.extend(budgets.map(|(_, budget)| (Kind::PodDisruptionBudget, &budget.meta)));
    let services = cluster.services.range(&from..).take_while(|(key, _)| within(key));
    found.extend(services.map(|(_, service)| (Kind::Service, &service.meta)));
    let slices = cluster.slices.range(&from..).take_while(|(key, _)| within(key));
    found.extend(slices.map(|(_, slice)| (Kind::EndpointSlice, &slice.meta)));
    let endpoints = cluster.endpoints.range(&from..).take_while(|(key, _)| within(key));
    found.extend(endpoints.map(|(_, endpoints)| (Kind::Endpoints, &endpoints.meta)));
    let quotas = cluster.quotas.range(&from..).take_while(|(key, _)| within(key));
    found.extend(quotas.map(|(_, quota)| (Kind::ResourceQuota, &quota.meta)));
    for (resource, objects) in &cluster.others {
        let objects = objects.range(&from..).take_while(|(key, _)| within(key));
        found.extend(objects.map(|(_, meta)| (Kind::Other(*resource), &**meta)));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Namespace;

    fn ending() -> Cluster {
        let mut cluster = crate::fixture::cluster("node a; ds web; pod p@a");
        let mut namespace = Namespace::default();
        namespace.meta.name = "ns".into();
        namespace.meta.deletion_timestamp = Some(crate::fixture::now());
        cluster.put(Object::Namespace(Arc::new(namespace)));
        cluster
    }

    fn paths(work: &Work) -> Vec<String> {
        work.steps.iter().flat_map(|step| &step.requests).map(Request::path).collect()
    }

    #[test]
    fn what_is_in_a_namespace_goes_before_it() {
        let cluster = ending();
        let work = NamespaceController.plan(&cluster, &Key::new("", "ns"), crate::fixture::now());
        assert_eq!(
            paths(&work),
            [
                "/apis/apps/v1/namespaces/ns/daemonsets/web",
                "/api/v1/namespaces/ns/pods/p",
                "/apis/apps/v1/namespaces/ns/controllerrevisions/web-h1"
            ]
        );
    }

    #[test]
    fn an_empty_namespace_is_let_go() {
        let mut cluster = ending();
        for kind in [Kind::DaemonSet, Kind::Pod, Kind::ControllerRevision] {
            for key in cluster.keys(kind) {
                cluster.remove(kind, &key, 0);
            }
        }
        let work = NamespaceController.plan(&cluster, &Key::new("", "ns"), crate::fixture::now());
        assert_eq!(paths(&work), ["/api/v1/namespaces/ns/events", "/api/v1/namespaces/ns/finalize"]);
    }
}
