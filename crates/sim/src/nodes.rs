//! Machines: they register, send heartbeats, start pods and end them, and die.

use std::collections::BTreeMap;

use brain::model::Key;
use brain::picture::NODE_LEASES;
use brain::pretend::Server;
use brain::request::{LEASES, NODES, PODS};
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Machines that there may be.
pub const NODES_MAX: usize = 5;

const HEARTBEAT: SignedDuration = SignedDuration::from_secs(10);

/// In thousandths, for each step: what happens to a pod on a machine that lives.
const STARTS: u32 = 80;
const ENDS: u32 = 120;
const FAILS: u32 = 1;

pub struct Nodes {
    rng: Rng,
    /// Machines that are switched on, and when they beat next.
    alive: BTreeMap<String, Timestamp>,
    /// Addresses that pods have had: each gets the next.
    addresses: u16,
    /// Pods fail now and then.
    trouble: bool,
}

impl Nodes {
    pub fn new(rng: Rng) -> Nodes {
        Nodes { rng, alive: BTreeMap::new(), addresses: 0, trouble: true }
    }

    pub fn name(at: usize) -> String {
        format!("n{at}")
    }

    /// Switches a machine on; it registers if the API server does not know it.
    pub fn start(&mut self, name: &str, server: &mut Server, now: Timestamp) {
        self.alive.insert(name.to_owned(), now);
        let key = Key::new("", name);
        let mut node = server.get(NODES, &key).map_or_else(
            || json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}}),
            |node| Value::clone(node),
        );
        node["status"] = json!({
            "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "20"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string(), "lastTransitionTime": now.to_string()}],
        });
        server.insert(NODES, node);
    }

    /// Pulls the plug.
    pub fn stop(&mut self, name: &str) {
        self.alive.remove(name);
    }

    /// No more faults: every machine that has a Node object lives.
    pub fn calm(&mut self, server: &mut Server, now: Timestamp) {
        self.trouble = false;
        let names: Vec<String> = server.list(NODES).map(|(key, _)| key.name.to_string()).collect();
        for name in names {
            self.start(&name, server, now);
        }
    }

    pub fn act(&mut self, server: &mut Server, now: Timestamp) {
        // A machine whose Node was deleted by people is switched off.
        self.alive.retain(|name, _| server.get(NODES, &Key::new("", name)).is_some());
        let due: Vec<String> = self.alive.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.beat(&name, server, now);
        }
        let bound: Vec<(Key, Value)> = server
            .list(PODS)
            .filter(|(_, pod)| pod["spec"]["nodeName"].as_str().is_some_and(|node| self.alive.contains_key(node)))
            .map(|(key, pod)| (key.clone(), Value::clone(pod)))
            .collect();
        for (key, pod) in bound {
            self.run(&key, pod, server, now);
        }
    }

    fn beat(&mut self, name: &str, server: &mut Server, now: Timestamp) {
        self.alive.insert(name.to_owned(), now + HEARTBEAT);
        let lease = json!({
            "metadata": {"name": name, "namespace": NODE_LEASES},
            "spec": {"renewTime": now.to_string(), "leaseDurationSeconds": 40},
        });
        server.insert(LEASES, lease);
        // Taken for dead meanwhile: it says that it is not.
        let known = server.get(NODES, &Key::new("", name)).is_some_and(|node| node["status"]["conditions"][0]["status"] == "True");
        if !known {
            self.start(name, server, now);
            self.alive.insert(name.to_owned(), now + HEARTBEAT);
        }
    }

    /// What the agent of the machine does with a pod.
    fn run(&mut self, key: &Key, mut pod: Value, server: &mut Server, now: Timestamp) {
        let chance = self.rng.u32(0..1000);
        if pod["metadata"].get("deletionTimestamp").is_some() {
            if chance < ENDS {
                server.remove(PODS, key);
            }
            return;
        }
        let ready = pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        if ended {
            return;
        }
        if self.trouble && self.rng.u32(0..1000) < FAILS && self.rng.u32(0..10) == 0 {
            pod["status"]["phase"] = json!("Failed");
            pod["status"]["conditions"] = json!([]);
            server.insert(PODS, pod);
        } else if !ready && chance < STARTS {
            self.addresses = self.addresses.wrapping_add(1);
            let [high, low] = self.addresses.to_be_bytes();
            pod["status"] = json!({
                "phase": "Running", "podIPs": [{"ip": format!("10.244.{high}.{low}")}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now.to_string()}],
            });
            server.insert(PODS, pod);
        }
    }
}
