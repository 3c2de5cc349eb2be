//! The controller with its queue against a pretended server: the test decides what its picture
//! shows.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::Controller as _;
use crate::daemonset::{DaemonSetController, HASH_LABEL};
use crate::fixture::{now, template};
use crate::history::template_hash;
use crate::model::Key;
use crate::picture::Picture;
use crate::pretend::Server;
use crate::queue::{Outcome, Queue};
use crate::request::{DAEMON_SETS, NODES, PODS, REVISIONS, Request, Verb};

/// More rounds than any of the tests needs.
const ROUNDS: usize = 30;

pub struct Rig {
    pub server: Server,
    pub now: Timestamp,
    picture: Picture,
    /// Events of the server that the picture has shown.
    shown: usize,
    queue: Queue,
    controller: DaemonSetController,
}

impl Rig {
    pub fn new(nodes: &[&str], rolling_update: Value) -> Rig {
        let mut rig = Rig {
            server: Server::default(),
            now: now(),
            picture: Picture::default(),
            shown: 0,
            queue: Queue::default(),
            controller: DaemonSetController::default(),
        };
        nodes.iter().for_each(|name| rig.add_node(name));
        let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template("1"),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling_update}});
        rig.server.insert(DAEMON_SETS, json!({"metadata": {"name": "web", "namespace": "ns", "generation": 1}, "spec": spec}));
        rig
    }

    pub fn add_node(&mut self, name: &str) {
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        self.server.insert(NODES, json!({"metadata": {"name": name, "namespace": ""}, "spec": {}, "status": status}));
    }

    pub fn remove_node(&mut self, name: &str) {
        self.server.remove(NODES, &Key::new("", name));
    }

    /// Changes the set's image.
    pub fn update(&mut self, image: &str) {
        let template = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        self.send(Request::new(DAEMON_SETS, set(), Verb::Merge(json!({"spec": {"template": template}}))));
    }

    fn send(&mut self, request: Request) {
        self.server.send(&request, self.now).expect("the test's own requests fit");
    }

    /// The picture takes in everything.
    pub fn show(&mut self) {
        for event in &self.server.log[self.shown..] {
            let change = match &event.object {
                Some(object) => event.resource.followed().read(object).map(|object| self.picture.put(object)),
                None => self.picture.remove(event.resource.followed(), &event.key, event.version),
            };
            let queue = &mut self.queue;
            if let Some(change) = change {
                self.controller.concerns(&self.picture, &change, &mut |key| queue.add(key));
            }
        }
        self.shown = self.server.log.len();
    }

    /// Shows everything and does what the queue lets through.
    pub fn work(&mut self) {
        self.show();
        while self.work_once() {
            self.show();
        }
    }

    /// Does the work for the set on the picture as it is, if the queue lets it through.
    pub fn work_blindly(&mut self) {
        self.queue.add(set());
        self.work_once();
    }

    fn work_once(&mut self) -> bool {
        let Some(key) = self.queue.take(&self.picture, self.now) else { return false };
        let work = self.controller.plan(&self.picture, &key, self.now);
        // Rests of microseconds are not what these tests are about.
        let outcome = Outcome { rest: Default::default(), ..self.server.perform(work, self.now) };
        self.queue.done(key, outcome, &self.picture, self.now);
        true
    }

    /// All parts of the cluster do what they have to do until nothing happens any more.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.work();
            self.end_pods();
            self.start_pods();
            self.now += jiff::SignedDuration::from_secs(1);
        }
        let version = self.server.version();
        self.work();
        assert_eq!(self.server.version(), version, "no rest");
    }

    /// Pods on their way out go, and those of nodes that are gone.
    pub fn end_pods(&mut self) {
        let nodes: Vec<Arc<str>> = self.server.list(NODES).map(|(key, _)| key.name.clone()).collect();
        let gone = |pod: &Value| pod["spec"]["nodeName"].as_str().is_some_and(|node| !nodes.iter().any(|other| **other == *node));
        let ends = |pod: &Value| pod["metadata"].get("deletionTimestamp").is_some() || gone(pod);
        let keys: Vec<Key> = self.server.list(PODS).filter(|(_, pod)| ends(pod)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.server.remove(PODS, key));
    }

    fn start_pods(&mut self) {
        let waiting: Vec<(Key, Arc<Value>)> = self.pods().filter(|(_, pod)| pod["status"]["phase"] != "Running").collect();
        for (key, pod) in waiting {
            let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": self.now.to_string()}]);
            let patch = json!({"spec": {"nodeName": node_of(&pod)}, "status": {"phase": "Running", "conditions": ready}});
            self.send(Request::new(PODS, key, Verb::Merge(patch)));
        }
    }

    /// A revision of another template gets the name that the set's next one would have.
    pub fn take_name_of_next_revision(&mut self) {
        let object = self.server.get(DAEMON_SETS, &set()).expect("the set is there").clone();
        let name = format!("web-{}", template_hash(&object["spec"]["template"], 0));
        let data = json!({"spec": {"template": template("another")}});
        self.server.insert(REVISIONS, json!({"metadata": {"name": name, "namespace": "ns"}, "data": data, "revision": 1}));
        self.show();
    }

    fn pods(&self) -> impl Iterator<Item = (Key, Arc<Value>)> {
        self.server.list(PODS).map(|(key, pod)| (key.clone(), pod.clone()))
    }

    pub fn pods_on(&self, node: &str) -> usize {
        self.pods().filter(|(_, pod)| node_of(pod) == node).count()
    }

    pub fn pod_of(&self, node: &str) -> Key {
        self.pods().find(|(_, pod)| node_of(pod) == node).map(|(key, _)| key).expect("the node has a pod")
    }

    /// Pods on their way out.
    pub fn marked(&self) -> usize {
        self.pods().filter(|(_, pod)| pod["metadata"].get("deletionTimestamp").is_some()).count()
    }

    pub fn collisions(&self) -> i64 {
        self.server.get(DAEMON_SETS, &set()).and_then(|set| set["status"]["collisionCount"].as_i64()).unwrap_or(0)
    }

    /// Pods of the revision with the highest number.
    pub fn updated(&self) -> usize {
        let newest = self.server.list(REVISIONS).max_by_key(|(_, revision)| revision["revision"].as_i64());
        let hash = newest.map(|(_, revision)| revision["metadata"]["labels"][HASH_LABEL].clone()).expect("there are revisions");
        self.pods().filter(|(_, pod)| pod["metadata"]["labels"][HASH_LABEL] == hash).count()
    }
}

fn set() -> Key {
    Key::new("ns", "web")
}

/// The node that a pod is on or pinned to.
fn node_of(pod: &Value) -> String {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    pod["spec"]["nodeName"].as_str().or_else(|| pod.pointer(terms)?.as_str()).unwrap_or_default().to_owned()
}
