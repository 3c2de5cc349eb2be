//! What a node agent decides about one pod: which containers to start, restart and end, and what to
//! tell the API server.
//!
//! In: the pod as the API server has it, what the container runtime shows ([`Observed`]), and what
//! the agent remembers ([`Memory`]). Out: [`actions::Actions`] and a `PodStatus`. The rules are
//! those of the kubelet of Kubernetes 1.36; the order of statuses that it publishes was recorded
//! from a real one. Knows no clock, no container runtime, no files.

pub mod actions;
pub mod admission;
pub mod backoff;
pub mod conditions;
pub mod config;
pub mod env_file;
pub mod environment;
pub mod eviction;
pub mod failure;
pub mod fields;
pub mod files;
pub mod limits;
pub mod offers;
pub mod pace;
pub mod payload;
pub mod phase;
pub mod probe;
pub mod pull;
pub mod pull_secrets;
pub mod qos;
pub mod registration;
pub mod report;
pub mod resize;
pub mod restart;
pub mod security;
pub mod status;
pub mod sysctls;
pub mod termination;
pub mod user_ids;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use containers::{ContainerState, PodId};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use backoff::Backoffs;
use failure::StartFailure;

/// What the runtime shows of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The newest first.
    pub sandboxes: Vec<Sandbox>,
    /// The newest first.
    pub containers: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub is_ready: bool,
    /// Empty for pods in the node's network.
    pub addresses: Vec<String>,
}

/// One container that was made for a pod, running or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// With the runtime's scheme: `everynode://...`.
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    /// How many containers of that name were made before it.
    pub restarts: u32,
    pub state: ContainerState,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    /// Of the specification that it was made from, see [`restart::hash`].
    pub hash: String,
}

impl Record {
    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    pub fn has_failed(&self) -> bool {
        match self.state {
            ContainerState::Exited => self.exit_code != 0,
            ContainerState::Unknown => true,
            ContainerState::Created | ContainerState::Running => false,
        }
    }
}

impl Observed {
    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&Record> {
        self.containers.iter().find(|record| record.name == name)
    }

    /// The newest container of that name in the newest sandbox: what ran in an older one has to run
    /// again.
    pub fn latest_in_sandbox(&self, name: &str) -> Option<&Record> {
        let sandbox = self.sandbox()?;
        self.latest(name).filter(|record| record.sandbox_id == sandbox.id)
    }

    /// The one before it.
    pub fn previous(&self, name: &str) -> Option<&Record> {
        self.containers.iter().filter(|record| record.name == name).nth(1)
    }

    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// A container that was made and never started does not run, and will not end either: a caller
    /// that waited for its end would wait forever.
    pub fn is_anything_running(&self) -> bool {
        self.containers.iter().any(|record| matches!(record.state, ContainerState::Running | ContainerState::Unknown))
    }
}

/// What the agent remembers of a pod between two looks at it. Lost with the agent, and rebuilt from
/// what is observed.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// By container name: why the last attempt to start it failed.
    pub start_failures: BTreeMap<String, StartFailure>,
    pub restarts: Backoffs,
    pub pulls: Backoffs,
    /// By container id: what its probes found.
    pub probes: BTreeMap<String, ProbeResults>,
    /// The pod's end was decided here: eviction, deadline, shutdown.
    pub ended: Option<Ended>,
    /// When the agent took the pod on.
    pub started_at: Option<Timestamp>,
    pub resize: resize::Resize,
}

/// The verdicts of a container's probes; None until there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeResults {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

/// Why the agent ended a pod; becomes the pod's reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub reason: String,
    pub message: String,
    /// Replaces the pod's own grace period, in seconds.
    pub grace_seconds: Option<i64>,
    /// Added to the conditions: `TerminationByKubelet`.
    pub disruption: Option<String>,
}

/// Which list of the pod a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    Ephemeral,
    Init,
    Main,
}

/// Everything one look at a pod may use.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub now: Timestamp,
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    /// The node's addresses, the first is the main one.
    pub node_addresses: &'a [String],
}

/// The containers of a pod that run one after another before the others, and their place in the
/// list.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default()
}

/// Ephemeral containers as containers, with the name of the container that each looks at.
pub fn ephemeral_containers(pod: &Pod) -> Vec<(Container, Option<String>)> {
    let list = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    list.iter().map(|ephemeral| (as_container(ephemeral), ephemeral.target_container_name.clone())).collect()
}

fn as_container(ephemeral: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    Container {
        name: ephemeral.name.clone(),
        image: ephemeral.image.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        command: ephemeral.command.clone(),
        args: ephemeral.args.clone(),
        working_dir: ephemeral.working_dir.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        security_context: ephemeral.security_context.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        tty: ephemeral.tty,
        termination_message_path: ephemeral.termination_message_path.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        ..Container::default()
    }
}

/// An init container that goes on running beside the others (a sidecar).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `Always` unless the pod says otherwise.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

pub fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// `name_namespace(uid)`, as the kubelet's messages name pods.
pub fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// The parts of a pod's metadata that everything on its node is named after.
pub fn pod_id(pod: &Pod) -> PodId {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    PodId { name: text(&pod.metadata.name), namespace: text(&pod.metadata.namespace), uid: text(&pod.metadata.uid) }
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Says that a pod comes from a file of its node (`file`) or from the API server.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// A pod with this annotation only shows a static pod to the API server.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether it came from a file of its node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source == "file")
}

/// Whether it only shows a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(name)
}
