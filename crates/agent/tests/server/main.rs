//! A node's endpoints over real TLS, behind a real API server in this process, with a runtime that
//! runs processes of this machine.
//!
//! [`cluster`] makes the pair, [`fake`] is the runtime, [`client`] speaks HTTP, WebSocket and SPDY;
//! [`kubectl`] is the real one.

mod client;
mod cluster;
mod fake;
mod kubectl;

use std::time::Duration;

use bytes::Bytes;
use client::{Exec, Transport};
use cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TRANSPORTS: [Transport; 5] = [Transport::Spdy, Transport::V5, Transport::V4, Transport::Base64, Transport::Plain];

/// All answers over whichever way are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_told_apart_by_their_streams_and_codes() {
    let cluster = Cluster::start().await;
    for transport in TRANSPORTS {
        let exec = Exec::new(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
        let done = client::exec(&cluster, transport, &exec).await;
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"), "{transport:?}");
        match transport {
            Transport::Plain => assert_eq!(done.error, "command terminated with non-zero exit code: exit status 3"),
            _ => {
                let status: serde_json::Value = serde_json::from_str(&done.error).unwrap();
                assert_eq!((&status["reason"], &status["details"]["causes"][0]["message"]), (&"NonZeroExitCode".into(), &"3".into()));
            }
        }
    }
    let missing = client::exec(&cluster, Transport::Spdy, &Exec::new(&["/no/such/program"])).await;
    assert!(missing.error.contains("Internal error occurred: error executing command in container"), "{}", missing.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_reaches_the_process_with_its_end() {
    let cluster = Cluster::start().await;
    // More than all windows and queues together hold; wc answers only after the end.
    let input = vec![b'x'; 1_000_000];
    for transport in [Transport::Spdy, Transport::V5] {
        let done = client::exec(&cluster, transport, &Exec { input: Some(input.clone()), ..Exec::new(&["wc", "-c"]) }).await;
        assert_eq!(done.stdout.trim(), "1000000", "{transport:?}");
        let done = client::exec(&cluster, transport, &Exec { input: Some(input.clone()), ..Exec::new(&["cat"]) }).await;
        assert_eq!(done.stdout.len(), input.len(), "{transport:?}");
        let done = client::exec(&cluster, transport, &Exec { input: Some(b"attached".to_vec()), ..Exec::new(&[]) }).await;
        assert_eq!(done.stdout, "attached", "{transport:?}");
        // The rest of the input of a process that reads nothing is dropped.
        let done = client::exec(&cluster, transport, &Exec { input: Some(b"ignored".to_vec()), ..Exec::new(&["true"]) }).await;
        assert!(done.error.contains("Success"), "{transport:?}: {}", done.error);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_are_resized() {
    let cluster = Cluster::start().await;
    for transport in [Transport::Spdy, Transport::V5] {
        let exec = Exec { sizes: Some("{\"Width\":100,\"Height\":30}\n".to_owned()), ..Exec::new(&["sh", "-c", "sleep 1"]) };
        let done = client::exec(&cluster, transport, &exec).await;
        assert!(done.error.contains("Success"), "{transport:?}: {}", done.error);
        let size = cluster.runtime.last_size().unwrap();
        assert_eq!((size.columns, size.rows), (100, 30), "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_ends_with_its_client() {
    let cluster = Cluster::start().await;
    let upgraded = client::upgrade(&cluster, Transport::V4, &Exec::new(&["sleep", "1000"]).path()).await;
    cluster.until("the process runs", || cluster.runtime.processes() == 1).await;
    drop(upgraded);
    cluster.until("the process has ended", || cluster.runtime.processes() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_does_not_hold_up_a_stop() {
    let cluster = Cluster::start().await;
    let _upgraded = client::upgrade(&cluster, Transport::V4, &Exec::new(&["sleep", "1000"]).path()).await;
    let runtime = cluster.runtime.clone();
    cluster.until("the process runs", || runtime.processes() == 1).await;
    tokio::time::timeout(Duration::from_secs(4), cluster.stop()).await.expect("the server stops in time");
    tokio::time::timeout(Duration::from_secs(5), async {
        while runtime.processes() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the process ends");
}

/// A GET is all that a WebSocket needs to begin; the permission to read pods is not enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_something_takes_more_than_reading() {
    let cluster = Cluster::start().await;
    let role = serde_json::json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get"]}]});
    let binding = serde_json::json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}],
    });
    for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{plural}");
        assert_eq!(client::send(&cluster, "admin", "POST", &path, object.to_string()).await.0, 201);
    }
    assert_eq!(client::send(&cluster, "nobody", "GET", "/api/v1/namespaces/default/pods/p", String::new()).await.0, 200);
    let (code, text) = client::send(&cluster, "nobody", "GET", &Exec::new(&["id"]).path(), String::new()).await;
    assert!(code == 403 && text.contains("cannot create resource"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_in_all_their_forms() {
    let cluster = Cluster::start().await;
    cluster.runtime.log("one\ntwo\nthree\n");
    let log = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(cluster.get(log).await, (200, "one\ntwo\nthree\n".to_owned()));
    assert_eq!(cluster.get(&format!("{log}?tailLines=1")).await, (200, "three\n".to_owned()));
    assert_eq!(cluster.get(&format!("{log}?limitBytes=5")).await, (200, "one\nt".to_owned()));
    let (code, text) = cluster.get(&format!("{log}?previous=true")).await;
    assert!(code == 400 && text.contains("previous terminated container \\\"c\\\" in pod \\\"p\\\" not found"), "{code} {text}");
    let (code, text) = cluster.get(&format!("{log}?container=x")).await;
    assert!(code == 400 && text.contains("container x is not valid for pod p"), "{code} {text}");

    let mut following = cluster.open(&format!("{log}?follow=true&tailLines=1")).await;
    assert_eq!(client::frame(&mut following).await.as_deref(), Some(&b"three\n"[..]));
    cluster.runtime.log("four\n");
    assert_eq!(client::frame(&mut following).await.as_deref(), Some(&b"four\n"[..]));
    cluster.runtime.log("five\n");
    cluster.runtime.end_container(0);
    assert_eq!(client::frame(&mut following).await.as_deref(), Some(&b"five\n"[..]));
    assert_eq!(client::frame(&mut following).await, None);
}

/// As after the server's store was put back: the agent ended a pod, and the server sends it again
/// as it was before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_there_again_runs_again() {
    let cluster = Cluster::start().await;
    let pods = &cluster.node.pods;
    let mut copy = pods.find("default", "p").unwrap().as_ref().clone();
    // One that runs once would be over: its container is not there any more.
    copy.spec.as_mut().unwrap().restart_policy = Some("Always".to_owned());
    let path = "/api/v1/namespaces/default/pods/p";
    let deletion = serde_json::json!({"gracePeriodSeconds": 1}).to_string();
    assert_eq!(client::send(&cluster, "admin", "DELETE", path, deletion).await.0, 200);
    cluster.until("the pod has ended", || cluster.runtime.is_empty() && pods.find("default", "p").is_none()).await;
    // The real watch may say only now that the pod is gone, and then once more; the agent itself
    // looks after finished workers every ten seconds.
    for _ in 0..20 {
        pods.apply(copy.clone()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if cluster.runtime.is_running() {
            break;
        }
    }
    assert!(cluster.runtime.is_running(), "it runs again");

    let mut deleted = copy.clone();
    deleted.metadata.resource_version = Some("1000000".to_owned());
    deleted.metadata.deletion_timestamp = copy.metadata.creation_timestamp.clone();
    pods.apply(deleted).await;
    cluster.until("it ends", || !cluster.runtime.is_running()).await;
    pods.listed(vec![copy]).await;
    cluster.until("it runs once more", || cluster.runtime.is_running()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_a_name_or_a_permission() {
    let cluster = Cluster::start().await;
    let agent = |user: Option<&'static str>, path: &'static str| cluster.ask_agent(user, path);
    assert_eq!(agent(None, "/pods").await.0, 401);
    assert_eq!(agent(None, "/healthz").await.0, 401);
    let (code, text) = agent(Some("nobody"), "/stats/summary").await;
    assert_eq!((code, text.as_str()), (403, "Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[stats])"));
    assert_eq!(agent(Some("admin"), "/healthz").await, (200, "ok".to_owned()));
    assert_eq!(agent(Some("admin"), "/logs/../../etc/passwd").await.0, 404);
    let (code, text) = agent(Some("admin"), "/pods").await;
    assert!(code == 200 && text.contains("\"PodList\""), "{code} {text}");
}

/// What a metrics collector in the cluster has: a token, and a role for the figures of nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_what_their_roles_allow() {
    let cluster = Cluster::start().await;
    let role = serde_json::json!({"metadata": {"name": "figures"}, "rules": [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]});
    let binding = serde_json::json!({
        "metadata": {"name": "figures"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "figures"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "collector"}],
    });
    for (path, object) in [
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", role),
        ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding),
        ("/api/v1/namespaces/default/serviceaccounts", serde_json::json!({"metadata": {"name": "collector"}})),
    ] {
        assert_eq!(client::send(&cluster, "admin", "POST", path, object.to_string()).await.0, 201, "{path}");
    }
    let path = "/api/v1/namespaces/default/serviceaccounts/collector/token";
    let (code, text) = client::send(&cluster, "admin", "POST", path, "{\"spec\":{}}".to_owned()).await;
    assert_eq!(code, 201, "{text}");
    let request: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = request["status"]["token"].as_str().unwrap();
    assert_eq!(cluster.ask_agent_with_token(token, "/metrics/resource").await, 200);
    assert_eq!(cluster.ask_agent_with_token(token, "/stats/summary").await, 403);
    assert_eq!(cluster.ask_agent_with_token("made.up.token", "/metrics/resource").await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded() {
    let cluster = Cluster::start().await;
    let port = echo_server().await;
    let path = format!("/api/v1/namespaces/default/pods/p/portforward?ports={port}");
    for transport in [Transport::Spdy, Transport::Tunnel] {
        let mut spdy = client::spdy(&cluster, transport, &path).await;
        let mut open = Vec::new();
        for number in 0..20 {
            let (id, port) = (number.to_string(), port.to_string());
            let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", id.as_str())];
            let (_, error) = spdy.open(&headers("error")).await.unwrap();
            let (data, answers) = spdy.open(&headers("data")).await.unwrap();
            data.send(format!("hello {number}")).await.unwrap();
            data.end().await.unwrap();
            open.push((number, error, answers));
        }
        for (number, error, answers) in open {
            assert_eq!(client::all(answers).await, format!("hello {number}"), "{transport:?}");
            assert_eq!(client::all(error).await, "");
        }
        let headers = |kind| [("streamtype", kind), ("port", "1"), ("requestid", "x")];
        let (_, error) = spdy.open(&headers("error")).await.unwrap();
        let (_data, _) = spdy.open(&headers("data")).await.unwrap();
        assert!(client::all(error).await.starts_with("error forwarding port 1 to pod"));
    }
    let mut channels = client::channels(&cluster, Transport::V4, &path, &[0, 1]).await;
    channels.outlet(0).send("ping").await.unwrap();
    let number = Bytes::copy_from_slice(&port.to_le_bytes());
    assert_eq!(channels.next(0).await, Some(number.clone()));
    assert_eq!(channels.next(1).await, Some(number));
    assert_eq!(channels.next(0).await, Some(Bytes::from_static(b"ping")));
}

/// Answers what it is sent, and ends when its client does.
async fn echo_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    if stream.write_all(&piece[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_reach_the_metrics_api() {
    let cluster = Cluster::start().await;
    let (code, summary) = cluster.get("/api/v1/nodes/node/proxy/stats/summary").await;
    assert_eq!(code, 200, "{summary}");
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 1 << 20);
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64() > Some(0));
    for (path, name) in [
        ("metrics", "kubelet_running_pods 1"),
        ("metrics/resource", "container_memory_working_set_bytes{container=\"c\",namespace=\"default\",pod=\"p\"} 1048576"),
        ("metrics/cadvisor", "image=\"sha256:1\",name=\"c-0\",namespace=\"default\",pod=\"p\",cpu=\"total\"}"),
    ] {
        let (code, text) = cluster.get(&format!("/api/v1/nodes/node/proxy/{path}")).await;
        assert!(code == 200 && text.contains(name), "{path}: {text}");
    }
    let missing = "/apis/metrics.k8s.io/v1beta1/nodes/node";
    assert_eq!(cluster.get(missing).await.0, 404);
    cluster.collect_figures().await;
    let (code, node) = cluster.get(missing).await;
    assert!(code == 200 && node.contains("\"NodeMetrics\""), "{code} {node}");
    let (_, pods) = cluster.get("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods").await;
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods["items"][0]["containers"][0]["usage"]["memory"], "1Mi", "{pods}");
    let (_, none) = cluster.get("/apis/metrics.k8s.io/v1beta1/pods?labelSelector=a%3Db").await;
    assert!(none.contains("\"items\":[]"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_told_in_the_words_of_dialing() {
    let cluster = Cluster::start().await;
    cluster.stop_agent().await;
    let (code, text) = cluster.get("/api/v1/namespaces/default/pods/p/log").await;
    assert!(code == 500 && text.contains("dial tcp 127.0.0.1:") && text.contains("connect: connection refused"), "{code} {text}");
    tokio::time::timeout(Duration::from_secs(5), cluster.stop()).await.expect("the server stops in time");
}
