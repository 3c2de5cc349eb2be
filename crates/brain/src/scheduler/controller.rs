//! Plans of the scheduler as requests: bindings, conditions, nominations, deletions and the events
//! about them.
//!
//! There is one key, the empty one: a plan is about all pods whose turn it is. Requests are
//! independent: a pod that is gone, or that another client bound, must not keep the others waiting;
//! what was refused is tried again when its assumption ends (see [`Queue`]).

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Binding, DEFAULT_SCHEDULER, Nomination, Plan, Preemption, Queue, Unschedulable, Victim, View, plan};
use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Pod};
use crate::picture::{Change, Kind, Picture};
use crate::request::{Event, EventType, PODS, Regarding, Request, Verb};

/// So many pods are decided on in one plan: bindings are sent at the same time, and plans rest on a
/// picture that should not be old.
const PODS_PER_PLAN_MAX: usize = 500;

/// The scheduler with the queue that it keeps between plans.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    queue: Queue,
}

impl Scheduler {
    pub fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        DEFAULT_SCHEDULER
    }

    fn concerns(&mut self, _cluster: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        if matches!(change.kind(), Kind::Pod | Kind::Node | Kind::Namespace) {
            self.queue.observe(change);
            if self.queue.is_pressing() {
                add(Key::default());
            }
        }
    }

    fn plan(&mut self, picture: &Picture, _key: &Key, now: Timestamp) -> Work {
        self.queue.advance(picture, now);
        let plan = plan(&View { picture, now, queue: &self.queue, limit: PODS_PER_PLAN_MAX });
        let work = Requests { picture, queue: &self.queue, now }.work(&plan);
        self.queue.finish(&plan, now);
        work
    }
}

/// What requests are made from.
struct Requests<'a> {
    picture: &'a Picture,
    queue: &'a Queue,
    now: Timestamp,
}

impl Requests<'_> {
    /// First bindings, conditions and nominations; then the victims are marked; then they are
    /// deleted.
    fn work(&self, plan: &Plan) -> Work {
        let displaced = plan.preemptions.iter().flat_map(|preemption| &preemption.displaced);
        let mut decided: Vec<Request> = plan.bindings.iter().filter_map(|binding| self.bind(binding)).collect();
        decided.extend(plan.unschedulable.iter().filter_map(|unschedulable| self.condition(unschedulable)));
        decided.extend(displaced.filter_map(|key| self.end_nomination(key)));
        let (mut marked, mut deleted) = (Vec::new(), Vec::new());
        for preemption in &plan.preemptions {
            for (victim, pod) in preemption.victims.iter().filter_map(|victim| Some((victim, self.pod(&victim.key)?))) {
                marked.extend(self.mark(victim, pod));
                deleted.push(delete(preemption, pod));
            }
        }
        let steps = [decided, marked, deleted].into_iter().filter(|requests| !requests.is_empty());
        Work {
            steps: steps.map(|requests| Step { independent: true, ..Step::all_at_once(requests) }).collect(),
            events: plan.unschedulable.iter().filter_map(|unschedulable| self.failed(unschedulable)).collect(),
            wake_at: plan.wake_at,
            more: plan.more,
            ..Work::default()
        }
    }

    fn pod(&self, key: &Key) -> Option<&Arc<Pod>> {
        self.picture.pods.get(key)
    }

    fn bind(&self, binding: &Binding) -> Option<Request> {
        let Binding { key, uid, node, .. } = binding;
        let pod = self.pod(key)?;
        let body = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let message = format!("Successfully assigned {key} to {node}");
        let event = event(pod, "Scheduled", "Binding", message);
        let request = Request::new(PODS, key.clone(), Verb::Create(Arc::new(body))).on("binding");
        Some(request.reporting(Some(event), None))
    }

    /// The condition PodScheduled and the nomination, where they change.
    fn condition(&self, unschedulable: &Unschedulable) -> Option<Request> {
        let pod = self.pod(&unschedulable.key)?;
        let known = pod.status.unscheduled.as_ref();
        let is_known = known.is_some_and(|(reason, message)| &**reason == "Unschedulable" && **message == *unschedulable.message);
        let mut status = json!({});
        if !is_known {
            let since = known.is_none().then_some(self.now);
            let condition = condition(pod, since, "PodScheduled", ["False", "Unschedulable", &unschedulable.message]);
            status["conditions"] = json!([condition]);
        }
        let nominated = pod.status.nominated_node.as_ref();
        match &unschedulable.nomination {
            Nomination::To(node) if Some(node) != nominated => status["nominatedNodeName"] = json!(node),
            Nomination::Clear if nominated.is_some() => status["nominatedNodeName"] = Value::Null,
            _ => {}
        }
        let is_empty = status.as_object().is_some_and(serde_json::Map::is_empty);
        (!is_empty).then(|| patch_status(pod, status))
    }

    fn end_nomination(&self, key: &Key) -> Option<Request> {
        let pod = self.pod(key).filter(|pod| pod.status.nominated_node.is_some())?;
        Some(patch_status(pod, json!({"nominatedNodeName": null})))
    }

    /// The event, when there is something new to say. Kubernetes repeats it for each attempt, as a
    /// series.
    fn failed(&self, unschedulable: &Unschedulable) -> Option<Event> {
        let pod = self.pod(&unschedulable.key)?;
        let is_new = self.queue.last_message(&unschedulable.key) != Some(&*unschedulable.message);
        let event =
            || Event { event_type: EventType::Warning, ..event(pod, "FailedScheduling", "Scheduling", unschedulable.message.clone()) };
        is_new.then(event)
    }

    /// Tells controllers that the victim did not fail by itself.
    fn mark(&self, victim: &Victim, pod: &Pod) -> Option<Request> {
        if pod.status.disruption_target || victim.uid != pod.meta.uid {
            return None;
        }
        let message = format!("{DEFAULT_SCHEDULER}: preempting to accommodate a higher priority pod");
        let condition = condition(pod, Some(self.now), "DisruptionTarget", ["True", "PreemptionByScheduler", &message]);
        Some(patch_status(pod, json!({"conditions": [condition]})))
    }
}

fn delete(preemption: &Preemption, pod: &Pod) -> Request {
    let message = format!("Preempted by pod {} on node {}", preemption.preemptor_uid, preemption.node);
    Request::delete(PODS, &pod.meta).reporting(Some(event(pod, "Preempted", "Preempting", message)), None)
}

/// `texts` are status, reason and message. Without `since` the time of the last transition stays
/// what it is.
fn condition(pod: &Pod, since: Option<Timestamp>, kind: &str, texts: [&str; 3]) -> Value {
    let [status, reason, message] = texts;
    let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null, "reason": reason, "message": message});
    if pod.meta.generation > 0 {
        condition["observedGeneration"] = json!(pod.meta.generation);
    }
    if let Some(since) = since {
        let seconds = Timestamp::from_second(since.as_second()).unwrap_or(since);
        condition["lastTransitionTime"] = json!(seconds.to_string());
    }
    condition
}

/// The uid keeps the patch from hitting another pod of the same name.
fn patch_status(pod: &Pod, status: Value) -> Request {
    let patch = json!({"metadata": {"uid": pod.meta.uid}, "status": status});
    Request::new(PODS, pod.meta.key(), Verb::Strategic(patch)).on("status")
}

fn event(pod: &Pod, reason: &'static str, action: &'static str, message: String) -> Event {
    let about = Regarding::of(PODS, &pod.meta);
    Event {
        about,
        event_type: EventType::Normal,
        reason: reason.into(),
        message,
        action: Some(action),
        component: DEFAULT_SCHEDULER,
        host: None,
    }
}
