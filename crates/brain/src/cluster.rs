//! The cluster as the deciders see it: objects by key, with the indexes that decisions need. Plain data, kept by whoever watches.
//!
//! A [`Change`] is what one event of a watch did to it. Controllers are told of changes and say which of their keys these concern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    ClusterRole, ConfigMap, ControllerRevision, DaemonSet, EndpointSlice, Endpoints, Key, Lease, Meta, Namespace, Node, Pod,
    PodDisruptionBudget, PriorityClass, ResourceQuota, Service, Specs,
};
use crate::request::Resource;

/// The kinds that are followed: in full, or just the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Pod,
    Node,
    DaemonSet,
    ControllerRevision,
    Lease,
    Namespace,
    PodDisruptionBudget,
    PriorityClass,
    Service,
    EndpointSlice,
    Endpoints,
    ResourceQuota,
    ClusterRole,
    /// The ConfigMaps of one name, in full; as ConfigMaps they are followed besides.
    RootCertificate,
    /// Metadata only: who owns what, and what is in a namespace.
    Other(Resource),
}

/// An object of one of the kinds.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    DaemonSet(Arc<DaemonSet>),
    ControllerRevision(Arc<ControllerRevision>),
    Lease(Arc<Lease>),
    Namespace(Arc<Namespace>),
    PodDisruptionBudget(Arc<PodDisruptionBudget>),
    PriorityClass(Arc<PriorityClass>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Endpoints(Arc<Endpoints>),
    ResourceQuota(Arc<ResourceQuota>),
    ClusterRole(Arc<ClusterRole>),
    RootCertificate(Arc<ConfigMap>),
    Other(Resource, Arc<Meta>),
}

impl Object {
    pub fn meta(&self) -> &Meta {
        match self {
            Object::Pod(object) => &object.meta,
            Object::Node(object) => &object.meta,
            Object::DaemonSet(object) => &object.meta,
            Object::ControllerRevision(object) => &object.meta,
            Object::Lease(object) => &object.meta,
            Object::Namespace(object) => &object.meta,
            Object::PodDisruptionBudget(object) => &object.meta,
            Object::PriorityClass(object) => &object.meta,
            Object::Service(object) => &object.meta,
            Object::EndpointSlice(object) => &object.meta,
            Object::Endpoints(object) => &object.meta,
            Object::ResourceQuota(object) => &object.meta,
            Object::ClusterRole(object) => &object.meta,
            Object::RootCertificate(object) => &object.meta,
            Object::Other(_, meta) => meta,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Object::Pod(_) => Kind::Pod,
            Object::Node(_) => Kind::Node,
            Object::DaemonSet(_) => Kind::DaemonSet,
            Object::ControllerRevision(_) => Kind::ControllerRevision,
            Object::Lease(_) => Kind::Lease,
            Object::Namespace(_) => Kind::Namespace,
            Object::PodDisruptionBudget(_) => Kind::PodDisruptionBudget,
            Object::PriorityClass(_) => Kind::PriorityClass,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Endpoints(_) => Kind::Endpoints,
            Object::ResourceQuota(_) => Kind::ResourceQuota,
            Object::ClusterRole(_) => Kind::ClusterRole,
            Object::RootCertificate(_) => Kind::RootCertificate,
            Object::Other(resource, _) => Kind::Other(*resource),
        }
    }
}

/// What one event did: from `old` to `new`; never both None.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub old: Option<Object>,
    pub new: Option<Object>,
}

impl Change {
    pub fn kind(&self) -> Kind {
        self.object().kind()
    }

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
pub struct Cluster {
    pub pods: BTreeMap<Key, Arc<Pod>>,
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    pub sets: BTreeMap<Key, Arc<DaemonSet>>,
    pub revisions: BTreeMap<Key, Arc<ControllerRevision>>,
    pub leases: BTreeMap<Key, Arc<Lease>>,
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    pub budgets: BTreeMap<Key, Arc<PodDisruptionBudget>>,
    pub priority_classes: BTreeMap<Arc<str>, Arc<PriorityClass>>,
    pub services: BTreeMap<Key, Arc<Service>>,
    pub slices: BTreeMap<Key, Arc<EndpointSlice>>,
    pub endpoints: BTreeMap<Key, Arc<Endpoints>>,
    pub quotas: BTreeMap<Key, Arc<ResourceQuota>>,
    pub cluster_roles: BTreeMap<Arc<str>, Arc<ClusterRole>>,
    /// The root certificates of the namespaces.
    pub root_certificates: BTreeMap<Key, Arc<ConfigMap>>,
    /// Kinds of which only the metadata is followed.
    pub others: BTreeMap<Resource, BTreeMap<Key, Arc<Meta>>>,
    pods_by_owner: Index,
    pods_by_node: Index,
    /// Pods without a node that nobody deleted.
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

impl Cluster {
    /// Takes in a new or changed object; the change is what it did.
    pub fn put(&mut self, object: Object) -> Change {
        let kind = object.kind();
        let progress = self.progress.entry(kind).or_default();
        progress.revision = progress.revision.max(object.meta().resource_version);
        let key = object.meta().key();
        let name = key.name.clone();
        let (old, new) = match object {
            Object::Pod(pod) => {
                let (old, new) = self.put_pod(key, pod);
                (old.map(Object::Pod), Object::Pod(new))
            }
            Object::Node(node) => (self.nodes.insert(name, node.clone()).map(Object::Node), Object::Node(node)),
            Object::DaemonSet(set) => (self.sets.insert(key, set.clone()).map(Object::DaemonSet), Object::DaemonSet(set)),
            Object::ControllerRevision(revision) => {
                let old = self.revisions.insert(key.clone(), revision.clone());
                if let Some(old) = &old {
                    remove_index(&mut self.revisions_by_owner, &owner_uid(&old.meta), &key);
                }
                insert_index(&mut self.revisions_by_owner, owner_uid(&revision.meta), key);
                (old.map(Object::ControllerRevision), Object::ControllerRevision(revision))
            }
            Object::Lease(lease) => (self.leases.insert(key, lease.clone()).map(Object::Lease), Object::Lease(lease)),
            Object::Namespace(ns) => (self.namespaces.insert(name, ns.clone()).map(Object::Namespace), Object::Namespace(ns)),
            Object::PodDisruptionBudget(budget) => {
                (self.budgets.insert(key, budget.clone()).map(Object::PodDisruptionBudget), Object::PodDisruptionBudget(budget))
            }
            Object::PriorityClass(class) => {
                (self.priority_classes.insert(name, class.clone()).map(Object::PriorityClass), Object::PriorityClass(class))
            }
            Object::Service(object) => (self.services.insert(key, object.clone()).map(Object::Service), Object::Service(object)),
            Object::EndpointSlice(slice) => {
                let old = self.slices.insert(key, slice.clone());
                self.index_slice(old.as_deref(), Some(&slice));
                (old.map(Object::EndpointSlice), Object::EndpointSlice(slice))
            }
            Object::Endpoints(object) => (self.endpoints.insert(key, object.clone()).map(Object::Endpoints), Object::Endpoints(object)),
            Object::ResourceQuota(object) => {
                (self.quotas.insert(key, object.clone()).map(Object::ResourceQuota), Object::ResourceQuota(object))
            }
            Object::ClusterRole(object) => {
                (self.cluster_roles.insert(name, object.clone()).map(Object::ClusterRole), Object::ClusterRole(object))
            }
            Object::RootCertificate(object) => {
                (self.root_certificates.insert(key, object.clone()).map(Object::RootCertificate), Object::RootCertificate(object))
            }
            Object::Other(resource, meta) => {
                let old = self.others.entry(resource).or_default().insert(key, meta.clone());
                (old.map(|old| Object::Other(resource, old)), Object::Other(resource, meta))
            }
        };
        Change { old, new: Some(new) }
    }

    fn put_pod(&mut self, key: Key, mut pod: Arc<Pod>) -> (Option<Arc<Pod>>, Arc<Pod>) {
        if let Some(pod) = Arc::get_mut(&mut pod) {
            pod.spec = self.specs.share(pod.spec.clone());
        }
        let old = self.pods.insert(key.clone(), pod.clone());
        if let Some(old) = &old {
            self.unindex_pod(&key, old, Some(&pod));
        }
        if pod.node.is_none() && !pod.meta.is_deleted() {
            self.unbound.insert(key.clone());
        } else {
            self.unbound.remove(&key);
        }
        insert_index(&mut self.pods_by_owner, owner_uid(&pod.meta), key.clone());
        if let Some(node) = pod.target_node() {
            insert_index(&mut self.pods_by_node, node.clone(), key);
        }
        (old, pod)
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

    fn index_slice(&mut self, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
        if let Some((slice, service)) = old.and_then(|slice| Some((slice, service_of(&slice.meta)?)))
            && let Some(names) = self.slices_by_service.get_mut(&service)
        {
            names.remove(&slice.meta.name);
            if names.is_empty() {
                self.slices_by_service.remove(&service);
            }
        }
        if let Some((slice, service)) = new.and_then(|slice| Some((slice, service_of(&slice.meta)?))) {
            self.slices_by_service.entry(service).or_default().insert(slice.meta.name.clone());
        }
    }

    /// Takes an object away; `revision` is that of the event, if known. None when it was not there.
    pub fn remove(&mut self, kind: Kind, key: &Key, revision: u64) -> Option<Change> {
        let progress = self.progress.entry(kind).or_default();
        progress.revision = progress.revision.max(revision);
        let name = &key.name;
        let old = match kind {
            Kind::Pod => {
                let old = self.pods.remove(key)?;
                self.unbound.remove(key);
                self.unindex_pod(key, &old, None);
                Object::Pod(old)
            }
            Kind::Node => Object::Node(self.nodes.remove(name)?),
            Kind::DaemonSet => Object::DaemonSet(self.sets.remove(key)?),
            Kind::ControllerRevision => {
                let old = self.revisions.remove(key)?;
                remove_index(&mut self.revisions_by_owner, &owner_uid(&old.meta), key);
                Object::ControllerRevision(old)
            }
            Kind::Lease => Object::Lease(self.leases.remove(key)?),
            Kind::Namespace => Object::Namespace(self.namespaces.remove(name)?),
            Kind::PodDisruptionBudget => Object::PodDisruptionBudget(self.budgets.remove(key)?),
            Kind::PriorityClass => Object::PriorityClass(self.priority_classes.remove(name)?),
            Kind::Service => Object::Service(self.services.remove(key)?),
            Kind::EndpointSlice => {
                let old = self.slices.remove(key)?;
                self.index_slice(Some(&old), None);
                Object::EndpointSlice(old)
            }
            Kind::Endpoints => Object::Endpoints(self.endpoints.remove(key)?),
            Kind::ResourceQuota => Object::ResourceQuota(self.quotas.remove(key)?),
            Kind::ClusterRole => Object::ClusterRole(self.cluster_roles.remove(name)?),
            Kind::RootCertificate => Object::RootCertificate(self.root_certificates.remove(key)?),
            Kind::Other(resource) => Object::Other(resource, self.others.get_mut(&resource)?.remove(key)?),
        };
        Some(Change { old: Some(old), new: None })
    }

    /// The keys of all objects of a kind.
    pub fn keys(&self, kind: Kind) -> Vec<Key> {
        let cluster_wide = |names: Vec<&Arc<str>>| names.into_iter().map(|name| Key { namespace: "".into(), name: name.clone() }).collect();
        match kind {
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Node => cluster_wide(self.nodes.keys().collect()),
            Kind::DaemonSet => self.sets.keys().cloned().collect(),
            Kind::ControllerRevision => self.revisions.keys().cloned().collect(),
            Kind::Lease => self.leases.keys().cloned().collect(),
            Kind::Namespace => cluster_wide(self.namespaces.keys().collect()),
            Kind::PodDisruptionBudget => self.budgets.keys().cloned().collect(),
            Kind::PriorityClass => cluster_wide(self.priority_classes.keys().collect()),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slices.keys().cloned().collect(),
            Kind::Endpoints => self.endpoints.keys().cloned().collect(),
            Kind::ResourceQuota => self.quotas.keys().cloned().collect(),
            Kind::ClusterRole => cluster_wide(self.cluster_roles.keys().collect()),
            Kind::RootCertificate => self.root_certificates.keys().cloned().collect(),
            Kind::Other(resource) => self.others.get(&resource).into_iter().flat_map(BTreeMap::keys).cloned().collect(),
        }
    }

    /// An object of a kind.
    pub fn meta(&self, kind: Kind, key: &Key) -> Option<&Meta> {
        match kind {
            Kind::Pod => self.pods.get(key).map(|object| &object.meta),
            Kind::Node => self.nodes.get(&key.name).map(|object| &object.meta),
            Kind::DaemonSet => self.sets.get(key).map(|object| &object.meta),
            Kind::ControllerRevision => self.revisions.get(key).map(|object| &object.meta),
            Kind::Lease => self.leases.get(key).map(|object| &object.meta),
            Kind::Namespace => self.namespaces.get(&key.name).map(|object| &object.meta),
            Kind::PodDisruptionBudget => self.budgets.get(key).map(|object| &object.meta),
            Kind::PriorityClass => self.priority_classes.get(&key.name).map(|object| &object.meta),
            Kind::Service => self.services.get(key).map(|object| &object.meta),
            Kind::EndpointSlice => self.slices.get(key).map(|object| &object.meta),
            Kind::Endpoints => self.endpoints.get(key).map(|object| &object.meta),
            Kind::ResourceQuota => self.quotas.get(key).map(|object| &object.meta),
            Kind::ClusterRole => self.cluster_roles.get(&key.name).map(|object| &object.meta),
            Kind::RootCertificate => self.root_certificates.get(key).map(|object| &object.meta),
            Kind::Other(resource) => self.others.get(&resource)?.get(key).map(|meta| &**meta),
        }
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
