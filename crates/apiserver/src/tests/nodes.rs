//! What a node may do with its credential, and what not: a machine that is taken over must not take
//! the cluster.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{full, send, send_as, server, server_with};
use crate::ApiServer;
use crate::admission::{AdmissionSettings, PodRange};
use crate::request::User;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn node(name: &str) -> User {
    User::system(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
}

async fn ask(server: &ApiServer, user: &User, method: Method, path: &str, body: &Value) -> (u16, String, Value) {
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let (code, answer) = send_as(server, user, request.body(full(body)).unwrap()).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned(), answer)
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": node, "serviceAccountName": "default",
        "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "used", "key": "k"}}}]}],
        "volumes": [{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}}, {"serviceAccountToken": {"path": "v", "audience": "vault"}},
        ]}}],
    }})
}

/// A server with the nodes a and b, a pod on each, and Secrets.
async fn cluster() -> (ApiServer, Value) {
    let server = server().await;
    for name in ["a", "b"] {
        let (code, message, _) = ask(&server, &node(name), Method::POST, "/api/v1/nodes", &json!({"metadata": {"name": name}})).await;
        assert_eq!(code, 201, "{message}");
        let (code, made) = send(&server, Method::POST, PODS, full(&pod(&format!("on-{name}"), name))).await;
        assert_eq!(code, 201, "{made}");
    }
    for name in ["used", "other"] {
        send(&server, Method::POST, "/api/v1/namespaces/default/secrets", full(&json!({"metadata": {"name": name}}))).await;
    }
    send(&server, Method::POST, "/api/v1/namespaces/default/serviceaccounts", full(&json!({"metadata": {"name": "default"}}))).await;
    send(&server, Method::POST, "/api/v1/namespaces/default/serviceaccounts", full(&json!({"metadata": {"name": "boss"}}))).await;
    server.registry().caches.wait_for(server.registry().revision()).await;
    let (_, own) = send(&server, Method::GET, "/api/v1/nodes/a", Full::default()).await;
    (server, own)
}

fn mirror(own: &Value) -> Value {
    json!({
        "metadata": {
            "name": "m-a", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": own["metadata"]["uid"], "controller": true}],
        },
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
    })
}

#[tokio::test]
async fn a_node_makes_mirror_pods_that_refer_to_nothing() {
    let (server, own) = cluster().await;
    let (code, message, _) = ask(&server, &node("a"), Method::POST, PODS, &mirror(&own)).await;
    assert_eq!(code, 201, "{message}");
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 13] = [
        ("can only create mirror pods", |pod| pod["metadata"]["annotations"] = json!({})),
        ("with spec.nodeName set to itself", |pod| pod["spec"]["nodeName"] = json!("b")),
        ("with an owner reference set to itself", |pod| pod["metadata"]["ownerReferences"] = json!([])),
        ("with an owner reference set to itself", |pod| pod["metadata"]["ownerReferences"][0]["name"] = json!("b")),
        ("with a controller owner reference set to itself", |pod| pod["metadata"]["ownerReferences"][0]["controller"] = json!(false)),
        ("must not set blockOwnerDeletion", |pod| pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true)),
        ("UID mismatch", |pod| pod["metadata"]["ownerReferences"][0]["uid"] = json!("other")),
        ("reference a service account", |pod| pod["spec"]["serviceAccountName"] = json!("default")),
        ("reference secrets", |pod| pod["spec"]["imagePullSecrets"] = json!([{"name": "used"}])),
        ("reference secrets", |pod| pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "used"}}])),
        ("reference secrets", |pod| pod["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "used"}}])),
        ("reference configmaps", |pod| pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "c"}}])),
        ("reference persistentvolumeclaims", |pod| {
            pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        }),
    ];
    for (at, (why, change)) in changes.iter().enumerate() {
        let mut pod = mirror(&own);
        pod["metadata"]["name"] = json!(format!("m{at}-a"));
        change(&mut pod);
        let (code, message, _) = ask(&server, &node("a"), Method::POST, PODS, &pod).await;
        assert_eq!(code, 403, "{why}: {message}");
        assert!(message.contains(why), "{why}: {message}");
    }
}

/// Not only nodes make mirror pods.
#[tokio::test]
async fn a_mirror_pod_runs_as_no_account_whoever_makes_it() {
    let (server, own) = cluster().await;
    let mut pod = mirror(&own);
    pod["spec"]["serviceAccountName"] = json!("boss");
    let (code, answer) = send(&server, Method::POST, PODS, full(&pod)).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("a mirror pod may not reference service accounts"), "{answer}");
}

/// A mirror pod that exists does not open what it names: a node may have made it, whichever client
/// wrote it into the store.
#[tokio::test]
async fn a_node_reads_what_its_pods_need_and_no_more() {
    let (server, own) = cluster().await;
    let get = |path: &'static str, user: User| {
        let server = server.clone();
        async move { ask(&server, &user, Method::GET, path, &Value::Null).await.0 }
    };
    assert_eq!(get("/api/v1/namespaces/default/secrets/used", node("a")).await, 200);
    assert_eq!(get("/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dused", node("a")).await, 200);
    assert_eq!(get("/api/v1/namespaces/default/secrets/other", node("a")).await, 403);
    assert_eq!(get("/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dother", node("a")).await, 403);
    assert_eq!(get("/api/v1/namespaces/default/secrets", node("a")).await, 403);
    assert_eq!(get("/api/v1/namespaces/default/secrets/used", node("c")).await, 403);
    assert_eq!(get("/api/v1/namespaces/default/pods/on-a", node("a")).await, 200);
    assert_eq!(get("/api/v1/namespaces/default/pods/on-b", node("a")).await, 403);
    assert_eq!(get("/api/v1/pods?fieldSelector=spec.nodeName%3Da", node("a")).await, 200);
    assert_eq!(get("/api/v1/pods?fieldSelector=spec.nodeName%3Db", node("a")).await, 403);
    assert_eq!(get("/api/v1/pods?fieldSelector=spec.nodeName!%3Da", node("a")).await, 403);
    assert_eq!(get("/api/v1/pods", node("a")).await, 403);
    assert_eq!(get("/api/v1/nodes/b", node("a")).await, 403);
    assert_eq!(get("/api/v1/nodes", node("a")).await, 403);
    assert_eq!(get("/api/v1/nodes?fieldSelector=metadata.name%3Da", node("a")).await, 200);
    // Mirrors are not made with references any more; one of an older version grants nothing.
    let mut old = mirror(&own);
    old["metadata"]["name"] = json!("old-a");
    let (code, _) = send(&server, Method::POST, PODS, full(&old)).await;
    assert_eq!(code, 201);
    assert_eq!(get("/api/v1/namespaces/default/secrets/other", node("a")).await, 403);
}

#[tokio::test]
async fn a_node_does_not_mark_itself() {
    let (server, _) = cluster().await;
    let own = "/api/v1/nodes/a";
    for (why, patch) in [
        ("labels: node-role.kubernetes.io/control-plane", json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}})),
        ("labels: x.node-restriction.kubernetes.io/y", json!({"metadata": {"labels": {"x.node-restriction.kubernetes.io/y": "z"}}})),
        ("labels: example.k8s.io/y", json!({"metadata": {"labels": {"example.k8s.io/y": "z"}}})),
        ("modify taints", json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})),
        (
            "modify ownerReferences",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "z", "uid": "u"}]}}),
        ),
    ] {
        for path in [own.to_owned(), format!("{own}?dryRun=All")] {
            let (code, message, _) = ask(&server, &node("a"), Method::PATCH, &path, &patch).await;
            assert_eq!(code, 403, "{why}: {message}");
            assert!(message.contains(why), "{why}: {message}");
        }
    }
    let labels = json!({"metadata": {"labels": {"kubernetes.io/os": "linux", "a": "b", "c.kubelet.kubernetes.io/d": "e"}}});
    let (code, message, _) = ask(&server, &node("a"), Method::PATCH, own, &labels).await;
    assert_eq!(code, 200, "{message}");
    let marked = json!({"metadata": {"name": "c", "labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let (code, message, _) = ask(&server, &node("c"), Method::POST, "/api/v1/nodes", &marked).await;
    assert_eq!(code, 403, "{message}");
    assert!(message.contains("not allowed to set the following labels: node-role.kubernetes.io/control-plane"), "{message}");
    assert_eq!(ask(&server, &node("a"), Method::PATCH, "/api/v1/nodes/b", &json!({"metadata": {"labels": {"a": "b"}}})).await.0, 403);
    assert_eq!(ask(&server, &node("a"), Method::POST, "/api/v1/nodes", &json!({"metadata": {"name": "d"}})).await.0, 403);
}

#[tokio::test]
async fn a_node_reports_on_its_pods_and_changes_nothing_else_of_them() {
    let (server, _) = cluster().await;
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(ask(&server, &node("a"), Method::PATCH, &format!("{PODS}/on-a/status"), &status).await.0, 200);
    let (code, message, _) = ask(&server, &node("a"), Method::PATCH, &format!("{PODS}/on-b/status"), &status).await;
    assert!(code == 403 && message.contains("set to itself"), "{message}");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let (code, message, _) = ask(&server, &node("a"), Method::PATCH, &format!("{PODS}/on-a/status"), &labels).await;
    assert!(code == 403 && message.contains("cannot update labels through pod status"), "{message}");
    assert_eq!(ask(&server, &node("a"), Method::PATCH, &format!("{PODS}/on-a"), &labels).await.0, 403);
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let (code, message, _) = ask(&server, &node("a"), Method::POST, &format!("{PODS}/on-b/eviction"), &eviction("on-b")).await;
    assert!(code == 403 && message.contains("can only evict pods with spec.nodeName set to itself"), "{message}");
    assert_eq!(ask(&server, &node("a"), Method::DELETE, &format!("{PODS}/on-b"), &Value::Null).await.0, 403);
    assert_eq!(ask(&server, &node("a"), Method::DELETE, PODS, &Value::Null).await.0, 403);
    assert_eq!(ask(&server, &node("a"), Method::POST, &format!("{PODS}/on-a/eviction"), &eviction("on-a")).await.0, 201);
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_pods_only() {
    let (server, _) = cluster().await;
    let uid = |name: &'static str| {
        let server = server.clone();
        async move { send(&server, Method::GET, &format!("{PODS}/{name}"), Full::default()).await.1["metadata"]["uid"].clone() }
    };
    let (on_a, on_b) = (uid("on-a").await, uid("on-b").await);
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    let good = |audiences: Value| json!({"spec": {"audiences": audiences, "boundObjectRef": bound("on-a", &on_a)}});
    for audiences in [json!([]), json!(["vault"])] {
        let (code, message, answer) = ask(&server, &node("a"), Method::POST, tokens, &good(audiences)).await;
        assert_eq!(code, 201, "{message}");
        assert!(answer["status"]["token"].as_str().is_some_and(|token| token.len() > 100));
    }
    for (why, request) in [
        ("not bound to a pod", json!({"spec": {}})),
        ("not bound to a pod", json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "used"}}})),
        ("without a uid", json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "on-a"}}})),
        ("does not match the UID in record", json!({"spec": {"boundObjectRef": bound("on-a", &on_b)}})),
        ("scheduled on a different node", json!({"spec": {"boundObjectRef": bound("on-b", &on_b)}})),
        ("not found in pod spec volume", good(json!(["https://kubernetes.default.svc.cluster.local"]))),
        ("0 or 1 audiences", good(json!(["vault", ""]))),
    ] {
        let (code, message, _) = ask(&server, &node("a"), Method::POST, tokens, &request).await;
        assert!(code == 403 && message.contains(why), "{why}: {code} {message}");
    }
    let boss = "/api/v1/namespaces/default/serviceaccounts/boss/token";
    assert_eq!(ask(&server, &node("a"), Method::POST, boss, &good(json!([]))).await.0, 403);
}

#[tokio::test]
async fn a_node_renews_its_own_lease() {
    let (server, _) = cluster().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    assert_eq!(ask(&server, &node("a"), Method::POST, leases, &lease("a")).await.0, 201);
    let (code, message, _) = ask(&server, &node("a"), Method::POST, leases, &lease("b")).await;
    assert!(code == 403 && message.contains("same name as the requesting node"), "{message}");
    let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    assert_eq!(ask(&server, &node("a"), Method::POST, elsewhere, &lease("a")).await.0, 403);
}

fn signing_request(name: &str, signer: &str, common_names: &[&str], organization: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The library takes one of each kind, unless the kind is given by its number.
    let kinds = [rcgen::DnType::CommonName, rcgen::DnType::CustomDnType(vec![2, 5, 4, 3])];
    for (kind, name) in kinds.into_iter().zip(common_names) {
        params.distinguished_name.push(kind, *name);
    }
    params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {"signerName": signer, "usages": ["client auth"], "request": STANDARD.encode(pem)}})
}

#[tokio::test]
async fn requests_for_certificates_name_no_master_and_signing_wants_the_right() {
    let server = server().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let client = "kubernetes.io/kube-apiserver-client";
    let master = signing_request("m", client, &["eve"], "system:masters");
    let (code, message) = send(&server, Method::POST, requests, full(&master)).await;
    assert_eq!(code, 403);
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert!(message["message"].as_str().unwrap().contains(why), "{message}");
    assert_eq!(send(&server, Method::POST, requests, full(&signing_request("ok", client, &["ann"], "devs"))).await.0, 201);
    // For nodes, in their own name.
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    let foreign = signing_request("n1", kubelet, &["system:node:b"], "system:nodes");
    let (code, message, _) = ask(&server, &node("a"), Method::POST, requests, &foreign).await;
    assert!(code == 403 && message.contains("can only create a node CSR with CN=system:node:a"), "{message}");
    let several = signing_request("n1", kubelet, &["system:node:b", "system:node:a"], "system:nodes");
    let (code, message, _) = ask(&server, &node("a"), Method::POST, requests, &several).await;
    assert!(code == 403 && message.contains("several common names"), "{message}");
    let own = signing_request("n2", kubelet, &["system:node:a"], "system:nodes");
    assert_eq!(ask(&server, &node("a"), Method::POST, requests, &own).await.0, 201);
    // A user who may write the status needs the signer's consent as well.
    let verbs = json!(["get", "update", "patch"]);
    let rules = json!([{"verbs": verbs, "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/status"]}]);
    super::escalation::granted(&server, "clerk", rules).await;
    let certificate = json!({"status": {"certificate": STANDARD.encode("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")}});
    let path = format!("{requests}/ok/status");
    let (code, message, _) = ask(&server, &User::system("clerk", &[]), Method::PATCH, &path, &certificate).await;
    assert!(code == 403 && message.contains("user not permitted to sign requests with signerName"), "{code} {message}");
}

/// `metadata.name` in a selector names one object; anything more does not.
#[tokio::test]
async fn only_a_selector_of_one_name_is_about_one_object() {
    let (server, _) = cluster().await;
    for selector in ["metadata.name%3Da%2Cmetadata.name%3Db", "metadata.name!%3Da", "metadata.name%3D%3Da%2Cspec.unschedulable%3Dtrue"] {
        let path = format!("/api/v1/nodes?fieldSelector={selector}");
        let request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        assert_eq!(send_as(&server, &node("a"), request).await.0, 403, "{selector}");
    }
}

#[tokio::test]
async fn a_node_claims_no_more_than_its_share_of_the_pod_addresses() {
    let range = |range: &str, node_prefix| PodRange { range: range.parse().unwrap(), node_prefix };
    let pod_ranges = vec![range("10.244.0.0/16", 24), range("fd00:10::/48", 64)];
    let server = server_with(AdmissionSettings { pod_ranges, ..AdmissionSettings::default() }).await;
    let register = async |name: &str, spec: Value| {
        let new = json!({"metadata": {"name": name}, "spec": spec});
        let (code, message, _) = ask(&server, &node(name), Method::POST, "/api/v1/nodes", &new).await;
        (code, message)
    };
    for claims in [json!(["10.244.0.0/16"]), json!(["10.244.4.0/23"]), json!(["10.244.4.0/25"]), json!(["10.9.0.0/24"])] {
        let (code, message) = register("greedy", json!({"podCIDRs": claims, "podCIDR": claims[0]})).await;
        assert_eq!(code, 403, "{claims}: {message}");
        assert!(message.contains("nodes of this cluster have a /24 of 10.244.0.0/16 and a /64 of fd00:10::/48"), "{message}");
    }
    let (code, message) = register("greedy", json!({"podCIDR": "10.244.4.0/24", "podCIDRs": ["10.244.4.0/24", "fd00::/16"]})).await;
    assert_eq!(code, 403, "{message}");
    assert_eq!(register("none", json!({})).await, (201, String::new()));
    let both = json!({"podCIDR": "10.244.4.0/24", "podCIDRs": ["10.244.4.0/24", "fd00:10:0:4::/64"]});
    assert_eq!(register("both", both).await, (201, String::new()));
    // Nor later, and by no label that keeps the controller away.
    let simulated = json!({"metadata": {"name": "late", "labels": {"everynode.dev/simulated": "true"}}});
    assert_eq!(ask(&server, &node("late"), Method::POST, "/api/v1/nodes", &simulated).await.0, 201);
    let all = json!({"spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]}});
    let (code, message, _) = ask(&server, &node("late"), Method::PATCH, "/api/v1/nodes/late", &all).await;
    assert!(code == 403 && message.contains("not allowed to have the pod range 10.244.0.0/16"), "{code} {message}");
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(ask(&server, &node("both"), Method::PATCH, "/api/v1/nodes/both", &labels).await.0, 200);
    // What an administrator writes is theirs to know.
    let new = json!({"metadata": {"name": "set"}, "spec": {"podCIDR": "10.9.0.0/16"}});
    assert_eq!(send(&server, Method::POST, "/api/v1/nodes", full(&new)).await.0, 201);
}

/// The account of the DaemonSet `pod-network` may write all nodes by its rights.
#[tokio::test]
async fn the_pod_network_writes_one_condition_of_its_own_node() {
    let (server, _) = cluster().await;
    let role = json!({"metadata": {"name": "pod-network"}, "rules": [
        {"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["create", "patch", "update"]},
    ]});
    let binding = json!({
        "metadata": {"name": "pod-network"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pod-network"},
        "subjects": [{"kind": "ServiceAccount", "name": "pod-network", "namespace": "kube-system"}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        assert_eq!(send(&server, Method::POST, &format!("{rbac}/{plural}"), full(&object)).await.0, 201);
    }
    server.registry().caches.wait_for(server.registry().revision()).await;
    let account = "system:serviceaccount:kube-system:pod-network";
    let mut on_a = User::system(account, &["system:serviceaccounts", "system:authenticated"]);
    let unbound = on_a.clone();
    on_a.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec!["a".to_owned()]);
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "False", "reason": "R", "message": "m"}]}});
    let key = json!({"metadata": {"annotations": {"everynode.dev/wireguard-public-key": "k"}}});
    let patch = async |user: &User, path: &str, patch: &Value| {
        let (code, message, _) = ask(&server, user, Method::PATCH, &format!("/api/v1/nodes/{path}"), patch).await;
        (code, message)
    };
    assert_eq!(patch(&on_a, "a/status", &condition("NetworkUnavailable")).await, (200, String::new()));
    assert_eq!(patch(&on_a, "a", &key).await, (200, String::new()));
    let admin_key = json!({"metadata": {"annotations": {"everynode.dev/wireguard-public-key": "of b"}}});
    let admin = User::system("admin", &[crate::request::MASTERS]);
    assert_eq!(patch(&admin, "b", &admin_key).await, (200, String::new()));
    server.registry().caches.wait_for(server.registry().revision()).await;
    let refused = [
        (&on_a, "a", admin_key.clone(), "another node has that key"),
        (&on_a, "b/status", condition("NetworkUnavailable"), "not allowed to modify other nodes"),
        (&on_a, "b", key.clone(), "not allowed to modify other nodes"),
        (&unbound, "a/status", condition("NetworkUnavailable"), "bound to a pod"),
        (&on_a, "a/status", condition("Ready"), "may only change the condition"),
        (&on_a, "a/status", json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}), "may only change"),
        (&on_a, "a", json!({"metadata": {"labels": {"x": "y"}}}), "may only change"),
        (&on_a, "a", json!({"metadata": {"annotations": {"x": "y"}}}), "may only change"),
        (&on_a, "a", json!({"spec": {"podCIDR": "10.0.0.0/8", "podCIDRs": ["10.0.0.0/8"]}}), "may only change"),
        (&on_a, "a", json!({"spec": {"unschedulable": true}}), "may only change"),
    ];
    for (user, path, change, why) in refused {
        let (code, message) = patch(user, path, &change).await;
        assert!(code == 403 && message.contains(why), "{path} {change}: {code} {message}");
    }
    let new = json!({"metadata": {"name": "c"}});
    let (code, message, _) = ask(&server, &on_a, Method::POST, "/api/v1/nodes", &new).await;
    assert!(code == 403 && message.contains("does not create nodes"), "{message}");
}
