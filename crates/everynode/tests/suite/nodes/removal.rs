//! What removing pods and clusters may remove: what they made, and nothing that merely can be seen
//! from there.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::{pod, wait_long};

/// A privileged pod that mounts a folder of the node inside a volume that it shares with the node,
/// as drivers of storage and FUSE do. The kubelet unmounts before it removes; following the mount
/// would empty the folder.
#[test]
fn deleting_a_pod_leaves_what_it_mounted_alone() {
    let Some(cluster) = Cluster::start_or_skip("removal", 0) else { return };
    let precious = cluster.home.path("precious");
    std::fs::create_dir_all(precious.join("deep")).expect("a folder can be made");
    std::fs::write(precious.join("deep/data"), "kept").expect("a file can be made");
    let script = "mkdir -p /e/bound /e/deep/er && mount --bind /h /e/bound && mount --bind /h /e/deep/er && mount --bind /h /e/deep/er/deep \
                  && mount --bind /h/deep/data /e/file && exec sleep 44000";
    for (name, ends) in [("deleted", false), ("killed", true)] {
        cluster.create_pod(&mounting_pod(name, &format!("touch /e/file; {script}"), &precious));
        let uid = cluster.wait_ready(name)["metadata"]["uid"].as_str().expect("pods have uids").to_owned();
        let node = cluster.control_plane();
        let mounts = || std::fs::read_to_string(format!("/proc/{}/mounts", cluster.keeper(&node))).expect("the node runs");
        wait_long("the mounts of the pod on its node", || (mounts().matches(&uid).count() >= 5).then_some(()));
        if ends {
            cluster.kill_agent(&node);
        }
        cluster.delete_pod(name);
        cluster.wait_gone(name);
        wait_long("the end of the pod's folder", || (!cluster.node_dir(&node).join("lib/kubelet/pods").join(&uid).exists()).then_some(()));
        assert!(!mounts().contains(&uid), "nothing of the pod is mounted");
        assert_eq!(std::fs::read_to_string(precious.join("deep/data")).expect("the file is still there"), "kept");
    }
}

fn mounting_pod(name: &str, script: &str, host: &Path) -> Value {
    let mut pod = pod(name, script);
    pod["spec"]["volumes"] = json!([{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": host}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["securityContext"] = json!({"privileged": true});
    container["volumeMounts"] =
        json!([{"name": "e", "mountPath": "/e", "mountPropagation": "Bidirectional"}, {"name": "h", "mountPath": "/h"}]);
    pod
}

/// Its container replaces the link to the current files by one to a folder of the node. The agent
/// removes what the link led to when it brings the volume up to date (CVE-2017-1002102), so such
/// volumes are read-only whatever the pod says.
#[test]
fn volumes_made_from_objects_are_read_only() {
    let Some(cluster) = Cluster::start_or_skip("readonly", 0) else { return };
    cluster.api().create("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "map"}, "data": {"key": "value"}}));
    cluster.api().create("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "secret"}, "stringData": {"key": "value"}}));
    let mut pod = pod(
        "writer",
        "for v in map secret all down; do ln -sfn /etc /$v/..data && echo wrote $v; touch /$v/new && echo made $v; done; \
         touch /sub && echo wrote sub; echo \"$(cat /map/key)\"; exec sleep 44000",
    );
    pod["spec"]["volumes"] = json!([
        {"name": "map", "configMap": {"name": "map"}}, {"name": "secret", "secret": {"secretName": "secret"}},
        {"name": "all", "projected": {"sources": [{"configMap": {"name": "map"}}]}},
        {"name": "down", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]);
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}"), "readOnly": false});
    let sub_path = json!({"name": "map", "mountPath": "/sub", "subPath": "key"});
    pod["spec"]["containers"][0]["volumeMounts"] = json!([mount("map"), mount("secret"), mount("all"), mount("down"), sub_path]);
    cluster.create_pod(&pod);
    let pod = cluster.wait_ready("writer");
    let log = wait_long("what the pod says", || Some(cluster.log(&pod, "c", 0)).filter(|log| log.contains("value")));
    assert!(!log.contains("wrote") && !log.contains("made"), "{log}");
}

#[test]
fn down_leaves_alone_what_is_mounted_in_its_folder() {
    let Some(cluster) = Cluster::start_or_skip("downmount", 0) else { return };
    let precious = cluster.home.path("precious");
    std::fs::create_dir(&precious).expect("a folder can be made");
    std::fs::write(precious.join("data"), "kept").expect("a file can be made");
    let place = cluster.dir().join("images/mine");
    std::fs::create_dir(&place).expect("a folder can be made");
    let run = |program: &str, arguments: &[&Path]| Command::new(program).args(arguments).status().expect("util-linux is there").success();
    assert!(run("mount", &[Path::new("--bind"), &precious, &place]));
    let down = cluster.everynode(&["down"]);
    assert!(run("umount", &[&place]));
    let said = String::from_utf8_lossy(&down.stderr).into_owned();
    assert_eq!(down.status.code(), Some(1), "{said}");
    assert!(said.contains("images/mine: something is mounted there"), "{said}");
    assert_eq!(std::fs::read_to_string(precious.join("data")).expect("the file is still there"), "kept");
    cluster.succeed(&["down"]);
    assert!(!cluster.dir().exists(), "what failed can be done again");
}
