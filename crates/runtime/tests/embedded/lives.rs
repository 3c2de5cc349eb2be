//! Starting, ending, stopping, limiting.

use std::time::Duration;

use containers::{ContainerState, Error, Resources};
use runtime::port::Runtime as _;
use testing::Need;

use crate::fixture::Node;
use crate::until::LONG;

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_reasons() {
    let Some(node) = Node::new().await else { return };
    for (script, code, reason) in [("true", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -9 $$; sleep 5", 137, "Error")] {
        // The first process of a namespace cannot kill itself, so that one ends by another's
        // signal.
        let left = if code == 137 {
            let id = node.start(&node.script("sleep 60")).await;
            node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
            node.wait(&id).await
        } else {
            node.run_script(script).await
        };
        assert_eq!((left.status.exit_code, left.status.reason.as_str()), (code, reason), "{script}");
        assert!(left.status.started_at.is_some() && left.status.finished_at >= left.status.started_at);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_cannot_start() {
    let Some(node) = Node::new().await else { return };
    for (command, text) in [
        ("/nope", "unable to start container process: exec: \"/nope\": stat /nope: no such file or directory"),
        ("nope", "unable to start container process: exec: \"nope\": executable file not found in $PATH"),
        ("/etc/plain", "unable to start container process: exec: \"/etc/plain\": permission denied"),
    ] {
        let mut config = node.script("");
        config.command = vec![command.into()];
        let id = node.create(&config).await.unwrap();
        assert_eq!(node.runtime.start_container(&id).await, Err(Error::Failed(text.into())));
        let status = node.runtime.container(&id).await.unwrap();
        assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 128, "StartError"));
        assert_eq!(status.message, text);
        assert!(matches!(node.runtime.start_container(&id).await, Err(Error::FailedPrecondition(_))), "never twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gently_and_not() {
    let Some(node) = Node::new().await else { return };
    let id = node.start(&node.script("trap 'echo got TERM; exit 42' TERM; echo ready; while :; do sleep 0.05; done")).await;
    node.wait_log(&id, "ready").await;
    node.runtime.stop_container(&id, Duration::from_secs(20)).await.unwrap();
    let left = node.wait(&id).await;
    assert_eq!(left.status.exit_code, 42);
    assert_eq!(left.lines(), ["ready", "got TERM"]);

    let mut config = node.script("trap '' TERM; trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done");
    let deaf = node.start(&config).await;
    node.wait_log(&deaf, "ready").await;
    let (long, short) = (LONG * 10, Duration::from_millis(300));
    let both = async { tokio::join!(node.runtime.stop_container(&deaf, long), node.runtime.stop_container(&deaf, short)) };
    let (long, short) = tokio::time::timeout(LONG, both).await.expect("the shorter grace wins");
    long.unwrap();
    short.unwrap();
    assert_eq!(node.wait(&deaf).await.status.exit_code, 137);

    config.stop_signal = Some("SIGUSR1".into());
    config.log_path = "c/usr1.log".into();
    let named = node.start(&config).await;
    node.wait_log(&named, "ready").await;
    node.runtime.stop_container(&named, Duration::from_secs(20)).await.unwrap();
    assert_eq!(node.wait(&named).await.status.exit_code, 7);
    node.runtime.stop_container(&named, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processor_limits() {
    let Some(node) = Node::new().await else { return };
    let mut hog = node.script("exec tail /dev/zero");
    hog.resources = Resources { memory_limit_bytes: Some(32 << 20), ..Default::default() };
    let left = node.run(&hog).await;
    assert_eq!((left.status.exit_code, left.status.reason.as_str()), (137, "OOMKilled"));

    let mut child = node.script("tail /dev/zero; exit 0");
    child.resources = hog.resources.clone();
    let left = node.run(&child).await;
    assert_eq!((left.status.exit_code, left.status.reason.as_str()), (0, "Completed"), "only a child was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_a_container_runs() {
    let is_there = std::path::Path::new("/sys/fs/cgroup/cpu").exists();
    if !testing::can_run(&[Need::Machine { what: "cgroup v1", is_there }]) {
        return;
    }
    let Some(node) = Node::new().await else { return };
    let mut limited = node.script("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares; sleep 60");
    limited.resources = Resources {
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(512),
        memory_limit_bytes: Some(48 << 20),
        ..Default::default()
    };
    let id = node.start(&limited).await;
    node.wait_log(&id, "512").await;
    let more = Resources { cpu_quota_us: Some(50_000), ..Default::default() };
    node.runtime.update_resources(&id, &more).await.unwrap();
    for limit in [64 << 20, 32 << 20] {
        let more = Resources { memory_limit_bytes: Some(limit), ..Default::default() };
        node.runtime.update_resources(&id, &more).await.unwrap();
    }
    let seen = node.runtime.exec_sync(&id, &["cat".into(), "/sys/fs/cgroup/cpu/cpu.cfs_quota_us".into()], None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout).trim(), "50000");
    let write = ["sh".into(), "-c".into(), "echo 999999 > /sys/fs/cgroup/cpu/cpu.cfs_quota_us".into()];
    assert_ne!(node.runtime.exec_sync(&id, &write, None).await.unwrap().exit_code, 0, "limits cannot be lifted from inside");
    let stats = node.runtime.container_stats().await.unwrap();
    assert!(stats[0].cpu_nanoseconds > 0 && stats[0].memory_usage_bytes > 0 && stats[0].processes >= 1, "{stats:?}");
    node.runtime.remove_container(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_is_complete_and_may_be_repeated() {
    let Some(node) = Node::new().await else { return };
    let id = node.start(&node.script("sleep 60")).await;
    let never = node.create(&node.script("true")).await.unwrap();
    for _ in 0..2 {
        node.runtime.remove_container(&id).await.unwrap();
        node.runtime.remove_container(&never).await.unwrap();
    }
    assert!(!node.place.container_dir(&id).exists());
    let status = node.runtime.containers().await.unwrap();
    assert!(status.is_empty(), "{status:?}");
    for _ in 0..2 {
        node.runtime.stop_sandbox(&node.sandbox).await.unwrap();
        node.runtime.remove_sandbox(&node.sandbox).await.unwrap();
    }
    assert!(node.runtime.sandboxes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let Some(node) = Node::new().await else { return };
    let node = &node;
    let lives = (0..20).map(|n| async move {
        let left = node.run_script(&format!("exit {n}")).await;
        assert_eq!(left.status.exit_code, n);
    });
    futures::future::join_all(lives).await;
    assert_eq!(node.runtime.containers().await.unwrap().len(), 20);
    node.runtime.remove_sandbox(&node.sandbox).await.unwrap();
}
