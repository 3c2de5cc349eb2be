//! `why`, `plan` and `controller`, as people call them.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::{Home, Server, wait_for};

const AGENT: &str = include_str!("../../../../examples/node-agent.yaml");
const WEB: &str = "/apis/apps/v1/namespaces/default/daemonsets/node-agent";

struct Asked {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program against a server.
fn ask(home: &Home, server: &Server, arguments: &[&str]) -> Asked {
    let kubeconfig = server.kubeconfig();
    let mut command = home.everynode(arguments);
    command.arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("the program under test can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Asked { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A server with three nodes and the example's set on all of them.
fn fleet() -> Server {
    let server = Server::start(&["--simulate", "3"]);
    let set = kinds::yaml::parse(AGENT).expect("the example is YAML").0.into_value();
    server.admin().create("/apis/apps/v1/namespaces/default/daemonsets", &set);
    wait_for("three pods", || (server.admin().get(WEB).json()["status"]["numberAvailable"] == 3).then_some(()));
    server
}

fn taint(server: &Server, node: &str, effect: &str) {
    let patch = format!(r#"{{"spec":{{"taints":[{{"key":"maint","value":"x","effect":"{effect}"}}]}}}}"#);
    let path = format!("/api/v1/nodes/{node}");
    let answer = server.admin().ask("PATCH", &path, "application/merge-patch+json", patch.as_bytes()).expect("the server answers");
    assert_eq!(answer.code, 200);
}

#[test]
fn why_answers_for_every_node_and_for_one() {
    let (home, server) = (Home::new(), fleet());
    taint(&server, "everynode-2", "NoExecute");
    wait_for("the pod to go", || (server.admin().get(WEB).json()["status"]["desiredNumberScheduled"] == 2).then_some(()));
    let all = ask(&home, &server, &["why", "ds/node-agent"]);
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    let lines: Vec<&str> = all.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", all.stdout);
    assert!(lines[1].starts_with("everynode-1  runs") && lines[1].ends_with("available"), "{}", lines[1]);
    assert!(lines[2].ends_with("taint maint=x:NoExecute is not tolerated"), "{}", lines[2]);
    let one = ask(&home, &server, &["why", "ds/node-agent", "everynode-2", "-o", "json"]);
    let answer: Value = serde_json::from_str(&one.stdout).expect("it is JSON");
    assert_eq!(answer["nodes"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["nodes"][0]["code"], "Taint");
}

#[test]
fn why_says_what_is_not_there() {
    let (home, server) = (Home::new(), Server::start(&[]));
    let asked = ask(&home, &server, &["why", "ds/nothing"]);
    assert_eq!(asked.code, Some(1));
    assert!(asked.stderr.contains("there is no DaemonSet \"nothing\" in namespace \"default\""), "{}", asked.stderr);
    let asked = ask(&home, &server, &["why", "deploy/web"]);
    assert!(asked.stderr.contains("write ds/NAME"), "{}", asked.stderr);
}

#[test]
fn plan_tells_and_changes_nothing() {
    let (home, server) = (Home::new(), fleet());
    let before = server.admin().get(WEB).text();
    let updated = home.file("updated.yaml", &AGENT.replace("agent:builtin", "agent:next"));
    let asked = ask(&home, &server, &["plan", "-f", updated.to_str().unwrap()]);
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    assert!(asked.stdout.contains("replaces 3 pods in 3 waves of at most 1"), "{}", asked.stdout);
    assert!(asked.stdout.contains("at most 1 node without an available pod at a time"), "{}", asked.stdout);
    assert_eq!(server.admin().get(WEB).text(), before);
}

#[test]
fn plan_ends_with_two_when_a_node_would_lose_its_pod() {
    let (home, server) = (Home::new(), fleet());
    let narrowed = AGENT.replace("    spec:\n", "    spec:\n      nodeSelector: {kubernetes.io/hostname: everynode-2}\n");
    let narrowed = home.file("narrowed.yaml", &narrowed);
    let asked = ask(&home, &server, &["plan", "-f", narrowed.to_str().unwrap(), "-o", "json"]);
    assert_eq!(asked.code, Some(2), "{}", asked.stderr);
    let forecast: Value = serde_json::from_str(&asked.stdout).expect("it is JSON");
    assert_eq!(forecast[0]["lost"].as_array().map(Vec::len), Some(2));
    let wrong = home.file("wrong.yaml", &AGENT.replace("image:", "imagee:").replace("app: node-agent}\n    spec", "app: other}\n    spec"));
    let asked = ask(&home, &server, &["plan", "-f", wrong.to_str().unwrap()]);
    assert_eq!(asked.code, Some(1));
    assert!(asked.stderr.contains("the server would refuse \"node-agent\""), "{}", asked.stderr);
}

#[test]
fn the_controller_alone_serves_another_api_server() {
    let home = Home::new();
    let server = Server::start(&["--controllers", "none", "--disable-admission-plugins", "ServiceAccount"]);
    let api = server.admin();
    let node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    api.create("/api/v1/nodes", &node);
    let lifted = api.ask("PATCH", "/api/v1/nodes/n1", "application/merge-patch+json", br#"{"spec":{"taints":null}}"#);
    assert_eq!(lifted.expect("the server answers").code, 200);
    let set = kinds::yaml::parse(AGENT).expect("the example is YAML").0.into_value();
    api.create("/apis/apps/v1/namespaces/default/daemonsets", &set);
    let mut command = home.everynode(&["controller", "--kubeconfig"]);
    let mut process = command.arg(server.kubeconfig()).spawn().expect("the program under test can be started");
    wait_for("its pod", || {
        let pods = api.get("/api/v1/namespaces/default/pods").json();
        (pods["items"].as_array()?.len() == 1).then_some(())
    });
    process.kill().expect("it runs");
    process.wait().expect("it ends");
}
