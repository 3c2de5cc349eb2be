//! What the pods of this node were given: all decisions about it are made here, one after the
//! other, so that nothing is given twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brain::model;
use brain::podsync::resize::{self, Allocation, Reason};
use k8s_openapi::api::core::v1::Pod;

use brain::podsync::uid;

#[derive(Default)]
pub struct Allocations(Mutex<BTreeMap<String, Entry>>);

struct Entry {
    allocation: Allocation,
    /// The same, or more while its containers have more still.
    held: Allocation,
    /// With what it holds; none for one that holds nothing any more.
    model: Option<Arc<model::Pod>>,
}

impl Entry {
    fn new(pod: &Pod, allocation: Allocation) -> Entry {
        Entry::holding(pod, allocation.clone(), allocation)
    }

    fn holding(pod: &Pod, allocation: Allocation, held: Allocation) -> Entry {
        let model = to_model::<model::Pod>(&resize::with_allocation(pod, &held)).map(Arc::new);
        Entry { allocation, held, model }
    }
}

/// What became of a pod that asks for other resources than it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resized {
    /// It has what it asks for.
    Already,
    Given,
    Refused(Reason, String),
}

impl Allocations {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pod on that runs here already, with what it says that it was given; also one that
    /// had been released.
    pub fn found(&self, pod: &Pod) {
        let mut entries = self.entries();
        let entry = entries.entry(uid(pod).to_owned()).or_insert_with(|| {
            let told = resize::told(pod);
            let held = resize::larger(&told, &resize::promised(pod));
            Entry::holding(pod, told, held)
        });
        if entry.model.is_none() {
            *entry = Entry::holding(pod, entry.allocation.clone(), entry.held.clone());
        }
    }

    /// Nothing of the pod runs any more, or its deletion is done for the API server: others may
    /// have what it had. Its reports still say what that was.
    pub fn release(&self, uid: &str) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.model = None;
        }
    }

    /// Takes on a pod of which nothing runs if `check` agrees, which sees those that are here. An
    /// earlier agent may have taken it on.
    pub fn admit<E>(&self, pod: &Pod, check: impl FnOnce(&[Arc<model::Pod>]) -> Result<(), E>) -> Result<(), E> {
        let mut entries = self.entries();
        check(&others(&entries, uid(pod)))?;
        entries.insert(uid(pod).to_owned(), Entry::new(pod, resize::told(pod)));
        Ok(())
    }

    /// Gives a pod what it asks for now, if the node can; `node` is asked for only then.
    pub fn resize(&self, pod: &Pod, node: impl FnOnce() -> Option<model::Node>) -> Resized {
        let mut entries = self.entries();
        let Some(entry) = entries.get(uid(pod)).filter(|entry| !resize::is_given(pod, &entry.allocation)) else { return Resized::Already };
        let asks = Entry::new(pod, resize::asked(pod));
        // What cannot be read was never judged, and without its Node nothing can be.
        let (Some(model), Some(_), Some(node)) = (&asks.model, &entry.model, node()) else { return Resized::Already };
        match resize::check(model, &node, &others(&entries, uid(pod))) {
            Err((reason, message)) => Resized::Refused(reason, message),
            Ok(()) => {
                let held = resize::larger(&asks.allocation, &entry.held);
                entries.insert(uid(pod).to_owned(), Entry::holding(pod, asks.allocation, held));
                Resized::Given
            }
        }
    }

    /// The containers of the pod have what it was given: others may have what they had more.
    pub fn settle(&self, pod: &Pod) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(uid(pod)).filter(|entry| entry.model.is_some() && entry.held != entry.allocation) {
            *entry = Entry::new(pod, entry.allocation.clone());
        }
    }

    pub fn of(&self, uid: &str) -> Option<Allocation> {
        self.entries().get(uid).map(|entry| entry.allocation.clone())
    }

    /// Nothing of the pod runs any more.
    pub fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }
}

fn others(entries: &BTreeMap<String, Entry>, uid: &str) -> Vec<Arc<model::Pod>> {
    entries.iter().filter(|(other, _)| *other != uid).filter_map(|(_, entry)| entry.model.clone()).collect()
}

/// What deciders see of an object.
pub fn to_model<T: serde::de::DeserializeOwned>(object: &impl serde::Serialize) -> Option<T> {
    serde_json::to_value(object).and_then(serde_json::from_value).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, cpu: &str) -> Pod {
        let resources = json!({"requests": {"cpu": cpu}});
        let pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        serde_json::from_value(pod).unwrap()
    }

    fn node() -> model::Node {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}});
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn nothing_is_given_twice() {
        let allocations = Allocations::default();
        let admit = |pod: &Pod| {
            let model = to_model::<model::Pod>(pod).unwrap();
            allocations.admit(pod, |others| brain::podsync::resize::check(&model, &node(), others).map_err(|(reason, _)| reason))
        };
        let resize = |pod: &Pod| allocations.resize(pod, || Some(node()));
        admit(&pod("a", "1")).unwrap();
        admit(&pod("b", "2")).unwrap();
        assert_eq!(admit(&pod("c", "2")), Err(Reason::Deferred));
        assert_eq!(resize(&pod("a", "1")), Resized::Already);
        assert_eq!(resize(&pod("a", "2")), Resized::Given);
        assert!(matches!(resize(&pod("b", "3")), Resized::Refused(Reason::Deferred, _)));
        assert!(matches!(resize(&pod("b", "5")), Resized::Refused(Reason::Infeasible, _)));
        assert!(brain::podsync::resize::is_given(&pod("b", "2"), &allocations.of("b").unwrap()), "it keeps what it had");
        assert_eq!(resize(&pod("a", "1")), Resized::Given);
        assert!(matches!(resize(&pod("b", "3")), Resized::Refused(Reason::Deferred, _)), "its containers have more still");
        allocations.settle(&pod("a", "1"));
        assert_eq!(resize(&pod("b", "3")), Resized::Given, "room was made");
        allocations.forget("a");
        admit(&pod("c", "1")).unwrap();
        assert_eq!(resize(&pod("gone", "1")), Resized::Already);
    }

    #[test]
    fn what_an_earlier_agent_promised_is_held() {
        let mut before = pod("a", "3");
        let status = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "1"}}}]);
        before.status.get_or_insert_default().container_statuses = serde_json::from_value(status).unwrap();
        let allocations = Allocations::default();
        allocations.found(&before);
        assert!(brain::podsync::resize::is_given(&pod("a", "1"), &allocations.of("a").unwrap()), "not what it asks for now");
        let fits = |cpu: &str| {
            let (pod, entries) = (pod("b", cpu), allocations.entries());
            brain::podsync::resize::check(&to_model::<model::Pod>(&pod).unwrap(), &node(), &others(&entries, "b")).is_ok()
        };
        assert!(fits("2") && !fits("3"));
        allocations.settle(&before);
        assert!(fits("3"));
    }

    #[test]
    fn what_has_ended_makes_room_and_is_still_known() {
        let allocations = Allocations::default();
        let admit = |pod: &Pod| allocations.admit(pod, |others| if others.is_empty() { Ok(()) } else { Err(others.len()) });
        admit(&pod("a", "1")).unwrap();
        assert_eq!(admit(&pod("b", "1")), Err(1));
        allocations.release("a");
        assert!(brain::podsync::resize::is_given(&pod("a", "1"), &allocations.of("a").unwrap()), "its last reports are as those before");
        admit(&pod("b", "1")).unwrap();
        allocations.found(&pod("a", "1"));
        assert_eq!(admit(&pod("c", "1")), Err(2), "it is there again");
    }
}
