//! Sandboxes with users of their own: root inside is nobody on the node, and what it sees and makes
//! is still its own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use containers::{HostNamespaces, Mount, Propagation, SandboxConfig, Seccomp, StreamRequest, UserNamespace};
use runtime::port::Runtime as _;
use testing::Need;
use tokio::io::AsyncReadExt as _;

use crate::fixture::{Node, Place};

/// High enough to belong to no user on a machine that runs tests.
const USERS: UserNamespace = UserNamespace { first: 30_000 * 65_536, length: 65_536 };

fn own(config: &mut SandboxConfig) {
    config.user_namespace = Some(USERS);
}

/// None where the kernel or the file system cannot do it.
async fn node(change: impl FnOnce(&mut SandboxConfig)) -> Option<Node> {
    let place = Place::new()?;
    let is_there = place.open().await.has_user_namespaces();
    if !testing::can_run(&[Need::Machine { what: "id-mapped mounts", is_there }]) {
        return None;
    }
    // As the agent has it: no other user on the node can look in.
    std::fs::set_permissions(place.dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    Some(
        Node::at(place, |config| {
            own(config);
            change(config);
        })
        .await,
    )
}

fn mount(host: &Path, container: &str, read_only: bool) -> Mount {
    Mount {
        host_path: host.to_owned(),
        container_path: PathBuf::from(container),
        read_only,
        recursive_read_only: false,
        image: None,
        propagation: Propagation::Private,
    }
}

fn started(node: &Node, id: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(node.place.container_dir(id).join("started.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_nobody_on_the_node() {
    let Some(node) = node(|_| {}).await else { return };
    let script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /made; ls -ln / | grep -E 'made|bin|etc' | tr -s ' ' | cut -d' ' -f3,4,9
        hostname; hostname other 2>&1; echo ready; sleep 60";
    let id = node.start(&node.script(script)).await;
    node.wait_log(&id, "ready").await;
    let log = std::fs::read_to_string(node.runtime.container(&id).await.unwrap().log_path).unwrap();
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::trim).collect();
    let map = format!("0 {} 65536", USERS.first);
    assert_eq!(
        lines,
        [&*map, &map, "0", "0 0 bin", "0 0 etc", "0 0 made", "pod-name", "hostname: sethostname: Operation not permitted", "ready"]
    );
    // With a terminal of the container.
    let request = StreamRequest { command: vec!["tty".into()], stdout: true, tty: true, ..Default::default() };
    let session = node.runtime.exec(&id, &request).await.unwrap();
    let mut shown = String::new();
    let _ = session.stdout.unwrap().read_to_string(&mut shown).await;
    assert_eq!((shown.trim(), session.exit.await.unwrap()), ("/dev/pts/0", 0));
    let pid = started(&node, &id)["pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", USERS.first)), "{status}");
    let made = node.place.dir.path().join("root/containers").join(&id).join("upper/made").metadata().unwrap();
    assert_eq!((made.uid(), made.gid()), (USERS.first, USERS.first));
    // The namespaces are the users': the sandbox's network is theirs, too.
    let script = "tr -s ' ' < /proc/self/uid_map; id -u; echo $FROM_IMAGE; pwd; ls -d /made; grep -E 'Cap(Eff|Bnd)' /proc/self/status; ls /proc/self/fd | wc -l; hostname; exit 7";
    let command = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let seen = node.runtime.exec_sync(&id, &command, None).await.unwrap();
    let out = String::from_utf8(seen.stdout).unwrap();
    let expected = format!(" {map}\n0\nyes\n/\n/made\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n4\npod-name\n");
    assert_eq!((seen.exit_code, out), (7, expected), "{:?}", String::from_utf8(seen.stderr));
    let missing = node.runtime.exec_sync(&id, &["/nope".to_owned()], None).await.unwrap_err().to_string();
    assert_eq!(missing, "exec failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory");
    let slow = ["sleep".to_owned(), "60".to_owned()];
    let error = node.runtime.exec_sync(&id, &slow, Some(std::time::Duration::from_millis(300))).await.unwrap_err().to_string();
    assert!(error.contains("timeout"), "{error}");
    node.runtime.remove_container(&id).await.unwrap();
    node.runtime.remove_sandbox(&node.sandbox).await.unwrap();
    let left: Vec<_> = node.place.mounts().into_iter().filter(|point| !point.ends_with("helper")).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "nothing stays mounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_have_the_same_owners_inside() {
    let Some(node) = node(|_| {}).await else { return };
    let volume = node.place.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let memory = node.place.dir.path().join("memory");
    std::fs::create_dir(&memory).unwrap();
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("t"), &memory, Some("tmpfs"), flags, None::<&str>).unwrap();
    for dir in [&volume, &memory] {
        std::fs::write(dir.join("secret"), "of root").unwrap();
        std::fs::set_permissions(dir.join("secret"), std::fs::Permissions::from_mode(0o440)).unwrap();
        std::os::unix::fs::chown(dir.join("secret"), Some(0), Some(2000)).unwrap();
        std::os::unix::fs::chown(dir, Some(0), Some(2000)).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o2775)).unwrap();
    }
    std::fs::write(node.place.dir.path().join("single"), "one").unwrap();
    let script = "id -u; id -G; stat -c '%u %g' /v/secret /m/secret /declared /single /dev/shm /etc/resolv.conf; cat /v/secret /m/secret; echo
        touch /v/made /m/made; touch /ro/x 2>&1; pwd; echo hi > /dev/shm/x && echo > /dev/stdout && cat /proc/self/mountinfo | grep -c everynode-stage";
    let mut config = node.script(script);
    config.mounts = vec![
        mount(&volume, "/v", false),
        mount(&volume, "/ro", true),
        mount(&memory, "/m", false),
        mount(&node.place.dir.path().join("single"), "/single", false),
    ];
    config.security.run_as_user = Some(33);
    config.security.supplemental_groups = vec![2000];
    config.security.seccomp = Seccomp::RuntimeDefault;
    config.working_dir = Some("/v/work".into());
    let left = node.run(&config).await;
    let expected = [
        "33",
        "34 77 2000",
        "0 2000",
        "0 2000",
        "0 0",
        "0 0",
        "0 0",
        "0 0",
        "of rootof root",
        "touch: /ro/x: Read-only file system",
        "/v/work",
        "",
        "0",
    ];
    assert_eq!(left.lines(), expected, "{}", left.log);
    for dir in [&volume, &memory] {
        let made = dir.join("made").metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (33, 2000), "on the node as in the container");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_nodes_stays_the_nodes() {
    let Some(node) = node(|_| {}).await else { return };
    let before = std::fs::read_to_string("/proc/sys/vm/stat_interval").unwrap();
    let mut config = node.script(
        "echo 7 > /proc/sys/vm/stat_interval; echo '|/x' > /proc/sys/kernel/core_pattern; echo b > /proc/sysrq-trigger; mknod /tmp/sda b 8 0
        mount -t proc none /mnt 2>/dev/null; mkdir /mnt; mount -t tmpfs none /mnt && echo own mounts; mount -o remount,rw /sys; touch /sys/kernel/x
        echo -17 > /proc/1/oom_adj; dmesg | head -1; cat /dev/kmsg | head -1; wc -c < /proc/interrupts | grep -qx 0 || echo unmasked; echo end",
    );
    config.security.add_capabilities = vec!["ALL".into()];
    config.security.unmasked_proc = true;
    let left = node.run(&config).await;
    assert!(left.log.contains("own mounts") && left.log.contains("unmasked") && left.log.contains("end"), "{}", left.log);
    for (what, why) in [("stat_interval", "Permission denied"), ("core_pattern", "Permission denied"), ("mknod", "Operation not permitted")]
    {
        assert!(left.log.lines().any(|line| line.contains(what) && line.contains(why)), "{what}: {}", left.log);
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/vm/stat_interval").unwrap(), before);
    let mut config = node.script("true");
    config.security.privileged = true;
    config.mounts = vec![Mount { propagation: Propagation::Bidirectional, ..mount(node.place.dir.path(), "/all", false) }];
    let error = node.create(&config).await.unwrap_err().to_string();
    assert_eq!(error, "bidirectional mount propagation is not for pods with users of their own");
    config.mounts = Vec::new();
    let error = node.create(&config).await.unwrap_err().to_string();
    assert!(error.starts_with("a privileged container has the node's devices, which users of the pod's own"), "{error}");
    config.security.privileged = false;
    config.security.run_as_user = Some(65_536);
    let error = node.create(&config).await.unwrap_err().to_string();
    assert_eq!(error, "id 65536 is none of the pod's: it has the users and groups 0 to 65535");
    config.security.run_as_user = None;
    config.mounts = vec![mount(Path::new("/proc"), "/host", false)];
    let id = node.create(&config).await.unwrap();
    let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.starts_with("failed to set MOUNT_ATTR_IDMAP on /proc: invalid argument"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_can_be_shared() {
    let Some(node) = node(|config| config.share_process_namespace = true).await else { return };
    let first = node.start(&node.script("echo ready; sleep 60")).await;
    node.wait_log(&first, "ready").await;
    let left = node.run_script("ps | grep -c '[s]leep 60'; ps | grep -c '/pause'; kill -0 1 2>&1; echo end").await;
    assert!(left.log.contains("end") && left.lines()[0] != "0" && left.lines()[1] != "0", "{}", left.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_do_not_go_with_namespaces_of_the_node() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let no = HostNamespaces::default();
    for host in [HostNamespaces { network: true, ..no }, HostNamespaces { pid: true, ..no }, HostNamespaces { ipc: true, ..no }] {
        let mut config = place.sandbox_config();
        (config.host, config.user_namespace) = (host, Some(USERS));
        let error = runtime.run_sandbox(&config).await.unwrap_err().to_string();
        assert!(error.contains("cannot be combined with namespaces of the node"), "{error}");
    }
    for (first, length) in [(0, 65_536), (65_536, 0), (u32::MAX - 5, 10)] {
        let mut config = place.sandbox_config();
        config.user_namespace = Some(UserNamespace { first, length });
        assert!(runtime.run_sandbox(&config).await.is_err());
    }
}
