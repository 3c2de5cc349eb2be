//! What pod-network knows of the nodes, and whether anything changed that matters. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use brain::pod_network::Member;

use crate::follow::Change;

#[derive(Debug, Default)]
pub struct View {
    members: BTreeMap<Arc<str>, Member>,
    is_listed: bool,
    has_changed: bool,
}

impl View {
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Put(key, object) => {
                let Some(member) = Member::read(&object) else {
                    self.has_changed |= self.members.remove(&key.name).is_some();
                    return;
                };
                let is_same = self.members.get(&key.name).is_some_and(|known| known.is_same_member(&member));
                self.has_changed |= !is_same;
                self.members.insert(key.name, member);
            }
            Change::Gone(key) => self.has_changed |= self.members.remove(&key.name).is_some(),
            Change::Listed(keys) => {
                let before = self.members.len();
                let names: std::collections::BTreeSet<Arc<str>> = keys.into_iter().map(|key| key.name).collect();
                self.members.retain(|name, _| names.contains(name));
                self.has_changed |= before != self.members.len() || !self.is_listed;
                self.is_listed = true;
            }
        }
    }

    /// Whether all nodes were seen: before that, a node that is there would look gone.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Whether nodes changed since this was asked last.
    pub fn forget_that_nodes_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn own(&self, node: &str) -> Option<&Member> {
        self.members.get(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brain::model::Key;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key { namespace: "".into(), name: name.into() }
    }

    fn put(name: &str, address: &str, status: &str) -> Change {
        let node = json!({
            "metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": ["10.244.1.0/24"]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": address}],
                "conditions": [{"type": "NetworkUnavailable", "status": status}],
            },
        });
        Change::Put(key(name), node)
    }

    #[test]
    fn only_what_matters_for_the_network_is_a_change() {
        let mut view = View::default();
        view.take(put("a", "192.0.2.1", "True"));
        assert!(!view.is_listed());
        view.take(Change::Listed([key("a")].into()));
        assert!(view.is_listed() && view.forget_that_nodes_changed());
        view.take(put("a", "192.0.2.1", "False"));
        assert!(!view.forget_that_nodes_changed());
        assert_eq!(view.own("a").and_then(|own| own.condition.as_ref()).map(|condition| &*condition.status), Some("False"));
        view.take(put("a", "192.0.2.2", "False"));
        assert!(view.forget_that_nodes_changed());
        view.take(Change::Gone(key("b")));
        view.take(Change::Put(key("c"), json!("no object")));
        assert!(!view.forget_that_nodes_changed());
        view.take(Change::Listed([].into()));
        assert!(view.forget_that_nodes_changed() && view.members().next().is_none());
    }
}
