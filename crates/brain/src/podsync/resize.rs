//! In-place resize: what a pod was given, whether it may have what it asks for now, and what that
//! changes for its containers (the kubelet's `pkg/kubelet/allocation`).
//!
//! Three versions of a container's resources: what the pod asks for (its spec), what the node gave
//! it ([`Allocation`]), and what the limits of the running container were made for
//! ([`Resize::actuated`]). All else in `podsync` sees pods with what they were given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use super::{Memory, Observed, Record, View, admission, containers, init_containers, is_sidecar, limits};
use crate::model;

/// By container name; init containers that run to their end cannot be resized.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

/// How far a resize is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resize {
    pub pending: Option<Pending>,
    pub in_progress: Option<InProgress>,
    /// By container id.
    pub actuated: BTreeMap<String, ResourceRequirements>,
}

/// Why the pod does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub reason: Reason,
    pub message: String,
    /// Of the pod that asked.
    pub generation: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// When other pods have gone.
    Deferred,
    /// Never on this node.
    Infeasible,
}

impl Reason {
    pub fn text(self) -> &'static str {
        match self {
            Reason::Deferred => "Deferred",
            Reason::Infeasible => "Infeasible",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    pub error: Option<String>,
    pub generation: Option<i64>,
}

/// A running container whose limits are to be changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub container_id: String,
    pub name: String,
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(containers(pod))
}

/// What the pod asks for.
pub fn asked(pod: &Pod) -> Allocation {
    resizable(pod).map(|container| (container.name.clone(), limits::requirements(container))).collect()
}

/// What the pod was given by an earlier agent: that agent reported it for each container from its
/// first report on. Others are given what they ask for.
pub fn told(pod: &Pod) -> Allocation {
    let status = pod.status.as_ref();
    let statuses = || {
        let lists = status.map(|status| [&status.container_statuses, &status.init_container_statuses]);
        lists.into_iter().flatten().flat_map(|list| list.iter().flatten())
    };
    let mut allocation = asked(pod);
    for (name, resources) in &mut allocation {
        let known = statuses().find(|status| status.name == *name);
        if let Some(known) = known.and_then(|status| status.resources.clone()) {
            *resources = known;
        }
    }
    allocation
}

/// The requests that an earlier agent gave the pod, which its containers may not have yet.
pub fn promised(pod: &Pod) -> Allocation {
    let status = pod.status.as_ref();
    let lists = status.map(|status| [&status.container_statuses, &status.init_container_statuses]);
    let statuses = lists.into_iter().flatten().flat_map(|list| list.iter().flatten());
    let promised = |requests| ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() };
    statuses.filter_map(|status| Some((status.name.clone(), promised(status.allocated_resources.clone()?)))).collect()
}

/// Of the requests of two the larger ones, for the containers of the first.
pub fn larger(a: &Allocation, b: &Allocation) -> Allocation {
    let mut most = a.clone();
    for (name, resources) in &mut most {
        let Some(others) = b.get(name).and_then(|other| other.requests.as_ref()) else { continue };
        let mut requests = resources.requests.clone();
        for (resource, quantity) in others {
            if limits::amount(&requests, resource) < limits::amount(&Some(others.clone()), resource) {
                requests.get_or_insert_default().insert(resource.clone(), quantity.clone());
            }
        }
        resources.requests = requests;
    }
    most
}

/// The pod with what it was given in the place of what it asks for.
pub fn with_allocation(pod: &Pod, allocation: &Allocation) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = pod.spec.as_mut() else { return pod };
    let sidecars = spec.init_containers.iter_mut().flatten().filter(|container| is_sidecar(container));
    for container in sidecars.chain(&mut spec.containers) {
        let Some(given) = allocation.get(&container.name) else { continue };
        if !is_same(given, &limits::requirements(container)) {
            let claims = container.resources.take().and_then(|resources| resources.claims);
            container.resources = Some(ResourceRequirements { claims, ..given.clone() });
        }
    }
    pod
}

/// Whether the pod has what it asks for.
pub fn is_given(pod: &Pod, allocation: &Allocation) -> bool {
    resizable(pod).all(|container| allocation.get(&container.name).is_some_and(|given| is_same(given, &limits::requirements(container))))
}

fn is_same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    is_same_map(&a.requests, &b.requests) && is_same_map(&a.limits, &b.limits)
}

fn is_same_map(a: &Option<BTreeMap<String, Quantity>>, b: &Option<BTreeMap<String, Quantity>>) -> bool {
    let names: BTreeSet<&String> = a.iter().chain(b).flat_map(BTreeMap::keys).collect();
    names.into_iter().all(|name| limits::amount(a, name) == limits::amount(b, name))
}

/// Whether the node can give a pod what it asks for, beside what the others were given.
pub fn check(pod: &model::Pod, node: &model::Node, others: &[Arc<model::Pod>]) -> Result<(), (Reason, String)> {
    let (wants, has) = (&pod.spec.requests, &node.allocatable);
    let infeasible = |name: &str, wants: i64, has: i64| {
        Err((Reason::Infeasible, format!("Node didn't have enough capacity: {name}, requested: {wants}, capacity: {has}")))
    };
    if wants.memory > has.memory {
        return infeasible("memory", wants.memory, has.memory);
    }
    if wants.milli_cpu > has.milli_cpu {
        return infeasible("cpu", wants.milli_cpu, has.milli_cpu);
    }
    admission::check(pod, None, node, others).map_err(|rejection| (Reason::Deferred, rejection.message))
}

/// Remembers of containers that were not known what they were made for, and forgets those that are
/// gone. `pod`: with what it was given when they were made.
pub fn remember(memory: &mut Memory, pod: &Pod, observed: &Observed) {
    let actuated = &mut memory.resize.actuated;
    actuated.retain(|id, _| observed.containers.iter().any(|record| record.id == *id));
    for container in resizable(pod) {
        if let Some(record) = observed.latest(&container.name).filter(|record| record.is_running()) {
            actuated.entry(record.id.clone()).or_insert_with(|| limits::requirements(container));
        }
    }
}

/// Running containers whose limits are others than they were made for.
fn changed<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a Container, &'a Record)> {
    let View { pod, observed, memory, .. } = *view;
    resizable(pod).filter_map(move |container| {
        let record = observed.latest(&container.name).filter(|record| record.is_running())?;
        let made_for = memory.resize.actuated.get(&record.id)?;
        (!is_same(made_for, &limits::requirements(container))).then_some((container, record))
    })
}

/// Those that go on running with other limits.
pub fn updates(view: &View<'_>) -> Vec<Update> {
    let stay = changed(view).filter(|(container, record)| !needs_restart(view, container, record));
    stay.map(|(container, record)| Update { container_id: record.id.clone(), name: container.name.clone() }).collect()
}

/// Whether a running container has to be made anew for what it is given now: its policy says so for
/// a resource that changes.
pub fn needs_restart(view: &View<'_>, container: &Container, record: &Record) -> bool {
    let Some(made_for) = view.memory.resize.actuated.get(&record.id) else { return false };
    let given = limits::requirements(container);
    let policies = container.resize_policy.iter().flatten().filter(|policy| policy.restart_policy == "RestartContainer");
    policies.into_iter().any(|policy| {
        let name = policy.resource_name.as_str();
        limits::amount(&made_for.requests, name) != limits::amount(&given.requests, name)
            || limits::amount(&made_for.limits, name) != limits::amount(&given.limits, name)
    })
}

/// Whether all running containers have what the pod was given.
pub fn is_done(view: &View<'_>) -> bool {
    changed(view).next().is_none()
}

/// The pod as its running containers were made: by this its limits as a whole were set.
pub fn actuated(view: &View<'_>) -> Pod {
    let made_for = resizable(view.pod).filter_map(|container| {
        let record = view.observed.latest(&container.name)?;
        Some((container.name.clone(), view.memory.resize.actuated.get(&record.id)?.clone()))
    });
    with_allocation(view.pod, &made_for.collect())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Summarized>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Summarized>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Summarized {
    name: String,
    resources: ResourceRequirements,
}

/// The text of an event, as kubelets write it: what happened, and the resources of the pod in JSON.
pub fn event_message(what: &str, pod: &Pod, error: &str) -> String {
    let all = |list: &'_ [Container]| -> Vec<Summarized> {
        let summarized =
            |container: &Container| Summarized { name: container.name.clone(), resources: container.resources.clone().unwrap_or_default() };
        list.iter().map(summarized).collect()
    };
    let summary = Summary {
        init_containers: all(init_containers(pod)),
        containers: all(containers(pod)),
        generation: pod.metadata.generation.unwrap_or(0),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(json) => format!("{what}: {json}"),
        Err(_) => what.to_owned(),
    }
}
