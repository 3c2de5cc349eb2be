//! The audit log: what is in it, and what a policy leaves out.

use std::path::PathBuf;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::{full, server};
use crate::ApiServer;
use crate::audit::{Audit, Log, Policy, Remote, Rotation};
use crate::auth::authenticate::Certificate;
use crate::request::User;

struct Audited {
    server: ApiServer,
    path: PathBuf,
}

impl Drop for Audited {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn audited(rules: &str) -> Audited {
    let path = std::env::temp_dir().join(format!("audit-{}.log", uuid::Uuid::new_v4()));
    let log = Log::open(&path, Rotation { megabytes_max: 0, backups_max: 0, days_max: 0 }).unwrap();
    let policy = Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n")).unwrap();
    Audited { server: server().await.audited(Audit { policy, log }), path }
}

impl Audited {
    async fn send(&self, request: http::request::Builder, body: Full<Bytes>) -> u16 {
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Certificate(User::system("root", &["system:masters"])));
        request.extensions_mut().insert(Remote("192.0.2.7:1234".parse().unwrap()));
        let answer = self.server.respond(request).await;
        assert!(answer.headers().contains_key("audit-id"));
        let code = answer.status().as_u16();
        answer.into_body().collect().await.unwrap();
        code
    }

    /// The events, once there are so many.
    fn events(&self, count: usize) -> Vec<Value> {
        loop {
            let text = std::fs::read_to_string(&self.path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            if lines.len() >= count && text.ends_with('\n') {
                return lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_request_has_its_events() {
    let audited = audited("[{level: RequestResponse, omitManagedFields: true}]").await;
    let request =
        Request::post("/api/v1/namespaces/default/configmaps?x=y").header("user-agent", "kubectl/1").header("impersonate-user", "ann");
    let body = full(&json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
    assert_eq!(audited.send(request, body).await, 403);
    let request = Request::post("/api/v1/namespaces/default/configmaps").header("content-type", "application/yaml");
    assert_eq!(audited.send(request, Full::from("metadata: {name: a}\ndata: {k: v}\n")).await, 201);
    let events = audited.events(4);
    let stages: Vec<&str> = events.iter().map(|event| event["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete", "RequestReceived", "ResponseComplete"]);
    let refused = &events[1];
    assert_eq!(refused["auditID"], events[0]["auditID"]);
    assert_eq!(
        (&refused["kind"], &refused["apiVersion"], &refused["level"]),
        (&json!("Event"), &json!("audit.k8s.io/v1"), &json!("RequestResponse"))
    );
    assert_eq!(refused["requestURI"], "/api/v1/namespaces/default/configmaps?x=y");
    assert_eq!(
        (&refused["verb"], &refused["userAgent"], &refused["sourceIPs"]),
        (&json!("create"), &json!("kubectl/1"), &json!(["192.0.2.7"]))
    );
    assert_eq!(refused["user"], json!({"username": "root", "groups": ["system:masters", "system:authenticated"]}));
    assert_eq!(refused["impersonatedUser"]["username"], "ann");
    assert_eq!(refused["objectRef"], json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}));
    assert_eq!((&refused["responseStatus"]["code"], &refused["responseStatus"]["reason"]), (&json!(403), &json!("Forbidden")));
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    let made = &events[3];
    assert_eq!(made["requestObject"], json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
    assert_eq!(
        (&made["responseObject"]["metadata"]["name"], &made["responseObject"]["metadata"]["managedFields"]),
        (&json!("a"), &Value::Null)
    );
    assert_eq!(
        (&made["responseStatus"], &made["annotations"]["authorization.k8s.io/decision"]),
        (&json!({"metadata": {}, "code": 201}), &json!("allow"))
    );
}

#[tokio::test]
async fn a_watch_has_an_event_when_it_begins_and_one_when_it_ends() {
    let audited = audited("[{level: Metadata, omitStages: [RequestReceived]}]").await;
    assert_eq!(audited.send(Request::get("/api/v1/pods?watch=1&timeoutSeconds=1"), Full::default()).await, 200);
    let events = audited.events(2);
    let stages: Vec<&str> = events.iter().map(|event| event["stage"].as_str().unwrap()).collect();
    assert_eq!((stages, &events[0]["verb"]), (vec!["ResponseStarted", "ResponseComplete"], &json!("watch")));
}

#[tokio::test]
async fn who_is_not_known_and_what_panics_is_written_too() {
    let audited = audited("[{level: Metadata, omitStages: [RequestReceived]}]").await;
    let mut request = Request::get("/api/v1/pods").header("authorization", "Bearer forged").body(Full::<Bytes>::default()).unwrap();
    request.extensions_mut().insert(Remote("[::ffff:192.0.2.8]:1".parse().unwrap()));
    assert_eq!(audited.server.respond(request).await.status(), 401);
    let mut request = Request::post("/api/v1/namespaces/default/configmaps").body(super::Panics).unwrap();
    request.extensions_mut().insert(Certificate(User::system("root", &["system:masters"])));
    assert_eq!(audited.server.respond(request).await.status(), 500);
    let events = audited.events(3);
    assert_eq!(
        (&events[0]["user"], &events[0]["responseStatus"]["code"], &events[0]["sourceIPs"]),
        (&json!({}), &json!(401), &json!(["192.0.2.8"]))
    );
    assert_eq!((&events[1]["stage"], &events[1]["responseStatus"]["code"]), (&json!("Panic"), &json!(500)));
}

#[tokio::test]
async fn a_write_has_its_events_though_its_client_has_gone() {
    let audited = audited("[{level: Metadata}]").await;
    let map = full(&json!({"metadata": {"name": "a"}}));
    let mut request = Request::post("/api/v1/namespaces/default/configmaps").body(map).unwrap();
    request.extensions_mut().insert(Certificate(User::system("root", &["system:masters"])));
    let turn = super::costs::taken_turn(&audited.server).await;
    assert!(audited.server.respond_to_the_end(request).now_or_never().is_none());
    drop(turn);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // Two of the quota, and two of the config map.
    let events = audited.events(4);
    assert_eq!((&events[3]["objectRef"]["resource"], &events[3]["stage"]), (&json!("configmaps"), &json!("ResponseComplete")));
    assert_eq!(events[3]["responseStatus"]["code"], 201);
}
