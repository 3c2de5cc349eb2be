//! The pods on simulated nodes: one watch for all of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;

use super::behaviour::{Step, next_step};
use super::fleet::Fleet;
use super::objects;
use crate::send::{JSON, STRATEGIC, is_overtaken, send};

/// Waits between tries of a request that failed.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// What a simulated node needs to know of a pod. (The whole type of the API costs many times as
/// much to read.)
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Raw")]
pub struct SimulatedPod {
    metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
    /// What the watcher wants to see: the name and the version to go on from.
    meta: ObjectMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

impl From<Raw> for SimulatedPod {
    fn from(Raw { metadata, spec, status }: Raw) -> SimulatedPod {
        let (name, resource_version) = (Some(metadata.name.clone()), Some(metadata.resource_version.clone()));
        SimulatedPod { meta: ObjectMeta { name, resource_version, ..ObjectMeta::default() }, metadata, spec, status }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub node_name: String,
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    pub name: String,
    pub image: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub phase: String,
    pub container_statuses: Vec<ContainerStatus>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    pub image: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

impl SimulatedPod {
    pub fn uid(&self) -> &str {
        &self.metadata.uid
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.get(name).map(String::as_str)
    }

    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.metadata.namespace, self.metadata.name)
    }
}

impl kube::Resource for SimulatedPod {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

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
            // In a task of its own: in process, the server's work is done by whoever sends.
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
