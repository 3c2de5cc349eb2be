//! All controllers against an API server in this process, with a store in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use apiserver::admission::AdmissionSettings;
use apiserver::auth::authenticate::Authenticator;
use apiserver::auth::tokens::TokenKey;
use apiserver::registry::Registry;
use apiserver::request::{MASTERS, User};
use brain::controllers::ClusterSettings;
use kube::Client;
use kube::core::Status;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const PODS: &str = "/api/v1/namespaces/default/pods";

struct Plane {
    client: Client,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Plane {
    async fn start() -> Plane {
        let random = ring::rand::SystemRandom::new();
        let key = ring::signature::EcdsaKeyPair::generate_pkcs8(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let authenticator = Authenticator { tokens: Arc::new(TokenKey::from_pkcs8(key.as_ref()).unwrap()) };
        let registry = Arc::new(Registry::new(Arc::new(store::mem::open())).unwrap());
        let (stop, stopping) = watch::channel(false);
        let admission = AdmissionSettings::default();
        let server = ApiServer::new(registry, authenticator, admission, stopping.clone());
        apiserver::bootstrap::run(&server).await.unwrap();
        let client = |name: &str| Client::new(server.as_user(User::system(name, &[MASTERS])), "default");
        let cluster = ClusterSettings { root_certificate_pem: "a certificate".to_owned(), ..ClusterSettings::default() };
        let settings = controllers::ControllerSettings { cluster, host: "here".to_owned() };
        let running = tokio::spawn(controllers::run(client("system:kube-controller-manager"), settings, stopping));
        Plane { client: client("kubernetes-admin"), stop, running }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, Box<Status>> {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
        match self.client.request(request.body(body.to_string().into_bytes()).unwrap()).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    async fn create(&self, path: &str, object: &Value) {
        self.send("POST", path, object).await.unwrap_or_else(|status| panic!("{path}: {status}"));
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        let list = self.send("GET", path, &Value::Null).await.unwrap_or_else(|status| panic!("{path}: {status}"));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until what is listed at `path` is as wanted, and returns it.
    async fn wait(&self, path: &str, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let items = self.list(path).await;
            if wanted(&items) {
                return items;
            }
            assert!(begun.elapsed() < LONG, "not seen: {what}; there are {items:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn add_node(&self, name: &str) {
        self.create("/api/v1/nodes", &json!({"metadata": {"name": name}})).await;
        let ready = json!({"status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T03:04:05Z"}],
        }});
        self.send("PATCH", &format!("/api/v1/nodes/{name}/status"), &ready).await.unwrap();
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.running.await.expect("controllers end without a panic");
    }
}

fn daemon_set() -> Value {
    json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {
            "metadata": {"labels": {"app": "agent"}},
            "spec": {"containers": [{"name": "c", "image": "agent:1"}], "tolerations": [{"operator": "Exists"}]},
        },
    }})
}

fn are_on(pods: &[Value], nodes: &[&str]) -> bool {
    let mut on: Vec<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    on.sort_unstable();
    on == nodes && pods.len() == nodes.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_gets_a_pod_on_every_node_and_its_end_takes_them() {
    let plane = Plane::start().await;
    plane.add_node("a").await;
    plane.create(SETS, &daemon_set()).await;
    plane.wait(PODS, "a pod on the first node", |pods| are_on(pods, &["a"])).await;
    plane.add_node("b").await;
    plane.wait(PODS, "a pod on the second node", |pods| are_on(pods, &["a", "b"])).await;
    plane.wait(SETS, "its counters", |sets| sets[0]["status"]["desiredNumberScheduled"] == 2).await;

    plane.send("DELETE", &format!("{SETS}/agent"), &json!({"propagationPolicy": "Background"})).await.unwrap();
    let is_going = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    let pods = plane.wait(PODS, "the end of the pods", |pods| pods.iter().all(is_going)).await;
    for pod in pods {
        let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
        // An agent would say so.
        plane.send("DELETE", &path, &json!({"gracePeriodSeconds": 0})).await.unwrap();
    }
    plane.wait("/apis/apps/v1/namespaces/default/controllerrevisions", "the end of its revisions", <[Value]>::is_empty).await;
    plane.end().await;
}

/// What a controller is refused it tries again, and what others change back and forth ends as it
/// should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pod_comes_when_it_is_allowed() {
    let plane = Plane::start().await;
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    plane.create("/api/v1/namespaces/default/resourcequotas", &quota).await;
    plane.add_node("a").await;
    plane.create(SETS, &daemon_set()).await;
    let refused = |event: &Value| event["reason"] == "FailedCreate" && event["message"].as_str().is_some_and(|text| text.contains("quota"));
    let events = plane.wait("/api/v1/namespaces/default/events", "the refusal", |events| events.iter().any(refused)).await;
    assert!(plane.list(PODS).await.is_empty());
    let event = events.iter().find(|event| refused(event)).expect("it was seen");
    assert_eq!((event["source"]["component"].as_str(), event["type"].as_str()), (Some("daemonset-controller"), Some("Warning")));

    plane.send("DELETE", "/api/v1/namespaces/default/resourcequotas/none", &json!({})).await.unwrap();
    plane.wait(PODS, "the pod", |pods| are_on(pods, &["a"])).await;
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_own_and_ends_with_everything_in_it() {
    let plane = Plane::start().await;
    plane.create("/api/v1/namespaces", &json!({"metadata": {"name": "short"}})).await;
    let accounts = "/api/v1/namespaces/short/serviceaccounts";
    plane.wait(accounts, "the default account", |accounts| accounts.iter().any(|account| account["metadata"]["name"] == "default")).await;
    let maps = "/api/v1/namespaces/short/configmaps";
    let roots = plane.wait(maps, "the certificate", |maps| !maps.is_empty()).await;
    assert_eq!(roots[0]["data"]["ca.crt"], "a certificate");

    let changed = json!({"data": {"ca.crt": "another"}});
    plane.send("PATCH", &format!("{maps}/kube-root-ca.crt"), &changed).await.unwrap();
    plane.wait(maps, "the certificate again", |maps| maps[0]["data"]["ca.crt"] == "a certificate").await;

    plane.send("DELETE", "/api/v1/namespaces/short", &json!({})).await.unwrap();
    let is_short = |namespace: &Value| namespace["metadata"]["name"] == "short";
    plane.wait("/api/v1/namespaces", "its end", |namespaces| !namespaces.iter().any(is_short)).await;
    assert!(plane.list(maps).await.is_empty());
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_end_when_they_are_told_to() {
    let plane = Plane::start().await;
    tokio::time::timeout(LONG, plane.end()).await.expect("they end");
}
