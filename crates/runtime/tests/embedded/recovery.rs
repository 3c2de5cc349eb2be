//! What survives: an agent that is gone, a shim that is gone.

use std::time::Duration;

use containers::ContainerState;
use runtime::port::Runtime as _;

use crate::fixture::{Node, Place, kill, wait_exited};
use crate::until::until;

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_finds_everything() {
    let Some(node) = Node::new().await else { return };
    let created = node.create(&node.script("echo late")).await.unwrap();
    let ended = node.start(&node.script("exit 9")).await;
    node.wait(&ended).await;
    let running = node.start(&node.script("trap 'exit 8' TERM; while :; do echo tick; sleep 0.05; done")).await;
    node.wait_log(&running, "tick").await;
    let next = node.place.open().await;
    assert_eq!(next.sandboxes().await.unwrap(), node.runtime.sandboxes().await.unwrap());
    let state = |id: String| {
        let next = next.clone();
        async move { next.container(&id).await.unwrap() }
    };
    assert_eq!(state(created.clone()).await.state, ContainerState::Created);
    let status = state(ended.clone()).await;
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 9));
    until("a container that runs", async || state(running.clone()).await.state == ContainerState::Running).await;
    assert_eq!(next.exec_sync(&running, &["true".into()], None).await.unwrap().exit_code, 0);
    next.stop_container(&running, Duration::from_secs(10)).await.unwrap();
    assert_eq!(state(running.clone()).await.exit_code, 8);
    next.start_container(&created).await.unwrap();
    assert_eq!(wait_exited(&next, &created).await.exit_code, 0);
    next.remove_sandbox(&node.sandbox).await.unwrap();
    assert!(next.containers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_killed_takes_its_container_along() {
    let Some(node) = Node::new().await else { return };
    let id = node.start(&node.script("echo $$; exec sleep 71")).await;
    let other = node.start(&node.script("exec sleep 72")).await;
    kill(node.place.shim_pid(&id), libc::SIGKILL);
    let status = node.wait(&id).await.status;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
    assert!(node.runtime.start_container(&id).await.is_err(), "nothing runs twice");

    // The same while no agent watches: two shims die, then an agent comes.
    let place_pid = node.place.shim_pid(&other);
    kill(place_pid, libc::SIGKILL);
    wait_exited(&node.runtime, &other).await;
    let next = node.place.open().await;
    assert_eq!(next.container(&other).await.unwrap().reason, "ContainerStatusUnknown");
    for id in [id, other] {
        next.remove_container(&id).await.unwrap();
    }
    assert!(next.containers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_are_cleared_away() {
    let Some(place) = Place::new() else { return };
    let id = "0".repeat(64);
    std::fs::create_dir_all(place.dir.path().join("state/containers").join(&id).join("bundle")).unwrap();
    std::fs::create_dir_all(place.dir.path().join("root/containers").join(&id).join("upper")).unwrap();
    std::fs::create_dir_all(place.dir.path().join("state/sandboxes").join(&id).join("ns")).unwrap();
    std::fs::create_dir_all(place.dir.path().join("root/containers/of-somebody-else")).unwrap();
    let runtime = place.open().await;
    assert!(runtime.containers().await.unwrap().is_empty() && runtime.sandboxes().await.unwrap().is_empty());
    for dir in ["state/containers", "root/containers", "state/sandboxes"] {
        assert!(!place.dir.path().join(dir).join(&id).exists(), "{dir}");
    }
    assert!(place.dir.path().join("root/containers/of-somebody-else").exists());
}

/// The agent of this test is a process of its own: this test program again, with a variable that
/// makes this function the agent.
#[test]
fn an_agent_that_is_killed_leaves_everything_running() {
    const PLACE: &str = "EVERYNODE_TEST_AGENT";
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Ok(given) = std::env::var(PLACE) {
        let (dir, cgroup) = given.split_once(' ').unwrap();
        let place = Place::existing(dir.into(), cgroup);
        tokio.block_on(async {
            let node = Node::at(place, |_| {}).await;
            let id = node.start(&node.script("while :; do echo tick; sleep 0.05; done")).await;
            node.wait_log(&id, "tick").await;
            println!("\nHERE {id}");
            // Until it is killed; not forever, if the test is killed first.
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        return;
    }
    let Some(place) = Place::new() else { return };
    let name = "recovery::an_agent_that_is_killed_leaves_everything_running";
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(PLACE, format!("{} {}", place.dir.path().display(), place.cgroup))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(agent.stdout.take().unwrap()));
    let line = lines.map_while(Result::ok).find(|l| l.starts_with("HERE ")).expect("the agent started a container");
    let id = line.strip_prefix("HERE ").unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let log = place.dir.path().join("logs/c/0.log");
    let size = || std::fs::metadata(&log).unwrap().len();
    let before = size();
    tokio.block_on(async {
        until("more lines", async || size() > before).await;
        let next = place.open().await;
        next.stop_container(id, Duration::from_millis(100)).await.unwrap();
        let status = wait_exited(&next, id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    });
}
