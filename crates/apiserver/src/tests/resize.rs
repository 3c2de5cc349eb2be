//! What namespaces limit holds for updates too: resizes of pods above all.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{full, send, send_as, server};
use crate::ApiServer;
use crate::request::{MASTERS, User};

const BASE: &str = "/api/v1/namespaces/default";

async fn create(server: &ApiServer, plural: &str, object: &Value) {
    let (code, status) = send(server, Method::POST, &format!("{BASE}/{plural}"), full(object)).await;
    assert_eq!(code, 201, "{status}");
    // Limits are read from the caches.
    server.registry().caches.wait_for(server.registry().revision()).await;
}

async fn create_pod(server: &ApiServer, name: &str, cpu: &str) {
    let container = json!({"name": "c", "image": "i", "resources": resources(cpu)});
    create(server, "pods", &json!({"metadata": {"name": name}, "spec": {"containers": [container]}})).await;
}

async fn create_quota(server: &ApiServer, hard: Value) {
    create(server, "resourcequotas", &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
}

fn resources(cpu: &str) -> Value {
    json!({"requests": {"cpu": cpu}, "limits": {"cpu": "8"}})
}

/// Code and message.
async fn merge(server: &ApiServer, path: &str, patch: &Value) -> (u16, String) {
    let request = Request::patch(format!("{BASE}/{path}")).header("content-type", "application/strategic-merge-patch+json");
    let request = request.body(Full::from(patch.to_string())).unwrap();
    let (code, answer) = send_as(server, &User::system("admin", &[MASTERS]), request).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

async fn resize(server: &ApiServer, name: &str, cpu: &str) -> (u16, String) {
    resize_with(server, name, cpu, "").await
}

async fn resize_with(server: &ApiServer, name: &str, cpu: &str, query: &str) -> (u16, String) {
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources(cpu)}]}});
    merge(server, &format!("pods/{name}/resize{query}"), &patch).await
}

async fn set_status(server: &ApiServer, name: &str, status: Value) {
    let (code, message) = merge(server, &format!("pods/{name}/status"), &json!({ "status": status })).await;
    assert_eq!(code, 200, "{message}");
}

#[tokio::test]
async fn a_resize_stays_within_the_quotas() {
    let server = server().await;
    create_pod(&server, "a", "100m").await;
    create_pod(&server, "b", "100m").await;
    create_quota(&server, json!({"requests.cpu": "1", "pods": "2"})).await;
    let refusal = |requested: &str, used: &str| {
        let name = "pods \"a\" is forbidden: exceeded quota: q";
        (403, format!("{name}, requested: requests.cpu={requested}, used: requests.cpu={used}, limited: requests.cpu=1"))
    };
    assert_eq!(resize(&server, "a", "1").await, refusal("900m", "200m"));
    assert_eq!(resize_with(&server, "a", "1", "?dryRun=All").await, refusal("900m", "200m"));
    assert_eq!(resize(&server, "a", "900m").await.0, 200);
    assert_eq!(resize(&server, "a", "901m").await, refusal("1m", "1"));
    assert_eq!(resize(&server, "a", "200m").await.0, 200);
}

/// Both would fit alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resizes_at_the_same_time_do_not_share_what_is_left() {
    let server = server().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        create_pod(&server, name, "100m").await;
    }
    create_quota(&server, json!({"requests.cpu": "1"})).await;
    let mut resizes = tokio::task::JoinSet::new();
    for name in names {
        let server = server.clone();
        resizes.spawn(async move { resize(&server, name, "600m").await.0 });
    }
    let mut codes = resizes.join_all().await;
    codes.sort_unstable();
    assert_eq!(codes, [200, 403, 403, 403]);
}

#[tokio::test]
async fn a_quota_that_is_exceeded_already_lets_pods_shrink() {
    let server = server().await;
    create_pod(&server, "a", "4").await;
    create_quota(&server, json!({"requests.cpu": "1"})).await;
    assert_eq!(resize(&server, "a", "3").await, (200, String::new()));
}

#[tokio::test]
async fn a_pod_is_charged_for_what_its_node_gave_it() {
    let server = server().await;
    create_pod(&server, "a", "800m").await;
    create_pod(&server, "b", "100m").await;
    create_quota(&server, json!({"requests.cpu": "1"})).await;
    let given = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "resources": resources("800m")});
    set_status(&server, "a", json!({"containerStatuses": [given]})).await;
    assert_eq!(resize(&server, "a", "100m").await.0, 200);
    let (code, message) = resize(&server, "b", "300m").await;
    assert_eq!(code, 403);
    assert!(message.ends_with("requested: requests.cpu=200m, used: requests.cpu=900m, limited: requests.cpu=1"), "{message}");
    set_status(&server, "a", json!({"containerStatuses": [{"name": "c", "resources": resources("100m")}]})).await;
    assert_eq!(resize(&server, "b", "300m").await.0, 200);
}

/// What the node refused was charged no more; what is asked for next is charged again.
#[tokio::test]
async fn a_refused_resize_is_no_way_around_a_quota() {
    let server = server().await;
    create_pod(&server, "a", "1").await;
    create_pod(&server, "b", "1").await;
    create_quota(&server, json!({"requests.cpu": "7"})).await;
    assert_eq!(resize(&server, "a", "6").await.0, 200);
    let given = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "resources": resources("1")});
    let refused = json!({"type": "PodResizePending", "status": "True", "reason": "Infeasible", "observedGeneration": 2});
    set_status(&server, "a", json!({"containerStatuses": [given], "conditions": [refused]})).await;
    assert_eq!(resize(&server, "b", "5").await.0, 200);
    let (code, message) = resize(&server, "a", "3").await;
    assert_eq!(code, 403);
    assert!(message.ends_with("requested: requests.cpu=2, used: requests.cpu=6, limited: requests.cpu=7"), "{message}");
}

#[tokio::test]
async fn a_resize_stays_within_the_limit_ranges() {
    let server = server().await;
    create_pod(&server, "a", "2").await;
    let limit = json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "8"}, "maxLimitRequestRatio": {"cpu": "4"}});
    create(&server, "limitranges", &json!({"metadata": {"name": "l"}, "spec": {"limits": [limit]}})).await;
    let (code, message) = resize(&server, "a", "500m").await;
    assert_eq!(code, 403);
    assert!(message.contains("minimum cpu usage per Container is 1, but request is 500m"), "{message}");
    assert!(message.contains("cpu max limit to request ratio per Container is 4"), "{message}");
    assert_eq!(resize(&server, "a", "3").await, (200, String::new()));
}

#[tokio::test]
async fn a_resize_fills_in_the_defaults_of_limit_ranges() {
    let server = server().await;
    create_pod(&server, "a", "1").await;
    let limit = json!({"type": "Container", "default": {"memory": "1Gi"}, "max": {"memory": "2Gi"}});
    create(&server, "limitranges", &json!({"metadata": {"name": "l"}, "spec": {"limits": [limit]}})).await;
    assert_eq!(resize(&server, "a", "2").await, (200, String::new()));
    let (_, pod) = send(&server, Method::GET, &format!("{BASE}/pods/a"), Full::default()).await;
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "8", "memory": "1Gi"}));
}

/// It takes ports of nodes that a ClusterIP Service does not.
#[tokio::test]
async fn a_service_that_changes_its_type_stays_within_the_quotas() {
    let server = server().await;
    create(&server, "services", &json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})).await;
    create_quota(&server, json!({"services": "1", "services.nodeports": "0"})).await;
    let (code, message) = merge(&server, "services/s", &json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!(code, 403);
    assert!(message.contains("requested: services.nodeports=1, used: services.nodeports=0"), "{message}");
    assert_eq!(merge(&server, "services/s", &json!({"metadata": {"labels": {"a": "b"}}})).await.0, 200);
}

#[tokio::test]
async fn a_deadline_moves_a_pod_into_another_quota() {
    let server = server().await;
    create_pod(&server, "a", "1").await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}, "scopes": ["Terminating"]}});
    create(&server, "resourcequotas", &quota).await;
    let (code, message) = merge(&server, "pods/a", &json!({"spec": {"activeDeadlineSeconds": 60}})).await;
    assert_eq!(code, 403);
    assert!(message.ends_with("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"), "{message}");
}
