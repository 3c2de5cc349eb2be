//! Sandboxes: their namespaces, and what their containers share.

use std::time::Duration;

use containers::{HostNamespaces, Resources, SandboxState};
use runtime::port::Runtime as _;

use crate::fixture::Node;
use crate::until::until;

#[tokio::test(flavor = "multi_thread")]
async fn containers_share_what_the_sandbox_has() {
    let sysctls = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())];
    let change = |c: &mut containers::SandboxConfig| {
        c.sysctls = sysctls.into();
        c.dns.servers = vec!["10.0.0.10".into()];
        c.resources.pids_limit = Some(500);
    };
    let Some(node) = Node::with(change).await else { return };
    let first = node.start(&node.script("echo note > /dev/shm/note; readlink /proc/self/ns/net; echo ready; sleep 60")).await;
    node.wait_log(&first, "ready").await;
    let left = node.run_script("cat /dev/shm/note; hostname; cat /etc/resolv.conf /proc/sys/kernel/shm_rmid_forced; ip link show lo | grep -o LOOPBACK,UP; readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ps | grep -c 'sleep 6[0]'").await;
    let lines = left.lines();
    assert_eq!(lines[..5], ["note", "pod-name", "nameserver 10.0.0.10", "1", "LOOPBACK,UP"], "{}", left.log);
    let log = std::fs::read_to_string(node.runtime.container(&first).await.unwrap().log_path).unwrap();
    assert!(log.contains(lines[5]), "one network");
    assert_eq!(lines[6], "0");
    assert_eq!(lines[7], "0", "own processes");
    let status = node.runtime.sandboxes().await.unwrap().remove(0);
    assert_eq!((status.state, status.addresses.len()), (SandboxState::Ready, 1));
    assert_eq!(node.runtime.sandbox_stats().await.unwrap().len(), 1);
    let limits =
        node.place.cgroups().iter().filter_map(|c| std::fs::read_to_string(c.join("kubepods/podu1/pids.max")).ok()).collect::<String>();
    assert_eq!(limits.trim(), "500");
    let fewer = Resources { pids_limit: Some(400), ..Resources::default() };
    node.runtime.update_sandbox_resources(&node.sandbox, &fewer).await.unwrap();
    let limits =
        node.place.cgroups().iter().filter_map(|c| std::fs::read_to_string(c.join("kubepods/podu1/pids.max")).ok()).collect::<String>();
    assert_eq!(limits.trim(), "400");
    node.runtime.stop_sandbox(&node.sandbox).await.unwrap();
    assert_eq!(node.wait(&first).await.status.exit_code, 137);
    assert_eq!(node.runtime.sandboxes().await.unwrap()[0].state, SandboxState::NotReady);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace() {
    let Some(node) = Node::with(|c| c.share_process_namespace = true).await else { return };
    let first = node.start(&node.script("(sleep 0.2 & ) ; exec sleep 61")).await;
    until("the orphan's end", async || {
        let processes = node.runtime.exec_sync(&first, &["ps".into(), "-o".into(), "stat,args".into()], None).await.unwrap().stdout;
        let processes = String::from_utf8(processes).unwrap();
        // Dead ones have no arguments.
        processes.contains("sleep 61") && !processes.contains("sleep 0.2") && !processes.contains("[sleep]")
    })
    .await;
    let left = node.run_script("ps -o pid,args; ps -o stat | grep -c Z").await;
    let lines = left.lines();
    assert!(lines.iter().any(|l| l.trim() == "1 /pause"), "{}", left.log);
    assert!(left.log.contains("sleep 61"), "{}", left.log);
    assert_eq!(*lines.last().unwrap(), "0", "orphans are buried");
    // The shell's child goes on when the shell ends, and must not.
    let second = node.start(&node.script("sleep 62 & echo ready; sleep 0.2")).await;
    node.wait(&second).await;
    let processes = node.runtime.exec_sync(&first, &["ps".into()], None).await.unwrap();
    assert!(!String::from_utf8_lossy(&processes.stdout).contains("sleep 62"));
    node.runtime.stop_container(&first, Duration::ZERO).await.unwrap();
    node.runtime.remove_sandbox(&node.sandbox).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_s_namespaces() {
    let host = HostNamespaces { network: true, pid: true, ipc: true };
    let Some(node) = Node::with(|c| c.host = host).await else { return };
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned();
    let left = node.run_script("for n in net pid ipc; do readlink /proc/self/ns/$n; done; hostname; echo $HOSTNAME").await;
    let name = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    let seen: String = left.lines()[..].join(" ");
    for expected in [own("net"), own("pid"), own("ipc"), name] {
        assert!(seen.contains(&expected), "{expected} not in {seen}");
    }
    let id = node.start(&node.script("sleep 63 & sleep 64")).await;
    node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    let status = node.wait(&id).await.status;
    assert_eq!(status.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_container_s_processes() {
    let Some(node) = Node::new().await else { return };
    let target = node.start(&node.script("exec sleep 65")).await;
    let mut config = node.script("ps -o pid,args");
    config.security.target_container = Some(target.clone());
    let left = node.run(&config).await;
    assert!(left.lines().iter().any(|l| l.trim() == "1 sleep 65"), "{}", left.log);
    assert!(node.runtime.exec_sync(&target, &["true".into()], None).await.is_ok(), "the target lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_of_the_machine_are_refused_whoever_asks() {
    let Some(place) = crate::fixture::Place::new() else { return };
    let runtime = place.open().await;
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let hostile =
        ["kernel.core_pattern", "kernel/core_pattern", "net.//.kernel.core_pattern", "net/../kernel/core_pattern", "vm.stat_interval"];
    for name in hostile {
        let mut config = place.sandbox_config();
        config.sysctls = [(name.to_owned(), before.trim().to_owned())].into();
        let error = runtime.run_sandbox(&config).await.unwrap_err().to_string();
        assert!(error.contains(&format!("sysctl {name:?} is")), "{error}");
    }
    let mut config = place.sandbox_config();
    config.host = HostNamespaces { network: true, ..HostNamespaces::default() };
    config.sysctls = [("net.ipv4.ip_forward".to_owned(), std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap())].into();
    let error = runtime.run_sandbox(&config).await.unwrap_err().to_string();
    assert!(error.contains("shares that namespace with the node"), "{error}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    assert!(runtime.sandboxes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_are_not_there() {
    let Some(place) = crate::fixture::Place::new() else { return };
    let runtime = place.open().await;
    for (handler, is_there) in [("", true), ("runc", true), ("runsc", false), ("kata", false)] {
        let mut config = place.sandbox_config();
        config.handler = handler.to_owned();
        match runtime.run_sandbox(&config).await {
            Ok(id) => {
                assert!(is_there, "{handler}");
                runtime.remove_sandbox(&id).await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.to_string(), format!("failed to get sandbox runtime: no runtime for {handler:?} is configured"));
                assert!(!is_there);
            }
        }
    }
}
