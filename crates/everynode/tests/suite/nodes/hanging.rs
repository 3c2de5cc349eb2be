//! A volume whose server never answers: its pod says so and can be deleted, and the node and its
//! other pods do not notice.
//!
//! Cause of the fault: hostPaths were looked at on the threads that run workers and renew the
//! lease, where such a call never returns.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use testing::Need;

use crate::support::Cluster;
use crate::support::cluster::{condition, pod};

#[test]
fn a_volume_that_hangs_holds_nothing_else_up() {
    let Some(cluster) = Cluster::prepare_or_skip("hanging") else { return };
    let Some(hung) = Hung::mount(cluster.home.path("hung")) else { return };
    cluster.up(0);
    cluster.load_busybox();
    cluster.wait_for_service_account();
    let whole = with_volume("whole", json!({"path": hung.dir, "type": "Directory"}), None);
    let part = with_volume("part", json!({"path": cluster.home.path("")}), Some("hung/part"));
    for pod in [&whole, &part] {
        cluster.create_pod(pod);
    }
    cluster.create_pod(&pod("other", "exec sleep 44000"));
    cluster.wait_ready("other");
    let told = |name: &str, event: &str| {
        let wanted = |text: &String| text.contains(event) && text.contains("the file system did not answer within");
        cluster.wait_pod(name, "told to hang", |_| cluster.events(name).iter().any(wanted));
    };
    told("whole", "FailedMount: ");
    told("part", "failed to prepare subPath");
    assert_eq!(condition(&cluster.node(&cluster.control_plane()), "Ready"), "True");
    for name in ["whole", "part", "other"] {
        cluster.delete_pod(name);
        cluster.wait_gone(name);
    }
    // And the agent ends and begins again.
    cluster.kill_agent(&cluster.control_plane());
    cluster.create_pod(&pod("next", "exec sleep 44000"));
    cluster.wait_ready("next");
}

fn with_volume(name: &str, source: Value, sub_path: Option<&str>) -> Value {
    let mut pod = pod(name, "exec sleep 44000");
    pod["spec"]["volumes"] = json!([{"name": "v", "hostPath": source}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v", "subPath": sub_path}]);
    pod
}

/// A file system of this process, which answers nothing. It ends with its descriptor.
struct Hung {
    dir: PathBuf,
    device: Option<File>,
}

impl Hung {
    fn mount(dir: PathBuf) -> Option<Hung> {
        std::fs::create_dir_all(&dir).expect("a folder can be made");
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        if !testing::can_run(&[Need::Machine { what: "/dev/fuse", is_there: device.is_ok() }]) {
            return None;
        }
        let device = device.expect("it was opened");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let mounted = mount(Some("hung"), &dir, Some("fuse"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()));
        mounted.expect("root may mount");
        Some(Hung { dir, device: Some(device) })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // All that hangs gets an answer then: that the server is gone.
        self.device = None;
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}
