//! Who may do what, from outside: anonymous users, tokens, escalation, impersonation.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Client, Server, wait_for};

const DEFAULT: &str = "/api/v1/namespaces/default";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

#[test]
fn without_credentials_only_health_and_version_are_readable() {
    let server = Server::api_alone();
    let nobody = server.anonymous();
    for path in ["/readyz", "/livez", "/healthz", "/version"] {
        assert_eq!(nobody.get(path).code, 200, "{path}");
    }
    let message = nobody.get("/api/v1/pods").status(403);
    assert_eq!(message, r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope"#);
    nobody.get("/api").status(403);
    nobody.get("/metrics").status(403);
    nobody.post("/api/v1/namespaces", &json!({"metadata": {"name": "mine"}})).status(403);
}

#[test]
fn bad_tokens_are_unauthorized() {
    let server = Server::api_alone();
    let good = robot_token(&server.admin(), &json!({}));
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let (head, claims) = rest.split_once('.').unwrap();
    let unsigned = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let other_claims = claims_of(&good).to_string().replace("robot", "admin");
    let forged = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(other_claims);
    let bad = ["nonsense".to_owned(), format!("{unsigned}.{claims}."), format!("{head}.{forged}.{signature}"), format!("{head}.{claims}.")];
    for token in bad {
        assert_eq!(server.anonymous().with_token(&token).get("/readyz").status(401), "Unauthorized", "{token}");
    }
    server.anonymous().with_header("Authorization", "Basic YTpi").get("/readyz").status(401);
}

#[test]
fn a_token_for_another_audience_is_unauthorized() {
    let server = Server::api_alone();
    let token = robot_token(&server.admin(), &json!({"audiences": ["elsewhere"]}));
    server.anonymous().with_token(&token).get("/api").status(401);
}

#[test]
fn an_accounts_token_works_within_its_roles_until_the_account_is_gone() {
    let server = Server::api_alone();
    let admin = server.admin();
    let robot = server.anonymous().with_token(&robot_token(&admin, &json!({})));
    let message = robot.get(&format!("{DEFAULT}/configmaps")).status(403);
    assert!(message.contains(r#"User "system:serviceaccount:default:robot" cannot list resource "configmaps""#), "{message}");

    admin.create(&format!("{RBAC}/roles"), &role("reader", &["get", "list"], "configmaps"));
    admin.create(&format!("{RBAC}/rolebindings"), &binding("reader", "Role", "reader"));
    // Authorizers follow the store; the answer to a write does not wait for them, in Kubernetes
    // neither.
    let lists = || robot.get(&format!("{DEFAULT}/configmaps")).code;
    wait_for("the binding to count", || (lists() == 200).then_some(()));
    robot.get("/api/v1/namespaces/kube-system/configmaps").status(403);
    robot.post(&format!("{DEFAULT}/configmaps"), &json!({"metadata": {"name": "a"}})).status(403);
    robot.get(&format!("{DEFAULT}/secrets")).status(403);

    assert_eq!(admin.delete(&format!("{RBAC}/rolebindings/reader")).code, 200);
    wait_for("the binding to count no more", || (lists() == 403).then_some(()));
    assert_eq!(admin.delete(&format!("{DEFAULT}/serviceaccounts/robot")).code, 200);
    robot.get("/api").status(401);
    // Another account of that name is another account.
    admin.create(&format!("{DEFAULT}/serviceaccounts"), &json!({"metadata": {"name": "robot"}}));
    robot.get("/api").status(401);
}

#[test]
fn a_token_that_is_bound_to_a_pod_ends_with_it() {
    let server = Server::api_alone();
    let admin = server.admin();
    let container = json!({"name": "c", "image": "example.com/c"});
    let spec = json!({"serviceAccountName": "robot", "containers": [container]});
    let pod = admin.create(&format!("{DEFAULT}/pods"), &json!({"metadata": {"name": "bound"}, "spec": spec}));
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "bound", "uid": pod["metadata"]["uid"]});
    let robot = server.anonymous().with_token(&robot_token(&admin, &json!({"boundObjectRef": bound})));
    assert_eq!(robot.get("/api").code, 200);
    admin.delete(&format!("{DEFAULT}/pods/bound?gracePeriodSeconds=0"));
    wait_for("the end of the token", || (robot.get("/api").code == 401).then_some(()));
}

#[test]
fn who_may_edit_a_namespace_cannot_give_more_than_that() {
    let server = Server::api_alone();
    let admin = server.admin();
    let robot = server.anonymous().with_token(&robot_token(&admin, &json!({})));
    admin.create(&format!("{RBAC}/rolebindings"), &binding("robot-admin", "ClusterRole", "admin"));
    // What it has, it may give.
    robot.create(&format!("{RBAC}/roles"), &role("reader", &["get"], "configmaps"));
    robot.create(&format!("{RBAC}/rolebindings"), &binding("reader", "Role", "reader"));
    let message = robot.post(&format!("{RBAC}/roles"), &role("everything", &["*"], "*")).status(403);
    assert!(message.contains("is attempting to grant RBAC permissions not currently held"), "{message}");
    let message = robot.post(&format!("{RBAC}/rolebindings"), &binding("more", "ClusterRole", "cluster-admin")).status(403);
    assert!(message.contains("is attempting to grant RBAC permissions not currently held"), "{message}");
    let wider = role("reader", &["*"], "*").to_string();
    let path = format!("{RBAC}/roles/reader");
    robot.ask("PATCH", &path, "application/merge-patch+json", wider.as_bytes()).unwrap().status(403);
    robot.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role("reader", &["get"], "configmaps")).status(403);
    robot.get("/api/v1/nodes").status(403);
}

#[test]
fn impersonation_needs_the_right_to_and_gives_no_more_than_the_other_has() {
    let server = Server::api_alone();
    let admin = server.admin();
    let message = admin.with_header("Impersonate-User", "jane").get(&format!("{DEFAULT}/pods")).status(403);
    assert!(message.contains(r#"User "jane" cannot list resource "pods""#), "{message}");
    let masters = admin.with_header("Impersonate-User", "jane").with_header("Impersonate-Group", "system:masters");
    assert_eq!(masters.get(&format!("{DEFAULT}/pods")).code, 200);
    // A group without a user is a mistake, not a way around.
    let answer = admin.with_header("Impersonate-Group", "system:masters").get("/api");
    assert!((400..600).contains(&answer.code), "{}", answer.text());

    let robot = server.anonymous().with_token(&robot_token(&admin, &json!({})));
    let message = robot.with_header("Impersonate-User", "kubernetes-admin").get(&format!("{DEFAULT}/pods")).status(403);
    assert!(message.contains(r#"cannot impersonate resource "users""#), "{message}");
}

#[test]
fn the_keys_of_tokens_are_published() {
    let server = Server::api_alone();
    let admin = server.admin();
    let token = robot_token(&admin, &json!({}));
    let keys = server.anonymous().with_token(&token).get("/openid/v1/jwks").json();
    assert_eq!(keys["keys"][0]["kid"], part_of(&token, 0)["kid"], "{keys}");
    let discovery = admin.get("/.well-known/openid-configuration").json();
    assert_eq!(discovery["issuer"], claims_of(&token)["iss"], "{discovery}");
}

/// Makes the account `robot`, if need be, and asks for a token with this specification.
fn robot_token(admin: &Client, spec: &Value) -> String {
    let accounts = format!("{DEFAULT}/serviceaccounts");
    admin.create(&accounts, &json!({"metadata": {"name": "robot"}}));
    let made = admin.create(&format!("{accounts}/robot/token"), &json!({"spec": spec}));
    made["status"]["token"].as_str().expect("there is a token").to_owned()
}

fn role(name: &str, verbs: &[&str], resource: &str) -> Value {
    let group = if resource == "*" { "*" } else { "" };
    json!({"metadata": {"name": name}, "rules": [{"apiGroups": [group], "resources": [resource], "verbs": verbs}]})
}

/// Binds `robot` to a role.
fn binding(name: &str, kind: &str, role: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    })
}

fn claims_of(token: &str) -> Value {
    part_of(token, 1)
}

fn part_of(token: &str, part: usize) -> Value {
    let text = token.split('.').nth(part).expect("a token has three parts");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("parts of tokens are base64");
    serde_json::from_slice(&bytes).expect("parts of tokens are JSON")
}
