//! A server with simulated nodes that are Ready, and requests as its administrator.

use serde_json::Value;

use super::{Client, Server, wait_for};

const MERGE: &str = "application/merge-patch+json";

pub struct Fleet {
    pub server: Server,
    pub api: Client,
}

impl Fleet {
    pub fn start(nodes: usize) -> Fleet {
        let server = Server::start(&["--simulate", &nodes.to_string()]);
        let fleet = Fleet { api: server.admin(), server };
        wait_for("nodes without taints", || {
            let there = fleet.list("/api/v1/nodes");
            (there.len() == nodes && there.iter().all(|node| node["spec"].get("taints").is_none())).then_some(())
        });
        fleet
    }

    /// The items of a list.
    pub fn list(&self, path: &str) -> Vec<Value> {
        self.api.get(path).json()["items"].as_array().cloned().unwrap_or_default()
    }

    /// A merge patch that must be accepted.
    pub fn patch(&self, path: &str, patch: Value) -> Value {
        let answer = self.api.ask("PATCH", path, MERGE, patch.to_string().as_bytes()).expect("the server answers");
        assert_eq!(answer.code, 200, "{}", answer.text());
        answer.json()
    }
}
