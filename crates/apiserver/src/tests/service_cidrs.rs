//! Addresses of Services: where they come from, and the IPAddresses that stand for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;

const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn get(server: &ApiServer, path: &str) -> (u16, Value) {
    send(server, Method::GET, path, Full::default()).await
}

async fn post(server: &ApiServer, path: &str, object: Value) -> (u16, Value) {
    send(server, Method::POST, path, full(&object)).await
}

async fn delete(server: &ApiServer, path: &str) -> u16 {
    send(server, Method::DELETE, path, Full::default()).await.0
}

fn service(name: &str, address: Option<&str>) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    if let Some(address) = address {
        service["spec"]["clusterIP"] = address.into();
    }
    service
}

/// Code, and the address or why there is none.
async fn create_service(server: &ApiServer, name: &str, address: Option<&str>) -> (u16, String) {
    let (code, answer) = post(server, SERVICES, service(name, address)).await;
    let text = answer["spec"]["clusterIP"].as_str().or(answer["message"].as_str()).unwrap_or_default();
    (code, text.to_owned())
}

/// Only the first range of the test gives addresses.
async fn server_with_range(cidr: &str) -> ApiServer {
    let server = server().await;
    set_ready(&server, "kubernetes", "False").await;
    let (code, answer) = post(&server, CIDRS, json!({"metadata": {"name": "test"}, "spec": {"cidrs": [cidr]}})).await;
    assert_eq!(code, 201, "{answer}");
    server
}

async fn set_ready(server: &ApiServer, name: &str, status: &str) {
    let condition =
        json!({"type": "Ready", "status": status, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let change = json!({"status": {"conditions": [condition]}});
    assert_eq!(patch(server, &format!("{CIDRS}/{name}/status"), "merge", change).await.0, 200);
}

#[tokio::test]
async fn an_address_comes_and_goes_with_its_service() {
    let server = server().await;
    let (code, made) = post(&server, SERVICES, service("a", None)).await;
    assert_eq!(code, 201);
    let path = format!("{ADDRESSES}/{}", made["spec"]["clusterIP"].as_str().unwrap());
    let (code, address) = get(&server, &path).await;
    assert_eq!(code, 200);
    assert_eq!(address["spec"], json!({"parentRef": {"resource": "services", "namespace": "default", "name": "a"}}));
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!((&address["metadata"]["labels"], &address["metadata"]["managedFields"][0]["manager"]), (&labels, &json!("kube-apiserver")));
    // One transaction: no client sees one of them alone.
    assert_eq!(address["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(delete(&server, &format!("{SERVICES}/a")).await, 200);
    assert_eq!(get(&server, &path).await.0, 404);
    // A dry run makes neither.
    let (code, dry) = post(&server, &format!("{SERVICES}?dryRun=All"), service("b", None)).await;
    assert_eq!(code, 201);
    assert_eq!(get(&server, &format!("{ADDRESSES}/{}", dry["spec"]["clusterIP"].as_str().unwrap())).await.0, 404);
}

#[tokio::test]
async fn a_service_that_changes_its_type_gives_its_address_back() {
    let server = server().await;
    assert_eq!(create_service(&server, "a", Some("10.96.7.7")).await.0, 201);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": null, "clusterIPs": null, "ports": null}});
    let (code, why) = patch(&server, &format!("{SERVICES}/a"), "merge", external).await;
    assert_eq!(code, 200, "{why}");
    assert_eq!(get(&server, &format!("{ADDRESSES}/10.96.7.7")).await.0, 404);
    assert_eq!(create_service(&server, "b", Some("10.96.7.7")).await.0, 201);
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "ports": [{"port": 80}]}});
    assert_eq!(patch(&server, &format!("{SERVICES}/a"), "merge", back).await.0, 200);
    let (_, service) = get(&server, &format!("{SERVICES}/a")).await;
    assert_eq!(get(&server, &format!("{ADDRESSES}/{}", service["spec"]["clusterIP"].as_str().unwrap())).await.0, 200);
}

#[tokio::test]
async fn a_service_with_a_finalizer_keeps_its_address_until_it_is_gone() {
    let server = server().await;
    let mut held = service("a", Some("10.96.7.7"));
    held["metadata"]["finalizers"] = json!(["a/b"]);
    assert_eq!(post(&server, SERVICES, held).await.0, 201);
    assert_eq!(delete(&server, &format!("{SERVICES}/a")).await, 200);
    assert_eq!(get(&server, &format!("{ADDRESSES}/10.96.7.7")).await.0, 200);
    assert_eq!(create_service(&server, "b", Some("10.96.7.7")).await.0, 422);
    assert_eq!(patch(&server, &format!("{SERVICES}/a"), "merge", json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(get(&server, &format!("{ADDRESSES}/10.96.7.7")).await.0, 404);
    assert_eq!(create_service(&server, "b", Some("10.96.7.7")).await.0, 201);
}

#[tokio::test]
async fn an_address_that_a_client_made_is_kept_from_services() {
    let server = server_with_range("10.9.0.0/30").await;
    let own = json!({"metadata": {"name": "10.9.0.1"}, "spec": {"parentRef": {"group": "a.b", "resource": "gateways", "name": "g"}}});
    assert_eq!(post(&server, ADDRESSES, own.clone()).await.0, 201);
    assert_eq!(post(&server, ADDRESSES, own).await.0, 409);
    let (code, why) = create_service(&server, "a", Some("10.9.0.1")).await;
    assert_eq!(code, 422);
    assert!(why.ends_with("failed to allocate IP 10.9.0.1: provided IP is already allocated"), "{why}");
    assert_eq!(create_service(&server, "a", None).await, (201, "10.9.0.2".to_owned()));
    let (code, why) = create_service(&server, "b", None).await;
    assert_eq!((code, why.as_str()), (500, "Internal error occurred: failed to allocate a serviceIP: range is full"));
    assert_eq!(delete(&server, &format!("{ADDRESSES}/10.9.0.1")).await, 200);
    assert_eq!(create_service(&server, "b", None).await, (201, "10.9.0.1".to_owned()));
}

/// A client may delete the IPAddress of a Service, as in Kubernetes. There, the address can be
/// given a second time before the repair.
#[tokio::test]
async fn a_service_keeps_its_address_without_its_object() {
    let server = server_with_range("10.9.0.0/30").await;
    assert_eq!(create_service(&server, "a", Some("10.9.0.1")).await.0, 201);
    assert_eq!(delete(&server, &format!("{ADDRESSES}/10.9.0.1")).await, 200);
    assert_eq!(create_service(&server, "b", Some("10.9.0.1")).await.0, 422);
    // What the repair does.
    let parent = json!({"resource": "services", "namespace": "default", "name": "a"});
    assert_eq!(post(&server, ADDRESSES, json!({"metadata": {"name": "10.9.0.1"}, "spec": {"parentRef": parent}})).await.0, 201);
    assert_eq!(delete(&server, &format!("{SERVICES}/a")).await, 200);
    assert_eq!(get(&server, &format!("{ADDRESSES}/10.9.0.1")).await.0, 404);
    assert_eq!(create_service(&server, "b", Some("10.9.0.1")).await.0, 201);
}

#[tokio::test]
async fn ranges_add_up_and_are_used_while_they_are_ready() {
    let server = server_with_range("10.9.0.0/30").await;
    for name in ["a", "b"] {
        assert_eq!(create_service(&server, name, None).await.0, 201);
    }
    assert_eq!(create_service(&server, "c", None).await.0, 500);
    let more = json!({"metadata": {"name": "more", "finalizers": ["a/b"]}, "spec": {"cidrs": ["10.8.0.0/29", "2001:db8::/64"]}});
    assert_eq!(post(&server, CIDRS, more).await.0, 201);
    let (code, address) = create_service(&server, "c", None).await;
    assert!(code == 201 && address.starts_with("10.8.0."), "{address}");

    set_ready(&server, "more", "False").await;
    assert_eq!(create_service(&server, "d", None).await.0, 500);
    let (code, why) = create_service(&server, "d", Some("10.8.0.6")).await;
    assert_eq!(code, 422);
    assert!(why.ends_with("the provided network does not match the current range"), "{why}");
    set_ready(&server, "more", "True").await;
    assert_eq!(create_service(&server, "d", Some("10.8.0.6")).await.0, 201);

    // Held by its finalizer, and yet not used.
    assert_eq!(delete(&server, &format!("{CIDRS}/more")).await, 200);
    assert_eq!(get(&server, &format!("{CIDRS}/more")).await.0, 200);
    assert_eq!(create_service(&server, "e", None).await.0, 500);
    // An address of a range that goes is given back all the same.
    assert_eq!(delete(&server, &format!("{SERVICES}/d")).await, 200);
    assert_eq!(get(&server, &format!("{ADDRESSES}/10.8.0.6")).await.0, 404);
}

#[tokio::test]
async fn the_default_range_is_there_from_the_start() {
    let server = server().await;
    let (code, range) = get(&server, &format!("{CIDRS}/kubernetes")).await;
    assert_eq!((code, &range["spec"]["cidrs"]), (200, &json!(["10.96.0.0/12"])));
    let ready = &range["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
    let (_, own) = get(&server, &format!("{ADDRESSES}/10.96.0.1")).await;
    assert_eq!(own["spec"]["parentRef"]["name"], "kubernetes");
    // Nor is its address ever another Service's.
    assert_eq!(delete(&server, &format!("{SERVICES}/kubernetes")).await, 200);
    assert_eq!(create_service(&server, "a", Some("10.96.0.1")).await.0, 422);
    assert_eq!(create_service(&server, "kubernetes", Some("10.96.0.1")).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_of_a_burst_has_its_own_address() {
    let server = server_with_range("10.9.0.0/24").await;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..300 {
        let server = server.clone();
        // Some of them are made by clients, and some want the same address.
        writers.spawn(async move {
            let address = format!("10.9.0.{}", number % 50 + 1);
            match number % 3 {
                0 => create_service(&server, &format!("s{number}"), None).await,
                1 => create_service(&server, &format!("s{number}"), Some(&address)).await,
                _ => {
                    let parent = json!({"resource": "gateways", "group": "a.b", "name": "g"});
                    let own = json!({"metadata": {"name": address}, "spec": {"parentRef": parent}});
                    (post(&server, ADDRESSES, own).await.0, String::new())
                }
            }
        });
    }
    let answers = writers.join_all().await;
    assert!(answers.iter().all(|(code, _)| matches!(code, 201 | 409 | 422)), "{answers:?}");
    let (_, services) = get(&server, "/api/v1/services").await;
    let (_, addresses) = get(&server, ADDRESSES).await;
    let names: BTreeSet<&str> =
        addresses["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    let mut seen = BTreeSet::new();
    for service in services["items"].as_array().unwrap() {
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        assert!(seen.insert(address) && names.contains(address), "{address}");
        let item = addresses["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == address).unwrap();
        assert_eq!(item["spec"]["parentRef"]["name"], service["metadata"]["name"]);
    }
    assert!(seen.len() > 100);
}

/// A range that is all used up: every one of its addresses once, and none more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_uses_a_range_up() {
    let server = server_with_range("10.9.0.0/26").await;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..80 {
        let server = server.clone();
        writers.spawn(async move { create_service(&server, &format!("s{number}"), None).await });
    }
    let answers = writers.join_all().await;
    let given: BTreeSet<&str> = answers.iter().filter(|(code, _)| *code == 201).map(|(_, address)| address.as_str()).collect();
    assert_eq!(given.len(), 62);
    assert_eq!(answers.iter().filter(|(code, _)| *code == 500).count(), 80 - 62);
}

/// As an older version of the server left them: Services without IPAddresses.
#[tokio::test]
async fn services_of_an_older_store_keep_their_addresses() {
    let store: Arc<dyn store::Backend> = Arc::new(store::mem::open());
    let old = serving_store(store.clone(), AdmissionSettings::default()).await;
    assert_eq!(create_service(&old, "a", Some("10.96.7.7")).await.0, 201);
    let key = Bytes::from_static(b"ipaddresses/10.96.7.7");
    store.commit(store::Txn::one(None, store::Write::Delete { key, last: None })).await.unwrap();
    drop(old);
    let new = serving_store(store, AdmissionSettings::default()).await;
    assert_eq!(create_service(&new, "b", Some("10.96.7.7")).await.0, 422);
    assert_eq!(delete(&new, &format!("{SERVICES}/a")).await, 200);
    assert_eq!(create_service(&new, "b", Some("10.96.7.7")).await.0, 201);
}

#[tokio::test]
async fn kinds_are_discovered_and_printed() {
    let server = server().await;
    let (_, found) = get(&server, "/apis/networking.k8s.io/v1").await;
    let names: Vec<&str> = found["resources"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ipaddresses", "servicecidrs", "servicecidrs/status"]);
    let table = Request::get(CIDRS).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body(Full::<Bytes>::default());
    let (_, table) = send_as(&server, &User::system("admin", &[MASTERS]), table.unwrap()).await;
    assert_eq!(table["rows"][0]["cells"][1], "10.96.0.0/12");
    let table = Request::get(ADDRESSES).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body(Full::<Bytes>::default());
    let (_, table) = send_as(&server, &User::system("admin", &[MASTERS]), table.unwrap()).await;
    assert_eq!(table["rows"][0]["cells"], json!(["10.96.0.1", "services/default/kubernetes"]));
}
