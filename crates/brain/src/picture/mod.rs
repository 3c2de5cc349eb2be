//! The cluster as the deciders see it: objects by key, with the indexes that decisions need. Plain
//! data, kept by the shell that watches.
//!
//! A [`Change`] is what one event of a watch did to it. Controllers see every change and say which
//! of their keys it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod kinds;

pub use kinds::{Kind, Object, Shelf};

use crate::model::{
    ClusterRole, ConfigMap, ControllerRevision, DaemonSet, EndpointSlice, Endpoints, IpAddress, Key, Lease, Meta, Namespace, Node, Pod,
    PodDisruptionBudget, PriorityClass, ResourceQuota, Service, ServiceCidr, Specs,
};
use crate::request::Resource;

/// What one event did: from `old` to `new`; never both None.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub old: Option<Object>,
    pub new: Option<Object>,
}

impl Change {
    /// The newer of what there is.
    pub fn object(&self) -> &Object {
        self.new.as_ref().or(self.old.as_ref()).expect("a change is from something or to something")
    }
}

/// How far the picture of a kind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The highest resourceVersion that was seen.
    pub revision: u64,
    /// Lists that were begun.
    pub lists_started: u64,
    /// As many of them as had been begun when the last one that is complete began.
    pub lists_finished: u64,
}

/// The objects, by key and by what refers to them.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    pub pods: Shelf<Key, Pod>,
    pub nodes: Shelf<Arc<str>, Node>,
    pub sets: Shelf<Key, DaemonSet>,
    pub revisions: Shelf<Key, ControllerRevision>,
    pub leases: Shelf<Key, Lease>,
    pub namespaces: Shelf<Arc<str>, Namespace>,
    pub budgets: Shelf<Key, PodDisruptionBudget>,
    pub priority_classes: Shelf<Arc<str>, PriorityClass>,
    pub services: Shelf<Key, Service>,
    pub slices: Shelf<Key, EndpointSlice>,
    pub endpoints: Shelf<Key, Endpoints>,
    pub quotas: Shelf<Key, ResourceQuota>,
    pub cluster_roles: Shelf<Arc<str>, ClusterRole>,
    pub service_cidrs: Shelf<Arc<str>, ServiceCidr>,
    pub ip_addresses: Shelf<Arc<str>, IpAddress>,
    /// The root certificates of the namespaces.
    pub root_certificates: Shelf<Key, ConfigMap>,
    /// Kinds of which only the metadata is followed.
    pub others: BTreeMap<Resource, Shelf<Key, Meta>>,
    pods_by_owner: Index,
    pods_by_node: Index,
    /// Pods without a node that were not deleted.
    unbound: BTreeSet<Key>,
    revisions_by_owner: Index,
    slices_by_service: BTreeMap<Key, BTreeSet<Arc<str>>>,
    specs: Specs,
    progress: BTreeMap<Kind, Progress>,
}

type Index = BTreeMap<Arc<str>, BTreeSet<Key>>;

/// The namespace of the leases of nodes.
pub const NODE_LEASES: &str = "kube-node-lease";

/// The label by which a slice names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Under this uid the index has what no controller owns.
const NOBODY: &str = "";

impl Picture {
    /// Takes in a new or changed object; the change is what it did.
    pub fn put(&mut self, object: Object) -> Change {
        let progress = self.progress.entry(object.kind()).or_default();
        progress.revision = progress.revision.max(object.meta().resource_version);
        let object = match object {
            Object::Pod(pod) => Object::Pod(self.with_shared_spec(pod)),
            other => other,
        };
        let old = self.shelve(object.clone());
        self.index(old.as_ref(), Some(&object));
        Change { old, new: Some(object) }
    }

    fn with_shared_spec(&mut self, mut pod: Arc<Pod>) -> Arc<Pod> {
        if let Some(pod) = Arc::get_mut(&mut pod) {
            pod.spec = self.specs.share(pod.spec.clone());
        }
        pod
    }

    /// Keeps what refers to objects.
    fn index(&mut self, old: Option<&Object>, new: Option<&Object>) {
        match (old, new) {
            (Some(Object::Pod(old)), None) => {
                let key = old.meta.key();
                self.unbound.remove(&key);
                self.unindex_pod(&key, old, None);
            }
            (old, Some(Object::Pod(pod))) => {
                let key = pod.meta.key();
                if let Some(Object::Pod(old)) = old {
                    self.unindex_pod(&key, old, Some(pod));
                }
                self.index_pod(key, pod);
            }
            (Some(Object::ControllerRevision(_)), _) | (_, Some(Object::ControllerRevision(_))) => {
                if let Some(old) = old.map(Object::meta) {
                    remove_index(&mut self.revisions_by_owner, &owner_uid(old), &old.key());
                }
                if let Some(new) = new.map(Object::meta) {
                    insert_index(&mut self.revisions_by_owner, owner_uid(new), new.key());
                }
            }
            (Some(Object::EndpointSlice(_)), _) | (_, Some(Object::EndpointSlice(_))) => {
                self.index_slice(old.map(Object::meta), new.map(Object::meta));
            }
            _ => {}
        }
    }

    fn index_pod(&mut self, key: Key, pod: &Pod) {
        if pod.node.is_none() && !pod.meta.is_deleted() {
            self.unbound.insert(key.clone());
        } else {
            self.unbound.remove(&key);
        }
        insert_index(&mut self.pods_by_owner, owner_uid(&pod.meta), key.clone());
        if let Some(node) = pod.target_node() {
            insert_index(&mut self.pods_by_node, node.clone(), key);
        }
    }

    /// Takes the old entries away, except those that the new pod has too.
    fn unindex_pod(&mut self, key: &Key, old: &Pod, new: Option<&Pod>) {
        let owner = owner_uid(&old.meta);
        if new.is_none_or(|new| owner_uid(&new.meta) != owner) {
            remove_index(&mut self.pods_by_owner, &owner, key);
        }
        if let Some(node) = old.target_node().filter(|&node| new.is_none_or(|new| new.target_node() != Some(node))) {
            remove_index(&mut self.pods_by_node, node, key);
        }
    }

    fn index_slice(&mut self, old: Option<&Meta>, new: Option<&Meta>) {
        if let Some((slice, service)) = old.and_then(|slice| Some((slice, service_of(slice)?)))
            && let Some(names) = self.slices_by_service.get_mut(&service)
        {
            names.remove(&slice.name);
            if names.is_empty() {
                self.slices_by_service.remove(&service);
            }
        }
        if let Some((slice, service)) = new.and_then(|slice| Some((slice, service_of(slice)?))) {
            self.slices_by_service.entry(service).or_default().insert(slice.name.clone());
        }
    }

    /// Takes an object away; `revision` is that of the event, if known. None when it was not there.
    pub fn remove(&mut self, kind: Kind, key: &Key, revision: u64) -> Option<Change> {
        let progress = self.progress.entry(kind).or_default();
        progress.revision = progress.revision.max(revision);
        let old = self.unshelve(kind, key)?;
        self.index(Some(&old), None);
        Some(Change { old: Some(old), new: None })
    }

    /// The lease by which a node says that it is alive.
    pub fn node_lease(&self, node: &Arc<str>) -> Option<&Arc<Lease>> {
        self.leases.get(&Key { namespace: NODE_LEASES.into(), name: node.clone() })
    }

    /// The pods whose controller has that uid, by key.
    pub fn pods_of(&self, owner_uid: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_by_owner.get(owner_uid).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    /// The pods of a namespace that no controller owns.
    pub fn orphans(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let keys = self.pods_by_owner.get(NOBODY).into_iter().flatten().filter(move |key| *key.namespace == *namespace);
        keys.filter_map(|key| self.pods.get(key))
    }

    /// The pods that are bound to a node or pinned to it, by key.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_by_node.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    /// The pods of a namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let within = self.pods.range(Key::new(namespace, "")..).take_while(move |(key, _)| *key.namespace == *namespace);
        within.map(|(_, pod)| pod)
    }

    /// The slices that name a Service, by name.
    pub fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let names = self.slices_by_service.get(service).into_iter().flatten();
        let namespace = service.namespace.clone();
        names.filter_map(move |name| self.slices.get(&Key { namespace: namespace.clone(), name: name.clone() }))
    }

    /// The pods that have no node yet and were not deleted, by key.
    pub fn unbound(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.unbound.iter().filter_map(|key| self.pods.get(key))
    }

    /// The revisions whose controller has that uid.
    pub fn revisions_of(&self, owner_uid: &str) -> impl Iterator<Item = &Arc<ControllerRevision>> {
        self.revisions_by_owner.get(owner_uid).into_iter().flatten().filter_map(|key| self.revisions.get(key))
    }

    /// The revisions of a namespace that no controller owns.
    pub fn orphaned_revisions(&self, namespace: &str) -> impl Iterator<Item = &Arc<ControllerRevision>> {
        let keys = self.revisions_by_owner.get(NOBODY).into_iter().flatten().filter(move |key| *key.namespace == *namespace);
        keys.filter_map(|key| self.revisions.get(key))
    }

    pub fn progress(&self, kind: Kind) -> Progress {
        self.progress.get(&kind).copied().unwrap_or_default()
    }

    /// A list of the kind was begun. Whatever was written before is in it.
    pub fn list_started(&mut self, kind: Kind) {
        self.progress.entry(kind).or_default().lists_started += 1;
    }

    /// The list that was begun last is complete.
    pub fn list_finished(&mut self, kind: Kind) {
        let progress = self.progress.entry(kind).or_default();
        progress.lists_finished = progress.lists_started;
    }
}

/// The Service that a slice says it belongs to.
pub fn service_of(slice: &Meta) -> Option<Key> {
    let name = slice.labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(Key { namespace: slice.namespace.clone(), name: name.into() })
}

fn owner_uid(meta: &Meta) -> Arc<str> {
    meta.controller().map_or_else(|| NOBODY.into(), |owner| owner.uid.clone())
}

fn insert_index(index: &mut Index, under: Arc<str>, key: Key) {
    index.entry(under).or_default().insert(key);
}

fn remove_index(index: &mut Index, under: &str, key: &Key) {
    if let Some(keys) = index.get_mut(under) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(under);
        }
    }
}
