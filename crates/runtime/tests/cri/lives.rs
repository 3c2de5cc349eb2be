//! Sandboxes and containers from their making to their end.

use std::fs;
use std::time::Duration;

use containers::{ContainerState, Error, HostNamespaces, Mount, Resources};
use runtime::port::Runtime as _;

use crate::fixture::{Daemon, is_ready};
use crate::until::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_goes() {
    let Some(daemon) = Daemon::start().await else { return };
    let version = daemon.client.version().await.unwrap();
    assert_eq!(version.name, "containerd");
    assert!(version.version.chars().all(|c| c.is_ascii_digit() || c == '.'), "{version:?}");
    let mut changes = daemon.client.changes();

    let pod = daemon.sandbox_config("lives");
    let sandbox = daemon.sandbox(&pod).await;
    let listed = daemon.client.sandboxes().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].pod, &listed[0].annotations), (&pod.pod, &pod.annotations));
    assert!(listed[0].labels["mine"] == "1" && listed[0].addresses.len() == 1 && listed[0].host == HostNamespaces::default());

    let config = daemon.config("c", "echo out; echo err >&2; exit 7").await;
    let (status, mut lines) = daemon.output(&sandbox, &pod, &config).await;
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    assert_eq!((status.exit_code, status.reason.as_str(), status.name.as_str()), (7, "Error", "c"));
    assert_eq!((&status.pod, &status.sandbox_id, status.image.as_str()), (&pod.pod, &sandbox, "busybox:test"));
    assert_eq!((&status.image_id, &status.annotations), (&config.image_id, &config.annotations));
    assert_eq!(status.log_path, pod.log_dir.join("c/0.log"));
    assert!(status.started_at.is_some() && status.finished_at >= status.started_at && status.created_at <= status.started_at.unwrap());
    assert_eq!(daemon.client.containers().await.unwrap(), std::slice::from_ref(&status));
    assert!(changes.has_changed().unwrap());

    // The client notices a change that it did not make, too.
    let mut short = daemon.config("short", "sleep 2").await;
    short.attempt = 3;
    let id = daemon.run(&sandbox, &pod, &short).await;
    assert_eq!(daemon.client.container(&id).await.unwrap().state, ContainerState::Running);
    changes.mark_unchanged();
    tokio::time::timeout(Duration::from_secs(6), changes.changed()).await.unwrap().unwrap();
    let status = daemon.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str(), status.attempt), (0, "Completed", 3));

    daemon.client.remove_container(&id).await.unwrap();
    daemon.client.remove_container(&id).await.unwrap();
    daemon.client.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(daemon.client.container(&id).await, Err(Error::NotFound { kind: "container", id: id.clone() }));
    daemon.client.stop_sandbox(&sandbox).await.unwrap();
    assert!(!is_ready(&daemon.client, &sandbox).await);
    daemon.client.remove_sandbox(&sandbox).await.unwrap();
    daemon.client.remove_sandbox(&sandbox).await.unwrap();
    daemon.client.stop_sandbox(&sandbox).await.unwrap();
    assert!(daemon.client.sandboxes().await.unwrap().is_empty() && daemon.client.containers().await.unwrap().is_empty());
    assert!(pod.log_dir.join("c/0.log").exists(), "logs stay");
    assert!(!["pids", "memory"].iter().any(|c| std::path::Path::new("/sys/fs/cgroup").join(c).join(&pod.cgroup_parent[1..]).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_killing_and_looking() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("stops");
    let sandbox = daemon.sandbox(&pod).await;

    let deaf = daemon
        .run(&sandbox, &pod, &daemon.config("deaf", "trap 'echo asked' TERM; echo ready; while true; do sleep 0.1; done").await)
        .await;
    let hears =
        daemon.run(&sandbox, &pod, &daemon.config("hears", "trap 'exit 3' TERM; echo ready; while true; do sleep 0.1; done").await).await;
    daemon.wait_log(&deaf, "ready").await;
    daemon.wait_log(&hears, "ready").await;
    daemon.client.stop_container(&deaf, Duration::from_secs(2)).await.unwrap();
    daemon.wait_log(&deaf, "asked").await;
    assert_eq!(daemon.client.container(&deaf).await.unwrap().exit_code, 137);
    daemon.client.stop_container(&hears, Duration::from_secs(20)).await.unwrap();
    assert_eq!(daemon.client.container(&hears).await.unwrap().exit_code, 3);

    let mut config = daemon.config("stats", "while true; do echo line; sleep 0.2; done").await;
    config.resources = Resources { memory_limit_bytes: Some(64 << 20), ..Default::default() };
    let id = daemon.run(&sandbox, &pod, &config).await;
    until("figures of all kinds", async || {
        let stats = daemon.client.container_stats().await.unwrap();
        let stats = stats.iter().find(|s| s.container_id == id).unwrap();
        let are_used = stats.cpu_nanoseconds > 0 && stats.memory_usage_bytes > 0 && stats.log_used_bytes > 0;
        are_used && stats.processes > 0 && stats.at.is_some()
    })
    .await;
    let network = daemon.client.sandbox_stats().await.unwrap();
    assert!(network.len() == 1 && network[0].sandbox_id == sandbox, "{network:?}");

    let limit = Resources { memory_limit_bytes: Some(96 << 20), cpu_shares: Some(512), ..Default::default() };
    daemon.client.update_resources(&id, &limit).await.unwrap();
    let group = format!("{}/{id}", pod.cgroup_parent);
    let limit = fs::read_to_string(format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"));
    let limit = limit.or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{group}/memory.max"))).unwrap();
    assert_eq!(limit.trim(), (96 << 20).to_string());
    // All that v1 can count in pages, and the word of v2.
    let none = ["9223372036854771712", "max"];
    for (asked, written) in [(128 << 20, ["134217728"; 2]), (-1, none)] {
        let whole = Resources { memory_limit_bytes: Some(asked), ..Default::default() };
        daemon.client.update_sandbox_resources(&sandbox, &whole).await.unwrap();
        let limit = fs::read_to_string(format!("/sys/fs/cgroup/memory{}/memory.limit_in_bytes", pod.cgroup_parent));
        let limit = limit.or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{}/memory.max", pod.cgroup_parent))).unwrap();
        assert!(written.contains(&limit.trim()), "{asked}: {limit}");
    }
    let pids = fs::read_to_string(format!("/sys/fs/cgroup/pids{}/pids.max", pod.cgroup_parent));
    let pids = pids.or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{}/pids.max", pod.cgroup_parent))).unwrap();
    assert_eq!(pids.trim(), "200");

    let log = pod.log_dir.join("stats/0.log");
    fs::rename(&log, pod.log_dir.join("stats/0.log.1")).unwrap();
    daemon.client.reopen_log(&id).await.unwrap();
    until("lines in the new log", async || fs::metadata(&log).is_ok_and(|log| log.len() > 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("fails");
    let sandbox = daemon.sandbox(&pod).await;
    let mut config = daemon.config("nope", "").await;
    config.command = vec!["/nope".into()];
    let id = daemon.client.create_container(&sandbox, &pod, &config).await.unwrap();
    // As a kubelet with containerd tells it.
    let text = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                container process: exec: \"/nope\": stat /nope: no such file or directory: unknown";
    assert_eq!(daemon.client.start_container(&id).await, Err(Error::Failed(text.into())));
    let status = daemon.client.container(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 128, "StartError"));
    assert_eq!(status.message, text);

    let mut config = daemon.config("mount", "true").await;
    config.mounts = vec![Mount {
        host_path: "/does/not/exist".into(),
        container_path: "/data".into(),
        read_only: false,
        recursive_read_only: false,
        image: None,
        propagation: Default::default(),
    }];
    config.image_id = "sha256:0000000000000000000000000000000000000000000000000000000000000000".into();
    let error = daemon.client.create_container(&sandbox, &pod, &config).await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error:?}");
    let gone = daemon.client.start_container("0123").await;
    assert_eq!(gone, Err(Error::NotFound { kind: "container", id: "0123".into() }));
}
