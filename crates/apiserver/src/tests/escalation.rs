//! What a user may not make of the rights that they have: roles, bindings and impersonation.

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{full, send, send_as, server};
use crate::ApiServer;
use crate::request::User;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

async fn made(server: &ApiServer, path: &str, object: Value) {
    let (code, answer) = send(server, Method::POST, path, full(&object)).await;
    assert_eq!(code, 201, "{answer}");
}

/// Gives `user` a role with these rules.
pub async fn granted(server: &ApiServer, user: &str, rules: Value) {
    made(server, ROLES, json!({"metadata": {"name": user}, "rules": rules})).await;
    let subjects = json!([{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]);
    let role = json!({"kind": "ClusterRole", "name": user, "apiGroup": "rbac.authorization.k8s.io"});
    made(server, BINDINGS, json!({"metadata": {"name": user}, "roleRef": role, "subjects": subjects})).await;
    server.registry().caches.wait_for(server.registry().revision()).await;
}

fn patch(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::PATCH).uri(path).header("content-type", "application/merge-patch+json");
    request.body(full(body)).unwrap()
}

fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    Request::builder().method(Method::POST).uri(path).body(full(body)).unwrap()
}

fn role_author() -> Value {
    json!([
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles", "clusterrolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
    ])
}

/// The rights above hold `escalate` and `bind` in their asterisk; these do not.
fn role_writer() -> Value {
    let verbs = ["get", "list", "create", "update", "patch", "delete"];
    json!([
        {"verbs": verbs, "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles", "clusterrolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
    ])
}

/// Two roles that selected each other made authorization recurse until the stack was full: the
/// server ended, and again after every start.
#[tokio::test]
async fn roles_that_aggregate_each_other_and_themselves_do_no_harm() {
    let server = server().await;
    for (name, selects) in [("a", "b"), ("b", "a"), ("c", "c")] {
        let selector = json!([{"matchLabels": {selects: "true"}}]);
        let role = json!({"metadata": {"name": name, "labels": {name: "true"}}, "aggregationRule": {"clusterRoleSelectors": selector}});
        made(&server, ROLES, role).await;
        let subjects = json!([{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}]);
        let role = json!({"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
        made(&server, BINDINGS, json!({"metadata": {"name": name}, "roleRef": role, "subjects": subjects})).await;
    }
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}}});
    let (code, answer) = send_as(&server, &User::system("root", &["system:masters"]), patch(&format!("{ROLES}/admin"), &label)).await;
    assert_eq!(code, 200, "{answer}");
    server.registry().caches.wait_for(server.registry().revision()).await;
    let request = Request::get("/api/v1/pods").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(send_as(&server, &User::system("ann", &[]), request).await.0, 403);
}

/// Labels decide what aggregated roles collect: a user who may only patch roles must not hand
/// cluster-admin to all users who may view.
#[tokio::test]
async fn a_label_on_a_role_is_a_grant() {
    let server = server().await;
    granted(&server, "writer", role_writer()).await;
    let user = User::system("writer", &[]);
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let (code, answer) = send_as(&server, &user, patch(&format!("{ROLES}/cluster-admin"), &label)).await;
    assert_eq!(code, 403, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("is attempting to grant RBAC permissions not currently held"), "{answer}");
    // The user may label a role whose rules the user holds, and may take finalizers off any role.
    let (code, answer) = send_as(&server, &user, patch(&format!("{ROLES}/writer"), &label)).await;
    assert_eq!(code, 200, "{answer}");
    let finalizers = json!({"metadata": {"finalizers": ["example.com/a"]}});
    let (code, answer) = send_as(&server, &user, patch(&format!("{ROLES}/cluster-admin"), &finalizers)).await;
    assert_eq!(code, 200, "{answer}");
    let (code, answer) = send_as(&server, &user, patch(&format!("{BINDINGS}/cluster-admin"), &label)).await;
    assert_eq!(code, 403, "{answer}");
}

#[tokio::test]
async fn an_aggregation_rule_wants_all_rights() {
    let server = server().await;
    granted(&server, "writer", role_writer()).await;
    granted(&server, "author", role_author()).await;
    let role = |name: &str| {
        let selectors = json!([{"matchLabels": {"x": "y"}}]);
        json!({"metadata": {"name": name}, "aggregationRule": {"clusterRoleSelectors": selectors}})
    };
    let (code, answer) = send_as(&server, &User::system("writer", &[]), post(ROLES, &role("one"))).await;
    assert_eq!(code, 403, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.ends_with("must have cluster-admin privileges to use an aggregationRule"), "{message}");
    let (code, answer) = send_as(&server, &User::system("author", &[]), post(ROLES, &role("two"))).await;
    assert_eq!(code, 201, "{answer}");
}

/// Headers that were not ASCII counted as absent, and the request ran as the caller.
#[tokio::test]
async fn impersonation_fails_closed() {
    let server = server().await;
    let admin = User::system("admin", &["system:masters"]);
    let get = |name: &str, value: &[u8]| {
        let request = Request::get("/api/v1/namespaces/kube-system/secrets").header(name, HeaderValue::from_bytes(value).unwrap());
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let (code, answer) = send_as(&server, &admin, get("impersonate-user", "jürgen".as_bytes())).await;
    assert_eq!(code, 403);
    assert!(answer["message"].as_str().unwrap().contains("User \"jürgen\" cannot list"), "{answer}");
    for (name, value) in [("impersonate-user", b"j\xfcrgen".as_slice()), ("impersonate-user", b""), ("impersonate-group", b"\xff")] {
        assert_eq!(send_as(&server, &admin, get(name, value)).await.0, 400, "{name}");
    }
}
