//! The kinds that controllers follow. A new one is a row in [`for_each_followed_kind`], a model,
//! and a shelf in [`Picture`].
//!
//! [`Picture`]: super::Picture

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{Change, Picture};
use crate::model::{self, Key, Labels, Meta};
use crate::request::{self, Resource};
use crate::service_account::ROOT_CERTIFICATE;

/// Hands the table of kinds that are followed in full to a macro: `Kind` and `Object` variant,
/// model, shelf of the picture, resource.
macro_rules! for_each_followed_kind {
    ($table:ident) => {
        $table! {
            Pod, Pod, pods, PODS;
            Node, Node, nodes, NODES;
            DaemonSet, DaemonSet, sets, DAEMON_SETS;
            ControllerRevision, ControllerRevision, revisions, REVISIONS;
            Lease, Lease, leases, LEASES;
            Namespace, Namespace, namespaces, NAMESPACES;
            PodDisruptionBudget, PodDisruptionBudget, budgets, BUDGETS;
            PriorityClass, PriorityClass, priority_classes, PRIORITY_CLASSES;
            Service, Service, services, SERVICES;
            EndpointSlice, EndpointSlice, slices, ENDPOINT_SLICES;
            Endpoints, Endpoints, endpoints, ENDPOINTS;
            ResourceQuota, ResourceQuota, quotas, QUOTAS;
            ClusterRole, ClusterRole, cluster_roles, CLUSTER_ROLES;
            ServiceCidr, ServiceCidr, service_cidrs, SERVICE_CIDRS;
            IpAddress, IpAddress, ip_addresses, IP_ADDRESSES;
            RootCertificate, ConfigMap, root_certificates, CONFIG_MAPS;
        }
    };
}

/// What a shelf is ordered by: a key, or the name where there are no namespaces.
pub trait ShelfKey: Ord + Clone {
    fn of(key: &Key) -> &Self;
    fn key(&self) -> Key;
}

impl ShelfKey for Key {
    fn of(key: &Key) -> &Key {
        key
    }

    fn key(&self) -> Key {
        self.clone()
    }
}

impl ShelfKey for Arc<str> {
    fn of(key: &Key) -> &Arc<str> {
        &key.name
    }

    fn key(&self) -> Key {
        Key { namespace: "".into(), name: self.clone() }
    }
}

/// All objects of a kind.
pub type Shelf<K, T> = BTreeMap<K, Arc<T>>;

fn insert<K: ShelfKey, T>(shelf: &mut Shelf<K, T>, key: &Key, object: Arc<T>) -> Option<Arc<T>> {
    shelf.insert(K::of(key).clone(), object)
}

fn remove<K: ShelfKey, T>(shelf: &mut Shelf<K, T>, key: &Key) -> Option<Arc<T>> {
    shelf.remove(K::of(key))
}

fn get<'a, K: ShelfKey, T>(shelf: &'a Shelf<K, T>, key: &Key) -> Option<&'a Arc<T>> {
    shelf.get(K::of(key))
}

fn keys<K: ShelfKey, T>(shelf: &Shelf<K, T>) -> Vec<Key> {
    shelf.keys().map(ShelfKey::key).collect()
}

/// What is read of objects that are followed by their metadata alone.
#[derive(Deserialize)]
struct OnlyMeta {
    metadata: Meta,
}

macro_rules! table {
    ($($kind:ident, $model:ident, $shelf:ident, $resource:ident;)*) => {
        /// The kinds that are followed: in full, or just the metadata.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($kind,)*
            /// Metadata only: who owns what, and what is in a namespace.
            Other(Resource),
        }

        /// An object of one of the kinds.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $($kind(Arc<model::$model>),)*
            Other(Resource, Arc<Meta>),
        }

        const IN_FULL: &[Kind] = &[$(Kind::$kind),*];

        impl Kind {
            pub fn resource(&self) -> Resource {
                match *self {
                    $(Kind::$kind => request::$resource,)*
                    Kind::Other(resource) => resource,
                }
            }

            /// An object of this kind as deciders see it. None for what they do not understand, and
            /// what does not belong to the kind.
            pub fn read(self, object: &Value) -> Option<Object> {
                if self.only_name().is_some_and(|name| object["metadata"]["name"] != name) {
                    return None;
                }
                match self {
                    $(Kind::$kind => model::$model::deserialize(object).ok().map(|object| Object::$kind(Arc::new(object))),)*
                    Kind::Other(resource) => {
                        Meta::deserialize(&object["metadata"]).ok().map(|meta| Object::Other(resource, Arc::new(meta)))
                    }
                }
            }

            /// An object of this kind as the API server sent it. Of annotations of kinds that are
            /// followed by their metadata alone, nothing is kept.
            pub fn read_text(self, text: &str) -> Result<Object, serde_json::Error> {
                match self {
                    $(Kind::$kind => serde_json::from_str(text).map(|object| Object::$kind(Arc::new(object))),)*
                    Kind::Other(resource) => {
                        let OnlyMeta { metadata } = serde_json::from_str(text)?;
                        let meta = Meta { annotations: Labels::default(), ..metadata };
                        Ok(Object::Other(resource, Arc::new(meta)))
                    }
                }
            }
        }

        impl Object {
            pub fn kind(&self) -> Kind {
                match self {
                    $(Object::$kind(_) => Kind::$kind,)*
                    Object::Other(resource, _) => Kind::Other(*resource),
                }
            }

            pub fn meta(&self) -> &Meta {
                match self {
                    $(Object::$kind(object) => &object.meta,)*
                    Object::Other(_, meta) => meta,
                }
            }
        }

        impl Picture {
            /// Puts an object on its shelf and returns what was there.
            pub(super) fn shelve(&mut self, object: Object) -> Option<Object> {
                let key = object.meta().key();
                match object {
                    $(Object::$kind(object) => insert(&mut self.$shelf, &key, object).map(Object::$kind),)*
                    Object::Other(resource, meta) => {
                        self.others.entry(resource).or_default().insert(key, meta).map(|old| Object::Other(resource, old))
                    }
                }
            }

            /// Takes an object from its shelf.
            pub(super) fn unshelve(&mut self, kind: Kind, key: &Key) -> Option<Object> {
                match kind {
                    $(Kind::$kind => remove(&mut self.$shelf, key).map(Object::$kind),)*
                    Kind::Other(resource) => self.others.get_mut(&resource)?.remove(key).map(|old| Object::Other(resource, old)),
                }
            }

            /// The keys of all objects of a kind.
            pub fn keys(&self, kind: Kind) -> Vec<Key> {
                match kind {
                    $(Kind::$kind => keys(&self.$shelf),)*
                    Kind::Other(resource) => self.others.get(&resource).map(keys).unwrap_or_default(),
                }
            }

            /// The metadata of an object of a kind.
            pub fn meta(&self, kind: Kind, key: &Key) -> Option<&Meta> {
                match kind {
                    $(Kind::$kind => get(&self.$shelf, key).map(|object| &object.meta),)*
                    Kind::Other(resource) => self.others.get(&resource)?.get(key).map(|meta| &**meta),
                }
            }
        }
    };
}

for_each_followed_kind!(table);

impl Kind {
    /// The one name under which the kind is followed: ConfigMaps of one name in full, all of them
    /// as metadata.
    pub fn only_name(self) -> Option<&'static str> {
        (self == Kind::RootCertificate).then_some(ROOT_CERTIFICATE)
    }
}

impl Resource {
    /// The kind under which the picture has all objects of the resource.
    pub fn followed(&self) -> Kind {
        let whole = IN_FULL.iter().find(|kind| kind.only_name().is_none() && kind.resource() == *self);
        whole.copied().unwrap_or(Kind::Other(*self))
    }
}

impl Change {
    pub fn kind(&self) -> Kind {
        self.object().kind()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_has_its_shelf() {
        for kind in IN_FULL.iter().copied().chain([Kind::Other(request::CONFIG_MAPS)]) {
            let name = kind.only_name().unwrap_or("a");
            let object = |version: &str| {
                let object = json!({"metadata": {"name": name, "uid": "u", "resourceVersion": version}});
                kind.read(&object).unwrap_or_else(|| panic!("{kind:?} can be read"))
            };
            let mut picture = Picture::default();
            assert_eq!(picture.put(object("1")), Change { old: None, new: Some(object("1")) });
            assert_eq!(picture.put(object("2")), Change { old: Some(object("1")), new: Some(object("2")) });
            let key = Key::new("", name);
            assert_eq!(picture.keys(kind), std::slice::from_ref(&key));
            assert_eq!(picture.meta(kind, &key).map(|meta| meta.resource_version), Some(2), "{kind:?}");
            assert_eq!(picture.progress(kind).revision, 2);
            assert_eq!(picture.remove(kind, &key, 3), Some(Change { old: Some(object("2")), new: None }));
            assert_eq!((picture.keys(kind), picture.remove(kind, &key, 3)), (vec![], None));
        }
    }

    #[test]
    fn resources_are_followed_in_full_where_there_is_a_model() {
        assert_eq!(request::PODS.followed(), Kind::Pod);
        assert_eq!(request::CONFIG_MAPS.followed(), Kind::Other(request::CONFIG_MAPS));
        let other = json!({"metadata": {"name": "settings"}});
        assert_eq!(Kind::RootCertificate.read(&other), None, "a ConfigMap of another name");
    }
}
