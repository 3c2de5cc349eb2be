//! The table of pods. Its STATUS is one word for the state of all containers, worked out here:
//! first what the pod says of itself, then the first init container that is not done, then the
//! containers, and deletion before all of them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{Subject, moment, or_none};
use super::{AGE, NAME, Printer, text, wide};
use crate::cursor::Cursor;

pub static PODS: Printer = Printer {
    conditions,
    ..Printer::new(
        &[
            NAME,
            text("Ready", "Containers that are ready, of all that keep running."),
            text("Status", "State of the containers in a word."),
            text("Restarts", "How often containers were restarted, and when last."),
            AGE,
            wide("IP", "Address of the pod."),
            wide("Node", "Node that the pod is bound to."),
            wide("Nominated Node", "Node where room is being made for the pod."),
            wide("Readiness Gates", "Conditions that hold, of those that readiness also needs."),
        ],
        cells,
    )
};

fn cells(object: &Subject<'_>) -> Vec<Value> {
    let (spec, status) = (object.spec(), object.status());
    let summary = Summary::of(object);
    vec![
        object.name(),
        json!(format!("{}/{}", summary.ready, lasting_containers(&spec))),
        json!(summary.status),
        json!(summary.restarts.text(object)),
        object.age(),
        or_none(ip(&status)),
        or_none(spec.field("nodeName").str()),
        or_none(status.field("nominatedNodeName").str()),
        json!(readiness_gates(&spec, &status)),
    ]
}

fn conditions(object: &Subject<'_>) -> Option<Value> {
    let (reason, message) = match object.status().field("phase").str() {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

/// What the states of a pod's containers come to.
struct Summary {
    status: String,
    ready: usize,
    restarts: Restarts,
}

impl Summary {
    fn of(object: &Subject<'_>) -> Summary {
        let status = object.status();
        let init = InitContainers::of(object);
        let initialized = init.state.is_none() || first_condition_holds(&status, "Initialized");
        let mut summary = Summary { status: init.state.unwrap_or_else(|| told(&status)), ready: init.ready, restarts: init.restarts };
        if initialized {
            summary.restarts = init.sidecar_restarts;
            summary.add_containers(&status);
        }
        if object.metadata().field("deletionTimestamp").exists() {
            summary.mark_deleted(&status);
        }
        summary
    }

    /// The first container with something to tell gives the status.
    fn add_containers(&mut self, status: &Cursor<'_>) {
        let containers: Vec<Cursor<'_>> = status.field("containerStatuses").items().collect();
        if let Some(state) = containers.iter().find_map(|container| waiting(container).or_else(|| terminated(container))) {
            self.status = state;
        }
        let running = containers.iter().filter(|container| is_running_ready(container)).count();
        self.ready += running;
        containers.iter().for_each(|container| self.restarts.add(container));
        // The first container is done, but that is not all there is to tell: others go on, or
        // failed. Recorded of 1.36 (older servers hid the failure),
        // https://github.com/kubernetes/kubernetes/pull/124766
        let failure = containers.iter().filter(|container| has_failed(container)).find_map(terminated);
        if self.status == "Completed" && running > 0 {
            self.status = if any_condition_holds(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
        } else if let ("Completed", Some(failure)) = (self.status.as_str(), failure) {
            self.status = failure;
        }
    }

    /// A pod that has ended keeps the status it ended with.
    fn mark_deleted(&mut self, status: &Cursor<'_>) {
        let has_ended = matches!(status.field("phase").str(), "Succeeded" | "Failed");
        if status.field("reason").str() == "NodeLost" {
            self.status = "Unknown".to_owned();
        } else if !has_ended {
            self.status = "Terminating".to_owned();
        }
    }
}

/// How far initialization is.
struct InitContainers {
    /// The first one that holds up the rest; none if all are done.
    state: Option<String>,
    /// Sidecars that are ready.
    ready: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

impl InitContainers {
    fn of(object: &Subject<'_>) -> InitContainers {
        let declared = object.spec().field("initContainers");
        let sidecars: BTreeSet<&str> = declared.items().filter(is_restartable).map(|declared| declared.field("name").str()).collect();
        let mut found = InitContainers { state: None, ready: 0, restarts: Restarts::default(), sidecar_restarts: Restarts::default() };
        for (at, container) in object.status().field("initContainerStatuses").items().enumerate() {
            let is_sidecar = sidecars.contains(container.field("name").str());
            found.restarts.add(&container);
            if is_sidecar {
                found.sidecar_restarts.add(&container);
            }
            let ended = container.field("state").field("terminated");
            let has_succeeded = ended.exists() && ended.field("exitCode").int_or_zero() == 0;
            if has_succeeded {
                continue;
            }
            if is_sidecar && container.field("started").is_true() {
                found.ready += usize::from(container.field("ready").is_true());
                continue;
            }
            let state = terminated(&container).or_else(|| waiting(&container).filter(|reason| reason != "PodInitializing"));
            found.state = Some(format!("Init:{}", state.unwrap_or_else(|| format!("{at}/{}", declared.len()))));
            break;
        }
        found
    }
}

/// Restarts of some containers, and when the last of their former runs ended.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Cursor<'_>) {
        self.count += container.field("restartCount").int_or_zero();
        self.last = self.last.max(moment(&last_end(container)));
    }

    fn text(&self, object: &Subject<'_>) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, object.since_moment(last)),
            _ => self.count.to_string(),
        }
    }
}

fn last_end<'a>(container: &Cursor<'a>) -> Cursor<'a> {
    container.field("lastState").field("terminated").field("finishedAt")
}

/// What the pod's own status says, before its containers are looked at.
fn told(status: &Cursor<'_>) -> String {
    let is_gated = status
        .field("conditions")
        .items()
        .any(|condition| condition.field("type").str() == "PodScheduled" && condition.field("reason").str() == "SchedulingGated");
    match status.field("reason").str() {
        _ if is_gated => "SchedulingGated".to_owned(),
        "" => status.field("phase").str().to_owned(),
        reason => reason.to_owned(),
    }
}

/// Why a container waits, if it tells.
fn waiting(container: &Cursor<'_>) -> Option<String> {
    let reason = container.field("state").field("waiting").field("reason").str();
    (!reason.is_empty()).then(|| reason.to_owned())
}

/// How a container ended, if it did.
fn terminated(container: &Cursor<'_>) -> Option<String> {
    let ended = container.field("state").field("terminated");
    let (reason, signal) = (ended.field("reason").str(), ended.field("signal").int_or_zero());
    ended.exists().then(|| match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", ended.field("exitCode").int_or_zero()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    })
}

fn has_failed(container: &Cursor<'_>) -> bool {
    container.field("state").field("terminated").field("exitCode").int_or_zero() != 0
}

/// Ready, and running as far as the status tells: neither waiting for a reason nor ended.
fn is_running_ready(container: &Cursor<'_>) -> bool {
    let is_running = container.field("state").field("running").exists();
    is_running && container.field("ready").is_true() && waiting(container).is_none() && terminated(container).is_none()
}

/// Containers that are meant to keep running: the sidecars count, other init containers do not.
fn lasting_containers(spec: &Cursor<'_>) -> usize {
    spec.field("containers").len() + spec.field("initContainers").items().filter(is_restartable).count()
}

fn is_restartable(container: &Cursor<'_>) -> bool {
    container.field("restartPolicy").str() == "Always"
}

fn ip<'a>(status: &Cursor<'a>) -> &'a str {
    let first = status.field("podIPs").items().next();
    match status.field("podIP").str() {
        "" => first.map(|first| first.field("ip").str()).unwrap_or_default(),
        ip => ip,
    }
}

fn readiness_gates(spec: &Cursor<'_>, status: &Cursor<'_>) -> String {
    let gates = spec.field("readinessGates");
    let open = gates.items().filter(|gate| first_condition_holds(status, gate.field("conditionType").str())).count();
    if gates.is_empty() { "<none>".to_owned() } else { format!("{open}/{}", gates.len()) }
}

/// Looks at the first condition of a type only.
fn first_condition_holds(status: &Cursor<'_>, kind: &str) -> bool {
    let mut conditions = status.field("conditions").items().filter(|condition| condition.field("type").str() == kind);
    conditions.next().is_some_and(|condition| condition.field("status").str() == "True")
}

fn any_condition_holds(status: &Cursor<'_>, kind: &str) -> bool {
    let holds = |condition: Cursor<'_>| condition.field("type").str() == kind && condition.field("status").str() == "True";
    status.field("conditions").items().any(holds)
}
