//! Who containers run as, what they see and may do.

use std::fs;

use containers::{Device, HostNamespaces, Mount, Seccomp, SecurityContext};
use runtime::port::Runtime as _;
use serde_json::json;

use crate::fixture::Daemon;

#[tokio::test(flavor = "multi_thread")]
async fn users_capabilities_mounts_and_environment() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut pod = daemon.sandbox_config("secure");
    pod.dns.servers = vec!["10.0.0.10".into()];
    pod.dns.searches = vec!["default.svc.cluster.local".into()];
    pod.dns.options = vec!["ndots:5".into()];
    let sandbox = daemon.sandbox(&pod).await;

    let mut config = daemon.config("env", "echo $FROM_IMAGE $MINE; cat /etc/resolv.conf; cat /proc/sys/kernel/hostname").await;
    config.env = vec![("MINE".into(), "a b".into())];
    let (_, lines) = daemon.output(&sandbox, &pod, &config).await;
    assert_eq!(lines, ["yes a b", "search default.svc.cluster.local", "nameserver 10.0.0.10", "options ndots:5", "secure"]);

    let shared = daemon.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("there"), "from the node").unwrap();
    let mount = |to: &str, read_only| Mount {
        host_path: shared.clone(),
        container_path: to.into(),
        read_only,
        recursive_read_only: false,
        image: None,
        propagation: Default::default(),
    };
    let mut config = daemon.config("mounts", "cat /rw/there; echo; touch /rw/new; touch /ro/bad || echo refused").await;
    config.mounts = vec![mount("/rw", false), mount("/ro", true)];
    let (_, lines) = daemon.output(&sandbox, &pod, &config).await;
    assert!(lines.contains(&"from the node".to_owned()) && lines.contains(&"refused".to_owned()), "{lines:?}");
    assert!(shared.join("new").exists() && !shared.join("bad").exists());

    let mut config = daemon.config("user", "id -u; id -g; id -G; grep -E 'CapEff|NoNewPrivs' /proc/self/status").await;
    config.security = SecurityContext {
        run_as_user: Some(1000),
        run_as_group: Some(3000),
        supplemental_groups: vec![4000],
        no_new_privileges: true,
        drop_capabilities: vec!["ALL".into()],
        ..Default::default()
    };
    let (status, lines) = daemon.output(&sandbox, &pod, &config).await;
    assert_eq!((status.exit_code, &lines[..2]), (0, &["1000".to_owned(), "3000".to_owned()][..]));
    assert!(lines[2].split(' ').any(|g| g == "4000"), "{lines:?}");
    assert_eq!(lines[3..], ["CapEff:\t0000000000000000", "NoNewPrivs:\t1"]);

    // A group alone: the user is the image's.
    let mut config = daemon
        .config("group", "id -u; id -g; grep CapEff /proc/self/status; grep -c ' /proc/sys ' /proc/mounts; touch /x || echo read-only")
        .await;
    config.security = SecurityContext {
        run_as_group: Some(3000),
        read_only_root: true,
        drop_capabilities: vec!["ALL".into()],
        add_capabilities: vec!["NET_ADMIN".into()],
        ..Default::default()
    };
    let (_, mut lines) = daemon.output(&sandbox, &pod, &config).await;
    lines.retain(|l| !l.starts_with("touch:"));
    assert_eq!(lines, ["0", "3000", "CapEff:\t0000000000001000", "1", "read-only"]);

    let mut config = daemon.config("privileged", "grep CapEff /proc/self/status; grep -c ' /proc/sys ' /proc/mounts").await;
    config.security.privileged = true;
    let (_, lines) = daemon.output(&sandbox, &pod, &config).await;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.contains(&lines[0]) && lines[1] == "0", "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_as_asked() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut pod = daemon.sandbox_config("shares");
    pod.share_process_namespace = true;
    let sandbox = daemon.sandbox(&pod).await;
    let (_, lines) = daemon.output(&sandbox, &pod, &daemon.config("c", "cat /proc/1/cmdline").await).await;
    assert!(lines[0].contains("sleep"), "the sandbox's process is the first: {lines:?}");

    let mut pod = daemon.sandbox_config("node");
    pod.host = HostNamespaces { network: true, pid: true, ipc: true };
    pod.hostname = String::new();
    let sandbox = daemon.sandbox(&pod).await;
    let status = daemon.client.sandboxes().await.unwrap().into_iter().find(|s| s.id == sandbox).unwrap();
    assert_eq!((status.host, status.addresses), (pod.host, vec![]));
    let script = "ls -l /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/ipc | grep -o '[a-z]*:.[0-9]*.$'";
    let (_, lines) = daemon.output(&sandbox, &pod, &daemon.config("c", script).await).await;
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_string_lossy().into_owned();
    for name in ["net", "pid", "ipc"] {
        assert!(lines.contains(&own(name)), "{name}: {lines:?}");
    }

    // An ephemeral container sees the processes of its target.
    let pod = daemon.sandbox_config("target");
    let sandbox = daemon.sandbox(&pod).await;
    let target = daemon.run(&sandbox, &pod, &daemon.config("target", "exec sleep 1234").await).await;
    let mut config = daemon.config("debug", "cat /proc/1/cmdline").await;
    config.security.target_container = Some(target);
    let (_, lines) = daemon.output(&sandbox, &pod, &config).await;
    assert!(lines[0].contains("1234"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_devices_and_kernel_settings() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut pod = daemon.sandbox_config("kernel");
    pod.sysctls = [("net.ipv4.ip_local_port_range".to_owned(), "20000 21000".to_owned())].into();
    let sandbox = daemon.sandbox(&pod).await;
    let (_, lines) = daemon.output(&sandbox, &pod, &daemon.config("sysctl", "cat /proc/sys/net/ipv4/ip_local_port_range").await).await;
    assert_eq!(lines, ["20000\t21000"]);

    let mut config = daemon.config("device", "dd if=/dev/mine bs=4 count=1 2>/dev/null | busybox wc -c").await;
    config.devices = vec![Device { host_path: "/dev/zero".into(), container_path: "/dev/mine".into(), permissions: "r".into() }];
    let (_, lines) = daemon.output(&sandbox, &pod, &config).await;
    assert_eq!(lines, ["4"]);

    let filter = daemon.path("filter.json");
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"});
    fs::write(&filter, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}).to_string()).unwrap();
    let script = "grep Seccomp: /proc/self/status; busybox mkdir /new && echo made || echo refused";
    for (name, seccomp, expected) in [
        ("unconfined", Seccomp::Unconfined, ["Seccomp:\t0", "made"]),
        ("default", Seccomp::RuntimeDefault, ["Seccomp:\t2", "made"]),
        ("localhost", Seccomp::Localhost(filter), ["Seccomp:\t2", "refused"]),
    ] {
        let mut config = daemon.config(name, script).await;
        config.security.seccomp = seccomp;
        let (_, mut lines) = daemon.output(&sandbox, &pod, &config).await;
        lines.retain(|l| !l.starts_with("mkdir:"));
        assert_eq!(lines, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_an_end() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("oom");
    let sandbox = daemon.sandbox(&pod).await;
    // It goes on for a while: containerd hears of the kernel's kill and of the container's end from
    // two sides, and nothing shows when it has heard of the first. On a busy machine a second was
    // not enough.
    let mut config = daemon.config("c", "dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 8; exit 9").await;
    config.resources.memory_limit_bytes = Some(32 << 20);
    let id = daemon.run(&sandbox, &pod, &config).await;
    let status = daemon.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "OOMKilled"));
}
