//! A disk that is full: what needs it fails and says so, nothing is damaged, and when there is room
//! again everything goes on.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::{condition, container, is_ready, pod, wait_long};

/// Room for the images (one holds the program itself, in a debug build) and the store, several
/// times.
const DISK: &str = "size=1g";

/// A pod leaves a twentieth of the disk: less than a tenth is too little for a node.
const LEFT_OF_BLOCKS: u64 = 20;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn a_full_disk_is_survived() {
    let Some(mut cluster) = Cluster::prepare_or_skip("full") else { return };
    let disk = Disk::mount();
    cluster.set_data_dir(disk.dir.path().join("data"));
    // In this order: the cluster ends before its disk goes away.
    let cluster = Ordered { cluster, _disk: disk };
    survive(&cluster.cluster, cluster._disk.dir.path());
}

/// Fields are dropped in their order.
struct Ordered {
    cluster: Cluster,
    _disk: Disk,
}

fn survive(cluster: &Cluster, disk: &Path) {
    cluster.up(0);
    cluster.load_busybox();
    cluster.wait_for_service_account();
    let node = cluster.control_plane();
    cluster.create_pod(&pod("steady", "exec sleep 22000"));
    let before = cluster.wait_ready("steady");
    cluster.api().create(CONFIG_MAPS, &json!({"metadata": {"name": "kept"}, "data": {"key": "value"}}));

    let filler = disk.join("filler");
    fill(&filler);
    let refused = wait_long("a write that is refused", || {
        let answer =
            cluster.api().post(CONFIG_MAPS, &json!({"metadata": {"generateName": "filling-"}, "data": {"text": "x".repeat(500_000)}}));
        (answer.code != 201).then_some(answer)
    });
    assert!(refused.code >= 500, "{}", refused.text());
    // What the disk holds is not known then: reads may be refused, too, but never answered wrongly.
    let read = cluster.api().get(&format!("{CONFIG_MAPS}/kept"));
    assert!(read.code >= 500 || read.json()["data"]["key"] == "value", "{}", read.text());
    assert!(refused.text().contains("the store failed"), "{}", refused.text());
    std::fs::remove_file(&filler).expect("the filler is there");

    // What a write that failed left on the disk is not known: the server has to read it again.
    cluster.kill(cluster.server());
    cluster.succeed(&["up"]);
    wait_long("a write that is accepted", || {
        let answer = cluster.api().post(CONFIG_MAPS, &json!({"metadata": {"generateName": "after-"}}));
        (answer.code == 201).then_some(())
    });
    assert_eq!(cluster.api().get(&format!("{CONFIG_MAPS}/kept")).json()["data"]["key"], "value", "what was written is whole");
    cluster.create_pod(&pod("next", "exec sleep 22001"));
    // A node that looks at its disk while it is full evicts pods, and takes none for minutes: then
    // there is no more to see here.
    let settled = |name: &str| cluster.wait_pod(name, "ready or evicted", |pod| is_ready(pod) || is_evicted(pod));
    let (after, next) = (settled("steady"), settled("next"));
    if is_evicted(&after) || is_evicted(&next) {
        wait_long("the reason", || (condition(&cluster.node(&node), "DiskPressure") == "True").then_some(()));
        return;
    }
    assert_eq!(container(&after)["containerID"], container(&before)["containerID"], "what runs goes on");
    pod_takes_too_much(cluster, disk);

    assert_eq!(condition(&cluster.node(&node), "DiskPressure"), "True", "and it stays so for a while, so that pods do not come and go");
}

/// A pod takes more than a node can spare: it has to go, and with it what it wrote.
fn pod_takes_too_much(cluster: &Cluster, disk: &Path) {
    // Less than all: a store on a disk without any room fails for good, which the part before is
    // about.
    let figures = rustix::fs::statvfs(disk).expect("the disk is there");
    let blocks = figures.f_bavail - figures.f_blocks / LEFT_OF_BLOCKS;
    let script = format!("dd if=/dev/zero of=/big bs=1M count={}; exec sleep 22003", (blocks * figures.f_frsize) >> 20);
    let mut greedy = pod("greedy", &script);
    greedy["spec"]["restartPolicy"] = "Never".into();
    cluster.create_pod(&greedy);
    cluster.wait_pod("greedy", "evicted", is_evicted);
    let message = cluster.pod("greedy")["status"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("The node was low on resource: ephemeral-storage."), "{message}");
    cluster.delete_pod("greedy");
    cluster.wait_gone("greedy");
    for name in ["steady", "next"] {
        let pod = cluster.pod(name);
        assert!(is_ready(&pod) || is_evicted(&pod), "{name}: {:#}", pod["status"]);
    }
}

fn is_evicted(pod: &Value) -> bool {
    pod["status"]["reason"] == "Evicted"
}

fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("the disk can be written to");
    let piece = vec![7; 64 * 1024];
    while file.write_all(&piece).is_ok() {}
    // The last pieces, down to single pages.
    while file.write_all(&piece[..4096]).is_ok() {}
}

/// A small file system.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Disk {
        let dir = tempfile::Builder::new().prefix("everynode-disk-").tempdir().expect("a temporary folder can be made");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(dir.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "root can mount a tmpfs");
        Disk { dir }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path: PathBuf = self.dir.path().to_owned();
        let _ = Command::new("umount").arg("-l").arg(path).status();
    }
}
