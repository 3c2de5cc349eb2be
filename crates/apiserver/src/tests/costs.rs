//! What a request may cost others: bodies that never come, lists that no client reads, documents
//! made to be expensive.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Method, Request};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use super::{full, send, server};
use crate::ApiServer;
use crate::auth::authenticate::Certificate;
use crate::http::fairness::Flow;
use crate::registry::turns::WriteTurn;
use crate::request::{Attributes, User, What};

/// A body that is announced and never comes.
struct Never;

impl HttpBody for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// As it comes from the network: requests of the server's own parts are never held up.
fn from<B>(user: &str, method: Method, path: &str, body: B) -> Request<B> {
    let mut request = Request::builder().method(method).uri(path).body(body).unwrap();
    request.extensions_mut().insert(Certificate(User::system(user, &[])));
    request
}

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

fn review() -> Full<Bytes> {
    full(&json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}))
}

async fn code<B>(server: &ApiServer, request: Request<B>) -> u16
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::body::BoxError>,
{
    server.respond(request).await.status().as_u16()
}

#[tokio::test]
async fn bodies_that_never_come_use_up_the_budget_of_their_own_user() {
    let server = server().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let server = server.clone();
        waiting.spawn(async move { code(&server, from("eve", Method::POST, REVIEWS, Never)).await });
    }
    // Those beyond the budget are refused at once, and the rest waits for its bodies.
    let refused = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(refused, 429);
    assert_eq!(code(&server, from("ann", Method::POST, REVIEWS, review())).await, 201);
    assert_eq!(code(&server, from("eve", Method::GET, "/healthz", Full::default())).await, 200);
    let answer = server.respond(from("eve", Method::POST, REVIEWS, Never)).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    assert_eq!(code(&server, from("eve", Method::POST, REVIEWS, review())).await, 201);
}

#[tokio::test]
async fn open_watches_are_given_back_when_they_end() {
    let server = server().await;
    super::escalation::granted(&server, "ann", json!([{"verbs": ["watch"], "apiGroups": [""], "resources": ["pods"]}])).await;
    let path = "/api/v1/pods?watch=1&resourceVersion=0";
    for _ in 0..100 {
        let answer = server.respond(from("ann", Method::GET, path, Full::<Bytes>::default())).await;
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(server.inner.fairness.open_requests(), 0);
    let answer = server.respond(from("ann", Method::GET, path, Full::<Bytes>::default())).await;
    assert_eq!(server.inner.fairness.open_requests(), 1);
    drop(answer);
    assert_eq!(server.inner.fairness.open_requests(), 0);
}

/// The text of 92 KiB became 790 MiB, the one of 965 KiB took 27 s.
#[tokio::test]
async fn expensive_documents_are_refused_or_read_at_once() {
    let server = server().await;
    let yaml = |text: String| {
        let mut request = from("eve", Method::POST, REVIEWS, Full::<Bytes>::from(text));
        request.headers_mut().insert("content-type", "application/yaml".parse().unwrap());
        request
    };
    let aliases = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(50_000), vec!["*a"; 15_000].join(","));
    assert_eq!(code(&server, yaml(aliases)).await, 400);
    let keys: String = (0..60_000).map(|i| format!("k{i}: 1\n")).collect();
    assert_eq!(code(&server, yaml(format!("spec: {{nonResourceAttributes: {{path: /, verb: get}}}}\n{keys}"))).await, 201);
}

/// An object that can be written can be read, by us and in a list by every other reader of JSON.
#[tokio::test]
async fn nothing_is_stored_that_is_too_deep_to_be_read_again() {
    let server = server().await;
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let nested = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels), "1".to_owned() + &"}".repeat(levels));
    let text = |name: &str, levels: usize| format!("{{\"metadata\":{{\"name\":\"{name}\"}},\"revision\":1,\"data\":{}}}", nested(levels));
    for (levels, expected) in [(90, 201), (99, 201), (100, 400), (126, 400), (5000, 400)] {
        let name = format!("n{levels}");
        assert_eq!(send(&server, Method::POST, path, Full::from(text(&name, levels))).await.0, expected, "{levels} in JSON");
        let request = Request::post(path).header("content-type", "application/yaml");
        let request = request.body(Full::<Bytes>::from(text(&format!("y{levels}"), levels))).unwrap();
        let (code, _) = super::send_as(&server, &User::system("root", &["system:masters"]), request).await;
        assert_eq!(code, expected, "{levels} in YAML");
    }
    let patch = format!("{{\"data\":{}}}", nested(110));
    let request = Request::patch(format!("{path}/n90")).header("content-type", "application/merge-patch+json");
    let request = request.body(Full::<Bytes>::from(patch)).unwrap();
    assert_eq!(super::send_as(&server, &User::system("root", &["system:masters"]), request).await.0, 400);
    let (code, list) = send(&server, Method::GET, path, Full::default()).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(4)));
}

/// Unread lists of all objects shared their bytes with nothing.
#[tokio::test]
async fn an_answer_of_a_long_list_comes_in_pieces() {
    let server = server().await;
    let text = "x".repeat(200_000);
    for number in 0..20 {
        let map = json!({"metadata": {"name": format!("m{number}")}, "data": {"k": text}});
        assert_eq!(send(&server, Method::POST, "/api/v1/namespaces/default/configmaps", full(&map)).await.0, 201);
    }
    let mut request = Request::get("/api/v1/configmaps").body(Full::<Bytes>::default()).unwrap();
    request.extensions_mut().insert(Certificate(User::system("root", &["system:masters"])));
    let mut body = server.respond(request).await.into_body();
    assert!(body.size_hint().exact().is_some_and(|size| size > 4_000_000));
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.len() < 1_000_000, "{} bytes at once", first.len());
}

/// The turn that config maps in the default namespace then wait for: a holder of the turn holds
/// them up.
pub async fn taken_turn(server: &ApiServer) -> WriteTurn {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "5"}}});
    assert_eq!(send(server, Method::POST, "/api/v1/namespaces/default/resourcequotas", full(&quota)).await.0, 201);
    server.registry().caches.wait_for(server.registry().revision()).await;
    server.registry().take_turn("default").await
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A client that reset its request took the audit event and what was allocated with it.
#[tokio::test]
async fn what_was_begun_is_finished_when_the_client_has_gone() {
    let server = server().await;
    let map = json!({"metadata": {"name": "a"}});
    let request = from("root", Method::POST, "/api/v1/namespaces/default/configmaps", full(&map));
    super::escalation::granted(&server, "root", json!([{"verbs": ["create"], "apiGroups": [""], "resources": ["configmaps"]}])).await;
    let turn = taken_turn(&server).await;
    assert!(server.respond_to_the_end(request).now_or_never().is_none());
    drop(turn);
    settle().await;
    let (code, _) = send(&server, Method::GET, "/api/v1/namespaces/default/configmaps/a", Full::default()).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn what_waits_for_its_turn_or_would_go_on_ends_with_its_client() {
    let server = server().await;
    super::escalation::granted(&server, "ann", json!([{"verbs": ["watch"], "apiGroups": [""], "resources": ["pods"]}])).await;
    let mut seats = Vec::new();
    for name in ["a", "b"] {
        let user = User::system(name, &["system:authenticated"]);
        let flow = Flow::of(&Attributes { user: &user, verb: "get", what: What::Path("/") }).unwrap();
        seats.push(server.inner.fairness.seat(&flow, usize::MAX / 2).await.unwrap());
    }
    let waiting = {
        let (server, request) = (server.clone(), from("ann", Method::GET, "/api/v1/pods?watch=1", Full::<Bytes>::default()));
        tokio::spawn(async move { server.respond_to_the_end(request).await })
    };
    settle().await;
    assert_eq!(server.inner.fairness.open_requests(), 1);
    waiting.abort();
    settle().await;
    assert_eq!(server.inner.fairness.open_requests(), 0);
    drop(seats);
    // The one that is answered goes on as long as its body is held.
    let answer = server.respond_to_the_end(from("ann", Method::GET, "/api/v1/pods?watch=1", Full::<Bytes>::default())).await.unwrap();
    assert_eq!((answer.status().as_u16(), server.inner.fairness.open_requests()), (200, 1));
    drop(answer);
    assert_eq!(server.inner.fairness.open_requests(), 0);
}

/// Two objects of some kilobytes: each of the containers got each of the defaults.
#[tokio::test]
async fn limit_ranges_do_not_multiply() {
    let server = server().await;
    let limit_range = |field: &str, names: usize| {
        let amounts: serde_json::Map<String, serde_json::Value> = (0..names).map(|at| (format!("a.b/r{at}"), json!("1"))).collect();
        json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", field: amounts}]}})
    };
    let pod = |containers: usize| {
        let containers: Vec<_> = (0..containers).map(|at| json!({"name": format!("c{at}"), "image": "i"})).collect();
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
    };
    let (ranges, pods) = ("/api/v1/namespaces/default/limitranges", "/api/v1/namespaces/default/pods");
    assert_eq!(send(&server, Method::POST, ranges, full(&limit_range("default", 2000))).await.0, 201);
    let (code, status) = send(&server, Method::POST, pods, full(&pod(2000))).await;
    let message = status["message"].as_str().unwrap();
    assert!(code == 403 && message.ends_with("would set 20000 amounts or more"), "{code} {message}");
    assert_eq!(send(&server, Method::DELETE, &format!("{ranges}/l"), Full::default()).await.0, 200);
    assert_eq!(send(&server, Method::POST, ranges, full(&limit_range("min", 2000))).await.0, 201);
    let (code, status) = send(&server, Method::POST, pods, full(&pod(2000))).await;
    assert!(code == 403 && status["message"].as_str().unwrap().len() < 200_000);
}

/// A write whose time was up was dropped half-way: it could be stored, and what was allocated for
/// it given back.
#[tokio::test]
async fn a_write_that_takes_longer_than_its_client_waits_is_finished() {
    let server = server().await;
    let turn = taken_turn(&server).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, status) = send(&server, Method::POST, &format!("{path}?timeout=5ms"), full(&json!({"metadata": {"name": "a"}}))).await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")));
    drop(turn);
    while send(&server, Method::GET, &format!("{path}/a"), Full::default()).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}
