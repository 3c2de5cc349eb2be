//! The audit log: who did what, when, from where, and with what success, as `audit.k8s.io/v1`
//! Events.
//!
//! A policy says of each request how much of it is written ([`policy`]); events are lines of a file
//! ([`log`]). A request that is answered at once has an event when it came and one when it was
//! answered; one that goes on (a watch, a shell) has one more when its answer began.

mod log;
mod policy;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::request::Parts;
use jiff::Timestamp;
use kinds::status::Status;
use serde_json::{Value, json};

use crate::request::{User, What};
pub use log::{Log, Rotation};
use policy::Decision;
pub use policy::{Level, Policy, PolicyError, Stage};

/// Bodies that are longer are named with their length instead: the log is for people, and for their
/// disks.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Where a connection comes from.
#[derive(Debug, Copy, Clone)]
pub struct Remote(pub SocketAddr);

/// What admission noted of a request.
#[derive(Debug, Clone, Default)]
pub struct Annotations(pub BTreeMap<String, String>);

/// Writes what a policy asks for.
#[derive(Clone)]
pub struct Audit {
    pub policy: Policy,
    pub log: Log,
}

/// What is known of a request so far.
pub struct Record {
    log: Log,
    decision: Decision,
    received: Timestamp,
    /// The event without what changes from stage to stage.
    event: Value,
    annotations: BTreeMap<String, String>,
}

impl Audit {
    /// Begins the record of a request; None when nothing of it is to be written.
    pub fn begin(&self, parts: &Parts, user: &User, verb: &str, what: &What<'_>) -> Option<Record> {
        let decision = self.policy.decide(user, verb, what);
        if decision.level == Level::None {
            return None;
        }
        let received = Timestamp::now();
        let sources: Vec<String> =
            parts.extensions.get().map(|Remote(address)| address.ip().to_canonical().to_string()).into_iter().collect();
        let uri = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |path| path.as_str());
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": decision.level.name(), "auditID": uuid::Uuid::new_v4().to_string(),
            "requestURI": uri, "verb": verb, "user": user_info(user), "sourceIPs": sources,
            "requestReceivedTimestamp": kinds::decode::format_micro_time(received),
        });
        if let Some(agent) = parts.headers.get(http::header::USER_AGENT) {
            event["userAgent"] = String::from_utf8_lossy(agent.as_bytes()).into();
        }
        if let What::Resource { group, version, resource, subresource, namespace, name, .. } = what {
            let fields = [
                ("resource", resource),
                ("namespace", namespace),
                ("name", name),
                ("apiGroup", group),
                ("apiVersion", version),
                ("subresource", subresource),
            ];
            event["objectRef"] =
                fields.into_iter().filter(|(_, text)| !text.is_empty()).map(|(field, text)| (field.to_owned(), json!(text))).collect();
        }
        Some(Record { log: self.log.clone(), decision, received, event, annotations: BTreeMap::new() })
    }
}

impl Record {
    pub fn id(&self) -> &str {
        self.event["auditID"].as_str().unwrap_or_default()
    }

    pub fn impersonates(&mut self, user: &User) {
        self.event["impersonatedUser"] = user_info(user);
    }

    /// What the authorizers said.
    pub fn decided(&mut self, allowed: bool, reason: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.annotations.insert("authorization.k8s.io/decision".to_owned(), decision.to_owned());
        self.annotations.insert("authorization.k8s.io/reason".to_owned(), reason.to_owned());
    }

    pub fn annotate(&mut self, annotations: Annotations) {
        self.annotations.extend(annotations.0);
    }

    pub fn wants_request(&self) -> bool {
        self.decision.level >= Level::Request
    }

    pub fn wants_response(&self) -> bool {
        self.decision.level >= Level::RequestResponse
    }

    pub fn request_object(&mut self, object: impl FnOnce() -> Option<Value>, bytes: usize) {
        self.body("requestObject", object, bytes);
    }

    pub fn response_object(&mut self, object: impl FnOnce() -> Option<Value>, bytes: usize) {
        self.body("responseObject", object, bytes);
    }

    fn body(&mut self, field: &'static str, object: impl FnOnce() -> Option<Value>, bytes: usize) {
        if bytes > BODY_BYTES_MAX {
            self.annotations.insert(format!("everynode.dev/{field}-omitted"), format!("{bytes} bytes"));
            return;
        }
        let Some(mut object) = object() else { return };
        if self.decision.omit_managed_fields {
            let drop_fields =
                |object: &mut Value| drop(object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields")));
            if object.is_object() {
                drop_fields(&mut object);
            }
            object["items"].as_array_mut().into_iter().flatten().filter(|item| item.is_object()).for_each(drop_fields);
            if let Some(fields) = object.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
        self.event[field] = object;
    }

    /// How the request was answered.
    pub fn answered(&mut self, code: u16, refusal: Option<&Status>) {
        let mut status = json!({"metadata": {}, "code": code});
        if let Some(refusal) = refusal {
            status["status"] = "Failure".into();
            status["message"] = refusal.message.as_str().into();
            status["reason"] = json!(refusal.reason);
        }
        self.event["responseStatus"] = status;
    }

    pub async fn write(&self, stage: Stage) {
        if let Some(line) = self.line(stage) {
            self.log.write(line).await;
        }
    }

    /// [`Record::write`] for where there can be no waiting.
    pub fn write_now(&self, stage: Stage) {
        if let Some(line) = self.line(stage) {
            self.log.write_now(line);
        }
    }

    fn line(&self, stage: Stage) -> Option<String> {
        if !self.decision.writes(stage) {
            return None;
        }
        let mut event = self.event.clone();
        event["stage"] = stage.name().into();
        let now = if stage == Stage::RequestReceived { self.received } else { Timestamp::now() };
        event["stageTimestamp"] = kinds::decode::format_micro_time(now).into();
        if !self.annotations.is_empty() {
            event["annotations"] = json!(self.annotations);
        }
        Some(event.to_string())
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({});
    for (field, value) in
        [("username", json!(user.name)), ("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))]
    {
        let is_empty = value.as_str() == Some("")
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty {
            info[field] = value;
        }
    }
    info
}
