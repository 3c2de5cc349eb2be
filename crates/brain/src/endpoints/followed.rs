//! Which Services a change concerns, and the trigger time of their next write.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Key, Node, Pod, Service};
use crate::picture::{Change, Object, Picture};
use crate::selected::Selectors;

use super::has_endpoints;

/// The Services with selectors.
#[derive(Debug, Default)]
pub struct Followed {
    selectors: Selectors,
    times: BTreeMap<Key, Times>,
}

/// What was seen of a Service's times when it was planned last.
#[derive(Debug, Default)]
struct Times {
    created: Option<Timestamp>,
    /// Since when the pods are as ready as they are.
    pods: BTreeMap<Arc<str>, Timestamp>,
}

impl Followed {
    /// Adds the keys of the Services that a change of a Service or of a pod concerns.
    pub fn concerns(&mut self, change: &Change, add: &mut dyn FnMut(Key)) {
        match (&change.old, &change.new) {
            (_, Some(Object::Service(service))) => {
                self.selectors.set(&service.meta.key(), service.selector.as_ref());
                add(service.meta.key());
            }
            (Some(Object::Service(service)), None) => {
                self.selectors.set(&service.meta.key(), None);
                self.times.remove(&service.meta.key());
                add(service.meta.key());
            }
            (Some(Object::Pod(old)), Some(Object::Pod(new))) if differ(old, new) => {
                self.add_services(new, add);
                if old.meta.labels != new.meta.labels {
                    self.add_services(old, add);
                }
            }
            (Some(Object::Pod(_)), Some(Object::Pod(_))) => {}
            (None, Some(Object::Pod(pod))) | (Some(Object::Pod(pod)), None) if has_endpoints(pod) => self.add_services(pod, add),
            _ => {}
        }
    }

    /// Adds the keys of the Services with pods on a node that is new or in another zone.
    pub fn concerns_zone(&self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let Some(Object::Node(node)) = &change.new else { return };
        let is_known = matches!(&change.old, Some(Object::Node(old)) if zone(old) == zone(node));
        if !is_known {
            picture.pods_on(&node.meta.name).filter(|pod| has_endpoints(pod)).for_each(|pod| self.add_services(pod, add));
        }
    }

    fn add_services(&self, pod: &Pod, add: &mut dyn FnMut(Key)) {
        self.selectors.choosing(&pod.meta).into_iter().for_each(add);
    }

    /// The earliest of what changed since the Service was planned last; of one that is planned for
    /// the first time, its creation (`ComputeEndpointLastChangeTriggerTime`).
    pub fn trigger_time(&mut self, service: &Service, pods: &[&Arc<Pod>]) -> Option<Timestamp> {
        let known = self.times.get(&service.meta.key());
        let created = service.meta.creation_timestamp;
        let ready_since = |pod: &&Arc<Pod>| Some((pod.meta.name.clone(), pod.status.ready?.1?));
        let times: BTreeMap<Arc<str>, Timestamp> = pods.iter().filter_map(ready_since).collect();
        let trigger = match known {
            None => created,
            Some(known) => {
                let is_new = |(name, time): &(&Arc<str>, &Timestamp)| known.pods.get(*name).is_none_or(|before| before < *time);
                let changed = times.iter().filter(is_new).map(|(_, time)| *time);
                changed.chain(created.filter(|_| created > known.created)).min()
            }
        };
        self.times.insert(service.meta.key(), Times { created, pods: times });
        trigger
    }
}

/// The zone that a node's label names.
pub fn zone(node: &Node) -> Option<&str> {
    node.meta.labels.get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty())
}

/// Did the pod change in a way that its endpoints or its Services show? (`podEndpointsChanged`)
fn differ(old: &Pod, new: &Pod) -> bool {
    let is_there = (has_endpoints(old), has_endpoints(new));
    if is_there == (false, false) {
        return false;
    }
    is_there.0 != is_there.1
        || old.meta.uid != new.meta.uid
        || old.meta.labels != new.meta.labels
        || old.meta.is_deleted() != new.meta.is_deleted()
        || old.is_ready() != new.is_ready()
        || old.status.pod_ips != new.status.pod_ips
        || old.host_name != new.host_name
        || old.node != new.node
}
