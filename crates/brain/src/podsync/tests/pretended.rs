//! A pretended node: it does at once what is planned, and lets containers end when a test says so.

use containers::ContainerState;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::podsync::actions::{self, Actions};
use crate::podsync::failure::StartFailure;
use crate::podsync::status::{self, Ending};
use crate::podsync::{ContainerKind, Memory, Observed, Record, Sandbox, View, backoff, resize, restart};

pub struct Node {
    pub now: Timestamp,
    pub pod: Pod,
    pub observed: Observed,
    pub memory: Memory,
    made: u32,
    /// What happened, one word each: what tests look at.
    pub told: Vec<String>,
}

/// A pod from a spec; containers are given as `{"name": ...}` and get an image.
pub fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = json!("image:1");
        }
    }
    let pod =
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1}, "spec": spec, "status": {"phase": "Pending"}});
    serde_json::from_value(pod).expect("tests write pods")
}

impl Node {
    pub fn new(spec: Value) -> Node {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let memory = Memory { started_at: Some(now), ..Memory::default() };
        Node { now, pod: pod(spec), observed: Observed::default(), memory, made: 0, told: Vec::new() }
    }

    pub fn plan(&self) -> Actions {
        actions::plan(&self.view())
    }

    pub fn view(&self) -> View<'_> {
        View { now: self.now, pod: &self.pod, observed: &self.observed, memory: &self.memory, node_addresses: &[] }
    }

    /// Looks and acts once; answers whether anything was done.
    pub fn step(&mut self) -> bool {
        resize::remember(&mut self.memory, &self.pod, &self.observed);
        let report = status::report(&self.view(), Ending::No);
        self.pod.status = Some(report.status);
        if report.phase.is_terminal() {
            return self.end();
        }
        let actions = self.plan();
        let before = self.told.len();
        if actions.kill_pod {
            self.kill_pod();
        }
        for kill in &actions.kill {
            self.kill(&kill.container_id);
        }
        for update in &actions.update {
            self.told.push(format!("update:{}", update.name));
            let given = resize::asked(&self.pod).remove(&update.name).expect("only what can be resized is updated");
            self.memory.resize.actuated.insert(update.container_id.clone(), given);
        }
        if let Some(attempt) = actions.sandbox {
            self.told.push(format!("sandbox{attempt}"));
            let address = vec![format!("10.0.0.{}", attempt + 1)];
            self.observed.sandboxes.insert(0, Sandbox { id: format!("s{attempt}"), attempt, is_ready: true, addresses: address });
        }
        for start in &actions.start {
            if let Some(failure) = StartFailure::crash_loop(start, &self.pod) {
                self.memory.start_failures.insert(start.name.clone(), failure);
                continue;
            }
            if let Some(failed_at) = start.failed_at {
                self.memory.restarts.next(&actions::restart_key(&start.name), failed_at, self.now);
            }
            self.memory.start_failures.remove(&start.name);
            self.start(start.kind, &start.name, start.restarts);
        }
        self.told.len() > before
    }

    /// Steps until nothing is left to do; a plan that never rests is a fault.
    pub fn settle(&mut self) {
        for _ in 0..50 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.told);
    }

    fn start(&mut self, kind: ContainerKind, name: &str, restarts: u32) {
        let running = self.observed.containers.iter().filter(|record| record.name == name && record.is_running()).count();
        assert_eq!(running, 0, "{name} would run twice");
        self.made += 1;
        self.told.push(match kind {
            ContainerKind::Ephemeral => format!("debug:{name}"),
            ContainerKind::Init => format!("init:{name}"),
            ContainerKind::Main => format!("run:{name}"),
        });
        let container = crate::podsync::containers(&self.pod)
            .iter()
            .chain(crate::podsync::init_containers(&self.pod))
            .find(|container| container.name == name)
            .cloned()
            .unwrap_or_default();
        let record = Record {
            id: format!("fake://{}", self.made),
            sandbox_id: self.observed.sandboxes[0].id.clone(),
            name: name.to_owned(),
            restarts,
            state: ContainerState::Running,
            created_at: self.now + SignedDuration::from_nanos(i64::from(self.made)),
            started_at: Some(self.now),
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: "image:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            hash: restart::hash(&container),
        };
        self.observed.containers.insert(0, record);
    }

    /// A container ends by itself.
    pub fn exits(&mut self, name: &str, code: i32) {
        let now = self.now;
        let record = self.observed.containers.iter_mut().find(|record| record.name == name && record.is_running());
        let record = record.unwrap_or_else(|| panic!("{name} does not run: {:?}", self.told));
        (record.state, record.exit_code, record.finished_at) = (ContainerState::Exited, code, Some(now));
        record.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    }

    fn kill(&mut self, id: &str) {
        let now = self.now;
        for record in self.observed.containers.iter_mut().filter(|record| record.id == id && record.state != ContainerState::Exited) {
            self.told.push(format!("kill:{}", record.name));
            (record.state, record.exit_code, record.finished_at) = (ContainerState::Exited, 137, Some(now));
            record.reason = "Error".to_owned();
        }
    }

    fn kill_pod(&mut self) {
        let ids: Vec<String> = self.observed.containers.iter().map(|record| record.id.clone()).collect();
        ids.iter().for_each(|id| self.kill(id));
        for sandbox in self.observed.sandboxes.iter_mut().filter(|sandbox| sandbox.is_ready) {
            self.told.push("stop".to_owned());
            sandbox.is_ready = false;
        }
    }

    fn end(&mut self) -> bool {
        let before = self.told.len();
        self.kill_pod();
        let report = status::report(&self.view(), Ending::Terminated);
        self.pod.status = Some(report.status);
        self.told.len() > before
    }

    /// The sandbox is lost: the machine was restarted.
    pub fn reboots(&mut self) {
        let ids: Vec<String> = self.observed.containers.iter().map(|record| record.id.clone()).collect();
        let told = self.told.len();
        ids.iter().for_each(|id| self.kill(id));
        self.told.truncate(told);
        self.observed.sandboxes.iter_mut().for_each(|sandbox| sandbox.is_ready = false);
    }

    pub fn probe(&mut self, name: &str, set: impl FnOnce(&mut crate::podsync::ProbeResults)) {
        let id = self.observed.latest(name).expect("it was started").id.clone();
        set(self.memory.probes.entry(id).or_default());
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// What happened since the last question.
    pub fn news(&mut self) -> String {
        std::mem::take(&mut self.told).join(" ")
    }

    /// Phase, and each container with its state and restarts.
    pub fn shown(&self) -> String {
        let status = status::report(&self.view(), Ending::No).status;
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let containers: Vec<String> = all
            .map(|container| {
                let state = container.state.clone().unwrap_or_default();
                let word = match (&state.running, &state.waiting, &state.terminated) {
                    (Some(_), ..) => "running".to_owned(),
                    (_, Some(waiting), _) => waiting.reason.clone().unwrap_or_default(),
                    (.., Some(end)) => format!("{}({})", end.reason.clone().unwrap_or_default(), end.exit_code),
                    _ => "?".to_owned(),
                };
                let ready = if container.ready { "+" } else { "" };
                format!("{}{ready}={word}/{}", container.name, container.restart_count)
            })
            .collect();
        format!("{} {}", status.phase.unwrap_or_default(), containers.join(" "))
    }

    pub fn condition(&self, kind: &str) -> String {
        let status = status::report(&self.view(), Ending::No).status;
        let condition = status.conditions.into_iter().flatten().find(|condition| condition.type_ == kind).expect("the node sets it");
        format!("{} {} {}", condition.status, condition.reason.unwrap_or_default(), condition.message.unwrap_or_default())
            .trim_end()
            .to_owned()
    }
}

/// The waits of a container that fails at once, again and again.
pub fn waits(count: usize) -> Vec<u64> {
    let mut backoffs = backoff::Backoffs::default();
    let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut waits = Vec::new();
    for _ in 0..count {
        match backoffs.waiting("c", now, now) {
            None => waits.push(0),
            Some(waiting) => {
                waits.push(waiting.wait.as_secs());
                now = waiting.until;
            }
        }
        backoffs.next("c", now, now);
    }
    waits
}
