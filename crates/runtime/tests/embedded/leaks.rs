//! What fifty lives leave behind: nothing.

use std::path::Path;
use std::time::Duration;

use runtime::port::Runtime as _;

use crate::fixture::{Node, Place};

#[derive(Debug, PartialEq, Eq)]
struct Count {
    mounts: usize,
    cgroups: usize,
    descriptors: usize,
    children: usize,
    files: usize,
}

fn count(place: &Place) -> Count {
    Count {
        mounts: place.mounts().len(),
        cgroups: place.cgroups().iter().map(|c| entries(c, false)).sum(),
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        children: children(),
        files: entries(&place.dir.path().join("state"), true) + entries(&place.dir.path().join("root"), true),
    }
}

fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default().split_whitespace().count()).sum()
}

fn entries(dir: &Path, files: bool) -> usize {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { 1 + entries(&e.path(), files) } else { usize::from(files) }).sum()
}

/// Runs in a process of its own: other tests open files in this one.
#[test]
fn fifty_lives_leave_nothing() {
    const ALONE: &str = "EVERYNODE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "leaks::fifty_lives_leave_nothing";
        let args = [name, "--exact", "--nocapture"];
        let status = std::process::Command::new(std::env::current_exe().unwrap()).args(args).env(ALONE, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let Some(node) = Node::new().await else { return };
        live(&node, 0).await;
        let before = count(&node.place);
        for n in 0..50 {
            live(&node, n).await;
        }
        let mut after = count(&node.place);
        for _ in 0..100 {
            if after == before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            after = count(&node.place);
        }
        assert_eq!(after, before);
    });
}

/// Containers that end, are stopped, cannot start or never do; a command; now and then a sandbox.
async fn live(node: &Node, n: usize) {
    let runtime = &node.runtime;
    let id = match n % 4 {
        0 => node.start(&node.script("exec sleep 60")).await,
        1 => node.run_script("exit 1").await.status.id,
        2 => node.create(&node.script("true")).await.unwrap(),
        _ => {
            let mut config = node.script("");
            config.command = vec!["/nope".into()];
            let id = node.create(&config).await.unwrap();
            runtime.start_container(&id).await.unwrap_err();
            id
        }
    };
    if n.is_multiple_of(4) {
        runtime.exec_sync(&id, &["true".into()], None).await.unwrap();
        runtime.exec_sync(&id, &["nope".into()], None).await.unwrap_err();
    }
    runtime.remove_container(&id).await.unwrap();
    if n.is_multiple_of(5) {
        let mut config = node.sandbox_config.clone();
        config.cgroup_parent = "/kubepods/podu2".into();
        config.share_process_namespace = n.is_multiple_of(2);
        let sandbox = runtime.run_sandbox(&config).await.unwrap();
        runtime.remove_sandbox(&sandbox).await.unwrap();
    }
}
