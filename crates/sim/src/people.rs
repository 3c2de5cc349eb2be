//! People: they make sets and change them, taint and remove nodes, pull plugs, delete pods.

use std::sync::Arc;

use brain::model::Key;
use brain::pretend::Server;
use brain::request::{DAEMON_SETS, NODES, PODS, Request, Verb};
use fastrand::Rng;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::nodes::{NODES_MAX, Nodes};

/// In thousandths of steps: how often a user does something.
const ACTS: u32 = 8;

const SETS: [&str; 2] = ["web", "log"];

pub struct People {
    rng: Rng,
    began: bool,
}

impl People {
    pub fn new(rng: Rng) -> People {
        People { rng, began: false }
    }

    pub fn act(&mut self, server: &mut Server, nodes: &mut Nodes, now: Timestamp) {
        if !self.began {
            self.began = true;
            for at in 0..self.rng.usize(1..=NODES_MAX) {
                nodes.start(&Nodes::name(at), server, now);
            }
            server.insert(PODS, stranger());
            self.change_set(server, now);
        }
        if self.rng.u32(0..1000) >= ACTS {
            return;
        }
        let name = Nodes::name(self.rng.usize(0..NODES_MAX));
        match self.rng.u32(0..12) {
            0..=3 => self.change_set(server, now),
            4 => self.delete_set(server, now),
            5 => nodes.start(&name, server, now),
            6 => nodes.stop(&name),
            7 => {
                nodes.stop(&name);
                server.remove(NODES, &Key::new("", &name));
            }
            8 | 9 => self.taint(&name, server),
            _ => self.delete_pod(server, now),
        }
    }

    /// Makes a set, or changes its template or strategy.
    fn change_set(&mut self, server: &mut Server, now: Timestamp) {
        let name = SETS[self.rng.usize(0..SETS.len())];
        let key = Key::new("default", name);
        let image = format!("app:{}", self.rng.u32(1..5));
        let strategy = self.strategy();
        let spec = json!({
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{
                "name": "c", "image": image, "resources": {"requests": {"cpu": if self.rng.u32(0..4) == 0 { "1500m" } else { "100m" }}},
            }]}},
            "updateStrategy": strategy,
            "minReadySeconds": if self.rng.u32(0..3) == 0 { 5 } else { 0 },
            "revisionHistoryLimit": 2,
        });
        let Some(current) = server.get(DAEMON_SETS, &key) else {
            let set = json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet",
                "metadata": {"name": name, "generation": 1, "annotations": {"deprecated.daemonset.template.generation": "1"}},
                "spec": spec,
            });
            // It is not there, so it is accepted.
            let _ = server.send(&Request::new(DAEMON_SETS, key, Verb::Create(Arc::new(set))), now);
            return;
        };
        let mut set = Value::clone(current);
        if set["spec"]["template"] != spec["template"] {
            let annotation = &mut set["metadata"]["annotations"]["deprecated.daemonset.template.generation"];
            let next = annotation.as_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0) + 1;
            *annotation = json!(next.to_string());
        }
        set["metadata"]["generation"] = json!(set["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        set["spec"] = spec;
        server.insert(DAEMON_SETS, set);
    }

    fn strategy(&mut self) -> Value {
        match self.rng.u32(0..6) {
            0 => json!({"type": "OnDelete"}),
            1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}),
            2 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"}}),
            3 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}),
            4 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}),
            _ => json!({"type": "RollingUpdate"}),
        }
    }

    fn delete_set(&mut self, server: &mut Server, now: Timestamp) {
        let key = Key::new("default", SETS[self.rng.usize(0..SETS.len())]);
        let propagation = ["Background", "Foreground", "Orphan"][self.rng.usize(0..3)];
        let verb = Verb::Delete { uid: None, resource_version: None, grace_seconds: None, propagation: Some(propagation) };
        let _ = server.send(&Request::new(DAEMON_SETS, key, verb), now);
    }

    /// Puts a taint on a node, or takes ours away.
    fn taint(&mut self, name: &str, server: &mut Server) {
        let Some(node) = server.get(NODES, &Key::new("", name)) else { return };
        let mut node = Value::clone(node);
        let mut taints: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let before = taints.len();
        taints.retain(|taint| taint["key"] != "maint");
        if taints.len() == before {
            let effect = ["NoSchedule", "NoExecute"][self.rng.usize(0..2)];
            taints.push(json!({"key": "maint", "effect": effect}));
        }
        node["spec"]["taints"] = json!(taints);
        server.insert(NODES, node);
    }

    fn delete_pod(&mut self, server: &mut Server, now: Timestamp) {
        let ours: Vec<Key> = server.list(PODS).filter(|(key, _)| *key.name != *STRANGER).map(|(key, _)| key.clone()).collect();
        if ours.is_empty() {
            return;
        }
        let key = ours[self.rng.usize(0..ours.len())].clone();
        let verb = Verb::Delete { uid: None, resource_version: None, grace_seconds: None, propagation: None };
        let _ = server.send(&Request::new(PODS, key, verb), now);
    }
}

/// The pod that belongs to no controller: none may touch it.
pub const STRANGER: &str = "stranger";

fn stranger() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": STRANGER, "namespace": "default", "labels": {"app": "stranger"}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c"}]},
    })
}
