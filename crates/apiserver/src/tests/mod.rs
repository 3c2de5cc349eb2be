//! The API in process, over a store in memory: what needs neither network nor a second process.

mod audit;
mod costs;
mod escalation;
mod nodes;
mod pod_security;
mod resize;
mod service_cidrs;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ApiServer;
use crate::admission::AdmissionSettings;
use crate::auth::authenticate::{Authenticator, Local};
use crate::auth::tokens::TokenKey;
use crate::registry::Registry;
use crate::request::{MASTERS, User};

async fn server() -> ApiServer {
    serving_store(Arc::new(store::mem::open()), AdmissionSettings::default()).await
}

async fn server_with(admission: AdmissionSettings) -> ApiServer {
    serving_store(Arc::new(store::mem::open()), admission).await
}

async fn serving_store(store: Arc<dyn store::Backend>, admission: AdmissionSettings) -> ApiServer {
    let rng = ring::rand::SystemRandom::new();
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let tokens = Arc::new(TokenKey::from_pkcs8(key.as_ref()).unwrap());
    let (stop, shutdown) = watch::channel(false);
    // Dropped, it would end all watches at once.
    std::mem::forget(stop);
    serving(Registry::new(store).unwrap(), Authenticator { tokens }, admission, shutdown).await
}

async fn serving(
    registry: Registry,
    authenticator: Authenticator,
    admission: AdmissionSettings,
    shutdown: watch::Receiver<bool>,
) -> ApiServer {
    let server = ApiServer::new(Arc::new(registry), authenticator, admission, shutdown);
    crate::bootstrap::run(&server).await.unwrap();
    server
}

/// Sends a request as an administrator.
async fn send<B>(server: &ApiServer, method: Method, path: &str, body: B) -> (u16, Value)
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::body::BoxError>,
{
    let request = Request::builder().method(method).uri(path).body(body).unwrap();
    send_as(server, &User::system("admin", &[MASTERS]), request).await
}

/// Sends a request as a user.
async fn send_as<B>(server: &ApiServer, user: &User, mut request: Request<B>) -> (u16, Value)
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::body::BoxError>,
{
    request.extensions_mut().insert(Local(user.clone()));
    let response = server.respond(request).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn full(value: &Value) -> Full<Bytes> {
    Full::from(value.to_string())
}

/// A body that panics when it is read: a bug on the way of a request.
struct Panics;

impl HttpBody for Panics {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        panic!("a bug")
    }
}

#[tokio::test]
async fn a_request_that_panics_is_answered_and_hurts_nothing_else() {
    let server = server().await;
    let (code, status) = send(&server, Method::POST, "/api/v1/namespaces/default/configmaps", Panics).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
    let (code, _) = send(&server, Method::GET, "/api/v1/namespaces/default", Full::default()).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_its_version() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, created) = send(&server, Method::POST, path, full(&json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))).await;
    assert_eq!(code, 201);
    let (code, updated) =
        send(&server, Method::PUT, &format!("{path}/a"), full(&json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))).await;
    assert_eq!((code, &updated["metadata"]["resourceVersion"]), (200, &created["metadata"]["resourceVersion"]));
}

#[tokio::test]
async fn an_exact_list_shows_the_past_until_it_is_forgotten() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, first) = send(&server, Method::POST, path, full(&json!({"metadata": {"name": "a"}}))).await;
    let (_, _) = send(&server, Method::DELETE, &format!("{path}/a"), Full::default()).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{path}?resourceVersion={version}&resourceVersionMatch=Exact");
    let (code, list) = send(&server, Method::GET, &exact, Full::default()).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)));
    server.registry().caches.wait_for(server.registry().revision()).await;
    server.registry().compact();
    let (code, status) = send(&server, Method::GET, &exact, Full::default()).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn both_event_groups_show_the_same_objects() {
    let server = server().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "message": "m"});
    let (code, _) = send(&server, Method::POST, "/api/v1/namespaces/default/events", full(&event)).await;
    assert_eq!(code, 201);
    let (code, new) = send(&server, Method::GET, "/apis/events.k8s.io/v1/namespaces/default/events/e", Full::default()).await;
    assert_eq!((code, &new["regarding"]["name"], &new["note"]), (200, &json!("p"), &json!("m")));
}

/// The store keeps a single change for its watchers, so that a burst of writes leaves the cache
/// behind for certain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_fell_behind_the_store_is_loaded_anew() {
    let store = Arc::new(store::mem::open_with(store::WindowLimits { events_max: 1, bytes_max: 1 }));
    let rng = ring::rand::SystemRandom::new();
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let tokens = Arc::new(TokenKey::from_pkcs8(key.as_ref()).unwrap());
    let server =
        serving(Registry::new(store).unwrap(), Authenticator { tokens }, AdmissionSettings::default(), watch::channel(false).1).await;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..200 {
        let server = server.clone();
        writers.spawn(async move {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{number}")}});
            send(&server, Method::POST, "/api/v1/namespaces/default/configmaps", full(&map)).await.0
        });
    }
    assert!(writers.join_all().await.iter().all(|code| *code == 201));
    let (code, list) = send(&server, Method::GET, "/api/v1/namespaces/default/configmaps", Full::default()).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(200)));
}

/// After a restore clients know versions that have not come yet. Waiting for them left agents deaf.
#[tokio::test(start_paused = true)]
async fn a_watch_from_the_future_is_refused_so_that_clients_list_anew() {
    let server = server().await;
    let (code, event) = send(&server, Method::GET, "/api/v1/pods?watch=1&resourceVersion=1000000", Full::default()).await;
    assert_eq!((code, &event["type"]), (200, &json!("ERROR")));
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")), "{event}");
    assert_eq!(event["object"]["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    // Its own end comes first.
    let (code, nothing) =
        send(&server, Method::GET, "/api/v1/pods?watch=1&resourceVersion=1000000&timeoutSeconds=1", Full::default()).await;
    assert_eq!((code, nothing), (200, Value::Null));
    let (code, status) = send(&server, Method::GET, "/api/v1/pods?resourceVersion=1000000", Full::default()).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
}

async fn patch(server: &ApiServer, path: &str, kind: &str, patch: Value) -> (u16, String) {
    let request = Request::patch(path).header("content-type", format!("application/{kind}-patch+json"));
    let (code, answer) = send_as(server, &User::system("admin", &[MASTERS]), request.body(full(&patch)).unwrap()).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

/// Answers of a real server that everynode once gave otherwise.
#[tokio::test]
async fn answers_that_were_recorded() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/secrets";
    let (code, _) = send(&server, Method::POST, path, full(&json!({"metadata": {"name": "a"}, "data": {"a": "eA=="}}))).await;
    assert_eq!(code, 201);
    let secret = format!("{path}/a");
    let (code, message) = patch(&server, &secret, "strategic-merge", json!({"data": {"x": "delete"}})).await;
    assert_eq!(code, 422);
    assert!(message.ends_with("error decoding from json: illegal base64 data at input byte 4"), "{message}");
    let (code, message) = patch(&server, &secret, "merge", json!({"data": {"x": "delete"}})).await;
    assert_eq!(code, 422);
    assert!(message.ends_with(": illegal base64 data at input byte 4"), "{message}");

    for (change, why) in [
        (json!({"apiVersion": "v1", "kind": "Pod"}), "converting (v1.Pod) to (core.Secret): unknown conversion"),
        (json!({"kind": "Poodle"}), r#"no kind "Poodle" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#),
    ] {
        let (code, message) = patch(&server, &secret, "merge", change).await;
        assert_eq!(code, 422);
        assert!(message.ends_with(why), "{message}");
    }
    assert_eq!(patch(&server, &secret, "merge", json!({"apiVersion": "v1", "kind": "Secret"})).await.0, 200);

    let (code, answer) = send(&server, Method::GET, &format!("{path}?timeout=1x"), Full::default()).await;
    let why = r#"invalid timeout specified in the request URL - time: unknown unit "x" in duration "1x""#;
    assert_eq!((code, answer["message"].as_str()), (400, Some(why)));
    for timeout in ["32s", "0s", "-1s", "100h", ""] {
        assert_eq!(send(&server, Method::GET, &format!("{path}?timeout={timeout}"), Full::default()).await.0, 200, "{timeout}");
    }
    let (code, answer) = send(&server, Method::GET, &format!("{path}?continue=abc&resourceVersion=5"), Full::default()).await;
    assert_eq!(code, 400);
    assert!(answer["message"].as_str().unwrap().starts_with("invalid continue token"), "{answer}");

    let namespace = json!({"metadata": {"name": "n", "namespace": "kube-system"}});
    let (code, made) = send(&server, Method::POST, "/api/v1/namespaces", full(&namespace)).await;
    assert_eq!((code, &made["metadata"]["namespace"]), (201, &Value::Null));
}
