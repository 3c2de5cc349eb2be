//! The pods on simulated nodes: one watch for all of them.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;

use super::behaviour::{Step, next_step};
use super::fleet::Fleet;
use super::objects;
use super::pod::SimulatedPod;
use crate::send::{JSON, STRATEGIC, is_overtaken, send};

/// Waits between tries of a request that failed.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// What was done last for the pods, so that the echo of a write is not taken for news.
#[derive(Default)]
struct Done {
    steps: HashMap<String, Step>,
    /// Pods of nodes that are not alive, by node and uid: what they say is acted upon when the node
    /// is.
    parked: HashMap<String, HashMap<String, SimulatedPod>>,
}

type Acting<'a> = BoxFuture<'a, Option<String>>;

/// Follows all pods, and acts for those on nodes of the fleet.
pub async fn run(client: &Client, fleet: &Fleet) {
    let events = watcher(Api::<SimulatedPod>::all(client.clone()), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut changes = fleet.changes();
    let mut done = Done::default();
    let mut acting: stream::FuturesUnordered<Acting<'_>> = stream::FuturesUnordered::new();
    loop {
        // All arms are cancel-safe: streams and channels keep what was not taken.
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => acting.extend(done.take_in(client, fleet, pod)),
                Some(Ok(Event::Delete(pod))) => done.forget(&pod),
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the watch on pods failed; it is tried again"),
                None => return,
            },
            Some(failed) = acting.next(), if !acting.is_empty() => if let Some(uid) = failed { done.steps.remove(&uid); },
            changed = changes.changed() => match changed {
                Ok(()) => acting.extend(done.unpark(client, fleet)),
                Err(_) => return,
            },
        }
    }
}

impl Done {
    fn take_in<'a>(&mut self, client: &'a Client, fleet: &Fleet, pod: SimulatedPod) -> Option<Acting<'a>> {
        if pod.spec.node_name.is_empty() {
            return None;
        }
        if !fleet.is_alive(&pod.spec.node_name) {
            let parked = self.parked.entry(pod.spec.node_name.clone()).or_default();
            parked.insert(pod.uid().to_owned(), pod);
            return None;
        }
        let step = next_step(&pod);
        if step == Step::Nothing || self.steps.get(pod.uid()) == Some(&step) {
            return None;
        }
        self.steps.insert(pod.uid().to_owned(), step.clone());
        let (client, uid) = (client.clone(), pod.uid().to_owned());
        Some(Box::pin(async move {
            // In a task of its own: in process, the sender's task does the server's work.
            let result = tokio::spawn(async move { act(&client, &pod, step).await }).await;
            (!matches!(result, Ok(true))).then_some(uid)
        }))
    }

    fn forget(&mut self, pod: &SimulatedPod) {
        self.steps.remove(pod.uid());
        if let Some(parked) = self.parked.get_mut(&pod.spec.node_name) {
            parked.remove(pod.uid());
        }
    }

    /// Nodes that are alive now see to their pods.
    fn unpark<'a>(&mut self, client: &'a Client, fleet: &Fleet) -> Vec<Acting<'a>> {
        let awake: Vec<String> = self.parked.keys().filter(|node| fleet.is_alive(node)).cloned().collect();
        let pods: Vec<SimulatedPod> = awake.iter().filter_map(|node| self.parked.remove(node)).flat_map(HashMap::into_values).collect();
        pods.into_iter()
            .filter_map(|pod| {
                self.steps.remove(pod.uid());
                self.take_in(client, fleet, pod)
            })
            .collect()
    }
}

/// Performs a step; says whether it is done.
async fn act(client: &Client, pod: &SimulatedPod, step: Step) -> bool {
    let result = match step {
        Step::Nothing => Ok(()),
        Step::Report(report) => {
            if !report.after.is_zero() {
                tokio::time::sleep(report.after).await;
            }
            let status = objects::pod_status(pod, &report, jiff::Timestamp::now());
            send(client, "PATCH", &format!("{}/status", pod.path()), STRATEGIC, &status).await
        }
        Step::Finish => {
            let options =
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid()}});
            send(client, "DELETE", &pod.path(), JSON, &options).await
        }
    };
    match result {
        Ok(()) => true,
        Err(error) if is_overtaken(&error) => true,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, pod = pod.path(), "cannot report a pod");
            tokio::time::sleep(RETRY_PERIOD).await;
            false
        }
    }
}
