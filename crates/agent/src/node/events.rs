//! Events of this node: sent in the background, dropped when there are too many, counted when they
//! repeat.

use std::borrow::Cow;
use std::sync::Arc;

use brain::events::Correlator;
use brain::model::Key;
use brain::request::{Event, EventType, NODES, PODS, Regarding, Request, Verb};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use runtime::words::plain_text;
use tokio::sync::mpsc;

use crate::send::{JSON, STRATEGIC, is_overtaken, send};

/// Events that wait; upstream's recorders keep as many.
const WAITING_MAX: usize = 1000;

const COMPONENT: &str = "kubelet";

/// Takes events.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Event>,
    node: Arc<str>,
}

impl Recorder {
    /// Starts the task that sends them; it ends when all recorders are gone.
    pub fn start(client: Client, node: &str) -> Recorder {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(client, node.to_owned(), receiver));
        Recorder { sender, node: node.into() }
    }

    pub fn pod(&self, pod: &Pod, event_type: EventType, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) {
        self.send(pod_reference(pod, None), event_type, reason.into(), message.into());
    }

    /// `path` says which container: `spec.containers{c}`.
    pub fn container(
        &self,
        pod: &Pod,
        path: &str,
        event_type: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.send(pod_reference(pod, Some(path)), event_type, reason.into(), message.into());
    }

    /// Nodes are named by their name where others have a uid, as kubelets do.
    pub fn node(&self, event_type: EventType, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) {
        let about =
            Regarding { resource: NODES, key: Key::new("", &self.node), uid: self.node.clone(), resource_version: 0, field_path: None };
        self.send(about, event_type, reason.into(), message.into());
    }

    fn send(&self, about: Regarding, event_type: EventType, reason: Cow<'static, str>, message: String) {
        let message = plain_text(&message);
        let event = Event { about, event_type, reason, message, action: None, component: COMPONENT, host: Some(self.node.clone()) };
        if self.sender.try_send(event).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

fn pod_reference(pod: &Pod, path: Option<&str>) -> Regarding {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Regarding {
        resource: PODS,
        key: Key::new(&text(&meta.namespace), &text(&meta.name)),
        uid: text(&meta.uid).into(),
        resource_version: meta.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0),
        field_path: path.map(Into::into),
    }
}

async fn run(client: Client, node: String, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = events.recv().await {
        let Some(request) = correlator.request(&event, &node, Timestamp::now()) else { continue };
        if let Err(error) = tell(&client, &request).await {
            if is_overtaken(&error) {
                // The event that is counted was forgotten by the server: this one is made anew.
                correlator.forget(&request.key);
                if let Some(again) = correlator.request(&event, &node, Timestamp::now()) {
                    let _ = tell(&client, &again).await;
                }
            } else {
                tracing::debug!(%error, "an event could not be told");
            }
        }
    }
}

async fn tell(client: &Client, request: &Request) -> Result<(), kube::Error> {
    let base = format!("/api/v1/namespaces/{}/events", request.key.namespace);
    match &request.verb {
        Verb::Create(object) => send(client, "POST", &base, JSON, object).await,
        Verb::Strategic(patch) => send(client, "PATCH", &format!("{base}/{}", request.key.name), STRATEGIC, patch).await,
        _ => Ok(()),
    }
}
