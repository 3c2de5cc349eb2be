//! The pods of the default namespace, as a client that watches them sees them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;

use super::client::Connection;

/// Nothing that is waited for takes longer.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The pods that the client has seen.
pub struct Pods {
    pub by_uid: HashMap<String, Pod>,
    /// Ready pods by image.
    ready: HashMap<String, usize>,
    body: Incoming,
    buffer: BytesMut,
}

pub struct Pod {
    pub node: String,
    image: String,
    pub ready: bool,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    image: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Pods {
    pub async fn watch(connection: &Connection) -> anyhow::Result<Pods> {
        let path = "/api/v1/namespaces/default/pods?watch=1";
        let body = connection.send(Method::GET, path, "application/json", Bytes::new()).await?.into_body();
        Ok(Pods { by_uid: HashMap::new(), ready: HashMap::new(), body, buffer: BytesMut::new() })
    }

    /// Pods of the image that are Ready.
    pub fn ready(&self, image: &str) -> usize {
        self.ready.get(image).copied().unwrap_or(0)
    }

    /// Reads on until the condition holds.
    pub async fn until(&mut self, holds: impl Fn(&Pods) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + WAIT_MAX;
        while !holds(self) {
            let left = end.saturating_duration_since(Instant::now());
            let frame = tokio::time::timeout(left, self.body.frame()).await.context("it takes too long")?;
            let Some(frame) = frame else { bail!("the watch ended") };
            if let Ok(data) = frame?.into_data() {
                self.buffer.extend_from_slice(&data);
                self.take_lines()?;
            }
        }
        Ok(())
    }

    fn take_lines(&mut self) -> anyhow::Result<()> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let Line { kind, object } = serde_json::from_slice(&self.buffer[..end]).context("a line of the watch is no event")?;
            self.buffer.advance(end + 1);
            if let Some(old) = self.by_uid.remove(&object.metadata.uid).filter(|old| old.ready) {
                *self.ready.entry(old.image).or_default() -= 1;
            }
            if kind == "DELETED" || object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let ready = object.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
            let image = object.spec.containers.into_iter().next().map(|container| container.image).unwrap_or_default();
            *self.ready.entry(image.clone()).or_default() += usize::from(ready);
            self.by_uid.insert(object.metadata.uid, Pod { node: object.spec.node_name, image, ready });
        }
        Ok(())
    }
}
