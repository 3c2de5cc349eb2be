//! PodSecurity: what labels of a namespace refuse and warn of.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::server;
use crate::ApiServer;
use crate::auth::authenticate::Local;
use crate::request::User;

/// Code, answer and warnings.
async fn ask(server: &ApiServer, method: Method, path: &str, body: &Value) -> (u16, Value, Vec<String>) {
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let mut request = request.body(Full::<Bytes>::from(body.to_string())).unwrap();
    request.extensions_mut().insert(Local(User::system("root", &["system:masters"])));
    let answer = server.respond(request).await;
    let warnings = answer.headers().get_all("warning").iter().map(|text| text.to_str().unwrap().to_owned()).collect();
    let code = answer.status().as_u16();
    (code, serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap_or_default(), warnings)
}

async fn namespace(server: &ApiServer, name: &str, labels: &[(&str, &str)]) -> (u16, Value, Vec<String>) {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(label, value)| (format!("pod-security.kubernetes.io/{label}"), json!(value))).collect();
    ask(server, Method::POST, "/api/v1/namespaces", &json!({"metadata": {"name": name, "labels": labels}})).await
}

fn pod(name: &str, context: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "securityContext": context}]}})
}

#[tokio::test]
async fn a_pod_that_violates_what_is_enforced_is_refused() {
    let server = server().await;
    assert_eq!(namespace(&server, "strict", &[("enforce", "baseline")]).await.0, 201);
    let pods = "/api/v1/namespaces/strict/pods";
    let (code, answer, _) = ask(&server, Method::POST, pods, &pod("a", &json!({"privileged": true}))).await;
    let why = "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)";
    assert_eq!((code, answer["message"].as_str().unwrap()), (403, why));
    assert_eq!(ask(&server, Method::POST, pods, &pod("b", &json!(null))).await.0, 201);
    // The same by a container that is added later.
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "securityContext": {"privileged": true}}]}});
    let (code, answer, _) = ask(&server, Method::PATCH, &format!("{pods}/b/ephemeralcontainers"), &ephemeral).await;
    assert_eq!((code, answer["reason"].as_str().unwrap()), (403, "Forbidden"), "{answer}");
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(ask(&server, Method::PATCH, &format!("{pods}/b/status"), &status).await.0, 200);
}

#[tokio::test]
async fn a_controller_earns_a_warning_for_what_its_pods_would_violate() {
    let server = server().await;
    assert_eq!(namespace(&server, "strict", &[("enforce", "restricted"), ("enforce-version", "v1.30")]).await.0, 201);
    let mut template = pod("ignored", &json!(null));
    template["metadata"] = json!({"labels": {"a": "b"}});
    let set = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, _, warnings) = ask(&server, Method::POST, "/apis/apps/v1/namespaces/strict/daemonsets", &set).await;
    assert_eq!(code, 201);
    assert!(
        warnings[0].starts_with("299 - \"would violate PodSecurity \\\"restricted:v1.30\\\": allowPrivilegeEscalation != false"),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn labels_must_be_readable_and_a_stricter_level_warns_of_the_pods_that_are_there() {
    let server = server().await;
    let (code, answer, _) = namespace(&server, "bad", &[("enforce", "strict")]).await;
    assert_eq!((code, answer["reason"].as_str().unwrap()), (422, "Invalid"), "{answer}");
    assert_eq!(namespace(&server, "free", &[]).await.0, 201);
    for name in ["a", "b", "c"] {
        let made = ask(&server, Method::POST, "/api/v1/namespaces/free/pods", &pod(name, &json!({"privileged": name != "c"}))).await;
        assert_eq!(made.0, 201);
    }
    server.registry().caches.wait_for(server.registry().revision()).await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let (code, _, warnings) = ask(&server, Method::PATCH, "/api/v1/namespaces/free", &label).await;
    assert_eq!(code, 200);
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \\\"free\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"a (and 1 other pod): privileged\"",
        ]
    );
}
